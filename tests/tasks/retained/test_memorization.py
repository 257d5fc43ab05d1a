"""What a model completes word for word: who counts, what is compared, and the difference that is the finding."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.measures.measured import mean_values
from tasks.retained.memorization import (
    memorization_gap,
    memorization_sentence,
    memorized_values,
    rows_to_complete,
    split_answers,
)

EOS = 1


def test_the_prompt_and_the_first_half_are_given() -> None:
    split = split_answers([([5, 6], [*range(10, 26), EOS]), ([7], list(range(40, 57)))], [EOS])
    first, second = split.halves
    assert first.given == [5, 6, *range(10, 18)] and first.wanted == list(range(18, 26))
    assert second.given == [7, *range(40, 49)] and second.wanted == list(range(49, 57))
    assert split.max_new_tokens == 8 and split.not_counted == {}


def test_short_and_too_long_rows_do_not_count() -> None:
    # 15 tokens and an end token are 15 tokens
    split = split_answers(
        [([2], [*range(10, 25), EOS]), ([2] * 5, list(range(16))), ([3] * 4, list(range(20, 36)))], [EOS], 20
    )
    assert [own.row for own in split.halves] == [2]
    assert split.not_counted == {
        "the answer has fewer than 16 tokens": 1,
        "the row is longer than the model's positions": 1,
    }
    values = memorized_values(split, [list(range(28, 36))])
    np.testing.assert_array_equal(values.values, [np.nan, np.nan, 1.0])
    assert values.not_counted == split.not_counted


def test_every_wanted_token_must_be_there_and_more_may_follow() -> None:
    split = split_answers([([2], list(range(16)))] * 5)
    wanted = list(range(8, 16))
    values = memorized_values(split, [wanted, [*wanted, 99], wanted[:7], [*wanted[:7], 99], []])
    assert values.values.tolist() == [1, 1, 0, 0, 0]


def test_the_finding_is_the_difference() -> None:
    split = split_answers([([2], list(range(16)))] * 4)
    right, wrong = list(range(8, 16)), [0]
    training = memorized_values(split, [right, right, right, wrong])
    held_out = memorized_values(split, [right, wrong, wrong, wrong])
    assert memorization_gap(training, held_out) == pytest.approx(0.5)
    nothing = memorized_values(split_answers([([2], [3])]), [])
    assert memorization_gap(training, nothing) is None
    assert split_answers([]).max_new_tokens == 0


def shares(of_training: int, of_held_out: int, number: int = 100) -> str:
    """Return the sentence for so many completed rows of `number`."""
    completed = [mean_values([1.0] * own + [0.0] * (number - own)) for own in (of_training, of_held_out)]
    return memorization_sentence(*completed, "tuned")


def test_the_sentence_has_both_shares_and_warns_above_the_threshold() -> None:
    assert shares(30, 2) == (
        "Memorized: tuned completes 30.0% of 100 training rows word for word and 2.0% of 100 held-out rows: a "
        "difference of +28.0 points, above the 5 that are allowed. Remove repeated rows, or train for fewer epochs."
    )
    assert shares(15, 10) == (
        "tuned completes 15.0% of 100 training rows word for word and 10.0% of 100 held-out rows: a difference of +5.0 "
        "points, within the 5 that are allowed."
    )
    assert shares(160, 100, 1000).startswith("Memorized: ")
    # 1 of 8 and none of 8: the first is of the training rows in one half of all tables
    assert shares(1, 0, 8) == (
        "tuned completes 12.5% of 8 training rows word for word and 0.0% of 8 held-out rows: a difference of +12.5 "
        "points, above the 5 that are allowed, but so few rows show that by chance (p = 0.5). Raise "
        "evaluate.retained.memorization_rows to know."
    )
    # of a format that anyone completes, and with less of the training rows
    assert "a difference of -10.0 points, within" in shares(80, 90)
    assert shares(0, 0, 0) == (
        "Whether tuned knows training rows by heart is not known: no row of the training and held-out rows counts."
    )


def test_a_row_without_a_prompt_does_not_count() -> None:
    split = split_answers([([], list(range(40)))])
    assert split.halves == [] and split.not_counted == {"the row has no prompt": 1}


def plain(*prompt_lengths: int, **columns: list) -> pd.DataFrame:
    rows = [{"row_id": f"r:{n}", "input_ids": list(range(n, n + 9)), "prompt_length": own} for n, own in
            enumerate(prompt_lengths)]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def test_rows_are_chosen_evenly_among_those_with_a_prompt() -> None:
    tokens = plain(3, 0, 3, 3, 3, 3, is_wanted=[True, True, True, False, True, True])
    # of the rows 0, 2, 4 and 5
    assert [row.row_id for row in rows_to_complete([tokens], 2)] == ["r:0", "r:4"]
    assert [row.row_id for row in rows_to_complete([tokens], 9)] == ["r:0", "r:2", "r:4", "r:5"]
    first = rows_to_complete([tokens], 1)[0]
    assert (first.prompt, first.answer) == ([0, 1, 2], [3, 4, 5, 6, 7, 8])
    # where no row has one, the rows stand for themselves, with the reason
    assert [(row.row_id, row.prompt) for row in rows_to_complete([plain(0, 0)], 1)] == [("r:0", [])]
    assert rows_to_complete([], 4) == [] and rows_to_complete([plain(3)[:0]], 4) == []


def test_the_rows_of_a_pack_are_told_apart() -> None:
    no = -100
    packs = pd.DataFrame(
        [
            {
                "row_ids": ["a", "b"],
                # a question and its answer; then a conversation of two turns, both trained, with a line end after it
                "input_ids": [5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17],
                "labels": [no, no, 7, 8, no, 11, no, no, 14, 15, 16, no],
                "position_ids": [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7],
            },
            # every token of a text is trained but the first, which nothing predicts
            {"row_ids": ["c"], "input_ids": [20, 21, 22], "labels": [no, 21, 22], "position_ids": [0, 1, 2]},
        ]
    )
    rows = rows_to_complete([packs], 5)
    assert [(row.row_id, row.prompt, row.answer) for row in rows] == [
        ("a", [5, 6], [7, 8]),
        ("b", [10, 11, 12, 13], [14, 15, 16]),
        ("c", [], [20, 21, 22]),
    ]
    assert [row.row_id for row in rows_to_complete([packs], 2)] == ["a", "b"]
    # the tokens files of several phases are one set
    assert [row.row_id for row in rows_to_complete([packs, plain(3)], 4)] == ["a", "b", "c", "r:0"]
