# postfix: the door of Mailtape, as deploy/postfix describes it
#
# It needs no running Mailtape: until there is one, it answers 451. What may be given, and is written down by `up`:
#   POSTFIX_SMTP                    where it listens
#   POLICY_LISTEN, LMTP_LISTEN      where Mailtape does
#   DOMAIN                          Mailtape's mail domain
#   POSTFIX_RETRY, POSTFIX_RETRY_MOST   how long mail waits for the next try at first, and at most

POSTFIX=$FOLDER/postfix
POSTFIX_SETTINGS=(POSTFIX_SMTP POLICY_LISTEN LMTP_LISTEN DOMAIN POSTFIX_RETRY POSTFIX_RETRY_MOST)

postfix_up() {
  local settings
  tools_up
  settings=$(postfix_settings)
  if postfix_runs; then
    [[ $settings == "$(<"$POSTFIX/settings")" ]] || die "postfix runs in $POSTFIX with other settings; first: $0 down"
    return
  fi
  [[ $EUID -eq 0 ]] || die "Postfix gives each of its processes the rights it needs, so root must start it: sudo $0 up postfix"
  mkdir -p "$POSTFIX"/{conf,queue,data}
  chmod 755 "$POSTFIX" "$POSTFIX"/{conf,queue}
  chown postfix: "$POSTFIX/data"
  echo "$settings" >"$POSTFIX/settings"
  postfix_configure main.cf
  postfix_configure master.cf
  postfix -c "$POSTFIX/conf" start >"$POSTFIX/start.log" 2>&1 </dev/null || {
    tail -n 5 "$POSTFIX/start.log" "$POSTFIX/mail.log" >&2 || true
    die "Postfix did not start"
  }
}

postfix_settings() { # NAME=value lines; what is not given is the default
  local POSTFIX_SMTP=${POSTFIX_SMTP:-127.0.0.1:2525}
  local POLICY_LISTEN=${POLICY_LISTEN:-127.0.0.1:10031} LMTP_LISTEN=${LMTP_LISTEN:-127.0.0.1:10024}
  local DOMAIN=${DOMAIN:-mail.example.com}
  local POSTFIX_RETRY=${POSTFIX_RETRY:-60s} POSTFIX_RETRY_MOST=${POSTFIX_RETRY_MOST:-15m} name
  [[ $POSTFIX =~ ^/[A-Za-z0-9/._-]+$ ]] || die "SERVICES_FOLDER must be an absolute path of plain characters"
  for name in "${POSTFIX_SETTINGS[@]}"; do
    [[ ${!name} =~ ^[A-Za-z0-9.:-]+$ ]] || die "$name is '${!name}'"
    echo "$name=${!name}"
  done
  [[ $POSTFIX_SMTP =~ ^127\.[0-9.]+:[0-9]+$ ]] || die "POSTFIX_SMTP is '$POSTFIX_SMTP'; it must be 127.x.x.x:PORT"
}

postfix_configure() { # puts the settings into a file of deploy/postfix
  local name value script="s|@STATE@|$POSTFIX|g"
  while IFS== read -r name value; do script+="; s|@$name@|$value|g"; done <"$POSTFIX/settings"
  sed -e "$script" "$HERE/postfix/$1" >"$POSTFIX/conf/$1"
}

postfix_runs() { # its master holds a lock on its pid file for as long as it lives
  local daemons
  [[ -f $POSTFIX/conf/main.cf ]] || return 1
  daemons=$(postconf -c "$POSTFIX/conf" -h daemon_directory 2>/dev/null) || return 1
  ! "$daemons/master" -c "$POSTFIX/conf" -t 2>/dev/null
}

postfix_down() {
  local pid waited
  postfix_runs || return 0
  pid=$(($(<"$POSTFIX/queue/pid/master.pid")))
  kill "$pid" # it ends the others, which are its process group
  for ((waited = 0; waited < 100; waited++)); do
    postfix_runs || return 0 # not by pid: where nobody reaps orphans, the dead keep theirs
    sleep 0.1
  done
  kill -9 -- "-$pid"
}

postfix_status() {
  if postfix_runs; then echo "postfix: runs in $POSTFIX"; else echo "postfix: stopped"; fi
}

postfix_env() {
  if postfix_runs; then grep -E '^(POSTFIX_SMTP|POLICY_LISTEN|LMTP_LISTEN|DOMAIN)=' "$POSTFIX/settings"; fi
}
