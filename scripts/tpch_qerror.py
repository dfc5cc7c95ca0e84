"""How good a loaded TPC-H's estimates are: port, scale factor.

Runs EXPLAIN ANALYZE of all queries on database `tpch` and compares what the plan expected with what came,
operator by operator: the q-error is the larger of the two numbers divided by the smaller one (Moerkotte,
Neumann, Steidl, VLDB 2009). Fewer rows than one count as one. Standard library and the `mysql` client only.
"""

import pathlib
import statistics
import subprocess
import sys

QUERIES = pathlib.Path(__file__).parent.parent / "bench/src/tpch/queries"


def explained(port: str, sql: str) -> list[dict[str, str]]:
    """The rows of EXPLAIN ANALYZE, by column."""
    command = ["mysql", "-h127.0.0.1", f"-P{port}", "-uroot", "-B", "tpch"]
    told = subprocess.run(command, input=f"EXPLAIN ANALYZE {sql}", text=True, capture_output=True, check=True)
    names, *rows = [line.split("\t") for line in told.stdout.splitlines()]
    return [dict(zip(names, row)) for row in rows]


def q_error(row: dict[str, str]) -> float:
    expected, came = (max(float(row[name]), 1.0) for name in ("estRows", "actRows"))
    return max(expected / came, came / expected)


def main(port: str, scale: float) -> None:
    everything = []
    print("| query | operators | median | largest | where |\n|---|---:|---:|---:|---|")
    for number in range(1, 23):
        sql = (QUERIES / f"q{number}.sql").read_text()
        if number == 11:
            sql = sql.replace("0.0001", f"{0.0001 / scale:.10f}")
        rows = [row for row in explained(port, sql) if row["actRows"] not in ("", "N/A")]
        errors = [q_error(row) for row in rows]
        everything += errors
        worst = max(range(len(rows)), key=errors.__getitem__)
        where = rows[worst]
        name = where["id"].strip("│├└─ ")
        print(f"| {number} | {len(rows)} | {statistics.median(errors):.2f} | {errors[worst]:.1f} | "
              f"{name}: {where['estRows']} expected, {where['actRows']} came |")
    tenths = statistics.quantiles(everything, n=10)
    print(f"| all | {len(everything)} | {statistics.median(everything):.2f} | {max(everything):.1f} | "
          f"nine of ten below {tenths[8]:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
