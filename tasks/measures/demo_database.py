"""The database of the embedded English-to-SQL rows: its tables, with rows that tell queries apart.

Two queries that ask different things should have different results. So every value that questions compare with occurs,
numbers lie below, on and above each of them, names begin with all the letters that are asked for, and no two columns of
a table have the same distribution.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from configs.embedded.sql_schema import RELATIONS, TABLES, Column, Table

DEMO_DATABASE = "embedded:english-to-sql"
_SEED = 11
_NUM_ROWS = {
    "customers": 947,
    "orders": 1453,
    "products": 811,
    "employees": 1061,
    "authors": 503,
    "books": 1207,
    "airlines": 197,
    "flights": 1327,
}
"""No two tables have as many rows, and a share of one is seldom a share of another."""
_FIRST = (
    "Ada Amir Anna Bela Ben Bruno Carla Chen Clara Dana David Dina Elif Emil Eva Felix Finn Fatima Gita Greta Gustav "
    "Hana Hugo Henri Ines Ivan Iris Jana Jonas Julia Kai Karin Kofi Lara Leon Lucia Mara Marc Mina Nora Nils Olga Omar "
    "Paula Pedro Rosa Ravi Sara Samir Tara Tomas Uma Vera Viktor Wanda Yara Zoe"
)
_LAST = (
    "Abe Bauer Costa Diaz Evans Fischer Garcia Haddad Ito Jensen Khan Lopez Meyer Novak Okafor Park Quinn Rossi Silva "
    "Tanaka Usman Vargas Weber Young Zhang"
)
_THINGS = (
    "Apple Anchor Bridge Bell Castle Candle Desert Drum Eagle Ember Forest Feather Garden Glass Harbor Hill Island "
    "Iron Jungle Jewel King Kite Lamp Lake Mirror Moon Night Ocean Path Quiet River Stone Tower Valley Winter"
)


@cache
def demo_database() -> str:
    """Return SQL statements that make the tables and rows; the same in every process."""
    return "\n".join(statement for table in TABLES.values() for statement in _statements(table))


def _statements(table: Table) -> Iterator[str]:
    draw = random.Random(f"{_SEED} {table.name}")
    columns = ", ".join(f"{column.name} {column.sql_type}" for column in table.columns)
    yield f"CREATE TABLE {table.name} ({columns});"
    parents = {relation.key: relation.parent for relation in RELATIONS if relation.child == table.name}
    rows = []
    for number in range(1, _NUM_ROWS[table.name] + 1):
        values = [
            str(number) if column.name == "id" else _value(draw, table, column, parents) for column in table.columns
        ]
        rows.append(f"({', '.join(values)})")
    yield f"INSERT INTO {table.name} VALUES {', '.join(rows)};"


def _value(draw: random.Random, table: Table, column: Column, parents: dict[str, str]) -> str:
    if column.name in parents:
        return str(draw.randint(1, _NUM_ROWS[parents[column.name]]))
    if column.sql_type == "INTEGER":
        return str(_number(draw, [int(value) for value in column.values]))
    return f"'{_text(draw, table, column)}'"


def _number(draw: random.Random, asked: list[int]) -> int:
    """Return a number that questions compare with, or any number from below the lowest to above the highest."""
    step = min(high - low for low, high in pairwise(asked))
    return draw.choice(asked) if draw.random() < 0.2 else draw.randint(max(asked[0] - step, 1), asked[-1] + 2 * step)


def _text(draw: random.Random, table: Table, column: Column) -> str:
    if column.values:
        # earlier words are more frequent, so that counts of words differ
        weights = [1 / (1 + place / len(column.values)) for place in range(len(column.values))]
        return draw.choices(column.values, weights)[0]
    if column.name == "title":
        return f"{draw.choice(_THINGS.split())} of the {draw.choice(_THINGS.split())}"
    if table.name == "products":
        return f"{draw.choice(_THINGS.split())} {draw.randint(10, 99)}"
    if table.name == "airlines":
        return f"{draw.choice(_THINGS.split())} Air"
    return f"{draw.choice(_FIRST.split())} {draw.choice(_LAST.split())}"
