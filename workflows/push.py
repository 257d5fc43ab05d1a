"""Publish artifacts, with a pod for each; no pod if there is nothing to publish."""

from functools import partial

from flytekit import map_task
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import PushedArtifact
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published
from configs.wire_evidence import Verdict
from tasks.push_to_hub.task import push_to_hub


def publish(
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
    """Push artifacts, whose folders are `directories`, each to its own repository; call it in a workflow."""
    push = partial(
        push_to_hub,
        config=config,
        data=data,
        base=base,
        tuned=tuned,
        quantized=quantized,
        verdict=verdict,
        base_revision=base_revision,
    )
    published: list[Published] = map_task(push)(artifact=artifacts, directory=directories).with_overrides(
        node_name="push"
    )
    return published
