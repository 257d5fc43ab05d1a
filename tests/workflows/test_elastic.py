"""Training as a cluster runs it: what the pods are asked for, several machines, and what ends a machine."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from flytekit.types.directory import FlyteDirectory
from google.protobuf.json_format import MessageToDict
from safetensors.torch import load_file
from support.blank_reports import token_report
from support.pods import RECOVERABLE, Pod, machine_environments

import tasks.plan.task as plan_task
import tasks.train.task as train_task
from configs.schema import FineTuneConfig, ModelConfig
from configs.schema.cluster import CheckpointConfig, ClusterConfig
from configs.schema.tracking import TrackingConfig
from configs.schema.train import TrainConfig
from configs.wire_plan import Plan
from workflows.tune import tune


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rows of random letters, all of whose tokens are trained; they serve as held-out rows as well."""
    rows = [
        {
            "row_id": f"rows:{number}",
            "input_ids": [2 + (number * 7 + place * 3) % 200 for place in range(8 + number)] + [1],
            "prompt_length": 0,
            "prompt": "",
            "expected": "",
            "dataset": "held-out",
        }
        for number in range(16)
    ]
    directory = tmp_path_factory.mktemp("tokens")
    pd.DataFrame([{**row, "labels": row["input_ids"]} for row in rows]).to_parquet(directory / "tokens.parquet")
    return directory


def training(model: Path, tokens: Path, config: TrainConfig) -> dict[str, Any]:
    """Return the inputs of an elastic training task."""
    return {
        "config": config.model_copy(
            update={"cluster": ClusterConfig(), "checkpoint": CheckpointConfig(), "tracking": TrackingConfig()}
        ),
        "cluster": config.cluster,
        "checkpoint": config.checkpoint,
        "tracking": config.tracking,
        "deepspeed_json": "",
        "loading": ModelConfig(name="tiny"),
        "model": FlyteDirectory(str(model), remote_directory=False),
        "tokens": FlyteDirectory(str(tokens), remote_directory=False),
        "held_out": FlyteDirectory(str(tokens), remote_directory=False),
        "tokenizer": FlyteDirectory(str(model), remote_directory=False),
        "end_token_ids": [1],
        "new_token_ids": [],
        "reward_models": [],
        "rewards_version": "",
    }


def settings(**train: Any) -> TrainConfig:
    defaults = {"method": "full", "batch_size": 4, "micro_batch_size": 2, "max_steps": 6, "logging_steps": 1}
    return TrainConfig(**{**defaults, "learning_rate": 1e-3, "watch": {"evaluations": 0}, **train})


def trained(pod: Pod) -> Path:
    """Return the folder of the model that a try has made."""
    return Path(pod.outputs["model"].scalar.blob.uri)


def asked_of(train_pod: Pod) -> tuple[Any, dict[int, str]]:
    """Return the training node that the dynamic task has made, and its requests by Flyte's number of the resource."""
    spec = DynamicJobSpec.FromString((train_pod.output / "futures.pb").read_bytes())
    [node] = [node for node in spec.nodes if node.id == "train"]
    # CPU 1, GPU 2, MEMORY 3, EPHEMERAL_STORAGE 5
    return node, {entry.name: entry.value for entry in node.task_node.overrides.resources.requests}


def wired(model: Path, tokens: Path, train: TrainConfig) -> dict[str, Any]:
    """Return the inputs of the dynamic task that chooses the elastic one."""
    data = {"sources": [{"path": "rows.jsonl"}]}
    config = {"model": {"name": "tiny"}, "data": data, "train": train.model_dump(), "quantize": {"methods": []}}
    places = {"base": model, "train_tokens": tokens, "test_tokens": tokens, "tokenizer": model, "base_tokenizer": model}
    return {
        "config": FineTuneConfig.model_validate(config),
        "deepspeed_json": "",
        "token_report": token_report(),
        "rewards_version": "",
        "other_revisions": [],
        "model_gib": 1,
        **{name: FlyteDirectory(str(place), remote_directory=False) for name, place in places.items()},
    }


