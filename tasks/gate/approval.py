"""Whether a person is asked before anything is published, and what the run says about it."""

from __future__ import annotations

from collections.abc import Sequence

from configs.artifacts import PushedArtifact, scores_name
from configs.schema import FineTuneConfig
from configs.schema.gate import APPROVAL_DAYS
from configs.wire_evidence import Verdict


def to_be_approved(config: FineTuneConfig, verdict: Verdict) -> list[PushedArtifact]:
    """Return the artifacts that a person must approve: all that would be published; none without `gate.approval`.

    As in the push, an artifact is published if the gate promotes it, or if there is a reason to publish it anyway.
    """
    push = config.push_to_hub
    if not config.gate.approval or push.repository is None:
        return []
    return [name for name in push.artifacts if push.reason.strip() or verdict.of(scores_name(name)).promote]


def approval_words(artifacts: Sequence[PushedArtifact], is_laptop: bool) -> str:
    """Return the sentence on who is asked about these artifacts; empty if there are none."""
    if not artifacts:
        return ""
    names = ", ".join(artifacts)
    if is_laptop:
        return f"Nobody is asked to approve {names} (gate.approval): a run on a laptop has no console."
    return (
        f"A person must approve {names} at the step `approval` in Flyte's console, within {APPROVAL_DAYS} days; "
        "until then nothing is published."
    )
