// Sequelize (over mysql2): authors, books and tags; sync, transactions, eager loading.
'use strict';

const assert = require('node:assert');
const mysql = require('mysql2/promise');
const { Sequelize, DataTypes, Op } = require('sequelize');
const { HOST, PORT, run, expectError } = require('./common');

const DATABASE = 'orm_sequelize';

function define(sequelize) {
  const Author = sequelize.define('author', {
    name: { type: DataTypes.STRING(100), allowNull: false, unique: true },
    born: DataTypes.DATEONLY,
  });
  const Book = sequelize.define(
    'book',
    {
      title: { type: DataTypes.STRING(200), allowNull: false },
      price: DataTypes.DECIMAL(10, 2),
      details: DataTypes.JSON,
    },
    { indexes: [{ fields: ['title'] }] },
  );
  const Tag = sequelize.define('tag', { name: { type: DataTypes.STRING(50), unique: true } });
  Author.hasMany(Book, { foreignKey: { allowNull: false }, onDelete: 'RESTRICT' });
  Book.belongsTo(Author);
  Book.belongsToMany(Tag, { through: 'book_tags' });
  Tag.belongsToMany(Book, { through: 'book_tags' });
  return { Author, Book, Tag };
}

async function create(sequelize, { Author, Book, Tag }) {
  await sequelize.transaction(async (transaction) => {
    const ann = await Author.create({ name: 'Ann', born: '1970-01-02' }, { transaction });
    const [classic, short] = await Promise.all(
      ['classic', 'short'].map((name) => Tag.create({ name }, { transaction })),
    );
    const one = await Book.create(
      { title: 'One', price: '9.99', details: { pages: 10 }, authorId: ann.id },
      { transaction },
    );
    await one.addTags([classic, short], { transaction });
    await ann.createBook({ title: 'Two', price: '20.00' }, { transaction });
  });
  await Author.bulkCreate([{ name: 'Bob' }, { name: 'Cid' }]);
}

async function read(sequelize, { Author, Book, Tag }) {
  const ann = await Author.findOne({
    where: { name: 'Ann' },
    include: [{ model: Book, include: [Tag] }],
    order: [[Book, 'title'], [Book, Tag, 'name']],
  });
  assert.strictEqual(ann.born, '1970-01-02');
  assert.deepStrictEqual(ann.books.map((book) => book.title), ['One', 'Two']);
  assert.deepStrictEqual(ann.books[0].tags.map((tag) => tag.name), ['classic', 'short']);
  assert.strictEqual(ann.books[0].price, '9.99');
  assert.deepStrictEqual(ann.books[0].details, { pages: 10 });

  const counts = await Author.findAll({
    attributes: ['name', [sequelize.fn('COUNT', sequelize.col('books.id')), 'books_count']],
    include: [{ model: Book, attributes: [] }],
    group: ['author.id'],
    order: ['name'],
    raw: true,
  });
  assert.deepStrictEqual(counts.map((row) => [row.name, row.books_count]), [['Ann', 2], ['Bob', 0], ['Cid', 0]]);

  const { count, rows } = await Book.findAndCountAll({
    where: { [Op.or]: [{ title: { [Op.like]: 'O%' } }, { price: { [Op.gt]: 15 } }] },
    include: [Author],
    limit: 1,
    order: [['title', 'DESC']],
  });
  assert.strictEqual(count, 2);
  assert.strictEqual(rows[0].author.name, 'Ann');
}

async function update(sequelize, { Author, Book, Tag }) {
  const one = await Book.findOne({ where: { title: 'One' } });
  await assert.rejects(
    sequelize.transaction(async (transaction) => {
      await one.update({ price: '1.00' }, { transaction });
      throw new Error('rolled back on purpose');
    }),
    /on purpose/,
  );
  await one.reload();
  assert.strictEqual(one.price, '9.99');
  await Book.increment({ price: 5 }, { where: { title: 'Two' } });
  assert.strictEqual((await Book.findOne({ where: { title: 'Two' } })).price, '25.00');

  await Tag.upsert({ name: 'short' });
  assert.strictEqual(await Tag.count(), 2);
  const [, created] = await Author.findOrCreate({ where: { name: 'Dan' } });
  assert.strictEqual(created, true);
  await one.setTags([]);
  assert.strictEqual(await one.countTags(), 0);
  await one.destroy();
  assert.strictEqual(await Book.count(), 1);
}

/** Foreign keys are declared above, and not enforced by this version: only the unique key refuses. */
async function refuse({ Author }) {
  await expectError(1062, () => Author.create({ name: 'Ann' }));
}

run(async () => {
  const root = await mysql.createConnection({ host: HOST, port: PORT, user: 'root' });
  await root.query(`DROP DATABASE IF EXISTS ${DATABASE}`);
  await root.query(`CREATE DATABASE ${DATABASE}`);
  const sequelize = new Sequelize(DATABASE, 'root', '', { host: HOST, port: PORT, dialect: 'mysql', logging: false });
  const models = define(sequelize);
  await sequelize.sync();
  await sequelize.sync({ alter: { drop: false } }); // Compares with what the server describes.
  await create(sequelize, models);
  await read(sequelize, models);
  await update(sequelize, models);
  await refuse(models);
  await sequelize.close();
  await root.query(`DROP DATABASE ${DATABASE}`);
  await root.end();
});
