"""Times TPC-H's queries on DuckDB: rows (folder of .tsv files), scale factor, output (JSON).

Two threads, everything in memory; the second run of each query counts, as for the servers.
"""

import json
import pathlib
import re
import sys
import time

import duckdb

FOLDER = pathlib.Path(__file__).parent.parent / "bench/src/tpch"


def definitions() -> dict[str, str]:
    """CREATE TABLE of every table, without indexes: DuckDB needs none for these queries."""
    schema = " ".join((FOLDER / "schema.rs").read_text().replace("\\\n", "").split())
    found = re.findall(r'"(CREATE TABLE (\w+) \(.*?\))",', schema, re.S)
    return {name: re.sub(r", (PRIMARY )?KEY \([^)]*\)| PRIMARY KEY", "", sql) for sql, name in found}


def main(rows: str, scale: float, output: str) -> None:
    connection = duckdb.connect(config={"threads": 2})
    for table, sql in definitions().items():
        connection.execute(sql)
        path = pathlib.Path(rows) / f"{table}.tsv"
        connection.execute(f"COPY {table} FROM '{path}' (DELIMITER '\t', HEADER false, QUOTE '', NULL 'NULL')")
    times_ms = {}
    for number in range(1, 23):
        sql = (FOLDER / f"queries/q{number}.sql").read_text()
        if number == 11:
            sql = sql.replace("0.0001", f"{0.0001 / scale:.10f}")
        for _ in range(2):
            began = time.perf_counter()
            connection.execute(sql).fetchall()
            times_ms[f"q{number}"] = (time.perf_counter() - began) * 1000
    transactions = [{"name": name, "max_ms": ms} for name, ms in times_ms.items()]
    told = {"server_version": f"DuckDB {duckdb.__version__}", "transactions": transactions}
    pathlib.Path(output).write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
