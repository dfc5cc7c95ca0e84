// What the Node programs share: where the server is, and comparisons that fail loudly.
'use strict';

const assert = require('node:assert');

const HOST = '127.0.0.1';
const PORT = Number(process.env.CAIRN_PORT);
const PASSWORD = "pass'word";

/** Runs the program and turns its failure into an exit code. */
function run(program) {
  program().then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}

/** Fails unless `action` rejects with MySQL's error `number`. */
async function expectError(number, action) {
  try {
    await action();
  } catch (error) {
    const server = error.original || error;
    assert.strictEqual(server.errno, number, `error number of: ${error.stack}`);
    return;
  }
  assert.fail(`no error where ${number} was due`);
}

module.exports = { HOST, PORT, PASSWORD, run, expectError };
