"""Decides for each artifact by the gate's verdict on it whether it is published."""

from __future__ import annotations

from configs.addresses import shown_address
from configs.artifacts import PushedArtifact
from configs.errors import ArtifactError
from configs.schema import PushConfig
from configs.wire import Evaluation
from configs.wire_evidence import ArtifactVerdict
from tasks.files.digests import digest_in


def why_not_pushed(config: PushConfig, verdict: ArtifactVerdict) -> str:
    """Return, as half a sentence, why an artifact is not published, and which setting publishes it; else nothing.

    `verdict` is that of the artifact itself; an adapter has that of the tuned model.
    """
    if config.reason.strip() or verdict.promote:
        return ""
    reasons = "; ".join(verdict.reasons)
    return f"{reasons}; to publish it anyway, give push_to_hub.reason, which its card will show"


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
