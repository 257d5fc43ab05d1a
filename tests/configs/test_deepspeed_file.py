"""A user's own DeepSpeed file: values that agree with the config are accepted, contradictions are refused by key and
value."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from configs.deepspeed_file import TOP_LEVEL_KEYS, ZERO_KEYS, check_deepspeed
from configs.errors import ConfigError
from configs.schema import TrainConfig

SHIPPED = sorted((Path(__file__).parent.parent.parent / "configs" / "deepspeed").glob("*.json"))
TRAIN = {"sharding": "zero3", "batch_size": 64, "micro_batch_size": 4, "nodes": 2, "processes_per_node": 4}
SETTINGS: dict[str, Any] = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "overlap_comm": True},
    "bf16": {"enabled": "auto"},
    "train_batch_size": "auto",
}


def settings(**changes: Any) -> dict[str, Any]:
    """Return the settings with `changes` applied; `__` in a name stands for a dot, and None removes the key."""
    result = copy.deepcopy(SETTINGS)
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return result


def check(found: dict[str, Any], **train: Any) -> dict[str, Any]:
    return check_deepspeed(json.dumps(found), TrainConfig(**{**TRAIN, **train}), "my.json")


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_every_shipped_file_would_be_accepted(path: Path) -> None:
    stage, _, offload = path.stem.partition("_offload_")
    config = TrainConfig(sharding=stage, deepspeed={"offload": offload or "none"})
    assert check_deepspeed(path.read_text(encoding="utf-8"), config, path.name)["zero_optimization"]["stage"] >= 1


@pytest.mark.parametrize(
    ("changes", "train"),
    [
        ({}, {}),
        ({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}, {}),
        ({"gradient_clipping": 1.0}, {}),
        ({"gradient_clipping": 1}, {}),
        ({"bf16__enabled": True}, {"efficiency": {"precision": "bfloat16"}}),
        ({"bf16__enabled": False, "fp16": {"enabled": False}}, {"efficiency": {"precision": "float32"}}),
        ({"fp16": {"enabled": "auto", "loss_scale": 0}}, {}),
        ({"zero_optimization__offload_optimizer": {"device": "none"}}, {}),
        ({"zero_optimization__offload_optimizer": {"device": "cpu"}}, {"deepspeed": {"offload": "optimizer"}}),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}}}, {}),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 2e-4, "betas": [0.9, 0.999]}}}, {"learning_rate": 2e-4}),
        ({"gradient_accumulation_steps": "auto"}, {"nodes": "1:5"}),
    ],
)
def test_values_that_agree_with_the_config_are_accepted(changes: dict, train: dict) -> None:
    found = settings(**changes)
    assert check(found, **train) == found


# 64 rows = 4 rows x 8 processes x 2 forward passes
CONTRADICTIONS: list[tuple[dict, dict, str]] = [
    ({"zero_optimization__stage": 2}, {}, "zero_optimization.stage=2 contradicts train.sharding=zero3; set it to 3"),
    ({"zero_optimization__stage": None}, {}, "zero_optimization.stage=nothing contradicts train.sharding=zero3"),
    ({"zero_optimization__stage": "auto"}, {}, "zero_optimization.stage=auto contradicts"),
    ({"train_batch_size": 32}, {}, 'train_batch_size=32 contradicts train.batch_size=64; set it to "auto"'),
    (
        {"train_micro_batch_size_per_gpu": 8},
        {},
        "train_micro_batch_size_per_gpu=8 contradicts train.micro_batch_size=4",
    ),
    ({"gradient_accumulation_steps": 4}, {}, r"gradient_accumulation_steps=4 contradicts batch_size / .*=2"),
    (
        {"gradient_accumulation_steps": 2},
        {"nodes": "1:2"},
        "gradient_accumulation_steps=2, but batch_size .* leaves it open",
    ),
    ({"gradient_clipping": 0.5}, {}, "gradient_clipping=0.5 contradicts train.max_grad_norm=1.0"),
    ({"bf16__enabled": True}, {}, "bf16.enabled=true, but train.efficiency.precision leaves it open"),
    (
        {"bf16__enabled": True},
        {"efficiency": {"precision": "float32"}},
        "bf16.enabled=true contradicts train.efficiency.precision=float32",
    ),
    ({"fp16": {"enabled": True}}, {}, "fp16.enabled is on"),
    ({"amp": {"enabled": True}}, {}, "amp is not supported"),
    ({"scheduler": {"type": "WarmupLR"}}, {}, "scheduler is not supported: .*train.lr_scheduler"),
    ({"tensor_parallel": {"autotp_size": 2}}, {}, "tensor_parallel is not supported"),
    ({"elasticity": {"enabled": True}}, {}, "elasticity is not supported"),
    ({"optimizer": {"type": "Lamb"}}, {}, "optimizer.type=Lamb contradicts train.efficiency.optimizer=AdamW"),
    ({"optimizer": {}}, {}, "optimizer.type=nothing contradicts"),
    (
        {"optimizer": {"type": "AdamW"}},
        {"efficiency": {"optimizer": "adamw_8bit"}},
        "optimizer.type=AdamW contradicts train.efficiency.optimizer=adamw_8bit",
    ),
    (
        {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
        {"learning_rate": 2e-4},
        "optimizer.params.lr=0.001 contradicts train.learning_rate=0.0002",
    ),
    ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, {}, "lr=0.001, but train.learning_rate leaves it open"),
    (
        {"optimizer": {"type": "AdamW", "params": {"weight_decay": 0.1}}},
        {},
        "weight_decay=0.1 contradicts train.weight",
    ),
    ({"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.95]}}}, {}, r"betas=\[0.9, 0.95\] contradicts"),
    (
        {"zero_optimization__offload_optimizer": {"device": "cpu"}},
        {},
        "zero_optimization.offload_optimizer.device=cpu contradicts train.deepspeed.offload=none; remove it",
    ),
    ({"zero_optimization__offload_optimizer": {"device": "nvme"}}, {}, "device=nvme contradicts"),
    ({}, {"deepspeed": {"offload": "optimizer"}}, "offload_optimizer.device=none contradicts .*=optimizer; give it"),
    (
        {"zero_optimization__offload_optimizer": {"device": "cpu"}},
        {"deepspeed": {"offload": "optimizer_and_parameters"}},
        "offload_param.device=none contradicts",
    ),
    ({"zero_optimization__cpu_offload": True}, {}, "cpu_offload is deprecated"),
    ({"zero_optimization__stage3_gather_16bit_weights_on_model_save": None}, {}, "on_model_save is not true"),
    ({"zero_optimization__stage3_gather_16bit_weights_on_model_save": False}, {}, "on_model_save is not true"),
    ({"gradient_cliping": 1.0}, {}, "gradient_cliping is not a DeepSpeed setting; did you mean gradient_clipping"),
    ({"zero_optimization__reduce_bucket": 5}, {}, "did you mean zero_optimization.reduce_bucket_size"),
    ({"qqqq": 1}, {}, "qqqq is not a DeepSpeed setting; remove it"),
    ({"zero_optimization": 3}, {}, "zero_optimization is not an object"),
]


@pytest.mark.parametrize(("changes", "train", "words"), CONTRADICTIONS)
def test_a_value_that_contradicts_the_config_is_named(changes: dict, train: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        check(settings(**changes), **train)
    assert str(error.value).startswith("train.deepspeed.config=my.json")
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"bf16": {\n  "enabled": tru}}', r"is not readable JSON \(line 2, column 14"),
        ("", r"is not readable JSON \(line 1, column 1"),
        ("[1]", "is not a JSON object"),
        ('{"bf16": {}, "bf16": {}}', "names 'bf16' twice"),
    ],
)
def test_text_that_is_not_json_is_refused_with_the_line_and_column(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_deepspeed(text, TrainConfig(**TRAIN), "my.json")


def test_the_known_keys_are_those_of_the_installed_deepspeed() -> None:
    deepspeed = pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    assert set(fields) | {field.alias for field in fields.values() if field.alias} == ZERO_KEYS
    source = Path(deepspeed.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    assert [key for key in TOP_LEVEL_KEYS if f'"{key}"' not in text and f"'{key}'" not in text] == []
