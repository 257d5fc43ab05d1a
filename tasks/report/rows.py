"""How many rows a model and its scores rest on, what became of the others, and a warning where there are few."""

from __future__ import annotations

from configs.objectives import ONLINE, Objective
from configs.wire import DataReport, Evaluation, TokenReport
from tasks.decks import html

_FEW_HELD_OUT_ROWS = 20
_LARGE_SHARE = 0.1


def training_rows(tokens: TokenReport) -> str:
    """Return how many sequences were trained on, and how many rows were left out as too long, if any."""
    count = f"{tokens.train_rows:,} training {'pairs of answers' if tokens.preference_rows else 'sequences'}"
    if not tokens.dropped_train_rows:
        return count
    rows = "row" if tokens.dropped_train_rows == 1 else "rows"
    return f"{count} ({tokens.dropped_train_rows:,} {rows} left out as too long: raise tokenize.max_length)"


def all_rows(data: DataReport, tokens: TokenReport) -> str:
    """Return a sentence that accounts for every row that was read: by the data stage, then by the chat template."""
    read, kept = sum(count.read for count in data.sources), sum(count.kept for count in data.sources)
    by_template = f" ({tokens.refused_rows:,} of them by the chat template)" if tokens.refused_rows else ""
    too_long = tokens.dropped_train_rows + tokens.dropped_test_rows
    return (
        f"{read:,} rows read = {kept - tokens.refused_rows:,} kept + {quarantined_rows(data, tokens):,} quarantined"
        f"{by_template} + {data.deduplicated_rows:,} deduplicated"
        + (f"; of the kept rows, {too_long:,} left out as too long" if too_long else "")
        + "."
    )


def quarantined_rows(data: DataReport, tokens: TokenReport) -> int:
    """Return the number of rows that the checks of the data and the chat template set aside."""
    return data.quarantined_rows + tokens.refused_rows


def are_many_left_out(tokens: TokenReport) -> bool:
    """Return whether more than a tenth of the training rows were left out as too long."""
    return tokens.dropped_train_rows > _LARGE_SHARE * (tokens.dropped_train_rows + tokens.train_rows)


def held_out_warning(objective: Objective, tokens: TokenReport, base: Evaluation) -> str:
    """Return a paragraph that warns of fewer than 20 held-out rows; empty where there are more."""
    number = tokens.test_rows
    if objective in ONLINE:
        # the mean reward is taken over answered rows alone
        number = base.scores.generated_rows or number
    elif base.others:
        # the token report counts the rows of further evaluation sets too
        number = base.scores.loss_rows or number
    if number >= _FEW_HELD_OUT_ROWS:
        return ""
    rows = "row" if number == 1 else "rows"
    return html.paragraph(f"Only {number} held-out {rows}: the scores are a rough guess", "warn")
