# A server that is one process in FOLDER/NAME, where its data, `pid`, `log` and `settings` lie.
#
# The file of such a server has NAME_VARIABLES, what `env` prints, where the first tells where the server is: when it is
# given, `up` starts nothing and `env` passes it on. And four functions:
#   NAME_settings    the NAME=value lines of those variables, and of all else that cannot change while it runs
#   NAME_install     gets the programs, when they are missing
#   NAME_start       readies the folder, which is the working directory, and ends with `launch USER COMMAND…`
#   NAME_answers     succeeds when the server at $1, its folder, really answers; may take two seconds, and prints nothing

START_SECONDS=60
STOP_SECONDS=30

server_up() {
  local name=$1 folder=$FOLDER/$1 settings
  if server_given "$name" >/dev/null; then return; fi
  settings=$("${name}_settings")
  if server_is_up "$name" "$settings"; then return; fi
  [[ $FOLDER =~ ^/[A-Za-z0-9/._-]+$ ]] || die "SERVICES_FOLDER must be an absolute path of plain characters"
  mkdir -p "$folder"
  chmod 755 "$folder"
  exec 8>"$FOLDER/$name.lock" # of two that start it at a time, the second finds it running
  flock -w 300 8 || die "another run has been starting $name for five minutes"
  if ! server_is_up "$name" "$settings"; then
    "${name}_install"
    if ! server_pid "$name" >/dev/null; then
      (umask 077 && echo "$settings" >"$folder/settings")
      if "${name}_answers" "$folder"; then die "another $name answers already at $(head -n 1 "$folder/settings")"; fi
      (cd "$folder" && "${name}_start")
    fi
    server_await "$name"
  fi
  exec 8>&-
}

server_is_up() { # fails when it does not run or not answer; it may run with these settings only
  local name=$1 folder=$FOLDER/$1
  server_pid "$name" >/dev/null || return 1
  [[ $2 == "$(<"$folder/settings")" ]] || die "$name runs in $folder with other settings; first: $0 down $name"
  "${name}_answers" "$folder"
}

server_pid() { # prints it; a process that works elsewhere only has the number of one that is gone
  local folder=$FOLDER/$1 pid
  [[ -s $folder/pid ]] && pid=$(<"$folder/pid") || return 1
  [[ $(readlink "/proc/$pid/cwd") == "$(readlink -f "$folder")"* ]] || return 1
  echo "$pid"
}

launch() { # starts a command in the folder as a user, apart from this terminal and its signals
  local user=$1; shift
  if [[ $EUID -eq 0 ]]; then chown -R "$user:" data; fi
  ulimit -n "$(($(ulimit -Hn) < 16384 ? $(ulimit -Hn) : 16384))"
  (as_user "$user" setsid "$@") >>log 2>&1 </dev/null 8>&- &
  echo $! >pid
}

as_user() { # becomes a command, as a user where root may choose, at home in the folder's data
  local user=$1 as=(); shift
  if [[ $EUID -eq 0 ]]; then as=(setpriv "--reuid=$user" "--regid=$user" --init-groups); fi
  HOME=$PWD/data exec "${as[@]}" "$@"
}

server_await() {
  local name=$1 folder=$FOLDER/$1 deadline=$((SECONDS + START_SECONDS))
  until "${name}_answers" "$folder"; do
    server_pid "$name" >/dev/null || server_failed "$name" "$name did not start"
    ((SECONDS < deadline)) || server_failed "$name" "$name did not answer within $START_SECONDS seconds"
    sleep 0.1
  done
}

server_failed() {
  tail -n 15 "$FOLDER/$1/log" >&2 || true
  die "$2; its log is $FOLDER/$1/log"
}

server_down() {
  local name=$1 pid deadline=$((SECONDS + STOP_SECONDS))
  pid=$(server_pid "$name") || return 0
  kill -TERM "$pid" || return 0
  kill -CONT "$pid" || true # one that is stopped hears the other only now
  while server_pid "$name" >/dev/null; do
    if ((SECONDS > deadline)); then kill -9 "$pid"; return; fi
    sleep 0.1
  done
}

server_status() {
  local name=$1
  if server_given "$name" >/dev/null; then
    echo "$name: given by $(server_given "$name")"
  elif ! server_pid "$name" >/dev/null; then
    echo "$name: stopped"
  elif "${name}_answers" "$FOLDER/$name"; then
    echo "$name: runs in $FOLDER/$name"
  else
    echo "$name: runs in $FOLDER/$name, but does not answer"
  fi
}

server_env() {
  local name=$1 variable
  local -n variables=${name^^}_VARIABLES
  if server_given "$name" >/dev/null; then
    for variable in "${variables[@]}"; do
      if [[ -n ${!variable:-} ]]; then echo "$variable=${!variable}"; fi
    done
  elif server_pid "$name" >/dev/null; then
    for variable in "${variables[@]}"; do grep "^$variable=" "$FOLDER/$name/settings"; done
  fi
}

server_given() { # prints the variable that tells of a server which is not ours
  local -n variables=${1^^}_VARIABLES
  local first=${variables[0]}
  [[ -n ${!first:-} ]] || return 1
  echo "$first"
}

plain_port() { # $1 is the name of a variable
  [[ ${!1} =~ ^[1-9][0-9]{3,4}$ ]] || die "$1 is '${!1}'; it must be a port from 1000"
}
