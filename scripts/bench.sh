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
warmup_s=5
# shellcheck source=scripts/servers.sh
. scripts/servers.sh

# ---- Measuring -----------------------------------------------------------------------

bench() {
    sysbench "$1" --db-driver=mysql --mysql-host=127.0.0.1 --mysql-port="$port" \
        --mysql-user=root --mysql-db=sbtest --tables="$tables" --table-size="$rows" "${@:2}"
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

install_packages sysbench
open_workplace
syncs=no
if counts_syncs; then syncs=yes; fi
for peer in $peers; do
    run_peer "$peer"
    write_report
done
say "report: $report"
