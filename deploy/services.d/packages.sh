# Debian's packages, of which none may start a daemon.

LOCK=/run/lock/mailtape-services.lock
POLICY=/usr/sbin/policy-rc.d
POLICY_SAVED=$POLICY.before-mailtape

install_packages() {
  command -v apt-get >/dev/null || die "this system has no apt-get; install by hand: $*"
  [[ $EUID -eq 0 ]] || die "installing $* needs root; run once: sudo $0 up NAME…"
  mkdir -p "$(dirname "$LOCK")"
  ( # a subshell, so that its exit puts the policy back however it ends
    flock 9
    trap allow_daemons EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    forbid_daemons
    # "No configuration": without a main.cf the machine does not become a mail server at its next start either.
    command -v postconf >/dev/null || echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
    apt_install "$@" || { apt-get -qq update && apt_install "$@"; } || die "apt-get could not install $*"
  ) 9>"$LOCK"
}

install_server() { # $1 is a package, $2 the service that it would start when the machine starts
  install_packages "$1"
  update-rc.d "$2" disable >/dev/null
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install --yes --no-install-recommends "$@" >&2
}

forbid_daemons() { # invoke-rc.d asks this file whether a package may start its daemon; 101 is "no"
  allow_daemons # a run that was killed left its policy behind
  if [[ -e $POLICY || -L $POLICY ]]; then mv "$POLICY" "$POLICY_SAVED"; else : >"$POLICY_SAVED.none"; fi
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}

allow_daemons() {
  if [[ -e $POLICY_SAVED || -L $POLICY_SAVED ]]; then
    mv "$POLICY_SAVED" "$POLICY"
  elif [[ -e $POLICY_SAVED.none ]]; then
    rm -f "$POLICY" "$POLICY_SAVED.none"
  fi
}
