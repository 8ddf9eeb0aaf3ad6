# tools: load programs of Postfix, strace, libeatmydata, swaks and curl; nothing that runs on its own

TOOLS=(postfix strace libeatmydata1 swaks curl systemd)

tools_up() {
  if tools_missing >/dev/null; then return; fi
  install_packages "${TOOLS[@]}"
}

tools_down() { :; }

tools_status() {
  local missing
  if missing=$(tools_missing); then echo "tools: installed"; else echo "tools: missing $missing"; fi
}

tools_env() { :; }

tools_missing() { # prints what is missing, and fails when something is
  local missing=() name
  for name in smtp-source smtp-sink strace swaks curl systemd-analyze; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  compgen -G '/usr/lib*/libeatmydata.so*' >/dev/null || compgen -G '/usr/lib/*/libeatmydata.so*' >/dev/null \
    || missing+=(libeatmydata)
  echo "${missing[*]}"
  [[ ${#missing[@]} -eq 0 ]]
}
