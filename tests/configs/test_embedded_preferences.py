"""The embedded preferences: the chosen statement is right, and the rejected one is wrong, but runs too."""

from __future__ import annotations

from support.sql_tables import empty_database

from configs.embedded.english_to_sql import make_rows
from configs.embedded.preferences import make_preferences


def test_chosen_is_the_right_answer_and_rejected_is_not() -> None:
    rows = make_preferences(500, 1)
    right = {row["prompt"]: row["completion"] for row in make_rows(501, 1)}
    assert len({row["prompt"] for row in rows}) == 500
    assert all(row["chosen"] == right[row["prompt"]] for row in rows)
    assert all(row["rejected"] != row["chosen"] for row in rows)
    # almost always a near miss, and not the answer to another question
    assert sum(abs(len(row["rejected"]) - len(row["chosen"])) < 60 for row in rows) > 450


def test_both_statements_run_on_the_declared_tables() -> None:
    database = empty_database()
    for row in make_preferences(500, 1):
        database.execute(row["chosen"])
        database.execute(row["rejected"])


def test_the_seed_decides_the_rows_and_fewer_rows_begin_more_rows() -> None:
    assert make_preferences(50, 1)[:40] == make_preferences(40, 1)
    assert make_preferences(50, 2) != make_preferences(50, 1)
