"""Whether a tuned model is better than its base, by the measure of its objective, and that in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema.train import ONLINE, Objective
from configs.wire import Scores

CHANCE = 0.5
"""The preference accuracy of guessing: of two answers, one is the chosen one."""
Measure = Literal["eval_loss", "preference_accuracy", "preference_margin", "mean_reward"]

MEASURE_NAMES: dict[str, str] = {
    "eval_loss": "held-out loss",
    "preference_accuracy": "preference accuracy",
    "preference_margin": "preference margin",
    "mean_reward": "mean reward",
    "exact_match": "exact match",
}


@dataclass(frozen=True)
class _Change:
    """A score of the base and of the tuned model."""

    measure: str
    base: float
    tuned: float

    def __str__(self) -> str:
        text = "{:.1%}" if self.measure in ("exact_match", "preference_accuracy") else "{:.3f}"
        return f"{MEASURE_NAMES[self.measure]} from {text.format(self.base)} to {text.format(self.tuned)}"


def is_against_chance(objective: Objective, base: Scores) -> bool:
    """Return whether a reward model is judged by itself: a language model, as its base is, scores no answers.

    That model's preferences are by log-likelihood. They may all be right, and still say nothing of the reward model.
    """
    return objective == "reward" and base.eval_loss is not None


def deciding_measure(objective: Objective, base: Scores, tuned: Scores) -> Measure:
    """Return what decides between two models trained for `objective`.

    sft and cpt: the held-out loss. dpo, kto and reward: the preference accuracy where both models have it and it
    differs, else the margin; for a reward model made of a language model the accuracy, see `is_against_chance`. rloo
    and grpo: the mean reward.
    """
    if objective in ONLINE:
        return "mean_reward"
    if objective in ("sft", "cpt"):
        return "eval_loss"
    accuracies = (base.preference_accuracy, tuned.preference_accuracy)
    is_undecided = None in accuracies or accuracies[0] == accuracies[1]
    return "preference_margin" if is_undecided and not is_against_chance(objective, base) else "preference_accuracy"


def is_better(objective: Objective, base: Scores, tuned: Scores) -> bool:
    """Return whether the tuned model's deciding measure is better: a lower loss, or a higher other measure.

    A reward model made of a language model is better where its preference accuracy is above `CHANCE`. Equal is not
    better, and neither is a model of which the measure is not known.
    """
    measure = deciding_measure(objective, base, tuned)
    before = CHANCE if is_against_chance(objective, base) else getattr(base, measure)
    after = getattr(tuned, measure)
    if before is None or after is None:
        return False
    return bool(after < before if measure == "eval_loss" else after > before)


def verdict(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return one sentence: how the deciding measure changed, what else changed, and which of them decided."""
    deciding = deciding_measure(objective, base, tuned)
    if missing := _what_is_missing(objective, base, tuned):
        return f"Nothing tells which model is better: {missing}."
    if is_against_chance(objective, base):
        assert tuned.preference_accuracy is not None
        return f"Preference accuracy {100 * tuned.preference_accuracy:.1f} %; chance is {100 * CHANCE:.0f} %."
    changes = [
        _Change(measure, getattr(base, measure), getattr(tuned, measure))
        for measure in sorted(MEASURE_NAMES, key=lambda name: name != deciding)
        if getattr(base, measure) is not None and getattr(tuned, measure) is not None
    ]
    first, *others = [str(change) for change in changes]
    words = ", ".join([first.replace(" from ", " went from ", 1), *others])
    return f"{words[0].upper()}{words[1:]}; the {MEASURE_NAMES[deciding]} decides for {objective}."


def why_not_better(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return, as half a sentence, what the tuned model would need to be better."""
    if missing := _what_is_missing(objective, base, tuned):
        return missing
    measure = deciding_measure(objective, base, tuned)
    if is_against_chance(objective, base):
        return f"the reward model's {MEASURE_NAMES[measure]} is not above chance, {100 * CHANCE:.0f} %"
    side = "below" if measure == "eval_loss" else "above"
    return f"the tuned model's {MEASURE_NAMES[measure]} is not {side} the base model's"


def _what_is_missing(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return, as half a sentence, that the deciding measure is not known of a model; empty where nothing is missing."""
    measure = deciding_measure(objective, base, tuned)
    has_base = is_against_chance(objective, base) or getattr(base, measure) is not None
    has_tuned = getattr(tuned, measure) is not None
    if has_base and has_tuned:
        return ""
    if has_tuned:
        lacking = "which only the tuned model has"
    elif has_base:
        lacking = "which the tuned model does not have"
    else:
        lacking = "which neither model has"
    return f"{objective} is judged by the {MEASURE_NAMES[measure]}, {lacking}"
