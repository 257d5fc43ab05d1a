"""Decides for each artifact by its own scores whether it is published."""

from __future__ import annotations

from configs.artifacts import QUANTIZATIONS, PushedArtifact
from configs.objectives import Objective
from configs.schema import PushConfig
from configs.wire import Evaluation, Scores
from tasks.decks.parity import why_broken
from tasks.decks.verdict import is_better, lost_share, why_not_better


def why_not_pushed(
    config: PushConfig,
    objective: Objective,
    artifact: PushedArtifact,
    base: Evaluation,
    tuned: Evaluation,
    own: Scores,
) -> str:
    """Return, as half a sentence, why an artifact is not published, and which setting publishes it; else nothing.

    `own` are the scores of the artifact itself; an adapter has those of the tuned model. A model in full precision must
    also be the one that was trained (`why_broken`).
    """
    if not config.only_if_better:
        return ""
    fix = "set push_to_hub.only_if_better=false to push it anyway"
    reason = _why_not_better(config, objective, artifact, base.scores, tuned.scores, own)
    if not reason and artifact == "model":
        reason = why_broken(base, tuned, config.quantized_tolerance)
    return f"{reason}; {fix}" if reason else ""


def _why_not_better(
    config: PushConfig, objective: Objective, artifact: PushedArtifact, base: Scores, tuned: Scores, own: Scores
) -> str:
    if not is_better(objective, base, own):
        reason = why_not_better(objective, base, own)
        if artifact in QUANTIZATIONS:
            reason = reason.replace("the tuned model's", f"the {artifact} copy's")
        return reason
    lost = lost_share(objective, base, tuned, own) if artifact in QUANTIZATIONS else 0.0
    if lost > config.quantized_tolerance:
        return (
            f"the {artifact} copy lost {lost:.0%} of what the tuned model gained over its base, and "
            f"push_to_hub.quantized_tolerance={config.quantized_tolerance:g} allows {config.quantized_tolerance:.0%}; "
            "raise it"
        )
    return ""
