"""Makes the users every program logs in as."""

import pymysql

from common import HOST, PASSWORD, PORT

with pymysql.connect(host=HOST, port=PORT, user="root", autocommit=True) as connection:
    cursor = connection.cursor()
    for user, plugin in (("drv_native", "mysql_native_password"), ("drv_sha2", "caching_sha2_password")):
        cursor.execute(f"DROP USER IF EXISTS {user}")
        cursor.execute(f"CREATE USER {user} IDENTIFIED WITH {plugin} BY %s", [PASSWORD])
