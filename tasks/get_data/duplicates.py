"""Apply the searches for duplicates and contamination to canonical rows, as the config asks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from configs.schema import DataConfig
from tasks.get_data.checks import whole_texts
from tasks.get_data.contamination import contaminated
from tasks.get_data.dedup import exact_duplicates, near_duplicates


def duplicate_faults(rows: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """Return a line (`index`, `check`, `column`, `reason`) for each of `rows` that repeats an earlier one.

    The whole text of a row and its label count; the reason names the row that stays.
    """
    if config.deduplicate == "none" or rows.empty:
        return _lines([])
    texts = (whole_texts(rows) + rows.label).tolist()
    firsts = exact_duplicates(texts)
    found = {position: (first, "is the same as") for position, first in enumerate(firsts) if first != position}
    if config.deduplicate == "near":
        left = [position for position, first in enumerate(firsts) if first == position]
        near = near_duplicates([texts[position] for position in left], config.near_threshold)
        found |= {left[n]: (left[first], "is nearly the same as") for n, first in enumerate(near) if first != n}
    ids = rows.row_id.tolist()
    return _lines(
        [(rows.index[position], "duplicate", f"{words} {ids[first]}") for position, (first, words) in found.items()]
    )


def contamination_faults(rows: pd.DataFrame, evaluation: Sequence[tuple[str, str]], ngram: int) -> pd.DataFrame:
    """Return a line (`index`, `check`, `column`, `reason`) for each row that shares an n-gram with `evaluation`."""
    hits = contaminated(whole_texts(rows).tolist(), evaluation, ngram)
    return _lines(
        [
            (
                rows.index[hit.row],
                "contamination",
                f"shares {hit.share:.0%} of its word sequences with {hit.evaluation_id}",
            )
            for hit in hits
        ]
    )


def _lines(found: list[tuple[int, str, str]]) -> pd.DataFrame:
    lines = [{"index": i, "check": check, "column": "(row)", "reason": reason} for i, check, reason in found]
    return pd.DataFrame(lines, columns=["index", "check", "column", "reason"])
