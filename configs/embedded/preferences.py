"""Preferences for the embedded alignment run: the right SQL statement, and one with a mistake that models make."""

import random

from configs.embedded.english_to_sql import make_rows

# parts of a statement that a model confuses: the right one, and the wrong one
_MISTAKES = (
    (" DESC", ""),
    (" >= ", " > "),
    (" <= ", " < "),
    (" > ", " < "),
    (" < ", " > "),
    (" != ", " = "),
    (" AND ", " OR "),
    ("MAX(", "MIN("),
    ("MIN(", "MAX("),
    ("AVG(", "SUM("),
    ("SUM(", "AVG("),
    ("COUNT(*)", "*"),
)


def make_preferences(num_rows: int, seed: int) -> list[dict[str, str]]:
    """Draw preference rows.

    Args:
        num_rows: Number of rows; no two have the same prompt.
        seed: The same seed gives the same rows. Most prompts differ from those of `make_rows` with another seed.

    Returns:
        Rows of "prompt", an English question, "chosen", the SQL statement that answers it, and "rejected", a wrong
        statement: the right one with one mistake or without its conditions, or the answer to another question.
    """
    rng = random.Random(f"preferences {seed}")
    rows = make_rows(num_rows + 1, seed)
    others = [row["completion"] for row in rows]
    preferences = []
    for number, row in enumerate(rows[:num_rows]):
        right = row["completion"]
        wrong = _with_mistake(right, rng)
        if wrong == right:
            wrong = next(other for other in others[number + 1 :] + others if other != right)
        preferences.append({"prompt": row["prompt"], "chosen": right, "rejected": wrong})
    return preferences


def _with_mistake(sql: str, rng: random.Random) -> str:
    """Return the statement with one mistake, or unchanged if no mistake applies to it."""
    # the AND of BETWEEN does not join conditions
    mistakes = [(old, new) for old, new in _MISTAKES if old != " AND " or "BETWEEN" not in sql]
    possible = [sql.replace(old, new, 1) for old, new in mistakes if old in sql]
    if " WHERE " in sql:
        start = sql.index(" WHERE ")
        ends = [sql.index(word, start) for word in (" ORDER BY ", " GROUP BY ", " LIMIT ") if word in sql[start:]]
        possible.append(sql[:start] + (sql[min(ends) :] if ends else ""))
    return rng.choice(possible) if possible else sql
