"""Says how far what was saved is from what was trained: for the log, the report and the card."""

from __future__ import annotations

from collections.abc import Mapping

from configs.wire import Evaluation, Parity
from tasks.decks import html

BROKEN = 0.1
"""Mean divergence, in nats, from which a model in full precision is not the one that was trained. Rounding to 16 bits
changes predictions by a hundredth of that."""
_NOTED = 0.1


def lost_share(base: Evaluation, parity: Parity) -> float | None:
    """Return which share of what was learned, in loss, is not in the saved model; None where nothing was learned.

    Base, trained weights and saved model are compared on the rows of `parity`.
    """
    losses = base.kept_losses
    if not parity.rows or parity.rows[-1] >= len(losses):
        return None
    learned = sum(losses[row] for row in parity.rows) / parity.tokens - parity.held_loss
    return (parity.own_loss - parity.held_loss) / learned if learned > 0 else None


def why_broken(base: Evaluation, tuned: Evaluation, tolerance: float) -> str:
    """Return, as half a sentence with a fix, why a model in full precision is not the one that was trained; or nothing.

    `tolerance` is the share of what was learned that saving it may lose.
    """
    if tuned.parity is None:
        return ""
    lost = lost_share(base, tuned.parity)
    is_far = tuned.parity.mean_divergence > BROKEN
    if not is_far and (lost is None or lost <= tolerance):
        return ""
    words = f"saving lost {lost:.0%} of what was learned" if lost is not None else "the saved model predicts otherwise"
    return (
        f"{words} (loss {tuned.parity.held_loss:.4f} as training held the weights, {tuned.parity.own_loss:.4f} as "
        "saved); publish the adapter, or save the model in 32 bits with model.dtype=float32"
    )


def parity_line(base: Evaluation, own: Evaluation) -> str:
    """Return one sentence on a trained model or a copy of it; empty where training kept no predictions."""
    parity = own.parity
    if parity is None:
        return ""
    lost = lost_share(base, parity)
    share = f"; {max(lost, 0.0):.0%} of what was learned is lost" if lost is not None else ""
    return (
        f"on {len(parity.rows)} held-out rows the loss is {parity.own_loss:.4f}, and was {parity.held_loss:.4f} with "
        f"the weights as training held them{share}; KL divergence of predictions {parity.mean_divergence:.2g} nats in "
        f"the mean, {parity.high_divergence:.2g} at the 99th percentile"
    )


def parity_warning(base: Evaluation, tuned: Evaluation) -> str:
    """Return a warning about a tuned model that lost much of what was learned when it was saved; else nothing."""
    line = parity_line(base, tuned)
    return f"tuned: {line}.{_FIX}" if line and _is_noted(base, tuned) else ""


def _is_noted(base: Evaluation, own: Evaluation) -> bool:
    assert own.parity is not None
    lost = lost_share(base, own.parity)
    return own.parity.mean_divergence > BROKEN or (lost is not None and lost > _NOTED)


def render_parity(evaluations: Mapping[str, Evaluation], base_name: str = "base") -> str:
    """Return the section of a report on how far each saved model is from the weights as training held them.

    `base_name` is that of the model that training began with.
    """
    base = evaluations[base_name]
    own_models = {name: own for name, own in evaluations.items() if name not in ("base", base_name)}
    lines = {name: line for name, own in own_models.items() if (line := parity_line(base, own))}
    if not lines:
        return ""
    parts = [html.heading("Saved as trained", 3)]
    for name, line in lines.items():
        is_noted = _is_noted(base, evaluations[name])
        fix = _FIX if is_noted and name == "tuned" else ""
        parts.append(html.paragraph(f"{name}: {line}.{fix}", "warn" if is_noted else "note"))
    return "".join(parts)


_FIX = (
    " Small changes of weights are lost when these are rounded to 16 bits: train longer or with a larger learning "
    "rate, publish the adapter, or save the model in 32 bits with model.dtype: float32."
)
