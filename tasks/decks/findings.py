"""Which findings of a training are worth showing once its model is scored: those made before know the curves alone."""

from __future__ import annotations

from collections.abc import Sequence

from configs.measures import Scores, main_answer_measure, measure_of
from configs.objectives import rules_of

STILL_FALLING = "Still falling"
"""What the finding that held-out loss still falls begins with."""
HARDLY_LEARNED = "Hardly learned"
"""What the finding that training loss hardly fell begins with."""
_SAID = {STILL_FALLING: "The loss still fell", HARDLY_LEARNED: "The loss hardly fell"}
_FULL = 0.995
"""A share of right answers from which more training has nothing to gain that a table would show."""
LEAST_LOSS_NATS = 0.01
"""A held-out loss below this has nothing left to lose that answers would show."""


def findings_to_show(
    findings: Sequence[str], objective: str, scores: Scores, measures: Sequence[str] = ()
) -> list[str]:
    """Return the findings without advice to train more, where the model has nothing left to gain from it.

    That is where the measure that matters is a share of right answers of 99.5 % or more, or of right preferences for an
    objective that learns those, or where the held-out loss of the tokens is below 0.01 nats. `scores` are the trained
    model's, `measures` the keys of `evaluate.measures`. What was left out is one sentence, with the reason, at the end.
    """
    left_out = [tag for tag in _SAID if any(finding.startswith(tag) for finding in findings)]
    reason = _nothing_to_gain(objective, scores, measures) if left_out else ""
    if not reason:
        return list(findings)
    others = [finding for finding in findings if not finding.startswith(tuple(_SAID))]
    return [*others, f"{_SAID[left_out[0]]}, but more training has little to gain: {reason}."]


def _nothing_to_gain(objective: str, scores: Scores, measures: Sequence[str]) -> str:
    """Return, as half a sentence, what is at its limit; empty where nothing is."""
    rules = rules_of(objective)
    # where all answers are the expected ones, no other measure tells more
    keys = (
        (main_answer_measure(scores, measures), "exact_match") if rules.trains_each_token else ("preference_accuracy",)
    )
    for key in filter(None, keys):
        value = scores.value(key)
        if value is None or value < _FULL:
            continue
        measure = measure_of(key, [scores])
        if measure.source == "pairs" or (measure.is_binary and not measure.lower_is_better):
            return f"{measure.name_in_sentences} is {value:.1%}"
    if rules.trains_each_token and scores.eval_loss is not None and scores.eval_loss < LEAST_LOSS_NATS:
        return f"the held-out loss is {scores.eval_loss:.2g} nats per token"
    return ""
