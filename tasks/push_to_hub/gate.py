"""Decides for each artifact by its own scores whether it is published."""

from __future__ import annotations

from configs.addresses import shown_address
from configs.artifacts import QUANTIZATIONS, PushedArtifact
from configs.errors import ArtifactError
from configs.objectives import Objective
from configs.schema import PushConfig
from configs.wire import Evaluation, Scores
from tasks.decks.parity import why_broken
from tasks.decks.verdict import is_better, lost_share, why_not_better
from tasks.files.digests import digest_in


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


def check_scored(artifact: PushedArtifact, scored: Evaluation, address: str) -> None:
    """Check that the model at `address` is the one whose scores are published with it.

    An adapter is judged by the scores of the model that it was merged into, so there is nothing to compare.

    Raises:
        ArtifactError: it is another one.
    """
    digest = digest_in(address)
    if artifact != "adapter" and scored.model_digest and digest and digest != scored.model_digest:
        where = f"the {artifact} at {shown_address(address)}"
        raise ArtifactError(
            f"{where} is not the one that was scored (digest {scored.model_digest[:12]}...)\n"
            "publish the model that its evaluation read"
        )


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
