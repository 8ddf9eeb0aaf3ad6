# redis: counters and limits. Loses at most a second of writes in a crash, and never drops a key to make room.
#
# REDIS_PORT may be given.

REDIS_VARIABLES=(REDIS_URL)

redis_up() { server_up redis; }
redis_down() { server_down redis; }
redis_status() { server_status redis; }
redis_env() { server_env redis; }

redis_settings() {
  local REDIS_PORT=${REDIS_PORT:-16379}
  plain_port REDIS_PORT
  echo "REDIS_URL=redis://127.0.0.1:$REDIS_PORT/0"
}

redis_install() {
  command -v redis-server >/dev/null || install_server redis-server redis-server
}

redis_start() {
  mkdir -p data
  launch redis redis-server --bind 127.0.0.1 --port "$(redis_port .)" --dir data --daemonize no \
    --appendonly yes --appendfsync everysec --save '' --maxmemory 256mb --maxmemory-policy noeviction
}

redis_answers() {
  [[ $(timeout 2 redis-cli -h 127.0.0.1 -p "$(redis_port "$1")" ping 2>/dev/null) == PONG ]]
}

redis_port() { sed -nE 's|^REDIS_URL=.*:([0-9]+)/0$|\1|p' "$1/settings"; }
