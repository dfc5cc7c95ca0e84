"""PyMySQL: pure Python, text protocol; caching_sha2_password by RSA (no TLS here)."""

import pymysql
import pymysql.cursors

from common import HOST, PORT, check_driver, expect


def connect(**keywords):
    return pymysql.connect(host=HOST, port=PORT, charset="utf8mb4", **keywords)


check_driver(connect, pymysql.err, "drv_pymysql")

# Rows that stream, as PyMySQL's unbuffered cursor reads them; several result sets in one packet.
with pymysql.connect(
    host=HOST, port=PORT, user="root", cursorclass=pymysql.cursors.SSCursor, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS
) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3")
        expect(sorted(row[0] for row in cursor), [1, 2, 3], "streamed rows")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 'two'")
        expect(cursor.fetchall(), [(1,)], "first result")
        cursor.nextset()
        expect(cursor.fetchall(), [("two",)], "second result")
