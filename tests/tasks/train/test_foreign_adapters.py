"""An adapter that was not trained here: one of another base is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
from support.adapters import save_adapter

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.get_model.adapter import complete_tokenizer
from tasks.train.merge import merge_adapter


def test_an_adapter_of_another_base_is_refused_in_two_lines(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    other = Path(copytree(tiny_model, tmp_path / "other"))
    settings = AutoConfig.from_pretrained(tiny_model)
    settings.hidden_size *= 2
    AutoModelForCausalLM.from_config(settings).save_pretrained(other)
    assert json.loads((other / "config.json").read_text())["hidden_size"] == settings.hidden_size
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    complete_tokenizer(tiny_model, adapter, tmp_path / "asked")
    with pytest.raises(ModelError, match=r"the adapter does not fit the base model\.name=") as caught:
        merge_adapter(ModelConfig(name=str(other)), other, adapter, tmp_path / "merged")
    assert len(str(caught.value).splitlines()) == 2
