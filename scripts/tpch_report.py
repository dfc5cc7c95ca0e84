"""Renders the results of scripts/tpch.sh as docs/tpch.md. Standard library only."""

import json
import os
import pathlib
import sys

from bench_report import NAMES, TICKS_PER_S, figure, machine_table, ratio, rows_of

NAMES["duckdb"] = "DuckDB"


def times_s(path: pathlib.Path) -> dict[str, float]:
    """Seconds of each query; empty when the peer did not run them."""
    if not path.exists():
        return {}
    told = json.loads(path.read_text())
    return {kind["name"]: kind["max_ms"] / 1000 for kind in told["transactions"] if kind["max_ms"]}


def render(results: pathlib.Path) -> str:
    env = os.environ
    peers = [peer for peer in env["TPCH_PEERS"].split() if peer in NAMES]
    times = {peer: times_s(results / f"{peer}.json") for peer in peers}
    times = {peer: found for peer, found in times.items() if found}
    servers = [[peer, "", version] for peer, version in rows_of(results / "servers.tsv")]
    lines = ["# TPC-H", "",
             f"Scale factor {env['TPCH_SCALE']}, 22 queries with the validation parameters, one connection, "
             "seconds. Each query ran twice, the second time counts; answers are compared with the known ones. "
             "Written by `scripts/tpch.sh`; do not edit.", "", *machine_table(servers), ""]
    if env.get("TPCH_NOTE"):
        lines += [f"**Note:** {env['TPCH_NOTE']}", ""]
    others = [peer for peer in times if not peer.startswith("cairn")]
    ours = next((peer for peer in times if peer.startswith("cairn")), None)
    heads = [NAMES[peer] for peer in times]
    if ours:
        heads += [f"{NAMES[ours]} ÷ {NAMES[peer]}" for peer in others]
    lines += ["| Query | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for number in range(1, 23):
        name = f"q{number}"
        cells = [figure(times[peer].get(name), 2) for peer in times]
        if ours:
            cells += [ratio(times[ours].get(name), times[peer].get(name)) for peer in others]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    totals = {peer: sum(found.values()) for peer, found in times.items() if len(found) == 22}
    cells = [figure(totals.get(peer), 1) for peer in times]
    if ours:
        cells += [ratio(totals.get(ours), totals.get(peer)) for peer in others]
    lines.append("| **all** | " + " | ".join(cells) + " |")
    lines.append("")
    for peer, ticks in rows_of(results / "ticks.tsv"):
        lines.append(f"{NAMES[peer]}: {int(ticks) / TICKS_PER_S:.1f} s of processor time in the server.")
    for peer, seconds in rows_of(results / "loaded.tsv"):
        lines.append(f"{NAMES[peer]}: rows loaded in {seconds} s (two connections, INSERT of 500 rows).")
    cache_gib = int(env["TPCH_CACHE_BYTES"]) / 2**30
    lines += ["", f"Servers have {cache_gib:g} GiB of cache each, primary keys and indexes on foreign keys, and "
              "analyzed tables; DuckDB has two threads, its rows in memory, and no indexes. The clients run on "
              "the same machine.", "", "Again: `make bench-tpch`. Options are in `scripts/tpch.sh`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.write_text(render(pathlib.Path(os.environ["RESULTS"])))
