"""How many rows are behind a model and its scores: few, or fewer than were given, is worth a warning."""

from __future__ import annotations

from configs.objectives import ONLINE, Objective
from configs.wire import Evaluation, TokenReport
from tasks.decks import html

_FEW_HELD_OUT_ROWS = 20
_LARGE_SHARE = 0.1


def training_rows(tokens: TokenReport) -> str:
    """Return how many sequences trained, and how many rows were left out for their length where there are any."""
    count = f"{tokens.train_rows:,} training {'pairs of answers' if tokens.preference_rows else 'sequences'}"
    if not tokens.dropped_train_rows:
        return count
    rows = "row" if tokens.dropped_train_rows == 1 else "rows"
    return f"{count} ({tokens.dropped_train_rows:,} {rows} left out as too long: raise tokenize.max_length)"


def are_many_left_out(tokens: TokenReport) -> bool:
    """Return whether more than a tenth of the training rows were left out for their length."""
    return tokens.dropped_train_rows > _LARGE_SHARE * (tokens.dropped_train_rows + tokens.train_rows)


def held_out_warning(objective: Objective, tokens: TokenReport, base: Evaluation) -> str:
    """Return a paragraph that says that the held-out scores are of few rows; empty where they are of 20 or more."""
    number = tokens.test_rows
    if objective in ONLINE:
        # a mean reward is of the rows that were answered
        number = base.scores.generated_rows or number
    elif base.others:
        # the rows of further evaluation sets are among those of the token report
        number = base.scores.loss_rows or number
    if number >= _FEW_HELD_OUT_ROWS:
        return ""
    rows = "row" if number == 1 else "rows"
    return html.paragraph(f"Only {number} held-out {rows}: the scores are a rough guess", "warn")
