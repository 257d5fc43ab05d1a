"""What training would use on devices that are not here, and that what is asked for and missing is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TrainingArguments

from configs.effective.device import Device
from configs.schema import ModelConfig, TrainConfig
from tasks.train.choices import Choices, Hardware, choose, detect, log_lines

LAPTOP = Hardware(Device("cpu", "CPU", has_bfloat16=False, has_compiler=True))
BARE = Hardware(Device("cpu", "CPU", has_bfloat16=False, has_bitsandbytes=False))
T4 = Hardware(
    Device(
        "gpu",
        "Tesla T4",
        has_bfloat16=False,
        has_flash_attention=True,
        liger_model_types=frozenset({"llama"}),
        has_compiler=True,
    )
)
A100 = Hardware(
    Device(
        "gpu",
        "A100",
        has_bfloat16=True,
        has_flash_attention=True,
        liger_model_types=frozenset({"llama", "qwen2"}),
        has_compiler=True,
    )
)
H100 = Hardware(Device("gpu", "H100", has_bfloat16=True, has_compiler=True))

EVERYTHING = {
    "precision": "bfloat16",
    "gradient_checkpointing": "on",
    "optimizer": "paged_adamw_8bit",
    "compile": True,
    "activation_offload": True,
}
EFFECTIVE = (
    "bf16",
    "attn_implementation",
    "gradient_checkpointing",
    "optim",
    "use_liger_kernel",
    "torch_compile",
    "activation_offloading",
)


def chosen(
    hardware: Hardware,
    attention: str = "auto",
    model_type: str = "llama",
    is_packed: bool = False,
    efficiency: dict | None = None,
    **settings: object,
) -> Choices:
    config = TrainConfig(**settings, efficiency=efficiency or {})
    return choose(config, ModelConfig(attn_implementation=attention), hardware, is_packed, model_type)


def effective(choices: Choices) -> tuple:
    return tuple(getattr(choices, name) for name in EFFECTIVE)


def reason(choices: Choices, name: str) -> str:
    return next(line.reason for line in choices.lines if line.name == name)


@pytest.mark.parametrize(
    ("hardware", "by_default", "with_everything"),
    [
        (
            LAPTOP,
            (False, "sdpa", False, "adamw_torch_fused", False, False, False),
            (False, "sdpa", True, "adamw_bnb_8bit", False, True, False),
        ),
        (
            BARE,
            (False, "sdpa", False, "adamw_torch_fused", False, False, False),
            (False, "sdpa", True, "adamw_torch_fused", False, False, False),
        ),
        (
            T4,
            (False, "sdpa", True, "adamw_torch_fused", True, False, False),
            (False, "sdpa", True, "paged_adamw_8bit", True, True, True),
        ),
        (
            A100,
            (True, "flash_attention_2", True, "adamw_torch_fused", True, False, False),
            (True, "flash_attention_2", True, "paged_adamw_8bit", True, True, True),
        ),
        (
            H100,
            (True, "sdpa", True, "adamw_torch_fused", False, False, False),
            (True, "sdpa", True, "paged_adamw_8bit", False, True, True),
        ),
    ],
    ids=["laptop", "laptop with nothing installed", "T4", "A100", "H100 without Liger"],
)
def test_each_device_gets_what_it_has(hardware: Hardware, by_default: tuple, with_everything: tuple) -> None:
    assert effective(chosen(hardware)) == by_default
    assert effective(chosen(hardware, efficiency=EVERYTHING)) == with_everything


@pytest.mark.parametrize(
    ("hardware", "settings", "name", "words"),
    [
        (LAPTOP, {"efficiency": {"precision": "bfloat16"}}, "precision", "CPU does not compute in bfloat16"),
        (T4, {"efficiency": {"precision": "bfloat16"}}, "precision", "Tesla T4 does not compute in bfloat16"),
        (LAPTOP, {"attention": "flash_attention_2"}, "attention", "flash-attn needs a GPU"),
        (H100, {"attention": "flash_attention_2"}, "attention", "flash-attn is not installed"),
        (T4, {"attention": "flash_attention_2"}, "attention", "flash-attn computes in 16 bits"),
        (
            A100,
            {"attention": "flash_attention_2", "efficiency": {"precision": "float32"}},
            "attention",
            "flash-attn computes in 16 bits",
        ),
        (
            A100,
            {"attention": "flash_attention_2", "model_type": "mamba"},
            "attention",
            "not supported by the architecture",
        ),
        (A100, {"attention": "sdpa", "model_type": "bloom"}, "attention", "bloom has no sdpa"),
        (
            A100,
            {"method": "prefix_tuning", "efficiency": {"gradient_checkpointing": "on"}},
            "gradient checkpointing",
            "a prefix is lost",
        ),
        (BARE, {"efficiency": {"optimizer": "adamw_8bit"}}, "optimizer", "bitsandbytes is not installed"),
        (LAPTOP, {"efficiency": {"optimizer": "paged_adamw_8bit"}}, "optimizer", "only GPU memory is paged"),
        (H100, {}, "Liger kernels", "liger-kernel is not installed"),
        (A100, {"model_type": "gpt2"}, "Liger kernels", "Liger does not know gpt2"),
        (BARE, {"efficiency": {"compile": True}}, "torch.compile", "needs a C++ compiler"),
        (LAPTOP, {"efficiency": {"activation_offload": True}}, "activation offload", "needs a GPU"),
        (
            A100,
            {"objective": "grpo", "efficiency": {"activation_offload": True}},
            "activation offload",
            "TRL's trainer of grpo",
        ),
    ],
)
def test_what_is_asked_for_and_missing_is_said(hardware: Hardware, settings: dict, name: str, words: str) -> None:
    choices = chosen(hardware, **settings)
    assert reason(choices, name).startswith("not here: ")
    assert words in reason(choices, name)
    assert [line for line in log_lines(choices)[1:] if line.startswith(name) and words in line]


@pytest.mark.parametrize("hardware", [LAPTOP, BARE, A100], ids=["laptop", "bare", "A100"])
def test_nothing_is_missing_that_was_not_asked_for(hardware: Hardware) -> None:
    assert len(log_lines(chosen(hardware))) == 1


def test_what_is_asked_for_and_there_needs_no_reason() -> None:
    choices = chosen(A100, attention="flash_attention_2", efficiency={**EVERYTHING, "optimizer": "adamw_8bit"})
    assert choices.optim == "adamw_bnb_8bit"
    for name in ("precision", "attention", "gradient checkpointing", "optimizer", "torch.compile"):
        assert reason(choices, name) == ""


def test_what_was_left_open_has_a_reason() -> None:
    for hardware in (LAPTOP, T4, A100):
        choices = chosen(hardware)
        for name in ("precision", "attention", "gradient checkpointing", "optimizer", "Liger kernels"):
            assert reason(choices, name).startswith("auto: ")


def test_a_bfloat16_that_a_cpu_computes_is_used_only_when_asked_for() -> None:
    server = Hardware(Device("cpu", "CPU", has_bfloat16=True))
    assert not chosen(server).bf16
    assert chosen(server, efficiency={"precision": "bfloat16"}).bf16


def test_off_is_off() -> None:
    off = {"precision": "float32", "gradient_checkpointing": "off", "kernels": "off"}
    choices = chosen(A100, attention="eager", efficiency=off)
    assert effective(choices) == (False, "eager", False, "adamw_torch_fused", False, False, False)
    assert "Liger" not in log_lines(choices)[0]


@pytest.mark.parametrize(
    ("model_type", "attention", "implementation"),
    [
        ("llama", "auto", "sdpa"),
        ("bloom", "auto", "eager"),
        ("llama", "eager", "eager"),
        ("made-up", "auto", None),
        ("made-up", "eager", "eager"),
        ("made-up", "flash_attention_2", None),
    ],
)
def test_attention_is_one_that_the_architecture_has(
    model_type: str, attention: str, implementation: str | None
) -> None:
    assert chosen(LAPTOP, attention=attention, model_type=model_type).attn_implementation == implementation


def test_a_prefix_is_never_recomputed() -> None:
    assert chosen(A100, method="prompt_tuning").gradient_checkpointing
    choices = chosen(A100, method="prefix_tuning")
    assert not choices.gradient_checkpointing
    assert reason(choices, "gradient checkpointing").startswith("auto: ")


EIGHT = replace(A100, num_processes=8, num_gpus=1)


def test_deepspeed_is_given_an_optimizer_that_is_not_fused() -> None:
    assert chosen(EIGHT, sharding="zero2").optim == "adamw_torch"
    assert chosen(EIGHT, sharding="zero2", efficiency={"optimizer": "adamw_8bit"}).optim == "adamw_bnb_8bit"
    offloaded = chosen(EIGHT, sharding="zero2", deepspeed={"offload": "optimizer"})
    assert (offloaded.optim, reason(offloaded, "optimizer")) == ("adamw_torch", "auto: DeepSpeed's own, on the CPU")


@pytest.mark.parametrize(
    ("settings", "optim", "words"),
    [
        ({"sharding": "fsdp_full_shard", "processes_per_node": 8}, "adamw_torch_fused", "weights that fsdp_full_shard"),
        ({"sharding": "tensor_parallel", "method": "full", "processes_per_node": 8}, "adamw_torch", "tensor_parallel"),
        (
            {"sharding": "zero2", "deepspeed": {"offload": "optimizer"}},
            "adamw_torch",
            "offloaded weights with its own AdamW",
        ),
    ],
)
def test_8_bit_states_of_divided_or_offloaded_weights_are_said_not_to_be(
    settings: dict, optim: str, words: str
) -> None:
    choices = chosen(EIGHT, efficiency={"optimizer": "adamw_8bit"}, **settings)
    assert choices.optim == chosen(EIGHT, **settings).optim == optim
    assert reason(choices, "optimizer").startswith("not here: ")
    assert words in reason(choices, "optimizer")


def test_how_the_model_is_divided_is_in_the_report() -> None:
    def divided(**settings: object) -> dict[str, str]:
        lines = chosen(
            replace(A100, num_processes=16, num_gpus=1), processes_per_node=8, nodes=2, batch_size=128, **settings
        ).lines
        assert [line.name for line in lines[11:13]] == ["processes", "sharding"]
        assert (lines[11].value, lines[11].reason) == ("16 on 2 machines", "128 rows a step, 128 at a time")
        return {line.name: line.value for line in lines[12:]}

    assert divided() == {"sharding": "none"}
    assert divided(sharding="fsdp_hybrid_shard") == {
        "sharding": "fsdp_hybrid_shard",
        "gathered at once": "layer by layer",
        "mesh": "2 copies x 8 parts",
    }
    by_size = divided(sharding="fsdp_full_shard", fsdp={"wrap": "size"})
    assert by_size["gathered at once"] == "of at least 100,000,000 parameters"
    assert divided(sharding="zero3", deepspeed={"offload": "optimizer_and_parameters"}) == {
        "sharding": "zero3",
        "DeepSpeed file": "zero3_offload_optimizer_and_parameters.json",
        "in host memory": "optimizer and parameters",
    }
    assert divided(sharding="zero2", deepspeed={"config": "my.json"})["DeepSpeed file"] == "my.json"


@pytest.mark.parametrize("objective", ["sft", "reward"])
def test_ligers_own_loss_never_replaces_the_models_forward(objective: str) -> None:
    assert chosen(A100, objective=objective).liger_kernel_config == {"fused_linear_cross_entropy": False}
    assert chosen(LAPTOP, objective=objective).liger_kernel_config is None


def test_the_first_line_of_the_log_is_all_that_is_in_effect() -> None:
    assert log_lines(chosen(A100, is_packed=True)) == [
        "training with device A100, precision bfloat16, attention flash_attention_2, gradient checkpointing on, "
        "optimizer adamw_torch_fused, Liger kernels on, loss memory-lean, batches of like length, packing on, "
        "processes 1, sharding none"
    ]


def test_a_reward_model_has_no_loss_over_a_vocabulary() -> None:
    lines = {line.name: line.value for line in chosen(A100, objective="reward").lines}
    assert lines["loss"] == "of scores"


def test_packing_on_a_cpu_is_said_to_be_slower() -> None:
    assert "slower on a CPU" in reason(chosen(LAPTOP, is_packed=True), "packing")
    assert reason(chosen(LAPTOP), "packing") == ""


def test_every_chosen_optimizer_is_one_that_transformers_knows() -> None:
    for optimizer in ("auto", "adamw", "adamw_8bit", "paged_adamw_8bit"):
        TrainingArguments(optim=chosen(A100, efficiency={"optimizer": optimizer}).optim)


def test_this_machine_is_described_as_it_is() -> None:
    hardware = detect()
    assert hardware.device.is_gpu == torch.cuda.is_available()
    assert chosen(hardware).optim == "adamw_torch_fused"
    if not hardware.device.is_gpu:
        assert not hardware.device.liger_model_types
        assert not hardware.device.has_flash_attention


def test_an_8_bit_optimizer_steps_on_this_machine_and_keeps_two_bytes_for_each_weight() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    # below 4,096 numbers bitsandbytes keeps 32 bits
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=0.01, weight_decay=0.0)
    before = weight.detach().clone()
    weight.sum().backward()
    optimizer.step()
    # a gradient of 1 everywhere: Adam's first step is the learning rate
    torch.testing.assert_close(weight.detach(), before - 0.01, atol=1e-4, rtol=0)
    states = optimizer.state[weight]
    assert states["state1"].dtype == states["state2"].dtype == torch.uint8
