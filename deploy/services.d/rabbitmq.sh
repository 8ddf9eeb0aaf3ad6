# rabbitmq: accepted mail until it is stored, and wake-ups. One node, which no other machine can reach.
#
# RABBITMQ_PORT, and for the node's own talk RABBITMQ_DISTRIBUTION_PORT and RABBITMQ_EPMD_PORT may be given.
# `deploy/services rabbitmqctl …` runs that command on the node.

RABBITMQ_VARIABLES=(RABBITMQ_URL RABBITMQ_QUEUE)
RABBITMQ_PROGRAMS=/usr/lib/rabbitmq/bin # those in /usr/sbin insist on the folders of the package

rabbitmq_up() { server_up rabbitmq; }
rabbitmq_down() { server_down rabbitmq; rabbitmq_down_epmd; }
rabbitmq_status() { server_status rabbitmq; }
rabbitmq_env() { server_env rabbitmq; }

rabbitmq_settings() {
  local RABBITMQ_PORT=${RABBITMQ_PORT:-17672} name
  local RABBITMQ_DISTRIBUTION_PORT=${RABBITMQ_DISTRIBUTION_PORT:-17673} RABBITMQ_EPMD_PORT=${RABBITMQ_EPMD_PORT:-17674}
  for name in RABBITMQ_PORT RABBITMQ_DISTRIBUTION_PORT RABBITMQ_EPMD_PORT; do
    plain_port "$name"
    echo "$name=${!name}"
  done
  printf '%s\n' "RABBITMQ_URL=amqp://guest:guest@127.0.0.1:$RABBITMQ_PORT/" RABBITMQ_QUEUE=mailtape
}

rabbitmq_install() {
  [[ -x $RABBITMQ_PROGRAMS/rabbitmq-server ]] && return
  install_server rabbitmq-server rabbitmq-server
  if command -v systemctl >/dev/null; then systemctl --quiet disable epmd.service epmd.socket; fi
}

rabbitmq_start() {
  mkdir -p data
  echo '[].' >enabled_plugins
  cat >rabbitmq.conf <<CONF
listeners.tcp.1 = 127.0.0.1:$(rabbitmq_setting RABBITMQ_PORT)
# What differs between releases, as in 4.x: 16 MiB a message. A consumer may take half an hour to acknowledge.
max_message_size = 16777216
consumer_timeout = 1800000
# A queue's log is kept in memory too until it is this long, so less than the most memory of the node.
raft.wal_max_size_bytes = 134217728
vm_memory_high_watermark.absolute = 2GB
disk_free_limit.absolute = 50MB
log.console = true
log.file = false
log.connection.level = error
CONF
  rabbitmq_environment
  launch rabbitmq "$RABBITMQ_PROGRAMS/rabbitmq-server" -noinput
}

rabbitmq_environment() { # of the node and of its commands, in the node's folder
  local local_only='-kernel inet_dist_use_interface {127,0,0,1}'
  export RABBITMQ_NODENAME=mailtape@localhost RABBITMQ_ALLOW_INPUT=1 # without, a shell script would be the process
  export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_CONFIG_FILE=$PWD/rabbitmq.conf RABBITMQ_ADVANCED_CONFIG_FILE=/dev/null
  export RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/enabled_plugins RABBITMQ_LOGS=-
  export RABBITMQ_MNESIA_BASE=$PWD/data RABBITMQ_LOG_BASE=$PWD/data RABBITMQ_GENERATED_CONFIG_DIR=$PWD/data
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=$local_only RABBITMQ_CTL_ERL_ARGS=$local_only
  export ERL_EPMD_ADDRESS=127.0.0.1
  ERL_EPMD_PORT=$(rabbitmq_setting RABBITMQ_EPMD_PORT) RABBITMQ_DIST_PORT=$(rabbitmq_setting RABBITMQ_DISTRIBUTION_PORT)
  export ERL_EPMD_PORT RABBITMQ_DIST_PORT
}

rabbitmq_answers() ( # to the header of AMQP 0-9-1 with its first method; it listens when all else is ready
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$(rabbitmq_setting RABBITMQ_PORT "$1")" || return 1
  printf 'AMQP\0\0\x09\x01' >&3
  IFS= read -r -t 2 -N 1 -u 3 frame && [[ $frame == $'\x01' ]]
)

rabbitmq_setting() { sed -n "s/^$1=//p" "${2:-.}/settings"; }

rabbitmq_down_epmd() { # the node's first start leaves it behind as a daemon
  local port
  command -v epmd >/dev/null && [[ -f $FOLDER/rabbitmq/settings ]] || return 0
  port=$(rabbitmq_setting RABBITMQ_EPMD_PORT "$FOLDER/rabbitmq")
  epmd -port "$port" -kill >/dev/null 2>&1 || true
}

rabbitmqctl() {
  server_pid rabbitmq >/dev/null || die "rabbitmq does not run in $FOLDER/rabbitmq; first: $0 up rabbitmq"
  cd "$FOLDER/rabbitmq"
  rabbitmq_environment
  as_user rabbitmq "$RABBITMQ_PROGRAMS/rabbitmqctl" "$@"
}
