"""Prompts of similar length are a batch; positions, virtual tokens and padding end one early."""

from __future__ import annotations

import math

from tasks.models.batches import prompt_batches


def test_batches_are_of_similar_length() -> None:
    assert prompt_batches([5, 1, 9, 2, 5], 2, math.inf, False) == [[1, 3], [0, 4], [2]]
    assert prompt_batches([], 2, math.inf, False) == []


def test_a_prompt_that_leaves_few_positions_is_alone() -> None:
    assert prompt_batches([5, 1, 9, 2, 8], 3, 5, False) == [[1, 3, 0], [4], [2]]


def test_prompts_that_may_not_be_padded_have_one_length() -> None:
    assert prompt_batches([3, 1, 3, 3, 1], 2, math.inf, True) == [[1, 4], [0, 2], [3]]


def test_a_batch_ends_before_a_prompt_that_would_make_most_of_it_padding() -> None:
    # with the last prompt 9 rows of 100 for 8 x 10 + 100 tokens, or 9 x 15 for 8 x 10 + 15
    assert prompt_batches([10] * 8 + [100], 32, math.inf, False) == [list(range(8)), [8]]
    assert prompt_batches([10] * 8 + [15], 32, math.inf, False) == [list(range(9))]
    # few rows stay together
    assert prompt_batches([10] * 7 + [100], 32, math.inf, False) == [list(range(8))]
