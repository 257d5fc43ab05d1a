"""Flyte tasks: elastic training on each declared number of machines, and the merge of an adapter into its base."""

import logging
import types
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import flytekit
from flytekit import Cache, Deck, PythonFunctionTask, task
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.extras.accelerators import GPUAccelerator
from flytekit.types.directory import FlyteDirectory

from configs.errors import ArtifactError, RetryError
from configs.printable import print_line
from configs.schema import ModelConfig
from configs.schema.cluster import CheckpointConfig, ClusterConfig
from configs.schema.tracking import TrackingConfig
from configs.schema.train import TrainConfig
from configs.topologies import TOPOLOGIES, task_name, topology
from configs.versions import source_version
from configs.wire import TokenReport, TrainReport
from images.specs import CPU_IMAGE, GPU_IMAGE, POD_ENVIRONMENT, TRAIN_ENVIRONMENT
from tasks.runtime.artifacts import address_of, download_once, local_path, store_folder
from tasks.runtime.elastic import ConfiguredElastic
from tasks.runtime.live_deck import live_deck
from tasks.runtime.pods import (
    BIG_CPU,
    DECK_FIELDS,
    checkpoint_uris,
    delete_finished_checkpoints,
    filesystem_of,
    is_laptop_run,
    node_directory,
    node_resources,
    pod_template,
    scratch_directory,
)
from tasks.runtime.secrets import TRACKER_SECRETS, read_tracker_secrets
from tasks.runtime.shown_errors import shows_errors
from tasks.runtime.worker_faults import launch_folder

if TYPE_CHECKING:
    from tasks.train.checkpoint.store import CheckpointPlaces
    from tasks.train.watch.observers import Observer

_VERSION = source_version(
    "tasks/train",
    "tasks/measures",
    "tasks/models",
    "tasks/rewards",
    "tasks/decks",
    "configs/artifacts.py",
    "configs/deepspeed",
    "configs/effective",
    "configs/measures.py",
    "configs/objectives.py",
)
# most machines with GPUs have 8; the operator sets PET_NPROC_PER_NODE to it, which flytekit does not read
_DECLARED_PROCESSES = 8
# separate inputs of the task: a cached training must not depend on these sections of the config
_OWN_INPUTS = {"cluster": ClusterConfig(), "checkpoint": CheckpointConfig(), "tracking": TrackingConfig()}


class Trained(NamedTuple):
    model: FlyteDirectory
    report: TrainReport


def _train(
    config: TrainConfig,
    cluster: ClusterConfig,
    checkpoint: CheckpointConfig,
    tracking: TrackingConfig,
    deepspeed_json: str,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    held_out: FlyteDirectory,
    tokenizer: FlyteDirectory,
    end_token_ids: list[int],
    new_token_ids: list[int],
    reward_models: list[FlyteDirectory],
    rewards_version: str,
) -> Trained:
    """Train in every process of the topology; return a whole model or an adapter, with its tokenizer.

    `rewards_version` is not read: it makes a cached result depend on the project's functions: rewards and measures.
    """
    from tasks.decks import html
    from tasks.decks.training import render_training
    from tasks.models.loading import counted_loading
    from tasks.models.pace import doing, heartbeat
    from tasks.train import collectives, distributed, faults, fit
    from tasks.train.attempt import finish, finished, fit_once
    from tasks.train.checkpoint import checkpoints
    from tasks.train.checkpoint.store import CheckpointPlaces
    from tasks.train.watch.observers import end_observed

    # these came as separate inputs, on which a cached result does not depend
    config = config.model_copy(update={"cluster": cluster, "checkpoint": checkpoint, "tracking": tracking})
    is_first = collectives.rank() == 0
    try:
        with faults.translated_errors(config), heartbeat("train") if is_first else nullcontext():
            distributed.check_world_size(config)
            distributed.check_devices(config)
            output = node_directory("trained")
            with doing("downloading the model and the tokens"):
                inputs = fit.FitInputs(
                    model=download_once(model),
                    train_tokens=download_once(tokens),
                    test_tokens=download_once(held_out),
                    tokenizer=download_once(tokenizer),
                    end_token_ids=end_token_ids,
                    new_token_ids=new_token_ids,
                    reward_models=[download_once(folder) for folder in reward_models],
                    deepspeed_json=deepspeed_json,
                )
            # a cluster's folders have names of their own
            fingerprint = checkpoints.fingerprint(config, inputs) if is_laptop_run() else ""
            uris = checkpoint_uris(fingerprint)
            places = None if uris is None else CheckpointPlaces(*uris, filesystem_of)
            earlier = finished(places)
            if earlier is None:
                inputs = replace(inputs, observers=_observers(config, loading, places) if is_first else ())
                with end_observed(inputs.observers), counted_loading("load"):
                    uri, report = "", fit_once(config, loading, inputs, output, places)
            else:
                uri, report = earlier
            if is_first:
                if earlier is None:
                    # uploaded before any process ends: a job counts as succeeded when its first pod does
                    with doing("uploading the model"):
                        uri = address_of(store_folder(output, "trained"))
                    finish(places, uri, report)
                else:
                    print_line("train: an earlier attempt had finished: its model is used")
                Deck("training", html.fragment(render_training(report)))
            uri = collectives.broadcast(uri)
    except RetryError as error:
        raise FlyteRecoverableException(error.message) from error
    return Trained(model=FlyteDirectory(uri, remote_directory=False), report=report)


