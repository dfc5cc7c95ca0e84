"""SQLAlchemy (over PyMySQL): authors, books and tags; transactions, eager loading, reflection."""

import datetime as dt
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import orm

from common import HOST, PORT, expect, expect_error

DATABASE = "orm_sqlalchemy"


class Base(orm.DeclarativeBase):
    """The schema."""


book_tag = sa.Table(
    "book_tag",
    Base.metadata,
    sa.Column("book_id", sa.ForeignKey("book.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
)


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(100), unique=True)
    born: orm.Mapped[dt.date | None]
    active: orm.Mapped[bool] = orm.mapped_column(default=True)
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", order_by="Book.title")


class Book(Base):
    __tablename__ = "book"
    __table_args__ = (sa.Index("book_title", "title"),)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(sa.String(200))
    price: orm.Mapped[Decimal | None] = orm.mapped_column(sa.Numeric(10, 2))
    details: orm.Mapped[dict | None] = orm.mapped_column(sa.JSON)
    written: orm.Mapped[dt.datetime] = orm.mapped_column(server_default=sa.func.now())
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")
    tags: orm.Mapped[list["Tag"]] = orm.relationship(secondary=book_tag, back_populates="books", order_by="Tag.name")


class Tag(Base):
    __tablename__ = "tag"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), unique=True)
    books: orm.Mapped[list[Book]] = orm.relationship(secondary=book_tag, back_populates="tags")


def create(engine):
    with orm.Session(engine) as session, session.begin():
        classic, short = Tag(name="classic"), Tag(name="short")
        one = Book(title="One", price=Decimal("9.99"), details={"pages": [1, 2]}, tags=[classic, short])
        session.add(Author(name="Ann", born=dt.date(1970, 1, 2), books=[one, Book(title="Two", price=20)]))
        session.add_all([Author(name="Bob"), Author(name="Cid", active=False)])


def read(engine):
    with orm.Session(engine) as session:
        eager = orm.joinedload(Author.books).selectinload(Book.tags)
        ann = session.scalars(sa.select(Author).options(eager).where(Author.name == "Ann")).unique().one()
        expect([book.title for book in ann.books], ["One", "Two"], "books of Ann")
        expect([tag.name for tag in ann.books[0].tags], ["classic", "short"], "tags of One")
        expect(ann.books[0].price, Decimal("9.99"), "price")
        expect(ann.books[0].details, {"pages": [1, 2]}, "JSON")
        expect(ann.born, dt.date(1970, 1, 2), "date")

        count = sa.func.count(Book.id)
        counts = session.execute(
            sa.select(Author.name, count).outerjoin(Book).group_by(Author.id).having(count < 9).order_by(Author.name)
        )
        expect([tuple(row) for row in counts], [("Ann", 2), ("Bob", 0), ("Cid", 0)], "books by author")

        untagged = sa.select(Book.title).where(~Book.tags.any())
        expect(session.scalars(untagged).all(), ["Two"], "books without tags")
        pages = sa.select(Book.title).where(Book.details["pages"][1].as_integer() == 2)
        expect(session.scalars(pages).all(), ["One"], "found by JSON")


def update(engine):
    with orm.Session(engine) as session:
        one = session.scalars(sa.select(Book).where(Book.title == "One").with_for_update()).one()
        one.price = Decimal("1.00")
        session.flush()
        session.rollback()
        expect(one.price, Decimal("9.99"), "price after rollback")

        session.execute(sa.update(Book).where(Book.title == "Two").values(price=Book.price * 2))
        with session.begin_nested() as savepoint:
            session.add(Tag(name="lost"))
            session.flush()
            savepoint.rollback()
        session.commit()
        expect(session.scalars(sa.select(Tag.name).order_by(Tag.name)).all(), ["classic", "short"], "tags")
        expect(session.scalar(sa.select(Book.price).where(Book.title == "Two")), Decimal("40.00"), "doubled")

        one.tags.clear()
        session.delete(one)
        session.commit()
        expect(session.scalar(sa.select(sa.func.count()).select_from(Book)), 1, "books left")


def refuse(engine):
    """Foreign keys are declared, and not enforced by this version: only the unique key refuses."""

    def add(row):
        with orm.Session(engine) as session:
            session.add(row)
            try:
                session.commit()
            except sa.exc.IntegrityError as error:
                raise error.orig

    expect_error(1062, engine.dialect.dbapi.err.IntegrityError, lambda: add(Author(name="Ann")))


def reflect(engine):
    inspector = sa.inspect(engine)
    expect(sorted(inspector.get_table_names()), ["author", "book", "book_tag", "tag"], "tables")
    expect([key["referred_table"] for key in inspector.get_foreign_keys("book")], ["author"], "foreign keys")
    expect([key["column_names"] for key in inspector.get_unique_constraints("author")], [["name"]], "unique keys")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    expect(str(metadata.tables["book"].c.price.type), "DECIMAL(10, 2)", "reflected type")


def main():
    address = f"mysql+pymysql://root@{HOST}:{PORT}/"
    root = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with root.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {DATABASE}"))
        connection.execute(sa.text(f"CREATE DATABASE {DATABASE}"))
    engine = sa.create_engine(f"{address}{DATABASE}?charset=utf8mb4")
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)  # The second finds the tables there.
    create(engine)
    read(engine)
    update(engine)
    reflect(engine)
    refuse(engine)
    Base.metadata.drop_all(engine)
    with root.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {DATABASE}"))


main()
