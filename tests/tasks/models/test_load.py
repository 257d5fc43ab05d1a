"""Loading: type and attention kernel are what the config says, and a faulty model is never filled up in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.models.load import load_model


def config(**settings: object) -> ModelConfig:
    return ModelConfig(name="tiny", **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_configured_type(dtype: str, tiny_model: Path) -> None:
    model = load_model(config(dtype=dtype), tiny_model)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has bfloat16")
def test_auto_is_float32_on_a_cpu(tiny_model: Path) -> None:
    assert load_model(config(), tiny_model).dtype == torch.float32


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_attention_runs_the_configured_kernel(kernel: str, tiny_model: Path) -> None:
    assert load_model(config(attn_implementation=kernel), tiny_model).config._attn_implementation == kernel


def test_missing_weights_are_not_filled_with_random_numbers(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks 9 weights .* first model.layers.2"):
        load_model(config(), model)


def test_pickled_weights_load_only_when_allowed(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_model(config(), model)
    assert load_model(config(allow_pickled_weights=True), model).num_parameters() > 0
