"""An adapter's folder is merged with the tokenizer that its model is asked with."""

from __future__ import annotations

import json
from pathlib import Path

from support.adapters import save_adapter
from transformers import AutoTokenizer

from tasks.get_model.adapter import complete_tokenizer
from tasks.get_model.fetch import copy_tokenizer


def test_an_adapter_without_a_tokenizer_gets_that_of_the_base(tiny_model: Path, tmp_path: Path) -> None:
    base, asked = tmp_path / "base", tmp_path / "asked"
    base.mkdir()
    copy_tokenizer(tiny_model, base)
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    own = (adapter / "adapter_config.json").read_bytes()
    complete_tokenizer(base, adapter, asked)
    assert AutoTokenizer.from_pretrained(adapter).get_vocab() == AutoTokenizer.from_pretrained(tiny_model).get_vocab()
    assert (adapter / "adapter_config.json").read_bytes() == own
    assert not (asked / "adapter_config.json").exists() and (asked / "config.json").exists()


def test_an_adapters_own_tokenizer_is_kept_and_its_new_tokens_have_room(tiny_model: Path, tmp_path: Path) -> None:
    base, asked = tmp_path / "base", tmp_path / "asked"
    base.mkdir()
    copy_tokenizer(tiny_model, base)
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new-1>", "<new-2>"]})
    tokenizer.chat_template = "its own"
    tokenizer.save_pretrained(adapter)
    complete_tokenizer(base, adapter, asked)
    found = AutoTokenizer.from_pretrained(asked)
    assert "<new-2>" in found.get_vocab() and found.chat_template == "its own"
    last = max(found.get_vocab().values())
    assert json.loads((asked / "config.json").read_text())["vocab_size"] == max(size, last + 1)
