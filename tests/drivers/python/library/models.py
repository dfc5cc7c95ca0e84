"""Authors, books and tags: a foreign key, a many-to-many relation, unique constraints, an index."""

from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)
    born = models.DateField(null=True)


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Book(models.Model):
    title = models.CharField(max_length=200, db_index=True)
    price = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    details = models.JSONField(null=True)
    created = models.DateTimeField(auto_now_add=True)
    author = models.ForeignKey(Author, on_delete=models.PROTECT)
    tags = models.ManyToManyField(Tag)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["author", "title"], name="one_title_per_author")]
