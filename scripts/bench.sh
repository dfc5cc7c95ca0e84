#!/usr/bin/env bash
# sysbench and TPC-C (`cairn bench`) against Cairn, MariaDB and Galera on this machine, one
# server after the other; writes docs/benchmarks.md.
#
# Every server gets a temporary data folder and ports on loopback, and is stopped by its
# process id at the end, also after a failure. What is measured is said in the report.
#
# Options, by environment:
#   BENCH_PEERS      what runs, in this order   (cairn1 mariadb cairn3 galera)
#   BENCH_WORKLOADS  sysbench's names           (the six oltp_* below)
#   BENCH_THREADS    client threads             (1 16 64)
#   BENCH_SECONDS    length of a run            (20)
#   BENCH_TABLES     tables                     (4)
#   BENCH_ROWS       rows in each table         (100000)
#   TPCC_WAREHOUSES  warehouses of TPC-C; 0: none (4)
#   TPCC_THREADS     its connections            (8)
#   TPCC_SECONDS     its length                 (60)
#   BENCH_PORT       first of twenty ports      (24000)
#   BENCH_DIR        where the temporary folder is made (TMPDIR or /tmp)
#   BENCH_REPORT     the report                 (docs/benchmarks.md)
#   BENCH_NOTE       a sentence for the report, such as what else ran
#   CAIRN_BIN        the binary                 (the release build)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

peers="${BENCH_PEERS:-cairn1 mariadb cairn3 galera}"
workloads="${BENCH_WORKLOADS-oltp_point_select oltp_read_only oltp_read_write oltp_update_index oltp_update_non_index oltp_insert}"
threads="${BENCH_THREADS:-1 16 64}"
seconds="${BENCH_SECONDS:-20}"
tables="${BENCH_TABLES:-4}"
rows="${BENCH_ROWS:-100000}"
warehouses="${TPCC_WAREHOUSES:-4}"
terminals="${TPCC_THREADS:-8}"
tpcc_seconds="${TPCC_SECONDS:-60}"
port="${BENCH_PORT:-24000}"
report="${BENCH_REPORT:-docs/benchmarks.md}"
cairn="${CAIRN_BIN:-$CARGO_TARGET_DIR/release/cairn}"

# Cache of rows and pages, the same for every server process that keeps data.
cache_bytes=$((256 * 1024 * 1024))
start_deadline_s=120
stop_deadline_s=60
warmup_s=5
galera_library=/usr/lib/galera/libgalera_smm.so

