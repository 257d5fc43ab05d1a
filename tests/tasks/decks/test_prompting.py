"""What is said of tuning against prompting with examples."""

from __future__ import annotations

import pytest

from configs.measures import Measure
from tasks.decks.prompting import prompting_sentence

MATCH = Measure("exact match", "answers")
LOSS = Measure("loss", "tokens", number="{:.4f}", words="held-out loss", lower_is_better=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"few_shot": 0.412, "tuned": 0.724, "low": 0.240, "high": 0.381},
            "Tuning beat prompting with 4 examples by 31.2 points of exact match (95 % interval 24.0 to 38.1), and "
            "saves 1,812 prompt tokens a call.",
        ),
        (
            {"few_shot": 0.5, "tuned": 0.45, "low": -0.08, "high": -0.02},
            "Tuning did not beat prompting with 4 examples: it is worse by 5.0 points of exact match "
            "(95 % interval 2.0 to 8.0). It saves 1,812 prompt tokens a call.",
        ),
        (
            {"few_shot": 0.5, "tuned": 0.52, "low": -0.01, "high": 0.05},
            "Tuning and prompting with 4 examples are not told apart: tuning gains 2.0 points of exact match "
            "(95 % interval -1.0 to 5.0). It saves 1,812 prompt tokens a call.",
        ),
        # an interval that ends at 0 holds it
        (
            {"few_shot": 0.5, "tuned": 0.52, "low": 0.0, "high": 0.05},
            "Tuning and prompting with 4 examples are not told apart: tuning gains 2.0 points of exact match "
            "(95 % interval 0.0 to 5.0). It saves 1,812 prompt tokens a call.",
        ),
        # a loss that falls by 0.5 is a gain
        (
            {"few_shot": 2.0, "tuned": 1.5, "low": -0.75, "high": -0.25, "measure": LOSS},
            "Tuning beat prompting with 4 examples by 0.5 in held-out loss (95 % interval 0.25 to 0.75), and saves "
            "1,812 prompt tokens a call.",
        ),
        (
            {"few_shot": 1.5, "tuned": 2.0, "low": 0.25, "high": 0.75, "measure": LOSS},
            "Tuning did not beat prompting with 4 examples: it is worse by 0.5 in held-out loss (95 % interval 0.25 "
            "to 0.75). It saves 1,812 prompt tokens a call.",
        ),
        (
            {"few_shot": 0.5, "tuned": 0.6, "low": 0.05, "high": 0.15, "shots": 1, "saved_tokens": 0.2},
            "Tuning beat prompting with 1 example by 10.0 points of exact match (95 % interval 5.0 to 15.0).",
        ),
    ],
    ids=["beat", "did not beat", "not told apart", "at zero", "a lower loss", "a higher loss", "nothing saved"],
)
def test_the_sentence_says_who_won_by_what_and_what_is_saved(given: dict, sentence: str) -> None:
    assert prompting_sentence(**{"shots": 4, "saved_tokens": 1812.4, "measure": MATCH, **given}) == sentence
