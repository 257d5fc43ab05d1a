"""Which measure decides for which objective, and what the verdict says of it."""

from __future__ import annotations

import pytest

from configs.wire import Scores
from tasks.decks.verdict import is_better, lost_share, verdict, why_not_better


def scores(**values) -> Scores:
    known = {"eval_loss": 2.0, "perplexity": 2.0, "exact_match": None, "rouge_l": None}
    counts = {"loss_rows": 1, "loss_tokens": 1, "generated_rows": 0, "size_bytes": 1}
    return Scores(**{**known, **counts, **values})


def preferences(accuracy: float | None, margin: float | None, **values) -> Scores:
    return scores(preference_accuracy=accuracy, preference_margin=margin, **values)


def reward_model(accuracy: float | None, margin: float | None) -> Scores:
    return preferences(accuracy, margin, eval_loss=None, perplexity=None)


@pytest.mark.parametrize("objective", ["sft", "cpt"])
def test_the_lower_loss_is_better(objective) -> None:
    assert is_better(objective, scores(), scores(eval_loss=1.9))
    assert not is_better(objective, scores(), scores(eval_loss=2.0))
    assert not is_better(objective, scores(), scores(eval_loss=2.1, exact_match=1.0))
    assert not is_better(objective, scores(), scores(eval_loss=None))


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_the_higher_accuracy_is_better_and_the_margin_decides_between_equal_ones(objective) -> None:
    assert is_better(objective, preferences(0.5, 9.0), preferences(0.6, 1.0, eval_loss=3.0))
    assert not is_better(objective, preferences(0.6, 1.0), preferences(0.5, 9.0))
    assert is_better(objective, preferences(0.6, 1.0), preferences(0.6, 1.1))
    assert not is_better(objective, preferences(0.6, 1.0), preferences(0.6, 1.0))
    assert not is_better(objective, scores(), preferences(0.6, 1.0))


def test_answers_with_a_label_and_no_pair_are_decided_by_the_margin() -> None:
    assert is_better("kto", preferences(None, 0.1), preferences(None, 0.2))
    assert not is_better("kto", preferences(None, 0.2), preferences(None, 0.1))


def test_a_reward_model_made_of_a_language_model_is_judged_against_chance() -> None:
    perfect = preferences(1.0, 9.0)
    assert is_better("reward", perfect, reward_model(1.0, 0.1))
    assert is_better("reward", perfect, reward_model(0.51, 0.1))
    assert not is_better("reward", preferences(0.2, 9.0), reward_model(0.5, 9.0))
    assert not is_better("reward", perfect, reward_model(None, None))
    assert is_better("reward", scores(), reward_model(0.6, 0.1))
    assert why_not_better("reward", perfect, reward_model(0.4, 0.1)) == (
        "the reward model's preference accuracy is not above chance, 50 %"
    )


def test_a_reward_model_trained_further_is_compared_with_what_it_was() -> None:
    assert is_better("reward", reward_model(0.3, 0.1), reward_model(0.4, 0.1))
    assert not is_better("reward", reward_model(0.9, 0.1), reward_model(0.8, 9.0))
    assert is_better("reward", reward_model(0.6, 0.1), reward_model(0.6, 9.0))
    assert "chance" not in verdict("reward", reward_model(0.6, 0.1), reward_model(0.7, 9.0))


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_the_higher_reward_is_better_whatever_the_loss(objective) -> None:
    assert is_better(objective, scores(mean_reward=-1.0), scores(mean_reward=-0.5, eval_loss=3.0))
    assert not is_better(objective, scores(mean_reward=0.5), scores(mean_reward=0.5, eval_loss=1.0))
    assert not is_better(objective, scores(mean_reward=0.5), scores())


