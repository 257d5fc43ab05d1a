"""One sentence that compares tuning with prompting: what the same model reaches with examples in its prompt."""

from __future__ import annotations

from configs.measures import Measure


def prompting_sentence(
    *,
    shots: int,
    few_shot: float,
    tuned: float,
    low: float,
    high: float,
    saved_tokens: float,
    measure: Measure,
    name: str = "tuning",
) -> str:
    """Return whether tuning beat prompting with `shots` examples, by what, and which tokens it saves.

    `few_shot` and `tuned` are the scores of the base model with examples and of the tuned model without; `low` and
    `high` are the ends of the 95 % interval of tuned - few_shot. An interval that holds 0 tells neither from the
    other. `saved_tokens` are the prompt tokens that the examples take in each call, in the mean. Differences of shares
    are in points, others in the measure's own unit. `name` is what the sentence calls the model that is not the base.
    """
    subject = name[0].upper() + name[1:]
    sign = -1 if measure.lower_is_better else 1
    gain, worst, best = (sign * value for value in (tuned - few_shot, *sorted((low, high), reverse=sign < 0)))
    prompting = f"prompting with {shots} example{'s' if shots > 1 else ''}"
    saving = f"{saved_tokens:,.0f} prompt tokens a call" if round(saved_tokens) else ""
    if worst > 0:
        sentence = f"{subject} beat {prompting} by {_amount(gain, worst, best, measure)}"
        return f"{sentence}, and saves {saving}." if saving else f"{sentence}."
    if best < 0:
        sentence = f"{subject} did not beat {prompting}: it is worse by {_amount(-gain, -best, -worst, measure)}"
    else:
        sentence = f"{subject} and {prompting} are not told apart: {name} gains {_amount(gain, worst, best, measure)}"
    return f"{sentence}. It saves {saving}." if saving else f"{sentence}."


def _amount(value: float, low: float, high: float, measure: Measure) -> str:
    """Return an amount with its interval, such as `31.2 points of exact match (95 % interval 24.0 to 38.1)`."""
    if measure.number.endswith("%}"):
        shown = [f"{100 * number:.1f}" for number in (value, low, high)]
        unit = f"points of {measure.name_in_sentences}"
    else:
        shown = [f"{number:.3g}" for number in (value, low, high)]
        unit = f"in {measure.name_in_sentences}"
    return f"{shown[0]} {unit} (95 % interval {shown[1]} to {shown[2]})"
