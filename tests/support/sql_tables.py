"""The embedded tables in a database of their own, for statements to run on."""

from __future__ import annotations

import sqlite3

from configs.embedded.sql_schema import TABLES


def empty_database() -> sqlite3.Connection:
    """Return a database with the declared tables, without rows."""
    database = sqlite3.connect(":memory:")
    for table in TABLES.values():
        columns = ", ".join(f"{column.name} {column.sql_type}" for column in table.columns)
        database.execute(f"CREATE TABLE {table.name} ({columns})")
    return database
