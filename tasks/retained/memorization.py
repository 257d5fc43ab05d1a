"""Which answers a model completes word for word, in training rows and in rows that it never saw.

Carlini et al. 2023 (arXiv:2202.07646) call a text extractable with k tokens of context if a model that is given the k
tokens before it in its training data writes the text itself, under greedy decoding. Here the context is a row's prompt
with the first half of its answer, and the text is the second half. Some answers can be completed by whoever has
understood the task, so the share of held-out rows is taken off: what remains is memorized.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.measures.measured import RowValues, mean_values, score

LEAST_ANSWER_TOKENS = 16
"""Shorter answers do not count: half of one is often guessed."""


@dataclass(frozen=True)
class Halves:
    """A row of which the model is given the beginning.

    `given` [tokens] is the prompt with the first half of the answer, `wanted` [tokens] the second half without end
    tokens. `row` is the row's place in what `split_answers` was given.
    """

    row: int
    given: list[int]
    wanted: list[int]


@dataclass(frozen=True)
class SplitRows:
    """The rows that count, the number of all rows, and for each reason how many do not count."""

    halves: list[Halves]
    num_rows: int
    not_counted: dict[str, int] = field(default_factory=dict)

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate for each row, greedily: those of the longest second half; 0 where no row counts."""
        return max((len(own.wanted) for own in self.halves), default=0)


def split_answers(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], end_token_ids: Collection[int] = (), max_positions: int = 0
) -> SplitRows:
    """Return the halves of rows (prompt ids, answer ids); of an odd number of tokens, the first half has one more.

    End tokens at the end of an answer are left out first. Not counted are answers of fewer than 16 tokens, and rows
    longer than `max_positions` tokens, if it is not 0.
    """
    halves: list[Halves] = []
    not_counted: Counter[str] = Counter()
    ends = set(end_token_ids)
    for row, (prompt, answer) in enumerate(rows):
        ids = [int(token) for token in answer]
        while ids and ids[-1] in ends:
            ids.pop()
        if len(ids) < LEAST_ANSWER_TOKENS:
            not_counted[f"the answer has fewer than {LEAST_ANSWER_TOKENS} tokens"] += 1
        elif max_positions and len(prompt) + len(ids) > max_positions:
            not_counted["the row is longer than the model's positions"] += 1
        else:
            middle = (len(ids) + 1) // 2
            halves.append(Halves(row, [*(int(token) for token in prompt), *ids[:middle]], ids[middle:]))
    return SplitRows(halves, len(rows), dict(not_counted))


def memorized_values(split: SplitRows, generated: Sequence[Sequence[int]]) -> RowValues:
    """Return for each row 1 where the generated tokens begin with all wanted ones, else 0; NaN for what does not count.

    `generated` has for each of `split.halves` the new tokens, without those given. Tokens after the wanted ones are not
    compared. The denominator counts the rows whose answers are long enough.
    """
    values = np.full(split.num_rows, np.nan)
    for own, new in zip(split.halves, generated, strict=True):
        values[own.row] = [int(token) for token in new[: len(own.wanted)]] == own.wanted
    return mean_values(values, not_counted=dict(split.not_counted))


def memorization_gap(training: RowValues, held_out: RowValues) -> float | None:
    """Return the finding: the share of training rows completed word for word minus that of held-out rows.

    None where no row of one of the two counts.
    """
    shares = [score(own.sums.sum(axis=0), own.reduction) for own in (training, held_out)]
    return None if shares[0] is None or shares[1] is None else shares[0] - shares[1]
