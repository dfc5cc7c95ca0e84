"""What the Python programs share: where the server is, and the table with every column type.

`CAIRN_PORT` names the port. The users `drv_native` and `drv_sha2` exist already (prepare.py).
"""

import datetime as dt
import decimal
import os

HOST = "127.0.0.1"
PORT = int(os.environ["CAIRN_PORT"])
PASSWORD = "pass'word"

# Column, type, value written, value read back.
_EVERY_TYPE = [
    ("c_tinyint", "TINYINT", -128),
    ("c_utinyint", "TINYINT UNSIGNED", 255),
    ("c_smallint", "SMALLINT", -32768),
    ("c_mediumint", "MEDIUMINT", -8388608),
    ("c_int", "INT", -2147483648),
    ("c_uint", "INT UNSIGNED", 4294967295),
    ("c_bigint", "BIGINT", -9223372036854775808),
    ("c_ubigint", "BIGINT UNSIGNED", 18446744073709551615),
    ("c_decimal", "DECIMAL(65,30)", decimal.Decimal("12345678901234567890.123456789012345678901234567890")),
    ("c_float", "FLOAT", 1.5),
    ("c_double", "DOUBLE", 3.141592653589793),
    ("c_char", "CHAR(10)", "char"),
    ("c_varchar", "VARCHAR(50)", "größe 漢字 🦀"),
    ("c_binary", "BINARY(4)", b"\x00\x01\xfe\xff"),
    ("c_varbinary", "VARBINARY(10)", b"\x00'\"\\\n\xff"),
    ("c_tinytext", "TINYTEXT", "tiny"),
    ("c_text", "TEXT", "te\\xt' \n"),
    ("c_mediumtext", "MEDIUMTEXT", "m" * 70000),
    ("c_longtext", "LONGTEXT", "l" * 300),
    ("c_tinyblob", "TINYBLOB", b"\x80"),
    ("c_blob", "BLOB", bytes(range(256))),
    ("c_mediumblob", "MEDIUMBLOB", b"\xff" * 70000),
    ("c_longblob", "LONGBLOB", b""),
    ("c_date", "DATE", dt.date(2024, 2, 29)),
    ("c_datetime", "DATETIME(6)", dt.datetime(2024, 2, 29, 23, 59, 59, 123456)),
    ("c_timestamp", "TIMESTAMP(6) NULL", dt.datetime(2024, 3, 1, 1, 2, 3, 654321)),
    # Neither driver writes times below zero, nor mysqlclient fractions: the other languages' programs do.
    ("c_time", "TIME(6)", dt.timedelta(hours=100, minutes=1, seconds=2)),
    ("c_year", "YEAR", 2024),
    ("c_bit", "BIT(10)", b"\x02\xa5"),
    ("c_enum", "ENUM('a','b','c')", "b"),
    ("c_set", "SET('x','y','z')", "x,z"),
    ("c_json", "JSON", '{"a": [1, 2.5, "x"], "b": null}'),
]

COLUMNS = [name for name, _, _ in _EVERY_TYPE]
VALUES = [value for _, _, value in _EVERY_TYPE]
CREATE_EVERY_TYPE = "CREATE TABLE every_type (id INT PRIMARY KEY, {})".format(
    ", ".join(f"{name} {kind}" for name, kind, _ in _EVERY_TYPE)
)


def expect(got, want, what):
    """Fails with both values when they differ, in value or in type."""
    if got != want or (want is not None and type(got) is not type(want)):
        raise AssertionError(f"{what}: got {got!r:.300}, want {want!r:.300}")


def expect_error(number, error_type, action):
    """Fails unless `action` raises `error_type` carrying MySQL's error `number` first."""
    try:
        action()
    except error_type as error:
        expect(error.args[0], number, f"error number of {error}")
        return
    raise AssertionError(f"no error where {number} was due")


