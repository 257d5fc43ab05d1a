"""Flyte task: resolve and check everything that can be, in seconds on a CPU, before anything is computed."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from flytekit import task

from configs.schema import FineTuneConfig
from configs.wire import Part, Plan, Shard
from images.local_cache import forget_lost_outputs
from images.pods import SMALL, is_laptop_run
from images.secrets import HUB_TOKEN, HUB_TOKEN_SOURCES, read_hub_token
from images.specs import CPU_IMAGE, POD_ENVIRONMENT


class Planned(NamedTuple):
    plan: Plan
    contamination: list[str]
    shards: list[Shard]
    parts: list[Part]


class Resolved(NamedTuple):
    contamination: list[str]
    shards: list[Shard]


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
def resolve_data(config: FineTuneConfig) -> Resolved:
    """Check that the data is where the config says; return its shards, and the revisions of `data.contamination`."""
    from tasks.plan import data, settings

    if is_laptop_run():
        settings.check_output_directory(config)
        forget_lost_outputs()
    resolved = data.resolve_data(config.data, read_hub_token())
    return Resolved(contamination=resolved.contamination, shards=resolved.shards)


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
def make_plan(config: FineTuneConfig) -> Planned:
    """Check the config, the model's files, the data's places and the hub token; return what they hold right now."""
    from tasks.plan import data, models, settings

    token = read_hub_token()
    settings.check_topology(config.train)
    warnings: list[str] = []
    if is_laptop_run():
        settings.check_packages(config)
        settings.check_output_directory(config)
        forgotten = forget_lost_outputs()
        if forgotten:
            print(f"{forgotten} cached steps run again: their outputs were deleted from the disk")
    if config.push_to_hub.repository is not None:
        from tasks.plan.hub import check_push_access

        warnings += check_push_access(config.push_to_hub.repository, token, HUB_TOKEN_SOURCES)
    resolved = data.resolve_data(config.data, token)
    model = models.resolve_model(config.model, token)
    if is_laptop_run():
        required = settings.required_disk_bytes(model.weight_bytes, config)
        settings.check_disk(Path(tempfile.gettempdir()), required)
    for warning in warnings:
        print(f"warning: {warning}")
    plan = Plan(
        model_revision=model.revision,
        chat_template=settings.read_chat_template(config.tokenize.chat_template),
        warnings=warnings,
    )
    parts = [Part(number=number, of=config.data.shards) for number in range(config.data.shards)]
    return Planned(plan=plan, contamination=resolved.contamination, shards=resolved.shards, parts=parts)
