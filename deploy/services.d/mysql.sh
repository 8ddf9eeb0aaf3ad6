# mysql: the rows, on MariaDB. A commit that was answered is on disk.
#
# MYSQL_PORT may be given. DB_USER may do everything, as tests make databases of their own.

MYSQL_VARIABLES=(DB_HOST DB_PORT DB_USER DB_PASSWORD DB_NAME)

mysql_up() { server_up mysql; }
mysql_down() { server_down mysql; }
mysql_status() { server_status mysql; }
mysql_env() { server_env mysql; }

mysql_settings() {
  local MYSQL_PORT=${MYSQL_PORT:-13306}
  plain_port MYSQL_PORT
  printf '%s\n' DB_HOST=127.0.0.1 "DB_PORT=$MYSQL_PORT" DB_USER=mailtape DB_PASSWORD=mailtape DB_NAME=mailtape
}

mysql_install() {
  command -v mariadbd >/dev/null || install_server mariadb-server mariadb
}

mysql_start() {
  if [[ ! -d data ]]; then # all of it or nothing: a data folder that is half made would not start
    rm -rf data.new
    mariadb-install-db --no-defaults --datadir="$PWD/data.new" --skip-test-db >log 2>&1 \
      || server_failed mysql "mariadb-install-db failed"
    mv data.new data
  fi
  cat >init.sql <<'SQL'
CREATE USER IF NOT EXISTS 'mailtape'@'127.0.0.1' IDENTIFIED BY 'mailtape';
GRANT ALL ON *.* TO 'mailtape'@'127.0.0.1' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS mailtape;
SQL
  launch mysql mariadbd --no-defaults --datadir="$PWD/data" --socket=mysql.sock --init-file="$PWD/init.sql" \
    --bind-address=127.0.0.1 --port="$(mysql_port .)" --skip-name-resolve --max-connections=300 \
    --character-set-server=utf8mb4 --innodb-flush-log-at-trx-commit=1 --innodb-buffer-pool-size=256M
}

mysql_answers() {
  MYSQL_PWD=mailtape timeout 2 mariadb --no-defaults --host=127.0.0.1 --port="$(mysql_port "$1")" --user=mailtape \
    --execute='SELECT 1' mailtape >/dev/null 2>&1
}

mysql_port() { sed -n 's/^DB_PORT=//p' "$1/settings"; }