def check_driver(connect, errors, database):
    """The part PyMySQL and mysqlclient share: both speak DB-API with `%s` parameters.

    `connect(**keywords)` opens a connection; `errors` is the module with the exception types.
    """
    for user, password in (("root", ""), ("drv_native", PASSWORD), ("drv_sha2", PASSWORD)):
        with connect(user=user, password=password) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT CURRENT_USER(), 1 + 1, NULL")
            expect(cursor.fetchone(), (f"{user}@%", 2, None), "first query")
    expect_error(1045, errors.OperationalError, lambda: connect(user="drv_native", password="wrong"))

    with connect(user="root", password="") as connection:
        cursor = connection.cursor()
        cursor.execute(f"DROP DATABASE IF EXISTS {database}")
        cursor.execute(f"CREATE DATABASE {database}")
        connection.select_db(database)
        _check_types(cursor)
        connection.commit()
        _check_prepared_in_sql(cursor)
        _check_transactions(connection, cursor)
        _check_errors(cursor, errors)
        _check_inserts(cursor)
        connection.commit()
        connection.ping()
        cursor.execute(f"DROP DATABASE {database}")


def _check_types(cursor):
    cursor.execute(CREATE_EVERY_TYPE)
    marks = ", ".join(["%s"] * (1 + len(COLUMNS)))
    cursor.execute(f"INSERT INTO every_type VALUES ({marks})", [1, *VALUES])
    expect(cursor.rowcount, 1, "affected rows")
    cursor.execute(f"INSERT INTO every_type VALUES ({marks})", [2] + [None] * len(COLUMNS))
    names = ", ".join(COLUMNS)
    cursor.execute(f"SELECT {names} FROM every_type WHERE id = %s", [1])
    expect([column[0] for column in cursor.description], COLUMNS, "column names")
    for name, got, want in zip(COLUMNS, cursor.fetchone(), VALUES):
        expect(got, want, name)
    cursor.execute(f"SELECT {names} FROM every_type WHERE id = %s", [2])
    expect(cursor.fetchone(), (None,) * len(COLUMNS), "row of NULLs")


def _check_prepared_in_sql(cursor):
    """Neither driver has the binary protocol; PREPARE in SQL is what their users have."""
    cursor.execute("PREPARE p FROM 'SELECT c_int, c_varchar FROM every_type WHERE id = ?'")
    cursor.execute("SET @id = 1")
    cursor.execute("EXECUTE p USING @id")
    expect(cursor.fetchone(), (-2147483648, "größe 漢字 🦀"), "EXECUTE")
    cursor.execute("DEALLOCATE PREPARE p")


def _check_transactions(connection, cursor):
    cursor.execute("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)")
    cursor.execute("INSERT INTO account VALUES (1, 100), (2, 0)")
    connection.commit()
    cursor.execute("UPDATE account SET balance = balance - 10 WHERE id = 1")
    connection.rollback()
    cursor.execute("UPDATE account SET balance = balance - 30 WHERE id = 1")
    cursor.execute("UPDATE account SET balance = balance + 30 WHERE id = 2")
    connection.commit()
    cursor.execute("SELECT balance FROM account ORDER BY id")
    expect(cursor.fetchall(), ((70,), (30,)), "balances")


def _check_errors(cursor, errors):
    expect_error(1062, errors.IntegrityError, lambda: cursor.execute("INSERT INTO account VALUES (1, 1)"))
    expect_error(1146, errors.ProgrammingError, lambda: cursor.execute("SELECT * FROM missing"))
    expect_error(1064, errors.ProgrammingError, lambda: cursor.execute("SELEC 1"))


def _check_inserts(cursor):
    cursor.execute("CREATE TABLE numbered (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(10))")
    cursor.execute("INSERT INTO numbered (v) VALUES ('a'), ('b'), ('c')")
    first = cursor.lastrowid
    cursor.execute("SELECT id, v FROM numbered ORDER BY id")
    expect(cursor.fetchall(), ((first, "a"), (first + 1, "b"), (first + 2, "c")), "numbered rows")
    cursor.executemany("INSERT INTO numbered (v) VALUES (%s)", [("d",), ("e",)])
    expect(cursor.rowcount, 2, "rows of executemany")
