"""Renders the results of scripts/bench.sh as docs/benchmarks.md.

Reads the folder named by RESULTS: `runs.tsv` (a row for each run), `servers.tsv`,
`tpcc.tsv`, `failed.tsv`, and the output of sysbench, `cairn bench` and perf beside them. Standard library only.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NAMES = {
    "cairn1": "Cairn, one process",
    "mariadb": "MariaDB",
    "cairn3": "Cairn, three stores",
    "galera": "Galera, three nodes",
}
PAIRS = [("cairn1", "mariadb"), ("cairn3", "galera")]

# Share of the machine that other processes may use before a rate is marked.
DISTURBED_SHARE = 0.15


@dataclass
class Run:
    """One run of sysbench. Figures are None when it failed."""

    tps: float | None
    p95_ms: float | None
    ignored: int | None
    transactions: int
    per_cpu_s: float | None
    syncs: float | None
    others_share: float
    failure: str


def number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def syncs_in(path: pathlib.Path) -> int | None:
    """Sum of perf's counts; None when it could not count."""
    if not path.exists():
        return None
    counts = [line.split(",")[0] for line in path.read_text().splitlines() if "sys_enter" in line]
    if not counts or not all(count.isdigit() for count in counts):
        return None
    return sum(map(int, counts))


def load_run(results: pathlib.Path, row: list[str], seconds: float) -> Run:
    peer, workload, threads, status, ticks, before, after = row
    stem = f"{peer}.{workload}.{threads}"
    text = (results / f"{stem}.out").read_text(errors="replace")
    failure = ""
    if status != "0":
        lines = [line for line in text.splitlines() if "FATAL" in line]
        failure = lines[0].replace("|", "\\|") if lines else f"sysbench ended with {status}"
    busy = int(after.split()[0]) - int(before.split()[0])
    client = sum(map(float, (results / f"{stem}.client").read_text().split()[-2:]))
    others = max(0.0, busy / TICKS_PER_S - int(ticks) / TICKS_PER_S - client)
    transactions = int(number(r"transactions:\s+(\d+)", text) or 0)
    syncs = syncs_in(results / f"{stem}.syncs")
    return Run(
        tps=None if failure else number(r"transactions:\s+\d+\s+\(([\d.]+)", text),
        p95_ms=None if failure else number(r"95th percentile:\s+([\d.]+)", text),
        ignored=None if failure else int(number(r"ignored errors:\s+(\d+)", text) or 0),
        transactions=transactions,
        per_cpu_s=None if failure else transactions / max(int(ticks) / TICKS_PER_S, 0.01),
        syncs=syncs / transactions if syncs is not None and transactions else None,
        others_share=others / (seconds * (os.cpu_count() or 1)),
        failure=failure,
    )


def rows_of(path: pathlib.Path) -> list[list[str]]:
    if not path.exists():
        return []
    return [line.split("\t") for line in path.read_text().splitlines()]


