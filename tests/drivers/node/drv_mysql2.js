// mysql2: `query` speaks the text protocol, `execute` the binary one.
'use strict';

const assert = require('node:assert');
const mysql = require('mysql2/promise');
const { HOST, PORT, PASSWORD, run, expectError } = require('./common');

const DATABASE = 'drv_mysql2';

// Column, type, value written and read.
const EVERY_TYPE = [
  ['c_tinyint', 'TINYINT', -128],
  ['c_utinyint', 'TINYINT UNSIGNED', 255],
  ['c_smallint', 'SMALLINT', -32768],
  ['c_mediumint', 'MEDIUMINT', -8388608],
  ['c_int', 'INT', -2147483648],
  ['c_uint', 'INT UNSIGNED', 4294967295],
  ['c_bigint', 'BIGINT', '-9223372036854775808'],
  ['c_ubigint', 'BIGINT UNSIGNED', '18446744073709551615'],
  ['c_decimal', 'DECIMAL(65,30)', '12345678901234567890.123456789012345678901234567890'],
  ['c_float', 'FLOAT', 1.5],
  ['c_double', 'DOUBLE', 3.141592653589793],
  ['c_char', 'CHAR(10)', 'char'],
  ['c_varchar', 'VARCHAR(50)', 'größe 漢字 🦀'],
  ['c_binary', 'BINARY(4)', Buffer.from([0, 1, 254, 255])],
  ['c_varbinary', 'VARBINARY(10)', Buffer.from([0, 39, 34, 92, 10, 255])],
  ['c_tinytext', 'TINYTEXT', 'tiny'],
  ['c_text', 'TEXT', "te\\xt' \n"],
  ['c_mediumtext', 'MEDIUMTEXT', 'm'.repeat(70000)],
  ['c_longtext', 'LONGTEXT', 'l'.repeat(300)],
  ['c_tinyblob', 'TINYBLOB', Buffer.from([0x80])],
  ['c_blob', 'BLOB', Buffer.from([...Array(256).keys()])],
  ['c_mediumblob', 'MEDIUMBLOB', Buffer.alloc(70000, 0xff)],
  ['c_longblob', 'LONGBLOB', Buffer.alloc(0)],
  ['c_date', 'DATE', '2024-02-29'],
  ['c_datetime', 'DATETIME(6)', '2024-02-29 23:59:59.123456'],
  ['c_timestamp', 'TIMESTAMP(6) NULL', '2024-03-01 01:02:03.654321'],
  // The driver drops zeros at the end of a binary time's fraction: there are none here.
  ['c_time', 'TIME(6)', '-100:01:02.512345'],
  ['c_year', 'YEAR', 2024],
  ['c_bit', 'BIT(10)', Buffer.from([2, 0xa5])],
  ['c_enum', "ENUM('a','b','c')", 'b'],
  ['c_set', "SET('x','y','z')", 'x,z'],
  ['c_json', 'JSON', { a: [1, 2.5, 'x'], b: null }],
];

function connect(options) {
  return mysql.createConnection({
    host: HOST,
    port: PORT,
    charset: 'utf8mb4',
    supportBigNumbers: true,
    dateStrings: true,
    ...options,
  });
}

async function checkUsers() {
  for (const [user, password] of [['root', ''], ['drv_native', PASSWORD], ['drv_sha2', PASSWORD]]) {
    const connection = await connect({ user, password });
    const [[row]] = await connection.query('SELECT CURRENT_USER() AS who');
    assert.strictEqual(row.who, `${user}@%`);
    await connection.end();
  }
  await expectError(1045, () => connect({ user: 'drv_sha2', password: 'wrong' }));
}

/** `send` is `query` or `execute` of one connection. */
async function checkTypes(send) {
  const columns = EVERY_TYPE.map(([name, kind]) => `${name} ${kind}`).join(', ');
  await send('DROP TABLE IF EXISTS every_type', []);
  await send(`CREATE TABLE every_type (id INT PRIMARY KEY, ${columns})`, []);
  const insert = `INSERT INTO every_type VALUES (?${', ?'.repeat(EVERY_TYPE.length)})`;
  const written = EVERY_TYPE.map(([, kind, value]) => (kind === 'JSON' ? JSON.stringify(value) : value));
  const [result] = await send(insert, [1, ...written]);
  assert.strictEqual(result.affectedRows, 1);
  await send(insert, [2, ...EVERY_TYPE.map(() => null)]);

  const names = EVERY_TYPE.map(([name]) => name);
  const select = `SELECT ${names.join(', ')} FROM every_type WHERE id = ?`;
  const [[row], fields] = await send(select, [1]);
  assert.deepStrictEqual(fields.map((field) => field.name), names);
  for (const [name, , value] of EVERY_TYPE) {
    assert.deepStrictEqual(row[name], value, name);
  }
  const [[nulls]] = await send(select, [2]);
  for (const name of names) {
    assert.strictEqual(nulls[name], null, name);
  }
}

async function checkTransactions(connection) {
  await connection.query('CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)');
  await connection.query('INSERT INTO account VALUES ?', [[[1, 100], [2, 0]]]);
  const add = 'UPDATE account SET balance = balance + ? WHERE id = ?';
  await connection.beginTransaction();
  await connection.execute(add, [-10, 1]);
  await connection.rollback();
  await connection.beginTransaction();
  await connection.execute(add, [-30, 1]);
  await connection.execute(add, [30, 2]);
  await connection.commit();
  const [rows] = await connection.execute('SELECT balance FROM account ORDER BY id');
  assert.deepStrictEqual(rows.map((row) => row.balance), [70, 30]);
}

async function checkErrors(connection) {
  for (const method of ['query', 'execute']) {
    await expectError(1062, () => connection[method]('INSERT INTO account VALUES (1, 1)'));
    await expectError(1146, () => connection[method]('SELECT * FROM missing'));
    await expectError(1064, () => connection[method]('SELEC 1'));
  }
}

async function checkInserts(connection) {
  await connection.query('CREATE TABLE numbered (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(10))');
  const [result] = await connection.execute('INSERT INTO numbered (v) VALUES (?), (?), (?)', ['a', 'b', 'c']);
  assert.strictEqual(result.affectedRows, 3);
  const [rows] = await connection.query('SELECT id, v FROM numbered ORDER BY id');
  const first = result.insertId;
  assert.deepStrictEqual(rows.map((row) => [row.id, row.v]), [[first, 'a'], [first + 1, 'b'], [first + 2, 'c']]);
}

run(async () => {
  await checkUsers();
  const connection = await connect({ user: 'root' });
  await connection.query(`DROP DATABASE IF EXISTS ${DATABASE}`);
  await connection.query(`CREATE DATABASE ${DATABASE}`);
  await connection.changeUser({ user: 'root', database: DATABASE }); // COM_CHANGE_USER
  await checkTypes((sql, values) => connection.query(sql, values));
  await checkTypes((sql, values) => connection.execute(sql, values));
  await checkTransactions(connection);
  await checkErrors(connection);
  await checkInserts(connection);
  await connection.query(`DROP DATABASE ${DATABASE}`);
  await connection.end();
});
