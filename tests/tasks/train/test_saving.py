"""What is saved is whole: every tensor is there, in its shape, of finite numbers, once, and in the published type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from configs.errors import ArtifactError
from configs.schema import ModelConfig
from tasks.train.merge import check_saved
from tasks.train.saving import whole_tensors

LOADING = ModelConfig(name="tiny")
UP = "model.layers.0.mlp.up_proj.weight"
LORA_B = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
Change = Callable[[dict[str, torch.Tensor]], object]


def changed(directory: Path, copy: Path, change: Change) -> Path:
    """Return a copy of what was saved, whose tensors were changed."""
    shutil.copytree(directory, copy)
    path = next(copy.glob("*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return copy


FULL_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (lambda tensors: tensors.pop(UP), f"saved no {UP}"),
    "of a part": (lambda tensors: tensors.update({UP: tensors[UP][:64].clone()}), r"has shape \(64, 64\), and the"),
    "empty": (lambda tensors: tensors.update({UP: torch.zeros(0)}), f"an empty {UP} to model.safetensors"),
    "of another model": (lambda tensors: tensors.update({"x.weight": torch.ones(2)}), "x.weight to .*does not have"),
    "not a number": (
        lambda tensors: tensors[UP].view(-1)[7].fill_(torch.nan),
        f"{UP} in model.safetensors has numbers",
    ),
    "infinite": (lambda tensors: tensors[UP].view(-1)[7].fill_(torch.inf), "not finite"),
}


@pytest.mark.parametrize("fault", FULL_FAULTS)
def test_a_model_that_is_not_whole_is_refused(fault: str, tiny_model: Path, tmp_path: Path) -> None:
    change, words = FULL_FAULTS[fault]
    check_saved(changed(tiny_model, tmp_path / "whole", lambda tensors: None), LOADING)
    with pytest.raises(ArtifactError, match=words):
        check_saved(changed(tiny_model, tmp_path / "faulty", change), LOADING)


def test_a_name_of_one_of_several_files_may_not_be_missing(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    check_saved(tmp_path, LOADING)
    index = tmp_path / "model.safetensors.index.json"
    settings = json.loads(index.read_text())
    gone = next(name for name, file in settings["weight_map"].items() if file == files[1].name)
    tensors = load_file(files[1])
    del tensors[gone], settings["weight_map"][gone]
    save_file(tensors or {"x": torch.ones(1)}, files[1], {"format": "pt"})
    index.write_text(json.dumps(settings))
    with pytest.raises(ArtifactError, match=gone):
        check_saved(tmp_path, LOADING)


ADAPTER_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (lambda tensors: tensors.pop(LORA_B), f"saved no {LORA_B}"),
    "of a part": (lambda tensors: tensors.update({LORA_B: tensors[LORA_B][:32].clone()}), r"shape \(32, 16\), and the"),
    "empty": (lambda tensors: tensors.update({LORA_B: torch.zeros(0, 16)}), f"an empty {LORA_B}"),
    "more": (lambda tensors: tensors.update({LORA_B + "x": torch.ones(2)}), "does not have"),
    "not a number": (lambda tensors: tensors[LORA_B].fill_(torch.nan), "not finite"),
}


@pytest.mark.parametrize("fault", ADAPTER_FAULTS)
def test_an_adapter_that_is_not_whole_is_refused(fault: str, train: Any, tiny_model: Path, tmp_path: Path) -> None:
    _, adapter = train("adapter", method="lora", max_steps=1)
    change, words = ADAPTER_FAULTS[fault]
    check_saved(adapter, LOADING, tiny_model)
    with pytest.raises(ArtifactError, match=words):
        check_saved(changed(adapter, tmp_path / "faulty", change), LOADING, tiny_model)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lora", "lora": {"use_dora": True}},
        {"method": "lora", "objective": "reward"},
        {"method": "lora", "lora": {"target_modules": ["q_proj", "down_proj"], "rank": 3, "alpha": 3}},
        {"method": "qlora"},
        {"method": "prefix_tuning", "objective": "reward"},
        {"method": "prompt_tuning", "prompt": {"init_text": "ask"}},
    ],
)
def test_every_kind_of_adapter_is_what_peft_would_make(settings: dict, train: Any, tiny_model: Path) -> None:
    _, adapter = train("adapter", max_steps=1, **settings)
    check_saved(adapter, LOADING, tiny_model)


def test_a_model_is_published_in_the_type_of_its_base(train: Any, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copyfile(file, base / file.name)
    _, output = train("full", inputs={"model": base}, max_steps=1)
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"


def test_tied_weights_are_gathered_once_and_others_twice(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tied = whole_tensors(model, is_writer=True, trained_only=False)
    assert "model.embed_tokens.weight" in tied and "lm_head.weight" not in tied
    # said to be tied, and not: as after a head of its own was trained
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    apart = whole_tensors(model, is_writer=True, trained_only=False)
    assert apart.keys() - tied.keys() == {"lm_head.weight"}
    assert whole_tensors(model, is_writer=False, trained_only=False) == {}


def test_what_is_gathered_is_a_copy_in_the_asked_type(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.requires_grad_(False)
    found = whole_tensors(model, is_writer=True, trained_only=True, dtype=torch.bfloat16)
    assert "model.norm.weight" not in found and UP in found
    assert found[UP].dtype == torch.bfloat16
    same = whole_tensors(model, is_writer=True, trained_only=False)[UP]
    same.zero_()
    assert model.model.layers[0].mlp.up_proj.weight.abs().max() > 0
