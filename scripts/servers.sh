# Starting and stopping the servers that benchmarks compare, and their processor time. Source it.
#
# It reads: peers (what runs), port (the first of twenty), cairn (the binary), cache_bytes (cache of
# rows and pages, the same for every server process that keeps data), work (a folder for their
# data), results (one for their logs).

start_deadline_s=120
stop_deadline_s=60
galera_library=/usr/lib/galera/libgalera_smm.so

say() { printf 'bench: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs what the chosen servers need and is missing, and the tools that are named.
install_packages() {
    local missing=() tool
    for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    command -v mariadb >/dev/null || missing+=(mariadb-client)
    command -v python3 >/dev/null || missing+=(python3)
    if [[ "$peers" == *mariadb* || "$peers" == *galera* ]]; then
        command -v mariadbd >/dev/null || missing+=(mariadb-server)
    fi
    if [[ "$peers" == *galera* ]]; then
        [ -f "$galera_library" ] || missing+=(galera-4)
        command -v socat >/dev/null || missing+=(socat)
        command -v rsync >/dev/null || missing+=(rsync)
    fi
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    # The run level keeps Debian from starting the installed server.
    as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

server_pids=()

# Prints the server's processes, children included.
process_tree() {
    local pid child
    for pid in "$@"; do
        [ -d "/proc/$pid" ] || continue
        echo "$pid"
        for child in $(cat "/proc/$pid/task/"*/children 2>/dev/null); do
            process_tree "$child"
        done
    done
}

client() {
    mariadb --no-defaults --protocol=tcp -h 127.0.0.1 -P "$1" -u root --connect-timeout=2 \
        -N -B -e "$2"
}

# Waits until the server on port $1, process $2, answers the query $3 with $4.
await_answer() {
    local until=$((SECONDS + start_deadline_s))
    until [ "$(client "$1" "$3" 2>/dev/null)" = "$4" ]; do
        if ! kill -0 "$2" 2>/dev/null || [ $SECONDS -ge $until ]; then
            say "the server on port $1 does not answer"
            return 1
        fi
        sleep 0.2
    done
}

start_cairn() {
    local name="$1"
    shift
    "$cairn" playground --data-dir "$work/$name" --port "$port" --status-port 0 \
        --block-cache-bytes "$cache_bytes" "$@" >"$results/$name.log" 2>&1 &
    server_pids=($!)
    await_answer "$port" $! 'select 1' 1
}

# One MariaDB process: name, port, further options.
start_mariadbd() {
    local name="$1" at="$2" owner=()
    shift 2
    [ "$(id -u)" = 0 ] && owner=(--user=mysql)
    local folder="$work/$name"
    mkdir -p "$folder"
    [ "$(id -u)" = 0 ] && chown mysql "$folder"
    mariadb-install-db --no-defaults "${owner[@]}" --datadir="$folder/data" \
        --auth-root-authentication-method=normal --skip-test-db >"$results/$name.install" 2>&1
    mariadbd --no-defaults "${owner[@]}" --datadir="$folder/data" --port="$at" \
        --bind-address=127.0.0.1 --socket="$folder/socket" --pid-file="$folder/pid" \
        --skip-log-bin --innodb-flush-log-at-trx-commit=1 \
        --innodb-buffer-pool-size="$cache_bytes" --innodb-log-file-size=512M \
        --max-connections=500 --max-prepared-stmt-count=100000 \
        "$@" >"$results/$name.log" 2>&1 &
    server_pids+=($!)
}

start_galera() {
    local n members="" first=()
    for n in 1 2 3; do
        members+="${members:+,}127.0.0.1:$((port + 3 + n))"
    done
    first=(--wsrep-new-cluster)
    for n in 1 2 3; do
        start_mariadbd "galera-$n" "$((port + n - 1))" \
            --binlog-format=ROW --innodb-autoinc-lock-mode=2 --default-storage-engine=InnoDB \
            --wsrep-on=ON --wsrep-provider="$galera_library" --wsrep-cluster-name=bench \
            --wsrep-cluster-address="gcomm://$members" --wsrep-node-name="node$n" \
            --wsrep-node-address="127.0.0.1:$((port + 3 + n))" --wsrep-slave-threads=4 \
            --wsrep-sst-method=rsync --wsrep-sst-receive-address="127.0.0.1:$((port + 12 + n))" \
            --wsrep-provider-options="gmcast.listen_addr=tcp://127.0.0.1:$((port + 3 + n));ist.recv_addr=127.0.0.1:$((port + 8 + n))" \
            "${first[@]}"
        first=()
        await_answer "$((port + n - 1))" "${server_pids[-1]}" \
            "select variable_value from information_schema.global_status where variable_name in ('wsrep_cluster_size', 'wsrep_local_state_comment') order by 1" \
            "$n"$'\n'Synced || return 1
    done
}

start_server() {
    server_pids=()
    case "$1" in
        cairn1) start_cairn "$1" ;;
        cairn3) start_cairn "$1" --kv 3 --processes --pd-port 0 --kv-port 0 ;;
        mariadb)
            start_mariadbd "$1" "$port"
            await_answer "$port" "${server_pids[0]}" 'select 1' 1
            ;;
        galera) start_galera ;;
        *) say "no such peer: $1" && return 1 ;;
    esac
}

stop_servers() {
    local pid until all
    [ ${#server_pids[@]} -eq 0 ] && return 0
    all=$(process_tree "${server_pids[@]}")
    for pid in "${server_pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    until=$((SECONDS + stop_deadline_s))
    for pid in $all; do
        while kill -0 "$pid" 2>/dev/null; do
            # A child that has ended stays until it is waited for.
            [[ "$(cat "/proc/$pid/stat" 2>/dev/null)" == *") Z "* ]] && break
            if [ $SECONDS -ge $until ]; then
                say "process $pid does not stop; it is killed"
                kill -KILL "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.1
        done
    done
    server_pids=()
}

# Clock ticks of the processor that the given processes used so far.
ticks_of() {
    local pid total=0 fields
    for pid in "$@"; do
        fields=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
        # shellcheck disable=SC2086
        set -- ${fields##*) }
        total=$((total + ${12} + ${13}))
    done
    echo "$total"
}

# Makes the folders of a run, and sees to it that nothing stays behind.
open_workplace() {
    [ -x "$cairn" ] || { say "no binary at $cairn (make build)"; exit 1; }
    work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/cairn-bench.XXXXXX")
    chmod 755 "$work"
    results="$work/results"
    mkdir "$results"
    trap close_workplace EXIT
    trap 'exit 130' INT TERM
}

close_workplace() {
    stop_servers
    rm -rf "$work"
}
