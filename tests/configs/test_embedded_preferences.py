"""The embedded preferences: the chosen statement is right, the other is another that runs too."""

from __future__ import annotations

from sql_tables import empty_database

from configs.embedded.english_to_sql import make_rows
from configs.embedded.preferences import make_preferences


def test_chosen_is_the_right_answer_and_rejected_is_not() -> None:
    rows = make_preferences(500, 1)
    right = {row["prompt"]: row["completion"] for row in make_rows(501, 1)}
    assert len({row["prompt"] for row in rows}) == 500
    assert all(row["chosen"] == right[row["prompt"]] for row in rows)
    assert all(row["rejected"] != row["chosen"] for row in rows)
    # a near miss, and not some other statement, nearly always
    assert sum(abs(len(row["rejected"]) - len(row["chosen"])) < 60 for row in rows) > 450


def test_both_statements_run_on_the_declared_tables() -> None:
    database = empty_database()
    for row in make_preferences(500, 1):
        database.execute(row["chosen"])
        database.execute(row["rejected"])


def test_a_shorter_draw_is_the_start_of_a_longer_one() -> None:
    assert make_preferences(50, 1)[:40] == make_preferences(40, 1)
    assert make_preferences(50, 2) != make_preferences(50, 1)