def test_what_the_plan_found_is_what_the_training_pods_ask_for(
    tiny_model: Path, tokens: Path, rows_file: Path, tmp_path: Path
) -> None:
    config = FineTuneConfig.model_validate(
        {
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(rows_file)}]},
            "train": {"method": "full", "processes_per_node": 2, "batch_size": 8, "cluster": {"gpu": "nvidia-l4"}},
        }
    )
    planning = Pod(plan_task.make_plan, tmp_path / "plan", {"config": config}).run()
    context = FlyteContextManager.current_context()
    plan, planned = (
        TypeEngine.to_python_value(context, Literal.from_flyte_idl(planning.outputs[name]), kind)
        for name, kind in (("plan", Plan), ("config", FineTuneConfig))
    )
    [stage] = plan.stages
    assert (stage.fits, stage.machines.gpu, stage.micro_batch_size, stage.accumulation) == (True, "L4", 4, 1)
    # 1.2 x (6 GiB and a model of a few hundred kB), in steps of 4; 20 GiB and the same, in steps of 10
    assert (stage.machines.memory_gib, stage.machines.shared_memory_gib, stage.machines.disk_gib) == (16, 4, 30)
    assert planned.train.micro_batch_size == 4
    node, asked = asked_of(Pod(tune, tmp_path / "tune", wired(tiny_model, tokens, planned.train)).run())
    assert asked == {1: "16", 2: "2", 3: "16Gi", 5: "30Gi"}
    assert node.task_node.overrides.extended_resources.shared_memory.size_limit == "4Gi"
    assert node.task_node.overrides.extended_resources.gpu_accelerator.device == "nvidia-l4"


