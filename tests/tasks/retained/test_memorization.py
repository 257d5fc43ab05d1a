"""What a model completes word for word: who counts, what is compared, and the difference that is the finding."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.retained.memorization import memorization_gap, memorized_values, split_answers

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
        [([2], [*range(10, 25), EOS]), ([2] * 5, list(range(16))), ([], list(range(20, 36)))], [EOS], 20
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
