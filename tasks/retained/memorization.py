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
import pandas as pd
from scipy import stats

from tasks.measures.measured import RowValues, mean_values, score
from tasks.retained.thresholds import MEMORIZED_TRAINING, ROUNDING, threshold_of

LEAST_ANSWER_TOKENS = 16
"""Shorter answers do not count: half of one is often guessed."""

_LEVEL = 0.05
_NOT_TRAINED = -100


@dataclass(frozen=True)
class PromptedRow:
    """A row as token ids: what the model was given, and the last answer; a row without a prompt has an empty one."""

    row_id: str
    prompt: list[int]
    answer: list[int]


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


def rows_to_complete(tokens: Sequence[pd.DataFrame], number: int) -> list[PromptedRow]:
    """Return `number` rows of token files, evenly spread over all of them; all rows where there are fewer.

    A frame has the columns row_id, input_ids and prompt_length of plain tokens, or those of packed ones: row_ids,
    input_ids, labels and position_ids. Of plain tokens, rows without a prompt and unwanted answers are left out, unless
    no other is there. A pack does not say where an answer begins: it is the last unbroken sequence of trained tokens,
    and a row that is trained from its second token on has no prompt.
    """
    frames = [frame if "row_ids" in frame else _with_prompts(frame) for frame in tokens]
    ids = [
        [name for names in frame.row_ids for name in names] if "row_ids" in frame else list(frame.row_id)
        for frame in frames
    ]
    total = sum(map(len, ids))
    number = min(number, total)
    places = np.asarray([place * total // number for place in range(number)], dtype=np.int64)
    found: list[PromptedRow] = []
    start = 0
    for frame, names in zip(frames, ids, strict=True):
        own = places[(places >= start) & (places < start + len(names))] - start
        found += _of_packs(frame, own) if "row_ids" in frame else [_of_row(frame.iloc[place]) for place in own]
        start += len(names)
    return found


def _with_prompts(tokens: pd.DataFrame) -> pd.DataFrame:
    is_kept = tokens.prompt_length > 0
    if "is_wanted" in tokens:
        is_kept &= tokens.is_wanted.astype(bool)
    return tokens[is_kept] if is_kept.any() else tokens


def _of_row(row: pd.Series) -> PromptedRow:
    ids = [int(token) for token in row.input_ids]
    return PromptedRow(str(row.row_id), ids[: row.prompt_length], ids[row.prompt_length :])


def _of_packs(packs: pd.DataFrame, places: np.ndarray) -> list[PromptedRow]:
    """Return the rows at `places`, counted over all rows of all packs."""
    ends = np.cumsum(packs.row_ids.map(len).to_numpy(dtype=np.int64))
    found = []
    for place in places:
        number = int(np.searchsorted(ends, place, side="right"))
        pack = packs.iloc[number]
        within = int(place - (ends[number] - len(pack.row_ids)))
        starts = [*np.flatnonzero(np.asarray(pack.position_ids) == 0), len(pack.input_ids)]
        row = slice(int(starts[within]), int(starts[within + 1]))
        ids = [int(token) for token in pack.input_ids[row]]
        begin, end = _last_answer(np.asarray(pack.labels[row]) != _NOT_TRAINED)
        found.append(PromptedRow(str(pack.row_ids[within]), ids[:begin], ids[begin:end]))
    return found


def _last_answer(is_trained: np.ndarray) -> tuple[int, int]:
    """Return (begin, end) of the last unbroken sequence of trained tokens; all tokens where the prompt is trained."""
    if not is_trained.any():
        return 0, len(is_trained)
    end = int(np.flatnonzero(is_trained)[-1]) + 1
    before = np.flatnonzero(~is_trained[:end])
    begin = int(before[-1]) + 1 if len(before) else 0
    # the first label of a row is never trained
    return (begin, end) if begin > 1 else (0, len(is_trained))


def split_answers(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], end_token_ids: Collection[int] = (), max_positions: int = 0
) -> SplitRows:
    """Return the halves of rows (prompt ids, answer ids); of an odd number of tokens, the first half has one more.

    End tokens at the end of an answer are left out first. Not counted are rows without a prompt, answers of fewer than
    16 tokens, and rows longer than `max_positions` tokens, if it is not 0.
    """
    halves: list[Halves] = []
    not_counted: Counter[str] = Counter()
    ends = set(end_token_ids)
    for row, (prompt, answer) in enumerate(rows):
        ids = [int(token) for token in answer]
        while ids and ids[-1] in ends:
            ids.pop()
        if not len(prompt):
            not_counted["the row has no prompt"] += 1
        elif len(ids) < LEAST_ANSWER_TOKENS:
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
    of_training, of_held_out = _share(training), _share(held_out)
    return None if of_training is None or of_held_out is None else of_training - of_held_out


def memorization_sentence(training: RowValues, held_out: RowValues, model: str) -> str:
    """Return both shares, their difference in points, and whether that is more than the threshold allows.

    A difference above the threshold is called memorized if it is no chance: the one-sided p-value of Fisher's exact
    test (scipy) is below 5 %. Where no row of one of the two counts, the sentence says so.
    """
    gap, of_training, of_held_out = memorization_gap(training, held_out), _share(training), _share(held_out)
    if gap is None or of_training is None or of_held_out is None:
        lacking = [name for name, share in (("training", of_training), ("held-out", of_held_out)) if share is None]
        return (
            f"Whether {model} knows training rows by heart is not known: no row of the {' and '.join(lacking)} rows "
            f"counts."
        )
    threshold = threshold_of(MEMORIZED_TRAINING, "memorized")
    assert threshold is not None
    numbers = [int(np.isfinite(own.values).sum()) for own in (training, held_out)]
    found = (
        f"{model} completes {of_training:.1%} of {numbers[0]:,} training rows word for word and {of_held_out:.1%} of "
        f"{numbers[1]:,} held-out rows: a difference of {100 * gap:+.1f} points"
    )
    if gap > threshold.allowed + ROUNDING:
        completed = [int(np.nansum(own.values)) for own in (training, held_out)]
        table = [[own, of - own] for own, of in zip(completed, numbers, strict=True)]
        p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
        if p_value >= _LEVEL:
            return (
                f"{found}, above the {100 * threshold.allowed:.0f} that are allowed, but so few rows show that by "
                f"chance (p = {p_value:.2g}). Raise evaluate.retained.memorization_rows to know."
            )
        return (
            f"Memorized: {found}, above the {100 * threshold.allowed:.0f} that are allowed. Remove repeated rows, or "
            "train for fewer epochs."
        )
    return f"{found}, within the {100 * threshold.allowed:.0f} that are allowed."


def _share(measure: RowValues) -> float | None:
    return score(measure.sums.sum(axis=0), measure.reduction)
