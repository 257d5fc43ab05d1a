"""Publish artifacts, with a pod for each; no pod if there is nothing to publish. A person may be asked before.

The step that waits stands in a workflow of its own: some versions of Flyte's console show no button for one that stands
directly in a branch. It waits for an input, true or false, and not for an approval: a rejected approval would fail the
run, and its report would not be written.
"""

from datetime import timedelta
from functools import partial

from flytekit import conditional, map_task, wait_for_input, workflow
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import PushedArtifact
from configs.schema import FineTuneConfig
from configs.schema.gate import APPROVAL_DAYS
from configs.wire import DataReport, Evaluation, Published
from configs.wire_evidence import Verdict
from tasks.push_to_hub.task import push_to_hub


def publish(asks_approval: bool, **inputs: object) -> list[Published]:
    """Push artifacts after a person's approval, or at once; call it in a workflow.

    `inputs` are those of `publish_at_once`.
    """
    published: list[Published] = (
        conditional("publish")
        .if_(asks_approval.is_true())  # type: ignore[attr-defined]
        .then(publish_if_approved(**inputs).with_overrides(node_name="if-approved"))
        .else_()
        .then(publish_at_once(**inputs).with_overrides(node_name="at-once"))
        .with_overrides(node_name="publish")
    )
    return published


@workflow
def publish_at_once(
    config: FineTuneConfig,
    artifacts: list[PushedArtifact],
    directories: list[FlyteDirectory],
    data: DataReport,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
    verdict: Verdict,
    base_revision: str,
) -> list[Published]:
    """Publish the artifacts of a run.

    A part of `fine_tune` and `align`: publishes what the gate promotes, each artifact in its own repository, and says
    why the others are not published.

    Args:
        config: The config of the training.
        artifacts: What to publish; empty if no repository is named.
        directories: The folders of the artifacts, in their order.
        data: The report on the rows.
        base: The scores of the model that training began with.
        tuned: The scores of the tuned model.
        quantized: The scores of the quantized copies, in the order of `quantize.methods`.
        verdict: The verdict of the gate.
        base_revision: The commit of the base model, or the hash of its files.
    """
    return _push(
        [],
        artifact=artifacts,
        directory=directories,
        config=config,
        data=data,
        base=base,
        tuned=tuned,
        quantized=quantized,
        verdict=verdict,
        base_revision=base_revision,
    )


@workflow
def publish_if_approved(
    config: FineTuneConfig,
    artifacts: list[PushedArtifact],
    directories: list[FlyteDirectory],
    data: DataReport,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
    verdict: Verdict,
    base_revision: str,
) -> list[Published]:
    """Ask a person whether the artifacts of a run may be published.

    A part of `fine_tune` and `align` with `gate.approval`: waits for a person's answer, true or false, at the step
    `approval`; then publishes as `publish_at_once` does, or says that nothing is published. The Deck `verdict` of the
    step `gate` shows what to decide on. No pod runs while it waits.

    Args:
        config: The config of the training.
        artifacts: What to publish; empty if no repository is named.
        directories: The folders of the artifacts, in their order.
        data: The report on the rows.
        base: The scores of the model that training began with.
        tuned: The scores of the tuned model.
        quantized: The scores of the quantized copies, in the order of `quantize.methods`.
        verdict: The verdict of the gate.
        base_revision: The commit of the base model, or the hash of its files.
    """
    answer = wait_for_input("approval", timeout=timedelta(days=APPROVAL_DAYS), expected_type=bool)
    return _push(
        [answer.with_overrides(node_name="approval")],
        artifact=artifacts,
        directory=directories,
        config=config,
        data=data,
        base=base,
        tuned=tuned,
        quantized=quantized,
        verdict=verdict,
        base_revision=base_revision,
    )


def _push(
    approvals: list[bool], artifact: list[PushedArtifact], directory: list[FlyteDirectory], **facts: object
) -> list[Published]:
    push = partial(push_to_hub, approvals=approvals, **facts)
    published: list[Published] = map_task(push)(artifact=artifact, directory=directory).with_overrides(node_name="push")
    return published
