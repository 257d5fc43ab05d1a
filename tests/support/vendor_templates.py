"""The chat templates that TRL ships, each with a tokenizer of one token per byte and the template's special tokens."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.objectives import Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.rows import Setup
from tasks.tokenize.template import choose_template

_SPECIAL = re.compile(
    r"<\|[A-Za-z_]+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_\w+>|</?s>|<\|[a-zA-Z_]+>|<[a-z_]+\|>|\[/?INST\]|\[gMASK\]|<sop>"
)


def folder() -> Path:
    spec = find_spec("trl")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "chat_templates"


def vendor_names() -> list[str]:
    """Return the names of the vendors' templates, without TRL's variants for training."""
    return sorted(path.stem for path in folder().glob("*.jinja") if not path.stem.endswith("_training"))


def vendor_template(name: str) -> str:
    return (folder() / f"{name}.jinja").read_text(encoding="utf-8")


def toy_tokenizer(template: str) -> Any:
    """Return a tokenizer whose special tokens are `<bos>`, `<eos>` and those that `template` writes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special = sorted({"<bos>", "<eos>", *_SPECIAL.findall(template)})
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    # as in Qwen3's tokenizer, added but not special
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer


def vendor_setup(name: str, objective: Objective = "sft", **settings: Any) -> Setup:
    """Return what the tokenize stage knows of a model with the vendor's template `name`."""
    tokenizer = toy_tokenizer(vendor_template(name))
    config = TokenizeConfig(**settings)
    template = choose_template(tokenizer, None, has_messages=True, arguments=config.template_variables)
    return Setup(tokenizer, find_control_tokens(tokenizer), template, config, 2**20, objective)
