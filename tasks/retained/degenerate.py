"""Faults that an answer of any kind may have: it is empty, it never ended, or it repeats itself.

A model that has lost more than it has learned shows it here first, whatever the task is.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa

from tasks.measures.measured import RowValues, mean_values

NGRAM = 4
"""Units of one n-gram."""
LEAST_UNITS = 32
"""An answer of fewer units is too short to tell whether it repeats itself."""
MOST_REPEATED = 0.5
"""Share of n-grams that may have occurred before."""
LEAST_TURNS = 4
"""How often a sequence at the end must occur without a break, to count as a loop."""
LEAST_LOOP = 64
"""Characters that a loop must cover: rules and indentation of tables and code are shorter."""

# scripts that are written without blanks between words: each of their characters is a unit
_WITHOUT_BLANKS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"[{_WITHOUT_BLANKS}]|[^\s{_WITHOUT_BLANKS}]+")
# a loop is sought in so many characters at the end
_SEARCHED = 8192


def degenerate_values(table: pa.Table) -> dict[str, RowValues]:
    """Return `empty`, `unfinished` and `repeats` of a table of rows, 1 for an answer with the fault; lower is better.

    Read are the columns answer, ended, and expected if the table has it. The denominator of `empty` are the rows with
    an answer (not null); of `unfinished`, those for which `ended` is known: an answer is unfinished if it has no end
    token, since the length limit or the model's last position cut it. `repeats` (see `repeats_itself`) leaves out rows
    whose expected answer repeats itself too.
    """
    answers = table["answer"].to_pylist()
    ended = table["ended"].to_pylist()
    expected = table["expected"].to_pylist() if "expected" in table.column_names else [""] * len(answers)
    not_answered = Counter({"not answered": sum(answer is None for answer in answers)})
    unknown, wanted = Counter(not_answered), Counter(not_answered)
    empty, unfinished, repeats = (np.full(len(answers), np.nan) for _ in range(3))
    for row, answer in enumerate(answers):
        if answer is None:
            continue
        empty[row] = not answer.strip()
        if ended[row] is None:
            unknown["how the answer ended is not known"] += 1
        else:
            unfinished[row] = not ended[row]
        if repeats_itself(expected[row] or ""):
            wanted["the expected answer repeats itself too"] += 1
        else:
            repeats[row] = repeats_itself(answer)
    return {
        "empty": mean_values(empty, not_counted=+not_answered),
        "unfinished": mean_values(unfinished, not_counted=+unknown),
        "repeats": mean_values(repeats, not_counted=+wanted),
    }


def repeats_itself(text: str) -> bool:
    """Return whether a text says the same again and again.

    Either more than half of its 4-grams have occurred before: 1 - (distinct 4-grams / 4-grams) > 0.5, in a text of at
    least 32 units, as in the repetition measure of Welleck et al. 2020 (arXiv:1908.04319), by text. A unit is a word
    with the marks beside it; in scripts without blanks between words, a character. Or it ends in a loop: one sequence
    of characters at least four times without a break, over at least 64 characters and at least half of the text.
    """
    return repeated_share(text) > MOST_REPEATED or _ends_in_loop(text.strip())


def repeated_share(text: str) -> float:
    """Return the share of a text's 4-grams that have occurred before in it; 0 for a text under 32 units."""
    units = _UNIT.findall(text)
    if len(units) < LEAST_UNITS:
        return 0.0
    grams = [tuple(units[place : place + NGRAM]) for place in range(len(units) - NGRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams)


def _ends_in_loop(text: str) -> bool:
    """Return whether the end of a text is one sequence over and over; the last turn may be cut."""
    least = max(LEAST_LOOP, (min(len(text), _SEARCHED) + 1) // 2)
    if len(text) < LEAST_LOOP:
        return False
    # the shortest period of each beginning of the reversed text, by the failure function of Knuth, Morris and Pratt
    end = text[: -_SEARCHED - 1 : -1]
    failures = [0] * len(end)
    matched = 0
    for place in range(1, len(end)):
        while matched and end[place] != end[matched]:
            matched = failures[matched - 1]
        matched += end[place] == end[matched]
        failures[place] = matched
        length = place + 1
        if length >= least and length >= LEAST_TURNS * (length - matched):
            return True
    return False
