"""Decides whether a tuned model is better than its base, by the measure of its objective, and says so in words."""

from __future__ import annotations

from configs.measures import HEADLINES, MEASURES, Scores
from configs.objectives import OBJECTIVES, Objective
from configs.paired_rows import LEAST, LEVEL, is_seen

CHANCE = 0.5
"""The preference accuracy of guessing: of two answers, one is the chosen one."""
_DECIDING = {name for rules in OBJECTIVES.values() for name in rules.judged_by}


def is_against_chance(objective: Objective, base: Scores) -> bool:
    """Return whether a reward model is compared with chance, because its base is a language model.

    A language model scores no answers. Its preferences are by log-likelihood: all of them may be right, which says
    nothing about the reward model.
    """
    return OBJECTIVES[objective].scores_answers and not base.is_of_reward_model


def deciding_measure(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return the measure that decides between two models: the first in `judged_by` on which they differ, else the
    last. For a reward model that is compared with chance (`is_against_chance`) it is the first."""
    measures = OBJECTIVES[objective].judged_by
    if is_against_chance(objective, base):
        return measures[0]
    return next((name for name in measures if _differ(base.value(name), tuned.value(name))), measures[-1])


def is_better(objective: Objective, base: Scores, tuned: Scores) -> bool:
    """Return whether the tuned model's deciding measure is better than the base model's, or than `CHANCE`.

    Equal is not better. Neither is a model whose measure is not known, nor a held-out loss that fell by no more than
    noise: see `is_within_noise`.
    """
    return gain(objective, base, tuned) > 0 and not is_within_noise(objective, base, tuned)


def gain(objective: Objective, base: Scores, tuned: Scores) -> float:
    """Return by how much the tuned model's deciding measure is better than the base model's, or than `CHANCE`.

    Negative if it is worse, 0 if one of the two is not known.
    """
    name = deciding_measure(objective, base, tuned)
    before = CHANCE if is_against_chance(objective, base) else base.value(name)
    after = tuned.value(name)
    if before is None or after is None:
        return 0.0
    return before - after if MEASURES[name].lower_is_better else after - before


def is_within_noise(objective: Objective, base: Scores, tuned: Scores) -> bool:
    """Return whether the deciding measure is a held-out loss that a paired test over rows does not see fall.

    Scores without the losses of rows are taken as they are.
    """
    if deciding_measure(objective, base, tuned) != "eval_loss" or is_against_chance(objective, base):
        return False
    if 0 < gain(objective, base, tuned) < LEAST:
        return True
    before, after = base.row_losses, tuned.row_losses
    return bool(before) and len(before) == len(after) and not is_seen(before, after)


def lost_share(objective: Objective, base: Scores, tuned: Scores, copy: Scores) -> float:
    """Return which share of the tuned model's gain over the base a quantized copy lost: 1 if it gained nothing."""
    gained = gain(objective, base, tuned)
    return 1 - gain(objective, base, copy) / gained if gained > 0 else 1.0


def verdict(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return one sentence: how the deciding measure changed, what else changed, and which of them decided."""
    deciding = deciding_measure(objective, base, tuned)
    if missing := _what_is_missing(objective, base, tuned):
        return f"Nothing tells which model is better: {missing}."
    if is_against_chance(objective, base):
        share = tuned.value(deciding)
        assert share is not None
        return f"{MEASURES[deciding].heading} {100 * share:.1f} %; chance is {100 * CHANCE:.0f} %."
    # first the one that decides, then those that decide for other objectives
    names = sorted(HEADLINES, key=lambda name: (name != deciding, name not in _DECIDING))
    first, *others = [change for name in names if (change := _change(name, base, tuned))]
    words = ", ".join([first.replace(" from ", " went from ", 1), *others])
    noise = f" {_noise(base)[0].upper()}{_noise(base)[1:]}." if _is_noise(objective, base, tuned) else ""
    return f"{words[0].upper()}{words[1:]}; the {_name(deciding)} decides for {objective}.{noise}"


def why_not_better(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return, as half a sentence, what the tuned model would need to be better."""
    if missing := _what_is_missing(objective, base, tuned):
        return missing
    name = deciding_measure(objective, base, tuned)
    if is_against_chance(objective, base):
        return f"the reward model's {_name(name)} is not above chance, {100 * CHANCE:.0f} %"
    if _is_noise(objective, base, tuned):
        return _noise(base)
    side = "below" if MEASURES[name].lower_is_better else "above"
    return f"the tuned model's {_name(name)} is not {side} the base model's"


def _is_noise(objective: Objective, base: Scores, tuned: Scores) -> bool:
    """Return whether a better value is all that speaks for the tuned model."""
    return gain(objective, base, tuned) > 0 and is_within_noise(objective, base, tuned)


def _noise(base: Scores) -> str:
    rows = len(base.row_losses)
    if rows == 1:
        return "one held-out row cannot tell which model is better"
    test = f"paired test, p >= {LEVEL}, or less than {LEAST:g} nats a token"
    return f"no difference is seen on {rows:,} held-out rows ({test})"


def _what_is_missing(objective: Objective, base: Scores, tuned: Scores) -> str:
    """Return, as half a sentence, which model lacks the deciding measure; empty where neither does."""
    name = deciding_measure(objective, base, tuned)
    has_base = is_against_chance(objective, base) or base.value(name) is not None
    has_tuned = tuned.value(name) is not None
    if has_base and has_tuned:
        return ""
    if has_tuned:
        lacking = "which only the tuned model has"
    elif has_base:
        lacking = "which the tuned model does not have"
    else:
        lacking = "which neither model has"
    return f"{objective} is judged by the {_name(name)}, {lacking}"


def _change(name: str, base: Scores, tuned: Scores) -> str:
    """Return how a measure changed; empty where it is not known of both models."""
    before, after = base.value(name), tuned.value(name)
    if before is None or after is None:
        return ""
    text = MEASURES[name].short_number
    return f"{_name(name)} from {text.format(before)} to {text.format(after)}"


def _differ(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and before != after


def _name(measure: str) -> str:
    return MEASURES[measure].name_in_sentences
