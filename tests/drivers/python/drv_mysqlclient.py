"""mysqlclient: the C client library under Python; the text protocol."""

import MySQLdb

from common import HOST, PORT, check_driver


def connect(**keywords):
    return MySQLdb.connect(host=HOST, port=PORT, charset="utf8mb4", **keywords)


check_driver(connect, MySQLdb, "drv_mysqlclient")