say() { printf 'bench: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs what the chosen servers need and is missing.
install_packages() {
    local missing=()
    command -v sysbench >/dev/null || missing+=(sysbench)
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

# ---- Servers -------------------------------------------------------------------------

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

# ---- Measuring -----------------------------------------------------------------------

bench() {
    sysbench "$1" --db-driver=mysql --mysql-host=127.0.0.1 --mysql-port="$port" \
        --mysql-user=root --mysql-db=sbtest --tables="$tables" --table-size="$rows" "${@:2}"
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

# Clock ticks of the whole machine: busy, stolen.
machine_ticks() {
    awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $9 }' /proc/stat
}

counts_syncs() {
    command -v perf >/dev/null && perf stat -a -e syscalls:sys_enter_fdatasync true 2>/dev/null
}

# One run: peer, workload, threads. A row of the table of results, the output beside it.
measure() {
    local peer="$1" workload="$2" count="$3" name="$1.$2.$3" status=0
    local pids before after perf_pid="" machine_before machine_after
    mapfile -t pids < <(process_tree "${server_pids[@]}")
    if [ "$syncs" = yes ]; then
        perf stat -x, -o "$results/$name.syncs" -p "$(IFS=, && echo "${pids[*]}")" \
            -e syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync >/dev/null 2>&1 &
        perf_pid=$!
        sleep 0.3
    fi
    machine_before=$(machine_ticks)
    before=$(ticks_of "${pids[@]}")
    TIMEFORMAT='%U %S'
    { time timeout $((seconds + 60)) sysbench "$workload" --db-driver=mysql \
        --mysql-host=127.0.0.1 --mysql-port="$port" --mysql-user=root --mysql-db=sbtest \
        --tables="$tables" --table-size="$rows" --threads="$count" --time="$seconds" run \
        >"$results/$name.out" 2>&1; } 2>"$results/$name.client" || status=$?
    after=$(ticks_of "${pids[@]}")
    machine_after=$(machine_ticks)
    if [ -n "$perf_pid" ]; then
        kill -INT "$perf_pid" 2>/dev/null || true
        wait "$perf_pid" 2>/dev/null || true
    fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$peer" "$workload" "$count" "$status" \
        "$((after - before))" "$machine_before" "$machine_after" >>"$results/runs.tsv"
    say "$peer $workload x$count: $(awk '/transactions:/ { t = $3 } /95th/ { p = $3 } /FATAL/ && !f { f = $0 }
        END { print t " per second, p95 " p " ms", f }' "$results/$name.out" | tr -d '(')"
}

# TPC-C: loads it, runs it, checks it. A row of the table of results, the summary beside it.
measure_tpcc() {
    local peer="$1" pids before after began=$SECONDS status=0
    say "$peer: loading TPC-C"
    if ! "$cairn" bench tpcc prepare --port "$port" --warehouses "$warehouses" \
        --threads "$terminals" >"$results/$peer.tpcc.prepare" 2>&1; then
        printf '%s\tcould not load TPC-C\n' "$peer" >>"$results/failed.tsv"
        tail -3 "$results/$peer.tpcc.prepare" >&2
        return
    fi
    local load_s=$((SECONDS - began))
    mapfile -t pids < <(process_tree "${server_pids[@]}")
    # A run of its own, so that the processor time counted below is of measured transactions only.
    timeout $((warmup_s + 60)) "$cairn" bench tpcc run --port "$port" --threads "$terminals" \
        --time $warmup_s >"$results/$peer.tpcc.warmup" 2>&1 || true
    before=$(ticks_of "${pids[@]}")
    timeout $((tpcc_seconds + 120)) "$cairn" bench tpcc run --port "$port" --threads "$terminals" \
        --time "$tpcc_seconds" --seed 2 --json "$results/$peer.tpcc.json" \
        >"$results/$peer.tpcc.out" 2>&1 || status=$?
    after=$(ticks_of "${pids[@]}")
    "$cairn" bench tpcc check --port "$port" >"$results/$peer.tpcc.check" 2>&1 || status=$?
    printf '%s\t%s\t%s\t%s\n' "$peer" "$status" "$((after - before))" "$load_s" >>"$results/tpcc.tsv"
    say "$peer TPC-C x$terminals: $(grep tpmC "$results/$peer.tpcc.out"), $(grep -c ': ok' "$results/$peer.tpcc.check") checks hold"
}

# Everything of one server.
run_peer() {
    local peer="$1"
    say "$peer: starting"
    if ! start_server "$peer"; then
        tail -5 "$results/$peer"*.log >&2
        printf '%s\tdid not start\n' "$peer" >>"$results/failed.tsv"
        stop_servers
        return
    fi
    [ -n "$workloads" ] && run_sysbench "$peer"
    [ "$warehouses" != 0 ] && measure_tpcc "$peer"
    stop_servers
    rm -rf "${work:?}/$peer" "${work:?}/$peer"-[123]
}

# Loads sysbench's rows and runs its workloads.
run_sysbench() {
    local peer="$1" workload count began=$SECONDS
    client "$port" 'create database sbtest'
    if ! bench oltp_common prepare >"$results/$peer.prepare" 2>&1; then
        say "$peer: $(grep -m1 FATAL "$results/$peer.prepare" || tail -1 "$results/$peer.prepare")"
        printf '%s\tcould not load the rows\n' "$peer" >>"$results/failed.tsv"
        return
    fi
    printf '%s\t%s\t%s\n' "$peer" "$((SECONDS - began))" "$(client "$port" 'select version()')" \
        >>"$results/servers.tsv"
    say "$peer: rows loaded in $((SECONDS - began)) s"
    bench oltp_point_select --threads=4 --time=$warmup_s run >"$results/$peer.warmup" 2>&1 || true
    for workload in $workloads; do
        for count in $threads; do
            measure "$peer" "$workload" "$count"
        done
    done
}

write_report() {
    RESULTS="$results" BENCH_SECONDS="$seconds" BENCH_TABLES="$tables" BENCH_ROWS="$rows" \
        BENCH_PEERS="$peers" BENCH_WORKLOADS="$workloads" BENCH_THREADS="$threads" \
        TPCC_WAREHOUSES="$warehouses" TPCC_THREADS="$terminals" TPCC_SECONDS="$tpcc_seconds" \
        BENCH_CACHE_BYTES="$cache_bytes" BENCH_WORK="$work" CAIRN_BIN="$cairn" \
        python3 scripts/bench_report.py "$report"
}

install_packages
[ -x "$cairn" ] || { say "no binary at $cairn (make build)"; exit 1; }
work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/cairn-bench.XXXXXX")
chmod 755 "$work"
results="$work/results"
mkdir "$results"
cleanup() {
    stop_servers
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
syncs=no
if counts_syncs; then syncs=yes; fi
for peer in $peers; do
    run_peer "$peer"
    write_report
done
say "report: $report"
