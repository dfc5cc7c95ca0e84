"""A small Django app: authors, books and tags."""
