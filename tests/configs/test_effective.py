"""What is in effect, by hand: each rule of `configs.effective` on devices that are not here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT

from configs.effective import batches, kernels, lengths, numbers, training
from configs.effective.device import NOT_HERE, PLAIN_CPU, Architecture, Device, Setting
from configs.errors import ConfigError
from configs.schema import EvaluateConfig, ModelConfig, TokenizeConfig
from configs.schema.section import Section
from configs.schema.train import TrainConfig

SERVER = Device("cpu", "CPU", has_bfloat16=True)
BARE = Device("cpu", "CPU", has_bfloat16=False, has_bitsandbytes=False)
T4 = Device("gpu", "T4", has_bfloat16=False)
A100 = Device("gpu", "A100", has_bfloat16=True)
FLASH = Device("gpu", "A100", has_bfloat16=True, has_flash_attention=True, liger_model_types=frozenset({"llama"}))
LLAMA = Architecture("llama")


def train(**settings: Any) -> TrainConfig:
    return TrainConfig(**settings)


def is_fallback_of(setting: Setting[Any]) -> bool:
    """Whether the config asked for something else."""
    return setting.reason.startswith(NOT_HERE)


def efficient(**settings: Any) -> TrainConfig:
    return TrainConfig(efficiency=settings)


@pytest.mark.parametrize(
    ("device", "auto", "bfloat16"),
    [
        (PLAIN_CPU, "float32", "float32"),
        # a CPU computes in bfloat16 only where that is asked for
        (SERVER, "float32", "bfloat16"),
        (T4, "float32", "float32"),
        (A100, "bfloat16", "bfloat16"),
    ],
    ids=["CPU", "CPU with bfloat16", "T4", "A100"],
)
def test_precision_is_what_the_device_computes_in(device: Device, auto: str, bfloat16: str) -> None:
    assert numbers.precision(efficient(), device).value == auto
    assert numbers.precision(efficient(precision="bfloat16"), device).value == bfloat16
    assert numbers.precision(efficient(precision="float32"), device) == ("float32", "")
    is_missing = is_fallback_of(numbers.precision(efficient(precision="bfloat16"), device))
    assert is_missing == (not device.has_bfloat16)


@pytest.mark.parametrize(
    ("device", "loaded", "full"),
    [
        (PLAIN_CPU, "float32", "float32"),
        (SERVER, "float32", "float32"),
        (T4, "float32", "float32"),
        (A100, "bfloat16", "float32"),
    ],
)
def test_weights_are_loaded_as_the_model_section_says(device: Device, loaded: str, full: str) -> None:
    auto = ModelConfig()
    assert numbers.loaded_format(auto, device) == loaded
    assert numbers.trained_base_format(train(method="lora"), auto, device) == loaded
    assert numbers.trained_base_format(train(method="full"), auto, device) == full
    for dtype in ("float32", "bfloat16", "float16"):
        fixed = ModelConfig(dtype=dtype)
        assert numbers.loaded_format(fixed, device) == dtype
        assert numbers.trained_base_format(train(method="full"), fixed, device) == dtype


def test_layers_compute_in_16_bits_under_autocast_or_over_such_weights() -> None:
    wide = efficient(precision="float32")
    assert not numbers.computes_in_16_bits(efficient(), ModelConfig(), SERVER)
    assert numbers.computes_in_16_bits(efficient(precision="bfloat16"), ModelConfig(), SERVER)
    assert numbers.computes_in_16_bits(wide, ModelConfig(dtype="bfloat16"), SERVER)
    # the base of an adapter has 16 bits on this GPU, whatever the precision is
    assert numbers.computes_in_16_bits(wide, ModelConfig(), A100)
    assert not numbers.computes_in_16_bits(wide, ModelConfig(dtype="float32"), A100)


@pytest.mark.parametrize(
    ("wish", "method", "on_cpu", "on_gpu"),
    [
        ("auto", "lora", False, True),
        ("on", "lora", True, True),
        ("off", "lora", False, False),
        # a prefix is never computed again
        ("auto", "prefix_tuning", False, False),
        ("on", "prefix_tuning", False, False),
        ("on", "prompt_tuning", True, True),
    ],
)
def test_checkpointing(wish: str, method: str, on_cpu: bool, on_gpu: bool) -> None:
    config = train(method=method, efficiency={"gradient_checkpointing": wish})
    assert training.gradient_checkpointing(config, SERVER).value == on_cpu
    found = training.gradient_checkpointing(config, A100)
    assert found.value == on_gpu
    assert is_fallback_of(found) == (wish == "on" and not on_gpu)


@pytest.mark.parametrize(
    ("wish", "device", "settings", "processes", "chosen", "is_fallback"),
    [
        ("auto", A100, {}, 1, "adamw", False),
        ("adamw", A100, {}, 1, "adamw", False),
        ("adamw_8bit", A100, {}, 1, "adamw_8bit", False),
        ("paged_adamw_8bit", A100, {}, 1, "paged_adamw_8bit", False),
        ("paged_adamw_8bit", PLAIN_CPU, {}, 1, "adamw_8bit", True),
        ("adamw_8bit", BARE, {}, 1, "adamw", True),
        ("adamw_8bit", A100, {"sharding": "zero2", "processes_per_node": 2}, 2, "adamw_8bit", False),
        ("adamw_8bit", A100, {"sharding": "zero2", "deepspeed": {"offload": "optimizer"}}, 1, "adamw", True),
        ("adamw_8bit", A100, {"sharding": "fsdp_full_shard", "processes_per_node": 2}, 2, "adamw", True),
        # one process has nothing to shard among, and 8-bit states
        ("adamw_8bit", A100, {"sharding": "fsdp_full_shard"}, 1, "adamw_8bit", False),
        (
            "paged_adamw_8bit",
            A100,
            {"sharding": "tensor_parallel", "method": "full", "processes_per_node": 2},
            2,
            "adamw",
            True,
        ),
    ],
)
def test_the_optimizer_is_one_that_can_step_the_weights(
    wish: str, device: Device, settings: dict[str, Any], processes: int, chosen: str, is_fallback: bool
) -> None:
    found = training.optimizer(train(efficiency={"optimizer": wish}, **settings), device, processes)
    assert (found.value, is_fallback_of(found)) == (chosen, is_fallback)


@pytest.mark.parametrize(
    ("word", "processes", "per_node", "in_effect", "is_fallback"),
    [
        ("none", 8, 8, "none", False),
        ("fsdp_full_shard", 1, 1, "none", True),
        ("fsdp_full_shard", 2, 2, "fsdp_full_shard", False),
        ("fsdp_no_shard", 8, 8, "none", False),
        ("fsdp_hybrid_shard", 1, 1, "none", True),
        ("fsdp_hybrid_shard", 2, 1, "none", True),
        ("fsdp_hybrid_shard", 8, 8, "fsdp_full_shard", False),
        ("fsdp_hybrid_shard", 16, 8, "fsdp_hybrid_shard", False),
        ("tensor_parallel", 1, 1, "none", True),
        ("tensor_parallel", 8, 8, "tensor_parallel", False),
        ("zero3", 1, 1, "zero3", False),
    ],
)
def test_sharding_needs_something_to_shard_among(
    word: str, processes: int, per_node: int, in_effect: str, is_fallback: bool
) -> None:
    nodes = 1 if word == "tensor_parallel" else "1:2"
    config = train(sharding=word, method="full", processes_per_node=per_node, nodes=nodes)
    found = training.sharding(config, processes)
    assert (found.value, is_fallback_of(found)) == (in_effect, is_fallback)
    assert (found.reason == "") == (word == in_effect)


def test_layers_lie_over_gpus_and_not_over_a_cpu() -> None:
    layered = train(sharding="layers", cluster={"gpus_per_process": 4})
    assert training.num_devices(layered, 1, A100) == 4
    assert training.num_devices(layered, 1, PLAIN_CPU) == 1
    assert training.num_devices(train(processes_per_node=2), 2, A100) == 2


@pytest.mark.parametrize(
    ("settings", "processes", "groups"),
    [
        ({}, 1, 1),
        ({"processes_per_node": 8, "nodes": 2}, 16, 16),
        ({"processes_per_node": 8, "sharding": "fsdp_hybrid_shard", "nodes": 2}, 16, 16),
        ({"processes_per_node": 4, "sharding": "tensor_parallel", "method": "full"}, 4, 1),
        ({"sharding": "layers", "cluster": {"gpus_per_process": 4}}, 1, 1),
    ],
)
def test_processes_of_one_model_see_the_same_rows(settings: dict[str, Any], processes: int, groups: int) -> None:
    assert batches.data_parallel_size(train(**settings), processes) == groups


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"batch_size": 16}, 8),
        ({"batch_size": 6}, 6),
        # 12 rows for each of two processes
        ({"batch_size": 24, "processes_per_node": 2}, 6),
        # of a range the most machines: 12 rows for each of five
        ({"batch_size": 60, "nodes": "1:5"}, 6),
        # both processes see all four rows
        ({"batch_size": 4, "processes_per_node": 2, "sharding": "tensor_parallel", "method": "full"}, 4),
        # KTO compares rows: no pass of one
        ({"batch_size": 4, "objective": "kto", "nodes": 2}, 2),
        # nothing divides: an error of its own
        ({"batch_size": 5, "processes_per_node": 2}, 8),
        ({"batch_size": 5, "objective": "kto", "nodes": 5}, 8),
        ({"batch_size": 5, "objective": "kto", "kto": {"loss": "apo_zero_unpaired"}, "nodes": 5}, 1),
        ({"batch_size": 16, "micro_batch_size": 16}, 16),
    ],
)
def test_the_micro_batch_is_the_most_rows_up_to_8_that_divide(settings: dict[str, Any], rows: int) -> None:
    assert train(**settings).micro_batch == rows


def test_kto_compares_rows_of_a_pass() -> None:
    own, other = train(objective="kto"), train(objective="kto", kto={"loss": "apo_zero_unpaired"})
    assert (batches.fewest_rows(own), batches.compares_rows(own)) == (2, True)
    assert (batches.fewest_rows(other), batches.compares_rows(other)) == (1, False)
    assert batches.fewest_rows(train(objective="dpo")) == 1
    assert batches.divides_batch(own, 2, 8) and not batches.divides_batch(own, 1, 16)
    with pytest.raises(ValueError, match="micro_batch_size=1: kto estimates"):
        train(objective="kto", micro_batch_size=1)


def test_passes_make_up_the_batch() -> None:
    config = train(batch_size=24, micro_batch_size=4)
    assert batches.accumulation(config, 3) == 2
    with pytest.raises(ConfigError, match="micro_batch_size x processes = 20"):
        batches.accumulation(config, 5)


@pytest.mark.parametrize(
    ("objective", "kl", "compares"),
    [
        ("sft", 0.1, False),
        ("cpt", 0.1, False),
        ("reward", 0.1, False),
        ("dpo", 0.0, True),
        ("kto", 0.0, True),
        ("rloo", 0.0, False),
        ("rloo", 0.1, True),
        ("grpo", 0.0, False),
        ("grpo", 0.1, True),
    ],
)
def test_which_objectives_have_a_reference(objective: str, kl: float, compares: bool) -> None:
    assert training.has_reference(train(objective=objective, policy={"kl_coefficient": kl})) == compares


@pytest.mark.parametrize(
    ("settings", "rows", "steps"),
    [
        ({"max_steps": 7}, 0, 7),
        ({}, 100, 7),
        ({"epochs": 2}, 17, 4),
        ({"epochs": 0.5}, 100, 4),
        ({"epochs": 0.01}, 160, 1),
        # 16 answers are 4 prompts
        ({"objective": "rloo"}, 80, 20),
        ({"objective": "rloo"}, 83, 20),
        ({"objective": "grpo", "policy": {"num_iterations": 2}, "epochs": 1.5}, 80, 60),
    ],
)
def test_steps(settings: dict[str, Any], rows: int, steps: int) -> None:
    assert training.optimizer_steps(train(batch_size=16, **settings), rows) == steps


@pytest.mark.parametrize(
    ("settings", "processes", "kept", "is_whole"),
    [
        ({}, 1, "best", False),
        ({"watch": {"keep": "last"}}, 1, "last", False),
        ({"watch": {"evaluations": 0}}, 1, "last", False),
        ({"sharding": "zero2"}, 1, "best", True),
        ({"sharding": "zero2", "nodes": 2}, 2, "last", True),
        ({"sharding": "fsdp_full_shard"}, 1, "best", False),
        ({"sharding": "fsdp_full_shard", "processes_per_node": 2}, 2, "best", True),
        ({"sharding": "fsdp_no_shard", "nodes": 2}, 2, "best", False),
        ({"sharding": "tensor_parallel", "method": "full", "processes_per_node": 2}, 2, "last", False),
    ],
)
def test_which_weights_are_kept(settings: dict[str, Any], processes: int, kept: str, is_whole: bool) -> None:
    config = train(**settings)
    assert training.kept_weights(config, True, processes).value == kept
    assert training.kept_weights(config, False, processes).value == "last"
    assert training.saves_whole_state(config, processes) == is_whole


@pytest.mark.parametrize(
    ("max_length", "positions", "tokens"),
    [(None, None, 2048), (None, 1024, 1024), (None, 2048, 2048), (None, 131072, 2048), (512, 1024, 512), (9, None, 9)],
)
def test_a_row_is_as_long_as_the_model_allows_and_at_most_2048(
    max_length: int | None, positions: int | None, tokens: int
) -> None:
    assert lengths.longest_row(max_length, positions) == tokens


def test_positions_have_two_names() -> None:
    assert lengths.positions_of({"max_position_embeddings": 4096}) == 4096
    assert lengths.positions_of({"n_positions": 1024}) == 1024
    assert lengths.positions_of({}) is None


def test_what_is_said_of_the_defaults_is_what_they_are() -> None:
    def said(section: type[Section], field: str) -> str:
        return section.model_fields[field].description or ""

    assert "at most 2048" in said(TokenizeConfig, "max_length")
    assert "at most 512" in said(EvaluateConfig, "max_new_tokens")
    assert "at most 32" in said(EvaluateConfig, "batch_size")
    assert "at most 8" in said(TrainConfig, "micro_batch_size")
    assert EvaluateConfig().rows_per_pass == 32


@pytest.mark.parametrize(
    ("wish", "device", "architecture", "is_16_bit", "chosen", "is_fallback"),
    [
        ("auto", FLASH, LLAMA, True, "flash_attention_2", False),
        ("auto", A100, LLAMA, True, "sdpa", False),
        ("flash_attention_2", A100, LLAMA, True, "sdpa", True),
        ("flash_attention_2", FLASH, LLAMA, False, "sdpa", True),
        ("auto", PLAIN_CPU, Architecture("bloom", has_sdpa=False), False, "eager", False),
        ("sdpa", PLAIN_CPU, Architecture("bloom", has_sdpa=False), False, "eager", True),
        ("eager", FLASH, LLAMA, True, "eager", False),
        ("auto", PLAIN_CPU, Architecture("own", False, False, False), False, None, False),
        ("sdpa", PLAIN_CPU, Architecture("own", False, False, False), False, "sdpa", False),
    ],
)
def test_attention(
    wish: str, device: Device, architecture: Architecture, is_16_bit: bool, chosen: str | None, is_fallback: bool
) -> None:
    found = kernels.attention(ModelConfig(attn_implementation=wish), device, architecture, is_16_bit)
    assert (found.value, is_fallback_of(found)) == (chosen, is_fallback)


def test_fused_kernels_need_a_gpu_and_a_known_model() -> None:
    assert kernels.liger(train(), FLASH, "llama").value
    assert kernels.liger(train(), FLASH, "gpt2") == (False, f"{NOT_HERE}Liger does not know gpt2")
    assert kernels.liger(train(), PLAIN_CPU, "llama") == (False, "auto: for GPUs")
    assert kernels.liger(efficient(kernels="off"), FLASH, "llama") == Setting(False)


def test_activations_wait_in_host_memory_for_a_gpu_only() -> None:
    wish = {"efficiency": {"activation_offload": True}}
    assert kernels.activation_offload(train(**wish), A100).value
    assert is_fallback_of(kernels.activation_offload(train(**wish), PLAIN_CPU))
    assert is_fallback_of(kernels.activation_offload(train(objective="grpo", **wish), A100))
    assert kernels.activation_offload(train(), A100) == (False, "")


def test_the_package_is_light() -> None:
    names = ("batches", "device", "kernels", "lengths", "numbers", "training")
    loads = ", ".join(f"configs.effective.{name}" for name in names)
    script = f"import sys, {loads}; print(*({{'torch', 'transformers', 'flytekit', 'numpy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
