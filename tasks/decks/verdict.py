"""Whether a tuned model is better than its base, by the measure of its objective, and that in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema_train import ONLINE, Objective
from configs.wire import Scores

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


def deciding_measure(objective: Objective, base: Scores, tuned: Scores) -> Measure:
    """Return what decides between two models trained for `objective`.

    sft and cpt: the held-out loss. dpo, kto and reward: the preference accuracy where both models have it and it
    differs, else the margin. rloo and grpo: the mean reward. A margin of log-likelihoods and one of a reward model's
    scores have different units and are not compared: there, the accuracy decides alone.
    """
    if objective in ONLINE:
        return "mean_reward"
    if objective in ("sft", "cpt"):
        return "eval_loss"
    accuracies = (base.preference_accuracy, tuned.preference_accuracy)
    same_unit = (base.eval_loss is None) == (tuned.eval_loss is None)
    if same_unit and (None in accuracies or accuracies[0] == accuracies[1]):
        return "preference_margin"
    return "preference_accuracy"


def is_better(objective: Objective, base: Scores, tuned: Scores) -> bool:
    """Return whether the tuned model's deciding measure is better: a lower loss, or a higher other measure.

    Equal is not better, and neither is a model of which the measure is not known.
    """
    measure = deciding_measure(objective, base, tuned)
    before, after = getattr(base, measure), getattr(tuned, measure)
    if before is None or after is None:
        return False
    return bool(after < before if measure == "eval_loss" else after > before)


def verdict(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return one sentence: how the deciding measure changed, what else changed, and which of them decided."""
    deciding = deciding_measure(objective, base, tuned)
    changes = [
        _Change(measure, getattr(base, measure), getattr(tuned, measure))
        for measure in sorted(MEASURE_NAMES, key=lambda name: name != deciding)
        if getattr(base, measure) is not None and getattr(tuned, measure) is not None
        # a margin in nats against one in scores says nothing
        if measure != "preference_margin" or (base.eval_loss is None) == (tuned.eval_loss is None)
    ]
    if not changes or changes[0].measure != deciding:
        return f"There is no {MEASURE_NAMES[deciding]}, which decides for {objective}, of both models."
    first, *others = [str(change) for change in changes]
    words = ", ".join([first.replace(" from ", " went from ", 1), *others])
    return f"{words[0].upper()}{words[1:]}; the {MEASURE_NAMES[deciding]} decides for {objective}."


def why_not_better(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return, as half a sentence, what the tuned model would need to be better."""
    measure = deciding_measure(objective, base, tuned)
    if getattr(base, measure) is None or getattr(tuned, measure) is None:
        return f"there is no {MEASURE_NAMES[measure]}, which decides for {objective}, of both models"
    side = "below" if measure == "eval_loss" else "above"
    return f"the tuned model's {MEASURE_NAMES[measure]} is not {side} the base model's"
