"""Preferences over SQL statements for the embedded alignment run: the right one, and one with a mistake models make."""

import random

from configs.embedded.english_to_sql import make_rows

# the words of a statement that a model takes for one another
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
        num_rows: How many rows; no two have the same prompt.
        seed: The same seed gives the same rows; other prompts than those of `make_rows` with other seeds, mostly.

    Returns:
        Rows of "prompt", an English question, "chosen", the SQL statement that answers it, and "rejected", one that
        does not: with one mistake, or without its last condition, or the answer to another question.
    """
    rng = random.Random(f"preferences {seed}")
    rows = make_rows(num_rows + 1, seed)
    others = [row["completion"] for row in rows]
    preferences = []
    for number, row in enumerate(rows[:num_rows]):
        right = row["completion"]
        wrong = _mistaken(right, rng)
        if wrong == right:
            wrong = next(other for other in others[number + 1 :] + others if other != right)
        preferences.append({"prompt": row["prompt"], "chosen": right, "rejected": wrong})
    return preferences


def _mistaken(sql: str, rng: random.Random) -> str:
    """Return the statement with one mistake, or as it is where it offers none."""
    # the AND of a range is no condition
    mistakes = [each for each in _MISTAKES if each[0] != " AND " or "BETWEEN" not in sql]
    possible = [sql.replace(old, new, 1) for old, new in mistakes if old in sql]
    if " WHERE " in sql:
        start = sql.index(" WHERE ")
        ends = [sql.index(word, start) for word in (" ORDER BY ", " GROUP BY ", " LIMIT ") if word in sql[start:]]
        possible.append(sql[:start] + (sql[min(ends) :] if ends else ""))
    return rng.choice(possible) if possible else sql
