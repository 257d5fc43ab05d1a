"""However the model is divided, by real processes, the loss, the gradient and the saved weights are those of DDP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
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

pytest.importorskip("deepspeed")
Record = dict[str, Any]

# Sums in another order differ by some 1e-7 of their size, and three steps of AdamW, each of 1e-3, blow that up to 6e-6
# in a weight whose gradient is near 0. A gradient that is not averaged is off by hundreds of times these tolerances.
LOSS, WEIGHT, NORM = 1e-5, 2e-5, 1e-4
# of both processes together: vocabulary 258 x 64, and two layers of four 64 x 64, three 64 x 128, and norms
PARAMETERS = 258 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64

FULL, LORA = {"method": "full"}, {"method": "lora"}
RECOMPUTED = {"efficiency": {"gradient_checkpointing": "on"}}
BFLOAT16 = {"efficiency": {"precision": "bfloat16", "gradient_checkpointing": "on"}}
BY_SIZE = {"fsdp": {"wrap": "size", "min_parameters": 20_000}}
# a rate at which the held-out loss is lowest after the first step
OVERFIT = {"objective": "dpo", "learning_rate": 0.02, "watch": {"evaluations": 3}}
BOTH_SEE = {"micro_batch_size": 2}  # rows of one pass are those of both processes
OWN_JSON = json.dumps(
    {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 5000, "allgather_bucket_size": 5000},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
    }
)
TWO: dict[str, Record] = {
    "none": FULL,
    "none-lora": LORA,
    "none-dpo": {"objective": "dpo"},
    "none-best": OVERFIT,
    "none-best-lora": {**OVERFIT, **LORA, "learning_rate": 0.3},
    "none-bfloat16": BFLOAT16,
    "none-qlora": {"method": "qlora"},
    "none-prompt": {"method": "prompt_tuning"},
    "not-averaged": {"averaged": False},
    "fsdp_no_shard": {"sharding": "fsdp_no_shard"},
    "fsdp_full_shard": {"sharding": "fsdp_full_shard"},
    "fsdp_full_shard-lora": {"sharding": "fsdp_full_shard", **LORA, **RECOMPUTED},
    "fsdp_full_shard-dpo": {"sharding": "fsdp_full_shard", "objective": "dpo"},
    "fsdp_full_shard-best": {"sharding": "fsdp_full_shard", **OVERFIT},
    "fsdp_full_shard-best-lora": {"sharding": "fsdp_full_shard", **OVERFIT, **LORA, **RECOMPUTED, "learning_rate": 0.3},
    "fsdp_full_shard-bfloat16": {"sharding": "fsdp_full_shard", **BFLOAT16},
    "fsdp_shard_grad_op": {"sharding": "fsdp_shard_grad_op", **RECOMPUTED},
    "fsdp_shard_grad_op-lora": {"sharding": "fsdp_shard_grad_op", **LORA},
    "fsdp-by-size": {"sharding": "fsdp_full_shard", **BY_SIZE},
    "fsdp-by-size-lora": {"sharding": "fsdp_full_shard", **LORA, **BY_SIZE},
    "tensor_parallel": {"sharding": "tensor_parallel", **BOTH_SEE},
    "tensor_parallel-dpo": {"sharding": "tensor_parallel", "objective": "dpo", **BOTH_SEE},
    "tensor_parallel-best": {"sharding": "tensor_parallel", **OVERFIT, **BOTH_SEE},
    "tensor_parallel-prompt": {"sharding": "tensor_parallel", "method": "prompt_tuning", **BOTH_SEE},
    "zero1": {"sharding": "zero1"},
    "zero1-lora": {"sharding": "zero1", **LORA},
    "zero2": {"sharding": "zero2"},
    "zero2-lora": {"sharding": "zero2", **LORA},
    "zero2-qlora": {"sharding": "zero2", "method": "qlora"},
    "zero2-own": {"sharding": "zero2", "deepspeed": {"config": "my.json"}, "deepspeed_json": OWN_JSON},
    "zero2-bfloat16": {"sharding": "zero2", **BFLOAT16},
    "zero3": {"sharding": "zero3"},
    "zero3-lora": {"sharding": "zero3", **LORA, **RECOMPUTED},
    "zero3-best": {"sharding": "zero3", **OVERFIT},
    "zero3-prompt": {"sharding": "zero3", "method": "prompt_tuning"},
    "zero3-bfloat16": {"sharding": "zero3", **BFLOAT16},
}
ON_TWO_MACHINES = {"sharding": "fsdp_hybrid_shard", "nodes": 2, "processes_per_node": 2}
FOUR: dict[str, Record] = {
    "none": FULL,
    "none-lora": LORA,
    "fsdp_hybrid_shard": ON_TWO_MACHINES,
    "fsdp_hybrid_shard-lora": {**ON_TWO_MACHINES, **LORA},
}
OFFLOADED: dict[str, Record] = {
    "zero2-offload": {"sharding": "zero2", "deepspeed": {"offload": "optimizer"}},
    "zero3-offload": {"sharding": "zero3", "deepspeed": {"offload": "optimizer_and_parameters"}},
    "zero3-offload-lora": {"sharding": "zero3", **LORA, "deepspeed": {"offload": "optimizer_and_parameters"}},
}


def launch(num_processes: int, cases: dict[str, Record], model: Path, tokens: Path, output: Path) -> Path:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    result = subprocess.run(
        [*command, str(ROOT / "tests/sharded_runs.py"), json.dumps(cases), *map(str, (model, tokens, output))],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-4000:]
    return output


@pytest.fixture(scope="module")
def two(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(2, TWO, tiny_model, answers, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(4, FOUR, tiny_model, answers, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def offloaded(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(2, OFFLOADED, tiny_model, answers, tmp_path_factory.mktemp("offloaded"))


def record(output: Path, name: str, rank: int = 0) -> Record:
    return json.loads((output / f"{name}.{rank}.json").read_text())


def weights(output: Path, name: str) -> dict[str, torch.Tensor]:
    files = sorted((output / name).glob("*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def like(name: str) -> str:
    """Return the case of DDP that trains the same."""
    kind = name.partition("-")[2].removeprefix("by-size").removeprefix("own").removeprefix("offload").strip("-")
    return f"none-{kind}" if kind else "none"


def assert_same(found: Path, wanted: Path, name: str, loss: float = LOSS, weight: float = WEIGHT) -> None:
    one, other = record(found, name), record(wanted, like(name))
    assert len(one["losses"]) == 3
    assert one["losses"] == pytest.approx(other["losses"], abs=loss)
    assert one["norms"] == pytest.approx(other["norms"], rel=10 * loss)
    assert one["held_out"] == pytest.approx(other["held_out"], abs=5 * loss)
    assert (one["parameters"], one["trainable"]) == (other["parameters"], other["trainable"])
    saved, expected = weights(found, name), weights(wanted, like(name))
    assert saved.keys() == expected.keys()
    for key, tensor in expected.items():
        assert saved[key].dtype == tensor.dtype
        torch.testing.assert_close(saved[key], tensor, atol=weight, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


SAME = [name for name in TWO if not name.startswith("no") and "-best" not in name and "bfloat16" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_a_divided_model_trains_and_is_saved_as_one_that_is_not(name: str, two: Path) -> None:
    assert_same(two, two, name)


@pytest.mark.slow
def test_gradients_that_are_not_averaged_would_be_seen(two: Path) -> None:
    one, other = record(two, "not-averaged"), record(two, "none")
    assert max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True)) > 100 * LOSS
    assert max(abs(a / b - 1) for a, b in zip(one["norms"], other["norms"], strict=True)) > 100 * NORM
    saved, expected = weights(two, "not-averaged"), weights(two, "none")
    assert max(float((saved[key] - expected[key]).abs().max()) for key in expected) > 50 * WEIGHT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_hybrid_shard", "fsdp_hybrid_shard-lora"])
def test_two_machines_of_two_processes_hold_a_copy_each(name: str, four: Path) -> None:
    assert_same(four, four, name)
    assert record(four, name)["choices"]["mesh"] == "2 copies x 2 parts"
    if name == "fsdp_hybrid_shard":
        held = [record(four, name, rank)["parameters_held"] for rank in range(4)]
        assert held[0] + held[1] == held[2] + held[3] == PARAMETERS


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLOADED)
def test_offloaded_states_and_parameters_change_nothing(name: str, offloaded: Path, two: Path) -> None:
    assert_same(offloaded, two, name)
    held = record(offloaded, name)["choices"]["in host memory"]
    assert held == ("optimizer" if name == "zero2-offload" else "optimizer and parameters")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard-bfloat16", "zero2-bfloat16", "zero3-bfloat16"])
def test_mixed_precision_saves_the_32_bit_weights(name: str, two: Path) -> None:
    # 8 bits of mantissa: steps differ in the third digit, and Adam's first ones by up to their size
    assert_same(two, two, name, loss=3e-3, weight=4e-3)
    saved = weights(two, name)["model.layers.0.mlp.up_proj.weight"]
    assert saved.dtype == torch.float32
    assert not torch.equal(saved, saved.bfloat16().float())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard-best", "fsdp_full_shard-best-lora", "zero3-best"])
def test_the_best_weights_are_loaded_back_into_a_divided_model(name: str, two: Path) -> None:
    best = record(two, like(name))
    assert best["best_step"] == record(two, name)["best_step"] == 1 < len(best["losses"])
    assert best["held_out"][0] < min(best["held_out"][1:])
    assert_same(two, two, name, weight=1e-4)
    assert not list((two / name).glob("checkpoint-*"))


@pytest.mark.slow
def test_held_out_rows_count_once_where_both_processes_see_them(two: Path) -> None:
    one, other = record(two, "tensor_parallel-best"), record(two, "none-best")
    assert one["held_out"] == pytest.approx(other["held_out"], abs=1e-4)
    assert one["best_step"] is None
    assert one["choices"]["weights kept"] == "last"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "states"),
    [
        ("none", 1.0, 1.0),
        ("fsdp_no_shard", 1.0, 1.0),
        ("zero1", 1.0, 0.5),
        ("zero2", 1.0, 0.5),
        ("zero2-own", 1.0, 0.5),
        ("zero3", 0.5, 0.5),
        ("fsdp_full_shard", 0.5, 0.5),
        ("fsdp_shard_grad_op", 0.5, 0.5),
        ("fsdp-by-size", 0.5, 0.5),
        # all matrices; the norms, 5 x 64 numbers, are whole
        ("tensor_parallel", (PARAMETERS + 5 * 64) / 2 / PARAMETERS, (PARAMETERS + 5 * 64) / 2 / PARAMETERS),
    ],
)
def test_each_process_holds_its_part_only(name: str, parameters: float, states: float, two: Path) -> None:
    seen = record(two, name)
    # DeepSpeed pads a part to a multiple of some numbers
    assert seen["parameters_held"] == pytest.approx(parameters * PARAMETERS, rel=2e-3)
    assert seen["states_held"] == pytest.approx(states * PARAMETERS, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard", "tensor_parallel", "zero3", "zero1"])
def test_a_saved_model_loads_by_itself_and_has_tied_weights_once(name: str, two: Path) -> None:
    assert "lm_head.weight" not in weights(two, name)
    model, found = AutoModelForCausalLM.from_pretrained(two / name, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(two / "none")
    asked = torch.tensor([[40, 41, 42, 43]])
    with torch.no_grad():
        torch.testing.assert_close(model(asked).logits, expected(asked).logits, atol=1e-4, rtol=0)
    assert "distributed_config" not in json.loads((two / name / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard-lora", "zero3-lora", "zero2-qlora", "tensor_parallel-prompt"])
def test_a_saved_adapter_fits_its_base(name: str, two: Path, tiny_model: Path) -> None:
    asked = torch.tensor([[40, 41, 42, 43]])
    logits = []
    for each in (name, like(name)):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        base = model(asked).logits.detach()
        adapted = peft.PeftModel.from_pretrained(model, two / each)
        logits.append(adapted(asked).logits.detach())
        assert not torch.allclose(logits[-1][:, -4:], base, atol=1e-4)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


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
    ("word", "processes", "each", "in_effect"),
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
def test_what_has_nothing_to_divide_falls_back_and_says_so(
    word: str, processes: int, each: int, in_effect: str
) -> None:
    nodes = 1 if word == "tensor_parallel" else "1:2"
    config = TrainConfig(sharding=word, method="full", processes_per_node=each, nodes=nodes)
    assert effective(config, processes) == in_effect
    line = sharding_lines(config, processes, num_gpus=1)[0]
    assert line.value == in_effect
    assert (line.reason == "") == (word == in_effect)
    assert word == in_effect or word in line.reason


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
    with pytest.raises(ConfigError, match="no plan to divide the layers of gpt2"):
        check_divisible(config, ModelConfig(name="tiny"), tmp_path, [])


@pytest.mark.parametrize(("subject", "sharding"), REFUSED_SHARDING)
def test_what_was_tried_and_does_not_work_is_refused_with_the_reason(subject: str, sharding: str) -> None:
    is_objective = subject in ("rloo", "grpo")
    settings = {"objective": subject, "method": "full"} if is_objective else {"method": subject}
    with pytest.raises(ValueError, match=re.escape(REFUSED_SHARDING[subject, sharding])) as error:  # type: ignore[index]
        TrainConfig(sharding=sharding, **settings)
    assert f"train.{'objective' if is_objective else 'method'}={subject}" in str(error.value)
    TrainConfig(sharding="zero2", **settings)
