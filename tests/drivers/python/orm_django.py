"""Django (over mysqlclient): migrates its own contrib apps and a small one; CRUD through the ORM.

The small app lives in the folder `library`; its migration is what `makemigrations` wrote.
"""

import datetime as dt
from decimal import Decimal

import django
import MySQLdb
from django.conf import settings

from common import HOST, PORT, expect

DATABASE = "orm_django"

with MySQLdb.connect(host=HOST, port=PORT, user="root") as connection:
    connection.cursor().execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    connection.cursor().execute(f"CREATE DATABASE {DATABASE}")

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.mysql", "HOST": HOST, "PORT": PORT, "USER": "root", "NAME": DATABASE}
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "library"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402 - needs settings
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import Avg, Count, F, Q  # noqa: E402
from library.models import Author, Book, Tag  # noqa: E402


def create():
    with transaction.atomic():
        ann = Author.objects.create(name="Ann", born=dt.date(1970, 1, 2))
        classic, short = (Tag.objects.create(name=name) for name in ("classic", "short"))
        one = Book.objects.create(title="One", price=Decimal("9.99"), author=ann, details={"pages": 10})
        one.tags.add(classic, short)
        Book.objects.create(title="Two", price=20, author=ann)
    Author.objects.bulk_create([Author(name="Bob"), Author(name="Cid")])
    User.objects.create_user("eve", password="secret")


def read():
    books = list(Book.objects.select_related("author").prefetch_related("tags").order_by("title"))
    expect([book.author.name for book in books], ["Ann", "Ann"], "authors of books")
    expect([tag.name for tag in books[0].tags.all()], ["classic", "short"], "tags of One")
    expect(books[0].price, Decimal("9.99"), "price")
    expect(books[0].details, {"pages": 10}, "JSON")
    age = dt.datetime.now(dt.timezone.utc) - books[0].created
    expect(abs(age) < dt.timedelta(hours=1), True, f"moment of creation ({age} ago)")

    counts = Author.objects.annotate(n=Count("book")).order_by("name").values_list("name", "n")
    expect(list(counts), [("Ann", 2), ("Bob", 0), ("Cid", 0)], "books by author")
    found = Book.objects.filter(Q(title__startswith="O") | Q(tags__name="short")).exclude(price__gt=15).distinct()
    expect([book.title for book in found], ["One"], "filtered")
    expect(Book.objects.filter(details__pages=10).count(), 1, "found by JSON")
    expect(Book.objects.filter(created__year=books[0].created.year).exists(), True, "found by year")
    expect(Book.objects.aggregate(Avg("price"))["price__avg"], Decimal("14.995000"), "average")
    expect(User.objects.get(username="eve").check_password("secret"), True, "password of a user")


def update():
    try:
        with transaction.atomic():
            Book.objects.filter(title="One").update(price=1)
            raise RuntimeError("rolled back on purpose")
    except RuntimeError:
        expect(Book.objects.get(title="One").price, Decimal("9.99"), "price after rollback")
    Book.objects.filter(title="Two").update(price=F("price") * 2)
    expect(Book.objects.get(title="Two").price, Decimal("40.00"), "doubled")

    with transaction.atomic():
        locked = Book.objects.select_for_update().get(title="One")
        try:
            with transaction.atomic():  # A savepoint.
                Tag.objects.create(name="lost")
                raise RuntimeError
        except RuntimeError:
            locked.title = "Uno"
            locked.save()
    expect(list(Tag.objects.order_by("name").values_list("name", flat=True)), ["classic", "short"], "tags")
    _, created = Author.objects.update_or_create(name="Bob", defaults={"born": dt.date(2000, 1, 1)})
    expect(created, False, "Bob is there")
    Book.objects.get(title="Uno").delete()
    expect(Book.objects.count(), 1, "books left")
    expect(Book.tags.through.objects.count(), 0, "links left")


def refuse():
    """Foreign keys are declared, and not enforced by this version: only the unique key refuses."""
    try:
        with transaction.atomic():
            Author.objects.create(name="Ann")
        raise AssertionError("a second Ann")
    except IntegrityError as error:
        expect(error.args[0], 1062, "second Ann")


call_command("makemigrations", "library", check=True, dry_run=True, verbosity=0)
call_command("migrate", verbosity=0)
expect("library_book" in connection.introspection.table_names(), True, "migrated table")
create()
read()
update()
refuse()
call_command("migrate", "library", "zero", verbosity=0)
expect("library_book" in connection.introspection.table_names(), False, "table after migrating back")
with connection.cursor() as cursor:
    cursor.execute(f"DROP DATABASE {DATABASE}")
