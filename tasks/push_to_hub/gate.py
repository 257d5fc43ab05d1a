"""Decides for each artifact, by the gate's verdict on it and a person's answer, whether it is published."""

from __future__ import annotations

from collections.abc import Sequence

from configs.addresses import shown_address
from configs.artifacts import PushedArtifact
from configs.errors import ArtifactError
from configs.schema import PushConfig
from configs.wire import Evaluation
from configs.wire_evidence import ArtifactVerdict, Verdict
from tasks.files.digests import digest_in


def why_not_pushed(config: PushConfig, verdict: ArtifactVerdict, approvals: Sequence[bool] = ()) -> str:
    """Return, as half a sentence, why an artifact is not published, and what publishes it; else nothing.

    `verdict` is that of the artifact itself; an adapter has that of the tuned model. `approvals` has the answer of
    the person who was asked; it is empty if nobody was.
    """
    if not config.reason.strip() and not verdict.promote:
        reasons = "; ".join(verdict.reasons)
        return f"{reasons}; to publish it anyway, give push_to_hub.reason, which its card will show"
    if not all(approvals):
        return "a person who was asked in Flyte's console did not approve it; the run asks again when it runs again"
    return ""


def with_approval(verdict: Verdict, approvals: Sequence[bool]) -> Verdict:
    """Return the verdict with a sentence on the person's approval, for the card; as it is if nobody was asked.

    Flyte does not tell a workflow who answered.
    """
    if not approvals:
        return verdict
    approved = "A person approved the publication in Flyte's console."
    return verdict.model_copy(update={"sentences": [*verdict.sentences, approved]})


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