def _observers(config: TrainConfig, loading: ModelConfig, places: "CheckpointPlaces | None") -> "list[Observer]":
    """Return the observers of rank 0: the live Deck, on a cluster, and the config's tracker."""
    from tasks.train.watch.live import LIVE_FILE, LiveReport
    from tasks.train.watch.tracking import Tracking, TrackingAccess

    observers: list[Observer] = []
    folder, tracker = launch_folder(), config.tracking.tracker
    if folder is not None and not is_laptop_run():
        observers.append(LiveReport(config, folder / LIVE_FILE))
    if tracker != "none":
        access = flytekit.FlyteContextManager.current_context().file_access
        curves = access.join(access.raw_output_prefix, "tensorboard")
        secrets = read_tracker_secrets(tracker)
        observers.append(Tracking(config, loading, TrackingAccess(secrets, curves, filesystem_of), places))
    return observers


def _show(folder: Path) -> AbstractContextManager[None]:
    """Show what rank 0 writes to `folder` as a Deck, while the processes of this machine run."""
    from tasks.models.pace import every_seconds
    from tasks.train.watch.live import live_renderer

    return live_deck("training", live_renderer(folder), every_seconds())


def _name_previous() -> None:
    """Write where the attempt before this one saved: this one may be killed before it saves anything."""
    from tasks.train.checkpoint.store import CheckpointPlaces, name_previous

    uris = None if is_laptop_run() else checkpoint_uris("")
    if uris is None:
        return
    try:
        name_previous(CheckpointPlaces(*uris, filesystem_of))
    except ArtifactError as error:
        raise RetryError(error.message) from error


def _declare(nodes: str) -> PythonFunctionTask:
    """Return the task of one topology. Flyte names a task after its function, so each topology gets a copy of it."""
    name = task_name(nodes)
    function = types.FunctionType(_train.__code__, globals(), name)
    function.__annotations__ = _train.__annotations__
    function.__doc__ = f"On {nodes} machine(s). {_train.__doc__}"
    function.__qualname__ = name
    return task(
        task_config=ConfiguredElastic(
            # the number 1, unlike the text, makes it a plain pod
            nnodes=1 if nodes == "1" else nodes,
            nproc_per_node=_DECLARED_PROCESSES,
            monitor_interval=1,
            increase_shared_mem=False,
            before_launch=_name_previous,
            while_running=_show,
        ),
        container_image=GPU_IMAGE,
        requests=node_resources(_DECLARED_PROCESSES, ClusterConfig()),
        shared_memory=True,
        retries=ClusterConfig().retries,
        cache=Cache(version=_VERSION, serialize=True, ignored_inputs=("cluster", "checkpoint", "tracking")),
        environment=TRAIN_ENVIRONMENT,
        secret_requests=TRACKER_SECRETS,
        enable_deck=True,
        deck_fields=DECK_FIELDS,
    )(function)


ELASTIC_TASKS = {nodes: _declare(nodes) for nodes in TOPOLOGIES}
# a pod looks up its task as an attribute of this module
globals().update({task_name(nodes): elastic_task for nodes, elastic_task in ELASTIC_TASKS.items()})


def train(
    name: str,
    config: TrainConfig,
    deepspeed_json: str,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    held_out: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    reward_models: list[FlyteDirectory],
    rewards_version: str,
) -> Trained:
    """Train on `train.nodes` machines of the kind that `train.cluster` names; `name` is that of the node.

    Call it in a dynamic task: machines and resources are chosen when the run's config is known, which a workflow cannot
    do. `deepspeed_json` is the content of the file at `train.deepspeed.config`, or an empty text.
    """
    most = config.most_nodes
    if is_laptop_run():
        # the launcher would log a worker's whole traceback, and the user is shown the error anyway
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        # a laptop uses the range's lower bound
        most = config.fewest_nodes
        if most != config.most_nodes:
            print_line(f"train: train.nodes={config.nodes}: a laptop is 1 machine")
    cluster = config.cluster
    resources = node_resources(config.processes_per_node, cluster)
    result: Trained = ELASTIC_TASKS[topology(config.fewest_nodes, most)](
        config=config.model_copy(update=_OWN_INPUTS),
        cluster=cluster,
        checkpoint=config.checkpoint,
        tracking=config.tracking,
        deepspeed_json=deepspeed_json,
        loading=loading,
        model=model,
        tokens=tokens,
        held_out=held_out,
        tokenizer=tokenizer,
        end_token_ids=token_report.end_token_ids,
        new_token_ids=token_report.new_token_ids,
        reward_models=reward_models,
        rewards_version=rewards_version,
    ).with_overrides(
        node_name=name,
        requests=resources,
        # without limits of its own, an override is held to those of the declared resources
        limits=resources,
        accelerator=GPUAccelerator(cluster.gpu) if cluster.gpu else None,
        shared_memory=f"{cluster.shared_memory_gib}Gi" if cluster.shared_memory_gib else True,
        retries=cluster.retries,
        interruptible=cluster.interruptible,
        pod_template=pod_template(cluster),
    )
    if is_laptop_run():
        # not earlier: until the result is returned, a stopped run must find its checkpoints
        delete_finished_checkpoints()
    return result


@task(
    container_image=CPU_IMAGE,
    requests=BIG_CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def merge(loading: ModelConfig, base: FlyteDirectory, trained: FlyteDirectory) -> FlyteDirectory:
    """Return a model that loads by itself: an adapter merged into the unquantized base, or virtual tokens beside it."""
    from tasks.decks import html
    from tasks.decks.short import render_facts
    from tasks.train import merge as merging

    output = scratch_directory("merged")
    outcome = "the base with what was trained, in full precision"
    Deck("model", html.fragment(render_facts("Tuned model", [("model", outcome)])))
    merging.merge_adapter(loading, local_path(base), local_path(trained), output)
    return store_folder(output, "model")
