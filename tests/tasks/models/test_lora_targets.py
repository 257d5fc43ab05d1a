"""Which layers get a LoRA adapter: routers only by name, and the plan counts what peft makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from support.tiny_families import FAMILIES, settings_of, tiny_model_of

from configs.schema import ModelConfig, TrainConfig
from tasks.models.lora_targets import left_alone, router_paths
from tasks.plan.shapes.counted_shapes import count_shape
from tasks.train.methods import adapter_config, check_method, method_notes, trainable_model

ROUTERS = {
    "llama": set(),
    "gpt2": set(),
    "falcon": set(),
    "phi": set(),
    "mixtral": {"mlp.gate"},
    "qwen3_moe": {"mlp.gate"},
    "qwen2_moe": {"mlp.gate", "mlp.shared_expert_gate"},
    "gpt_oss": {"mlp.router"},
    "hunyuan_v1_moe": {"mlp.gate.wg"},
    "jetmoe": {"mlp.router.layer", "self_attention.experts.router.layer"},
}


def adapted(family: str, targets: list[str], **changes: Any) -> tuple[set[str], int]:
    """Return the paths of the adapters within a layer, and the number of trained parameters, for rank 1."""
    config = TrainConfig.model_validate({"method": "lora", "lora": {"rank": 1, "target_modules": targets}})
    with torch.device("meta"):
        model = tiny_model_of(family, **changes)
        check_method(config, model)
        tuned = get_peft_model(model, adapter_config(config, model, []))
    trained = {name: weight.numel() for name, weight in tuned.named_parameters() if weight.requires_grad}
    paths = {name.partition(".lora_")[0].split(".layers.0.")[-1] for name in trained if ".layers.0." in name}
    return paths, sum(trained.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_are_found_beside_the_experts(family: str) -> None:
    with torch.device("meta"):
        model = tiny_model_of(family)
    paths = router_paths(model)
    assert {path.partition("layers.0.")[2] for path in paths if "layers.0." in path} == ROUTERS[family]
    assert len(paths) == 2 * len(ROUTERS[family])
    assert bool(left_alone(model, ["all-linear"])) == bool(ROUTERS[family])
    assert left_alone(model, ["q_proj"]) == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_adapts_no_router_and_is_counted_as_it_is_made(family: str) -> None:
    paths, trained = adapted(family, ["all-linear"])
    assert not paths & ROUTERS[family]
    targeted = count_shape(settings_of(family), "m", has_activations=False).targeted(["all-linear"])
    assert trained == sum(linear.count * (linear.inputs + linear.outputs) for linear in targeted)
    assert trained > 0


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("mixtral", ["gate"]),
        ("mixtral", ["q_proj", "gate"]),
        ("mixtral", ["all-linear", "gate"]),
        ("mixtral", ["w1", "w3"]),
        ("qwen2_moe", ["q_proj", "shared_expert_gate"]),
        ("qwen2_moe", ["all-linear", "shared_expert_gate"]),
        ("hunyuan_v1_moe", ["wg"]),
        ("hunyuan_v1_moe", ["all-linear", "wg"]),
    ],
    ids=str,
)
def test_a_named_router_gets_an_adapter(family: str, targets: list[str]) -> None:
    trained = adapted(family, targets)[1]
    counted = count_shape(settings_of(family), "m", has_activations=False).targeted(targets)
    assert trained == sum(linear.count * (linear.inputs + linear.outputs) for linear in counted)
    named = {target for target in targets if target != "all-linear"}
    assert named & {name for linear in counted for name in (linear.targets or (linear.name,))} == named


def test_a_mixtral_by_hand() -> None:
    # queries and output 64 + 64, keys and values 64 + 32; of 4 experts twice 64 + 192, for w1 and w3, and 96 + 64
    attention, experts = 2 * (64 + 64) + 2 * (64 + 32), 4 * (2 * (64 + 192) + 96 + 64)
    assert adapted("mixtral", ["all-linear"])[1] == 2 * (attention + experts)
    assert adapted("mixtral", ["gate"])[1] == 2 * (64 + 4)


def test_the_log_names_the_routers_and_what_would_train_them() -> None:
    with torch.device("meta"):
        mixtral, qwen2, gpt_oss = (tiny_model_of(family) for family in ("mixtral", "qwen2_moe", "gpt_oss"))
    assert left_alone(mixtral, ["all-linear"]) == (
        "adapter: none on routers of experts, gate; train.lora.target_modules: [all-linear, gate] would train them"
    )
    assert left_alone(mixtral, ["all-linear", "gate"]) == ""
    # peft cannot reach the router of qwen2_moe or gpt_oss, which is no linear layer
    assert left_alone(qwen2, ["all-linear"]).startswith(
        "adapter: none on routers of experts, gate and shared_expert_gate; train.lora.target_modules: "
        "[all-linear, shared_expert_gate]"
    )
    assert left_alone(gpt_oss, ["all-linear"]) == "adapter: none on routers of experts, router"


def test_a_rank_above_a_gate_of_one_output_is_refused_only_if_the_gate_is_named() -> None:
    from configs.errors import ConfigError

    with torch.device("meta"):
        model = tiny_model_of("qwen2_moe")
    for targets, is_refused in ((["all-linear"], False), (["shared_expert_gate"], True)):
        config = TrainConfig.model_validate({"method": "lora", "lora": {"rank": 8, "target_modules": targets}})
        if is_refused:
            with pytest.raises(ConfigError, match=r"exceeds the width of .*shared_expert_gate, 1"):
                check_method(config, model)
        else:
            check_method(config, model)


def test_routers_are_found_where_zero_3_has_sharded_the_weights() -> None:
    model = tiny_model_of("mixtral")
    found = router_paths(model)
    for parameter in model.parameters():
        # as deepspeed.zero.Init leaves a parameter
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)
    assert router_paths(model) == found == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "prompt_tuning"])
def test_the_log_of_training_says_what_is_quantized_and_left_alone(method: str, tmp_path: Path) -> None:
    tiny_model_of("mixtral", intermediate_size=128).save_pretrained(tmp_path)
    config = TrainConfig.model_validate({"method": method})
    notes = method_notes(config, trainable_model(config, ModelConfig(name="m"), tmp_path, [], 101))
    # attention 12,288 of 110,848
    base = ["base: 11.1% of the weights of linear layers are quantized; not MixtralExperts (88.7%) and "]
    routers = ["adapter: none on routers of experts, gate"]
    wanted = {"lora": routers, "qlora": base + routers}.get(method, [])
    assert len(notes) == len(wanted)
    assert all(note.startswith(beginning) for note, beginning in zip(notes, wanted, strict=True))