def figure(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "–"
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else "–"


def first_match(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, pathlib.Path(path).read_text())
    except OSError:
        return "unknown"
    return found.group(1).strip() if found else "unknown"


def command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def built_from(binary: pathlib.Path) -> str:
    """The commit of the work tree, or that the binary is older than it."""
    commit, _, when_s = command("git", "log", "-1", "--format=%h %ct").partition(" ")
    if not commit:
        return ""
    return f"commit {commit}" if binary.stat().st_mtime > int(when_s) else f"built before commit {commit}"


def sync_latency_ms(folder: str) -> float:
    """Median time of one fdatasync after a write of 4 KiB at the end of a file."""
    path = pathlib.Path(folder) / "sync-probe"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"\0" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return statistics.median(times)


def machine_table(servers: list[list[str]]) -> list[str]:
    memory_gib = int(first_match("/proc/meminfo", r"MemTotal:\s+(\d+)")) / 1024 / 1024
    model = first_match("/proc/cpuinfo", r"model name\s*:\s*(.+)")
    commit = built_from(pathlib.Path(os.environ["CAIRN_BIN"]))
    galera = command("dpkg-query", "-W", "-f", "${Version}", "galera-4")
    system = first_match("/etc/os-release", 'PRETTY_NAME="(.+)"')
    rows = [
        ("Date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("Machine", f"{os.cpu_count()} cores, {model}, {memory_gib:.0f} GiB; clients run on it too"),
        ("System", f"{platform.system()} {platform.release()}; {system}"),
        ("One fdatasync", f"{sync_latency_ms(os.environ['BENCH_WORK']):.2f} ms, median"),
        ("sysbench", command("sysbench", "--version").removeprefix("sysbench ")),
    ]
    for peer, _, version in servers:
        extra = ""
        if peer.startswith("cairn"):
            extra = f", {commit}" if commit else ""
        elif peer == "galera":
            extra = f", galera-4 {galera}" if galera else ""
        rows.append((NAMES[peer], version + extra))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def summary(runs: dict, workloads: list[str], threads: list[str]) -> list[str]:
    lines = []
    for ours, theirs in PAIRS:
        if not any(key[0] == ours for key in runs) or not any(key[0] == theirs for key in runs):
            continue
        head = " | ".join(f"{count} thread{'s' * (count != '1')}" for count in threads)
        lines += [f"**{NAMES[ours]} ÷ {NAMES[theirs]}**: transactions per second (in brackets: per "
                  "processor second of the servers).", "",
                  f"| Workload | {head} |", "|---|" + "---:|" * len(threads)]
        for workload in workloads:
            cells = []
            for count in threads:
                a, b = runs.get((ours, workload, count)), runs.get((theirs, workload, count))
                if a is None or b is None:
                    cells.append("–")
                else:
                    disturbed = max(a.others_share, b.others_share) > DISTURBED_SHARE
                    cells.append(f"{ratio(a.tps, b.tps)}{'†' * disturbed} ({ratio(a.per_cpu_s, b.per_cpu_s)})")
            lines.append(f"| {workload} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def workload_table(runs: dict, workload: str, peers: list[str], threads: list[str]) -> list[str]:
    lines = [f"### {workload}", "",
             "| Threads | Server | tps | p95 ms | Errors ignored | Transactions per server CPU second "
             "| Syncs per transaction | Other load |",
             "|---:|---|---:|---:|---:|---:|---:|---:|"]
    failures = []
    for count in threads:
        for peer in peers:
            run = runs.get((peer, workload, count))
            if run is None:
                continue
            if run.failure:
                failures.append(f"{NAMES[peer]}, {count} threads failed: `{run.failure}`")
            tps = "failed" if run.failure else figure(run.tps)
            ignored = "–" if run.ignored is None else f"{run.ignored:,}"
            lines.append(f"| {count} | {NAMES[peer]} | {tps} | {figure(run.p95_ms, 2)} | {ignored} | "
                         f"{figure(run.per_cpu_s)} | {figure(run.syncs, 2)} | {run.others_share:.0%} |")
    return [*lines, "", *(line + "\n" for line in failures)]


def tpcc_table(results: pathlib.Path) -> list[str]:
    """TPC-C: a row for each server, and Cairn's ratios to its peers."""
    env = os.environ
    rows = rows_of(results / "tpcc.tsv")
    if not rows:
        return []
    lines = ["## TPC-C", "",
             f"{env['TPCC_WAREHOUSES']} warehouses, {env['TPCC_THREADS']} connections without pauses, "
             f"{env['TPCC_SECONDS']} s, `cairn bench` for every server.", "",
             "| Server | tpmC | NewOrder p95 ms | All p95 ms | All max ms | tpmC per server CPU second "
             "| Tried again | Checks that hold | Loaded in s |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    rates = {}
    for peer, status, ticks, load_s in rows:
        path = results / f"{peer}.tpcc.json"
        if not path.exists():
            lines.append(f"| {NAMES[peer]} | failed ({status}) | | | | | | | {load_s} |")
            continue
        told = json.loads(path.read_text())
        orders = next(kind for kind in told["transactions"] if kind["name"] == "new_order")
        cpu_s = max(int(ticks) / TICKS_PER_S, 0.01)
        # Orders per minute of the clock, for each second that processors worked in a second of it.
        per_cpu = told["tpmc"] / (cpu_s / told["time_s"])
        rates[peer] = (told["tpmc"], per_cpu)
        checks = (results / f"{peer}.tpcc.check").read_text()
        again = ", ".join(f"{code}: {count:,}" for code, count in told["errors"].items()) or "0"
        lines.append(f"| {NAMES[peer]} | {figure(told['tpmc'])} | {figure(orders['p95_ms'])} | "
                     f"{figure(told['total']['p95_ms'])} | {figure(told['total']['max_ms'])} | "
                     f"{figure(per_cpu)} | {again} | {checks.count(': ok')} of "
                     f"{checks.count('check 3.3.2.')} | {load_s} |")
    lines.append("")
    for ours, theirs in PAIRS:
        if ours in rates and theirs in rates:
            (a, a_cpu), (b, b_cpu) = rates[ours], rates[theirs]
            lines += [f"**{NAMES[ours]} ÷ {NAMES[theirs]}**: {ratio(a, b)} tpmC, {ratio(a_cpu, b_cpu)} per "
                      "processor second of the servers.", ""]
    return lines


def method(seconds: str, cache_mib: int) -> str:
    return f"""## Method

- Debian's sysbench with its own scripts and default options: prepared statements, one connection
  per thread, and errors 1213, 1020 and 1205 counted and the transaction tried again. Any other
  error ends a run, which is then shown as failed.
- One server at a time, each from an empty data folder: load the rows, five seconds of reads to
  warm up, then the workloads in the order below, each with every number of threads. The
  tables are not made anew between runs, so later runs see what earlier ones wrote.
- Clients and servers share the machine's cores: with many threads this measures how much processor
  time a transaction costs at least as much as how well a server scales. That is why transactions
  per processor second (user and system time of all of a server's processes) stand beside the rate.
- Cairn: `cairn playground`, in one process, and with `--kv 3 --processes` (a placement driver, three
  stores, one SQL node; three replicas). A commit is answered when a majority has synced its log.
- MariaDB: `innodb_flush_log_at_trx_commit=1`, no binary log. Galera: three of these on loopback,
  all clients at the first, `wsrep_slave_threads=4`, rsync for the first copy. A Galera node answers
  a commit when the others have received and ordered it and its own log is synced; the others apply
  and sync afterwards. So its guarantee is weaker than that of a majority's synced log, and
  reads at its other nodes may lag.
- {cache_mib} MiB of cache for each process that keeps data (Cairn's block cache, InnoDB's buffer
  pool), 512 MiB of InnoDB log; everything else is the server's default. The rows fit into memory.
- Locks: all of them make a transaction wait for a row that another has written, and end circles of waiting
  transactions with error 1213, after which the client tries again. The rate counts only transactions that
  succeeded; the failed ones' work is in the processor time.
- TPC-C runs last on each server, beside sysbench's tables, after five seconds to warm up. "Tried again" are
  errors by code; the twelve consistency conditions of the standard are checked after the run.
- The median fdatasync above says what the disk's promise is worth: a virtual disk that answers in well
  under 0.1 ms has likely not reached a medium, and makes commits cheaper for every server.
- Syncs: `fsync` and `fdatasync` calls of all processes of the server, counted by perf and divided by
  the transactions; "–" where perf cannot count. Below 1, transactions share a sync.
- Other load: processor time that neither the server nor sysbench used, as a share of the machine.

## Noise

Each figure is one run of {seconds} s on one machine, without repetitions; there are no
confidence intervals. Differences under about a tenth mean nothing, and in rows with much other load
the rates are too low and the p95 too high, for whichever server had the bad luck; transactions per
processor second suffer less. Loopback has no network latency, and three nodes on one disk and the
same cores say what replication costs, not how it scales.

Again: `make bench`. Options are in `scripts/bench.sh`.
"""


def render(results: pathlib.Path) -> str:
    env = os.environ
    workloads, threads = env["BENCH_WORKLOADS"].split(), env["BENCH_THREADS"].split()
    runs = {tuple(row[:3]): load_run(results, row, float(env["BENCH_SECONDS"]))
            for row in rows_of(results / "runs.tsv")}
    servers = rows_of(results / "servers.tsv")
    peers = [peer for peer in env["BENCH_PEERS"].split() if peer in NAMES]
    lines = ["# Benchmarks", "",
             "sysbench and TPC-C against Cairn, MariaDB and Galera on one machine. Written by `make bench`; do not edit.",
             "", *machine_table(servers), "",
             f"{env['BENCH_TABLES']} tables of {int(env['BENCH_ROWS']):,} rows, {env['BENCH_SECONDS']} s "
             f"a run, {', '.join(threads)} threads."]
    if env.get("BENCH_NOTE"):
        lines += ["", f"**Note:** {env['BENCH_NOTE']}"]
    if runs:
        shares = [run.others_share for run in runs.values()]
        lines += ["", f"Other processes used {statistics.median(shares):.0%} of the machine in the median "
                  f"run, {max(shares):.0%} at most."]
    for peer, reason in rows_of(results / "failed.tsv"):
        lines += ["", f"**{NAMES.get(peer, peer)} {reason}.**"]
    lines += ["", "## Ratios", "",
              "Above 1, Cairn is ahead. A rate marked † compares nothing: in one of its two runs other "
              f"processes used more than {DISTURBED_SHARE:.0%} of the machine.", "", *summary(runs, workloads, threads)]
    if servers:
        loads = ", ".join(f"{NAMES[peer]} {seconds} s" for peer, seconds, _ in servers)
        lines += [f"Loading the rows (one thread, multi-row inserts, then the index): {loads}.", ""]
    lines += tpcc_table(results)
    lines += ["## Workloads", ""]
    for workload in workloads:
        lines += workload_table(runs, workload, peers, threads)
    cache_mib = int(env["BENCH_CACHE_BYTES"]) // 1024 // 1024
    return "\n".join(lines) + "\n" + method(env["BENCH_SECONDS"], cache_mib)


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.write_text(render(pathlib.Path(os.environ["RESULTS"])))