def test_a_run_overrides_what_the_pods_are_asked_for(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    cluster = {
        "gpu": "nvidia-h100-80gb",
        "cpus_per_process": 6,
        "memory_gib_per_process": 100,
        "shared_memory_gib": 64,
        "disk_gib": 700,
        "node_selectors": [{"key": "pool", "value": "spot"}],
        "interruptible": True,
        "retries": 7,
    }
    config = settings(nodes=5, processes_per_node=4, batch_size=160, cluster=cluster)
    node, asked = asked_of(Pod(tune, tmp_path, wired(tiny_model, tokens, config)).run())
    assert node.task_node.reference_id.name == "tasks.train.task.train_5"
    overrides = node.task_node.overrides
    # for 4 processes
    assert asked == {1: "24", 2: "4", 3: "400Gi", 5: "700Gi"}
    assert {entry.name: entry.value for entry in overrides.resources.limits} == asked
    assert overrides.extended_resources.gpu_accelerator.device == "nvidia-h100-80gb"
    assert overrides.extended_resources.shared_memory.size_limit == "64Gi"
    pod_spec = MessageToDict(overrides.pod_template.pod_spec)
    assert pod_spec["nodeSelector"] == {"pool": "spot"}
    assert pod_spec["terminationGracePeriodSeconds"] == 120
    assert node.metadata.retries.retries == 7
    assert node.metadata.interruptible
    # what decides what is trained, and what does not, travel apart
    literals = {binding.var: binding.binding.scalar for binding in node.inputs}
    assert "nvidia-h100-80gb" not in str(literals["config"]) and "nvidia-h100-80gb" in str(literals["cluster"])


@pytest.mark.slow
def test_two_machines_train_what_one_does(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    alone = Pod(
        train_task.train_1, tmp_path / "one", training(tiny_model, tokens, settings(processes_per_node=2))
    ).run()
    inputs = training(tiny_model, tokens, settings(nodes=2))
    pods = [
        Pod(train_task.train_2, tmp_path / "two", inputs, environment=machine) for machine in machine_environments(2, 1)
    ]
    for number, pod in enumerate(pods):
        pod.machine = number
        pod.start()
    while all(pod.process.poll() is None for pod in pods):
        time.sleep(0.01)
    # a job counts as done when its first pod ends: the model and the outputs are there
    weights = load_file(trained(pods[0]) / "model.safetensors")
    for pod in pods:
        pod.wait()
    expected = load_file(trained(alone) / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert max(float((weights[name] - expected[name]).abs().max()) for name in weights) < 1e-6
    moved = load_file(tiny_model / "model.safetensors")
    assert max(float((weights[name] - moved[name]).abs().max()) for name in weights) > 1e-3


@pytest.mark.slow
def test_a_preempted_machine_goes_on_in_the_next_try(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    config = settings(max_steps=400, checkpoint={"every_steps": 1000}, cluster={"max_restarts": 0})
    first = Pod(train_task.train_1, tmp_path, training(tiny_model, tokens, config)).start()
    deadline = time.monotonic() + 180
    while "train: step 5/" not in first.log and time.monotonic() < deadline:
        assert first.process.poll() is None, first.log[-3000:]
        time.sleep(0.05)
    os.kill(first.process.pid, signal.SIGTERM)
    error = first.wait(100).error
    assert error.kind == RECOVERABLE, error.message
    assert "preempted" in error.message and "saved after step" in error.message, error.message
    step = int(error.message.rpartition("saved after step ")[2].split()[0])
    second = Pod(train_task.train_1, tmp_path, training(tiny_model, tokens, config), number=1).run()
    steps = [int(line.split("/")[0].rpartition(" ")[2]) for line in second.log.splitlines() if "train: step " in line]
    assert steps[0] == step + 1, second.log[-3000:]
    record = json.loads((trained(second) / "training.json").read_text())
    assert f"from step {step}" in json.dumps(record)


@pytest.mark.slow
def test_of_a_range_the_machines_that_are_left_go_on_with_the_same_batch(
    tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    config = settings(nodes="1:2", max_steps=60, micro_batch_size=4, checkpoint={"every_steps": 2})
    inputs = training(tiny_model, tokens, config)
    environments = machine_environments(2, 1)
    pods = [
        # started, not forked: a kill of the second one must end its workers at once, as a lost machine does
        Pod(train_task.train_1_to_2, tmp_path, inputs, environment=e, machine=n, is_forked=False)
        for n, e in enumerate(environments)
    ]
    for pod in pods:
        pod.start()
        # the first is where they meet, and the one that stays
        time.sleep(5)
    deadline = time.monotonic() + 180
    while "checkpoint of step 4 saved" not in pods[0].log + pods[1].log and time.monotonic() < deadline:
        assert pods[0].process.poll() is None, pods[0].log[-3000:]
        time.sleep(0.02)
    pods[1].kill()
    pods[0].wait(300)
    record = json.loads((trained(pods[0]) / "training.json").read_text())
    lines = {choice["name"]: (choice["value"], choice["reason"]) for choice in record["choices"]}
    assert lines["resumed"][0] == "once", lines
    alone = Pod(train_task.train_1, tmp_path / "one", training(tiny_model, tokens, settings(max_steps=60))).run()
    weights = load_file(trained(pods[0]) / "model.safetensors")
    expected = load_file(trained(alone) / "model.safetensors")
    assert max(float((weights[name] - expected[name]).abs().max()) for name in weights) < 1e-4


@pytest.mark.slow
def test_a_machine_lost_after_the_last_step_has_lost_nothing(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    inputs = training(tiny_model, tokens, settings(checkpoint={"every_steps": 2}))
    first = Pod(train_task.train_1, tmp_path, inputs).run()
    model = trained(first)
    # training needs them no more
    assert not list((tmp_path / "checkpoints" / "0").glob("checkpoint-*"))
    # Flyte never heard of what it had made
    (first.output / "outputs.pb").unlink()
    second = Pod(train_task.train_1, tmp_path, inputs, number=1).run()
    assert "train: an earlier attempt had finished: its model is used" in second.log
    assert "train: step" not in second.log and trained(second) == model
    # where the model is gone, it is made anew
    for file in model.iterdir():
        file.unlink()
    third = Pod(train_task.train_1, tmp_path, inputs, number=2).run()
    assert "train: step 6/6" in third.log and trained(third) != model
