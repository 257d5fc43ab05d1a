"""Which way of dividing is in effect, what is told of it, and what cannot be divided."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from configs.combinations import REFUSED_SHARDING
from configs.errors import ConfigError
from configs.schema import ModelConfig, TrainConfig
from tasks.train.sharding import (
    DEEPSPEED_CONFIGS,
    check_divisible,
    deepspeed_file,
    effective,
    parts_by_size,
    sharding_arguments,
    sharding_lines,
)

Record = dict[str, Any]


def test_every_word_and_offload_has_a_file_that_says_so() -> None:
    files = set()
    for stage in (1, 2, 3):
        for offload in ("none", "optimizer", *(["optimizer_and_parameters"] if stage == 3 else [])):
            path = deepspeed_file(TrainConfig(sharding=f"zero{stage}", deepspeed={"offload": offload}))
            settings = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
            assert settings["stage"] == stage
            assert ("offload_optimizer" in settings) == (offload != "none")
            assert ("offload_param" in settings) == (offload == "optimizer_and_parameters")
            files.add(path)
    assert files == set(DEEPSPEED_CONFIGS.glob("*.json"))


@pytest.mark.parametrize(
    ("sharding", "processes", "per_machine", "in_effect"),
    [
        ("fsdp_full_shard", 1, 1, "none"),
        ("fsdp_full_shard", 2, 2, "fsdp_full_shard"),
        ("fsdp_no_shard", 8, 8, "none"),
        ("fsdp_hybrid_shard", 8, 8, "fsdp_full_shard"),
        ("fsdp_hybrid_shard", 16, 8, "fsdp_hybrid_shard"),
        ("fsdp_hybrid_shard", 2, 1, "none"),
        ("tensor_parallel", 1, 1, "none"),
        ("tensor_parallel", 8, 8, "tensor_parallel"),
        ("zero3", 1, 1, "zero3"),
    ],
)
def test_a_sharding_without_anything_to_shard_falls_back_and_says_so(
    sharding: str, processes: int, per_machine: int, in_effect: str
) -> None:
    nodes = 1 if sharding == "tensor_parallel" else "1:2"
    config = TrainConfig(sharding=sharding, method="full", processes_per_node=per_machine, nodes=nodes)
    assert effective(config, processes) == in_effect
    line = sharding_lines(config, processes, num_gpus=1)[0]
    assert line.value == in_effect
    assert (line.reason == "") == (sharding == in_effect)
    assert sharding == in_effect or sharding in line.reason


def test_layers_without_several_gpus_are_said_to_stay_together() -> None:
    config = TrainConfig(sharding="layers", cluster={"gpus_per_process": 4})
    assert sharding_lines(config, 1, num_gpus=0)[0].reason == "not here: 0 GPUs; the layers stay together"
    assert sharding_lines(config, 1, num_gpus=4)[0].reason == ""


def test_a_collective_waits_as_long_as_the_config_says() -> None:
    config = TrainConfig(cluster={"collective_timeout_seconds": 77})
    assert sharding_arguments(config)["ddp_timeout"] == 77


def test_parts_by_size_are_modules_of_several_layers_without_embeddings(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    # an attention has 4 x 64 x 64 = 16,384 parameters, an MLP 3 x 64 x 128 = 24,576, a layer both and two norms
    assert parts_by_size(model, 16_384) == ["LlamaAttention", "LlamaDecoderLayer", "LlamaMLP"]
    assert parts_by_size(model, 16_385) == ["LlamaDecoderLayer", "LlamaMLP"]
    assert parts_by_size(model, 24_577) == ["LlamaDecoderLayer"]
    assert parts_by_size(model, 41_088) == ["LlamaDecoderLayer"]
    assert parts_by_size(model, 41_089) == []


@pytest.mark.parametrize(
    ("settings", "new_tokens", "words"),
    [
        ({"sharding": "tensor_parallel", "method": "full", "processes_per_node": 4}, [], "num_attention_heads=2"),
        ({"sharding": "tensor_parallel", "method": "full", "processes_per_node": 2}, [5], "new_special_tokens"),
        ({"sharding": "fsdp_full_shard", "method": "lora", "processes_per_node": 2}, [5], "peft trains single rows"),
        ({"sharding": "zero3", "method": "lora", "processes_per_node": 2}, [5], "use zero2, or train.method=full"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    settings: Record, new_tokens: list[int], words: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(**settings)
    monkeypatch.setenv("WORLD_SIZE", str(config.processes_per_node))
    with pytest.raises(ConfigError, match=words):
        check_divisible(config, ModelConfig(name="tiny"), tiny_model, new_tokens)
    check_divisible(TrainConfig(sharding="zero2"), ModelConfig(name="tiny"), tiny_model, new_tokens)


def test_an_architecture_without_a_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = TrainConfig(sharding="tensor_parallel", method="full", processes_per_node=2)
    with pytest.raises(ConfigError, match="no plan to shard the layers of gpt2"):
        check_divisible(config, ModelConfig(name="tiny"), tmp_path, [])


@pytest.mark.parametrize(("subject", "sharding"), REFUSED_SHARDING)
def test_what_was_tried_and_does_not_work_is_refused_with_the_reason(subject: str, sharding: str) -> None:
    is_objective = subject in ("rloo", "grpo")
    settings = {"objective": subject, "method": "full"} if is_objective else {"method": subject}
    with pytest.raises(ValueError, match=re.escape(REFUSED_SHARDING[subject, sharding])) as error:  # type: ignore[index]
        TrainConfig(sharding=sharding, **settings)
    assert f"train.{'objective' if is_objective else 'method'}={subject}" in str(error.value)
    TrainConfig(sharding="zero2", **settings)
