#!/usr/bin/env bash
# TPC-H (`cairn bench tpch`) against Cairn, MariaDB and DuckDB on this machine, one after the other;
# writes docs/tpch.md. Each query runs twice, and the second time counts: everything is cached then.
#
# Options, by environment:
#   TPCH_SCALE       scale factor               (1)
#   TPCH_PEERS       what runs, in this order   (cairn1 mariadb duckdb; also cairn3)
#   TPCH_CACHE_BYTES cache of each server process (4 GiB)
#   TPCH_TIMEOUT_S   longest round of all queries (1800)
#   TPCH_REPORT      the report                 (docs/tpch.md)
#   TPCH_NOTE        a sentence for the report, such as what else ran
#   BENCH_PORT, BENCH_DIR, CAIRN_BIN            as for bench.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

scale="${TPCH_SCALE:-1}"
peers="${TPCH_PEERS:-cairn1 mariadb duckdb}"
timeout_s="${TPCH_TIMEOUT_S:-1800}"
report="${TPCH_REPORT:-docs/tpch.md}"
port="${BENCH_PORT:-24000}"
cairn="${CAIRN_BIN:-$CARGO_TARGET_DIR/release/cairn}"
cache_bytes="${TPCH_CACHE_BYTES:-$((4 << 30))}"
tables="region nation supplier customer part partsupp orders lineitem"
# shellcheck source=scripts/servers.sh
. scripts/servers.sh

answers=()
[ -d "tests/tpch/answers/sf$scale" ] && answers=(--answers "tests/tpch/answers/sf$scale")

tpch() {
    timeout "$timeout_s" "$cairn" bench tpch "$@" --port "$port" --threads "$threads" --interval 0
}

# Rows for DuckDB, which has no protocol: tab-separated, from the server that runs.
keep_rows() {
    local table
    [[ "$peers" == *duckdb* ]] && [ ! -d "$work/rows" ] || return 0
    mkdir "$work/rows"
    for table in $tables; do
        client "$port" "select * from tpch.$table" >"$work/rows/$table.tsv"
    done
}

run_server() {
    local peer="$1" began table pids before after
    say "$peer: starting"
    start_server "$peer" || { say "$peer did not start"; stop_servers; return 0; }
    printf '%s\t%s\n' "$peer" "$(client "$port" 'select version()')" >>"$results/servers.tsv"
    began=$SECONDS threads=2
    if tpch prepare --scale "$scale" >"$results/$peer.prepare" 2>&1; then
        printf '%s\t%s\n' "$peer" "$((SECONDS - began))" >>"$results/loaded.tsv"
        say "$peer: rows loaded in $((SECONDS - began)) s"
        for table in $tables; do client "$port" "analyze table tpch.$table" >/dev/null; done
        keep_rows
        threads=1
        if tpch run "${answers[@]}" >"$results/$peer.first" 2>&1; then
            mapfile -t pids < <(process_tree "${server_pids[@]}")
            before=$(ticks_of "${pids[@]}")
            tpch run "${answers[@]}" --json "$results/$peer.json" >"$results/$peer.out" 2>&1 || true
            after=$(ticks_of "${pids[@]}")
            printf '%s\t%s\n' "$peer" "$((after - before))" >>"$results/ticks.tsv"
            say "$peer: $(awk '$1 == "all" && NF > 5 { printf "%.1f s for all queries", $2 * $4 / 1000 }' "$results/$peer.out")"
        else
            say "$peer: $(tail -2 "$results/$peer.first" | tr '\n' ' ')"
        fi
    else
        say "$peer: $(tail -1 "$results/$peer.prepare")"
    fi
    stop_servers
    rm -rf "${work:?}/$peer"
}

install_packages
open_workplace
for peer in $peers; do
    case "$peer" in
        duckdb)
            python3 -c 'import duckdb' 2>/dev/null || python3 -m pip install -q duckdb
            python3 scripts/tpch_duckdb.py "$work/rows" "$scale" "$results/duckdb.json"
            ;;
        *) run_server "$peer" ;;
    esac
    RESULTS="$results" TPCH_SCALE="$scale" TPCH_PEERS="$peers" TPCH_CACHE_BYTES="$cache_bytes" \
        TPCH_NOTE="${TPCH_NOTE:-}" CAIRN_BIN="$cairn" BENCH_WORK="$work" \
        python3 scripts/tpch_report.py "$report"
done
say "report: $report"
