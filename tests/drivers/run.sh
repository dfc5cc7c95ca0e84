#!/usr/bin/env bash
# Real drivers and ORMs against a Cairn server: `run.sh` runs all, `run.sh NAME...` some.
#
# CAIRN_BIN names the server's binary. What a program needs and does not find is installed: system packages
# by apt-get (Debian, Ubuntu), libraries into ignored folders beside this file by the language's own client.
# Prints `ok NAME` or `FAILED NAME` for each, the failed ones' output after it; exits 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")"

readonly ALL=(pymysql go_mysql mysql2 connectorj mysqlclient sqlalchemy gorm sequelize django hibernate)
readonly PROGRAM_TIMEOUT_S=300
readonly READY_TIMEOUT_S=30
: "${CAIRN_BIN:?set CAIRN_BIN to the cairn binary}"
export CAIRN_PORT="${CAIRN_PORT:-4200}"

work="$(mktemp -d)"
server=""

stop() {
  if [[ -n "$server" ]]; then
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
  fi
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

start_server() {
  : >"$work/server.log"
  "$CAIRN_BIN" playground --port "$CAIRN_PORT" --status-port 0 >"$work/server.log" 2>&1 &
  server=$!
  local deadline=$((SECONDS + READY_TIMEOUT_S))
  until grep -q '^ready' "$work/server.log"; do
    if ! kill -0 "$server" 2>/dev/null || ((SECONDS > deadline)); then
      echo "the server did not become ready:" >&2
      cat "$work/server.log" >&2
      exit 1
    fi
    sleep 0.1
  done
}

as_root() { if [[ "$(id -u)" == 0 ]]; then "$@"; else sudo "$@"; fi; }

# The languages themselves, and the client library that mysqlclient is built against.
install_packages() {
  local missing=()
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  pkg-config --exists libmariadb 2>/dev/null || missing+=(build-essential libmariadb-dev pkg-config python3-dev)
  command -v npm >/dev/null || missing+=(nodejs npm)
  command -v go >/dev/null || missing+=(golang-go)
  command -v mvn >/dev/null || missing+=(maven)
  command -v javac >/dev/null || missing+=(default-jdk-headless)
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; return 1; }
  echo "installing ${missing[*]}"
  as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Once per change of the file of versions.
python_ready() {
  local requirements="python/$1"
  if ! cmp -s "$requirements" ".venv/$1"; then
    [[ -x .venv/bin/python ]] || python3 -m venv .venv || return 1
    .venv/bin/pip install -q -r "$requirements" || { echo "could not install; what is needed: $requirements"; return 1; }
    cp "$requirements" ".venv/$1"
  fi
}

node_ready() {
  if ! cmp -s node/package-lock.json node/node_modules/.installed; then
    (cd node && npm ci --no-audit --no-fund --loglevel=error) || return 1
    cp node/package-lock.json node/node_modules/.installed
  fi
}

run_python() { (cd python && ../.venv/bin/python "$1"); }

run_go() {
  (cd go && mkdir -p .bin && go build -o ".bin/$1" "./$1" && ".bin/$1")
}

# Offline when the local repository has everything already.
run_java() {
  local options=(-q -B -f "java/$1/pom.xml" compile exec:java)
  if [[ "java/$1/target/.resolved" -nt "java/$1/pom.xml" ]]; then
    mvn -o "${options[@]}"
  else
    mvn "${options[@]}" && touch "java/$1/target/.resolved"
  fi
}

run_program() {
  case "$1" in
    pymysql) run_python drv_pymysql.py ;;
    mysqlclient) python_ready requirements-native.txt && run_python drv_mysqlclient.py ;;
    sqlalchemy) run_python orm_sqlalchemy.py ;;
    django) python_ready requirements-native.txt && run_python orm_django.py ;;
    mysql2) node_ready && node node/drv_mysql2.js ;;
    sequelize) node_ready && node node/orm_sequelize.js ;;
    go_mysql) run_go drv_go_mysql ;;
    gorm) run_go orm_gorm ;;
    connectorj) run_java connectorj ;;
    hibernate) run_java hibernate ;;
    *) echo "no program named $1; see ALL in run.sh"; return 2 ;;
  esac
}
export -f run_program run_python run_go run_java python_ready node_ready

programs=("$@")
((${#programs[@]})) || programs=("${ALL[@]}")

install_packages || exit 1
python_ready requirements.txt || exit 1
start_server
run_python prepare.py || { echo "FAILED to create the users" >&2; exit 1; }

failed=0
for name in "${programs[@]}"; do
  if timeout "$PROGRAM_TIMEOUT_S" bash -c 'run_program "$1"' run "$name" >"$work/out" 2>&1; then
    echo "ok $name"
  else
    echo "FAILED $name"
    sed 's/^/    /' "$work/out" | tail -n 60
    failed=1
  fi
done
exit "$failed"
