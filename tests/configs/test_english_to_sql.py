"""The embedded rows are unique and repeatable, their SQL runs, and the text that a base model is made from shows none
of their questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sql_tables import empty_database

from configs.embedded.english_to_sql import make_rows, make_unlabelled_text
from configs.embedded.sql_schema import TABLES

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows(8000, 0)


@pytest.fixture(scope="module")
def text() -> list[str]:
    return make_unlabelled_text(8000, 1000)


def test_no_question_repeats(rows: Rows) -> None:
    assert len(rows) == 8000
    assert len({row["prompt"] for row in rows}) == 8000


def test_the_seed_decides_the_rows_and_fewer_rows_begin_more_rows(rows: Rows) -> None:
    assert make_rows(100, 0) == rows[:100]
    assert make_rows(100, 1) != rows[:100]


def test_every_statement_runs_on_the_declared_tables(rows: Rows) -> None:
    database = empty_database()
    for row in rows:
        database.execute(row["completion"])


def test_many_tables_operators_and_phrasings_are_covered(rows: Rows) -> None:
    statements = [row["completion"] for row in rows]
    for word in [
        *TABLES, "COUNT(*)", "AVG(", "SUM(", "MAX(", "MIN(", "JOIN", "GROUP BY", "ORDER BY", "DESC", "LIMIT", "LIKE",
        "BETWEEN", " IN (", " AND ", " OR ", " > ", " < ", " >= ", " <= ", " = ", " != ",
    ]:  # fmt: skip
        assert sum(word in statement for statement in statements) >= 50, word
    assert len({row["prompt"].split()[0] for row in rows}) >= 8


def test_unlabelled_text_never_shows_a_question_of_the_rows(rows: Rows, text: list[str]) -> None:
    questions = {line for line in text if not line.startswith("SELECT")}
    assert len(text) == 8000 and len(questions) > 3000
    assert not questions & {row["prompt"] for row in rows}
    assert not questions & {row["prompt"] for row in make_rows(8000, 5)}


def test_unlabelled_text_shows_no_question_next_to_a_statement(text: list[str]) -> None:
    languages = [line.startswith("SELECT") for line in text]
    # all questions come before all statements
    assert languages == [False] * 4000 + [True] * 4000


def test_importing_the_rows_needs_only_the_standard_library() -> None:
    source = Path("configs/embedded/english_to_sql.py").read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"hashlib", "random", "collections.abc", "dataclasses", "configs.embedded.sql_schema"}
