"""Flyte tasks: elastic training in every declared topology, and the merge of an adapter into its base."""

import logging
import types
from typing import NamedTuple

import flytekit
from flytekit import Cache, Deck, PythonFunctionTask, dynamic, task
from flytekit.core.base_task import IgnoreOutputs
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.types.directory import FlyteDirectory
from flytekitplugins.kfpytorch import Elastic

from configs.errors import InterruptedRunError
from configs.schema import ModelConfig
from configs.schema_train import TrainConfig
from configs.topologies import TOPOLOGIES
from configs.versions import source_version
from configs.wire import TokenReport, TrainReport
from images.pods import (
    BIG_CPU,
    SMALL,
    download_once,
    is_laptop_run,
    local_path,
    node_directory,
    node_resources,
    scratch_directory,
)
from images.specs import CPU_IMAGE, GPU_IMAGE, POD_ENVIRONMENT

_VERSION = source_version("tasks/train", "tasks/models", "tasks/rewards", "tasks/decks", "configs/deepspeed")


class Trained(NamedTuple):
    model: FlyteDirectory
    report: TrainReport


def _train(
    config: TrainConfig,
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
    """Train in every process of the topology; the result is a whole model or an adapter, with its tokenizer.

    `rewards_version` is not read: it makes a cached result depend on the project's reward functions.
    """
    from tasks.decks import html
    from tasks.decks.training import render_training
    from tasks.train import distributed, fit

    distributed.check_world_size(config)
    output = node_directory("trained")
    inputs = fit.FitInputs(
        model=download_once(model),
        train_tokens=download_once(tokens),
        test_tokens=download_once(held_out),
        tokenizer=download_once(tokenizer),
        end_token_ids=end_token_ids,
        new_token_ids=new_token_ids,
        reward_models=[download_once(each) for each in reward_models],
    )
    report = fit.fit(config, loading, inputs, output)
    uri = ""
    if distributed.rank() == 0:
        # uploaded before any process ends: a job counts as succeeded when its first pod does
        access = flytekit.FlyteContextManager.current_context().file_access
        uri = access.put_data(str(output), access.join(access.raw_output_prefix, access.get_random_string()), True)
        Deck("training", html.fragment(render_training(report)))
    uri = distributed.broadcast(uri)
    return Trained(model=FlyteDirectory(uri, remote_directory=False), report=report)


def _declare(nodes: int, processes: int) -> PythonFunctionTask:
    """Return the task of one topology. Flyte names a task after its function, so that each gets a copy of its own."""
    name = f"train_{nodes}x{processes}"
    function = types.FunctionType(_train.__code__, globals(), name)
    function.__annotations__ = _train.__annotations__
    function.__doc__ = f"{nodes} node(s) of {processes} process(es). {_train.__doc__}"
    function.__qualname__ = name
    return task(
        task_config=Elastic(
            nnodes=nodes,
            nproc_per_node=processes,
            # a restart inside an attempt would not see what the attempt saved; Flyte's retries do
            max_restarts=0,
            monitor_interval=1,
            rdzv_configs={"timeout": 3600, "join_timeout": 3600, "read_timeout": 900},
            increase_shared_mem=False,
        ),
        container_image=GPU_IMAGE,
        requests=node_resources(processes),
        shared_memory=True,
        retries=3,
        cache=Cache(version=_VERSION, serialize=True),
        environment={**POD_ENVIRONMENT, "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300"},
        enable_deck=True,
    )(function)


ELASTIC_TASKS = {shape: _declare(*shape) for shape in TOPOLOGIES}
# a pod finds its task as an attribute of this module
globals().update({f"train_{nodes}x{processes}": each for (nodes, processes), each in ELASTIC_TASKS.items()})


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def train(
    config: TrainConfig,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    held_out: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    reward_models: list[FlyteDirectory],
    rewards_version: str,
) -> Trained:
    """Train in the topology that the config names: `train.nodes` x `train.processes_per_node`."""
    if is_laptop_run():
        # the launcher logs a worker's traceback, of which one line is meant for the user and is shown below
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        result = ELASTIC_TASKS[(config.nodes, config.processes_per_node)](
            config=config,
            loading=loading,
            model=model,
            tokens=tokens,
            held_out=held_out,
            tokenizer=tokenizer,
            end_token_ids=token_report.end_token_ids,
            new_token_ids=token_report.new_token_ids,
            reward_models=reward_models,
            rewards_version=rewards_version,
        )
    except IgnoreOutputs:
        # also only on a laptop: the launcher's word for a signal, such as Ctrl-C
        raise InterruptedRunError(
            "training was interrupted; run the same command again: the steps before it come from the cache"
        ) from None
    except FlyteUserRuntimeException as error:
        # only a laptop comes here: a cluster runs the elastic task later, in pods of its own
        from tasks.train.distributed import user_error

        raise user_error(error.value) or error from None
    return Trained(model=result.model, report=result.report)


@task(
    container_image=CPU_IMAGE,
    requests=BIG_CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
)
def merge(config: TrainConfig, loading: ModelConfig, base: FlyteDirectory, trained: FlyteDirectory) -> FlyteDirectory:
    """Return a model to load: an adapter merged into the unquantized base, or virtual tokens beside it."""
    if config.method == "full":
        return FlyteDirectory(str(trained.remote_source or trained.path), remote_directory=False)
    from tasks.train import merge as merging

    output = scratch_directory("merged")
    merging.merge_adapter(loading, local_path(base), local_path(trained), output)
    return FlyteDirectory(str(output))