@pytest.mark.parametrize(
    ("objective", "base", "tuned", "words"),
    [
        (
            "sft",
            scores(exact_match=0.1),
            scores(eval_loss=1.0, exact_match=0.75),
            "Held-out loss went from 2.000 to 1.000, exact match from 10.0% to 75.0%; "
            "the held-out loss decides for sft.",
        ),
        (
            "dpo",
            preferences(0.5, 0.1),
            preferences(0.75, 1.5, eval_loss=2.5),
            "Preference accuracy went from 50.0% to 75.0%, held-out loss from 2.000 to 2.500, preference margin from "
            "0.100 to 1.500; the preference accuracy decides for dpo.",
        ),
        (
            "reward",
            preferences(0.5, 9.0),
            reward_model(1.0, 0.5),
            "Preference accuracy 100.0 %; chance is 50 %.",
        ),
        (
            "kto",
            scores(),
            scores(),
            "Nothing tells which model is better: kto is judged by the preference margin, which neither model has.",
        ),
    ],
)
def test_the_verdict_says_what_changed_and_what_decided(objective, base: Scores, tuned: Scores, words: str) -> None:
    assert verdict(objective, base, tuned) == words


def test_what_a_worse_model_lacks_is_said_in_half_a_sentence() -> None:
    assert why_not_better("sft", scores(), scores()) == "the tuned model's held-out loss is not below the base model's"
    words = "the tuned model's preference margin is not above the base model's"
    assert why_not_better("dpo", preferences(0.5, 1.0), preferences(0.5, 0.5)) == words
    judged = "rloo is judged by the mean reward, which"
    assert why_not_better("rloo", scores(), scores(mean_reward=1.0)) == f"{judged} only the tuned model has"
    assert why_not_better("rloo", scores(mean_reward=1.0), scores()) == f"{judged} the tuned model does not have"


def losses(*rows: float) -> Scores:
    return scores(eval_loss=sum(rows) / len(rows), row_losses=list(rows))


def test_a_loss_that_fell_by_no_more_than_noise_is_not_better() -> None:
    # decreases of 3, -1 and 1: mean 1, deviation 2, t = sqrt(3) / 2, p = 0.24
    base, noisy = losses(5.0, 4.0, 4.0), losses(2.0, 5.0, 3.0)
    assert not is_better("sft", base, noisy)
    words = "no difference is seen on 3 held-out rows (paired test, p >= 0.05, or less than 0.001 nats a token)"
    assert why_not_better("sft", base, noisy) == words
    assert verdict("sft", base, noisy).endswith(f"decides for sft. {words[0].upper()}{words[1:]}.")
    # decreases of 1, 1.1 and 0.9: t = 17
    clear = losses(4.0, 2.9, 3.1)
    assert is_better("sft", base, clear) and "paired" not in verdict("sft", base, clear)
    # a loss that rose needs no test
    assert why_not_better("sft", noisy, base) == "the tuned model's held-out loss is not below the base model's"


def test_one_row_cannot_tell() -> None:
    assert not is_better("sft", losses(2.0), losses(1.0))
    assert why_not_better("sft", losses(2.0), losses(1.0)) == "one held-out row cannot tell which model is better"


def test_other_measures_are_taken_as_they_are() -> None:
    base, tuned = preferences(0.5, 0.1, row_losses=[2.0]), preferences(0.6, 0.1, row_losses=[2.0])
    assert is_better("dpo", base, tuned)


def test_the_share_of_the_gain_that_a_copy_lost() -> None:
    """The measured scores of a real model of 135 million parameters: 8 bits lost nothing, NF4 nearly all."""
    base, tuned = scores(eval_loss=1.409), scores(eval_loss=1.142)
    assert lost_share("sft", base, tuned, scores(eval_loss=1.383)) == pytest.approx((1.383 - 1.142) / (1.409 - 1.142))
    assert lost_share("sft", base, tuned, scores(eval_loss=1.141)) < 0
    assert lost_share("sft", base, tuned, scores(eval_loss=1.5)) > 1
    assert lost_share("sft", base, base, base) == 1


def test_a_gain_that_no_table_shows_is_none() -> None:
    """A training at a learning rate of nearly nothing changes all rows alike, by a millionth."""
    base, tuned = losses(2.0, 3.0, 4.0), losses(1.9995, 2.9995, 3.9995)
    assert not is_better("sft", base, tuned) and why_not_better("sft", base, tuned).startswith("no difference is seen")
    assert is_better("sft", base, losses(1.99, 2.99, 3.99))
