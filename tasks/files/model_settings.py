"""Reads the JSON files of a model's folder, and checks them before transformers does.

transformers and peft take what these files hold for granted: a list where they expect a text ends in a traceback, or in
a model that differs from the published one. So the values of keys that they and this project read are checked here, in
the plan and again where the model is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from configs.addresses import shown_text
from configs.errors import ModelError
from configs.foreign_json import INDEX_BYTES, SETTINGS_BYTES, in_mebibytes, object_of, read_bounded

INDEX_FILE = "model.safetensors.index.json"
VOCABULARY_FILE = "vocab.json"
TOKENIZER_BYTES = 256 * 2**20
"""Most bytes of a tokenizer.json; the largest known has 33 MiB."""
_SHOWN_CHARACTERS = 60
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_MODEL_TYPE = re.compile(r"[\w.-]{1,100}", re.ASCII)
_DTYPE = re.compile(r"(?:torch\.)?[a-z][a-z0-9_]*")


class Rule(NamedTuple):
    """Whether a value is usable, and what it must be, in words."""

    is_met: Callable[[Any], bool]
    words: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    # -1 stands for none in old files; the tokenizers package holds an id in 32 bits
    return _is_integer(value) and -1 <= value < 2**31


def _is_list(value: Any, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_object(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_value, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_token(value: Any) -> bool:
    """Return whether a value names a token: its text, or an object with its text and flags."""
    if not isinstance(value, dict):
        return isinstance(value, str)
    flags = (value.get(flag, False) for flag in _FLAGS)
    return isinstance(value.get("content"), str) and all(isinstance(flag, bool) for flag in flags)


def _is_template(value: Any) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(entry, dict) and _is_text(entry.get("name")) and _is_text(entry.get("template"))
            for entry in value
        )
    return _is_text(value) or _is_object(value, _is_text)


def _is_decoder(value: Any) -> bool:
    is_numbered = isinstance(value, dict) and all(
        key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < 2**31 for key in value
    )
    return is_numbered and all(isinstance(token, dict) and _is_token(token) for token in value.values())


def _is_weights_file(value: Any) -> bool:
    """Return whether a value names a file of weights in the model's own folder."""
    is_inside = _is_text(value) and "/" not in value and "\\" not in value and "\0" not in value
    return is_inside and value.endswith((".safetensors", ".bin"))


_TEXT = Rule(_is_text, "text")
_TEXTS = Rule(lambda value: _is_list(value, _is_text), "a list of texts")
_OBJECT = Rule(lambda value: isinstance(value, dict), "an object")
_NUMBER = Rule(_is_number, "a number")
_INTEGER = Rule(lambda value: _is_integer(value) and abs(value) < 2**63, "a whole number of 64 bits")
_LENGTH = Rule(lambda value: _is_number(value) and 0 <= value < 2**63, "a number of positions")
_FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
_IDS = Rule(lambda value: _is_id(value) or _is_list(value, _is_id), "the number of a token, or a list of such numbers")
_ID_LIST = Rule(lambda value: _is_list(value, _is_id), "a list of numbers of tokens")
_TOKEN = Rule(_is_token, "a token: text, or an object with the text `content`")
_TOKENS = Rule(lambda value: _is_list(value, _is_token), "a list of tokens")
_NAMED_TOKENS = Rule(
    lambda value: _is_list(value, _is_token) or _is_object(value, _is_token), "a list or an object of tokens"
)
_IDS_OF_TEXTS = Rule(lambda value: _is_object(value, _is_id), "an object of the numbers of tokens")
_ROLE_RULES = dict.fromkeys(_ROLES, _TOKEN)
_ID_RULES = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _IDS)

# null stands for a key that is not set; other keys are left to the library that reads them
_RULES: dict[str, dict[str, Rule]] = {
    "config.json": {
        "model_type": Rule(lambda value: _is_text(value) and _MODEL_TYPE.fullmatch(value) is not None, "a short name"),
        "architectures": _TEXTS,
        "auto_map": _OBJECT,
        "text_config": _OBJECT,
        "quantization_config": _OBJECT,
        "id2label": _OBJECT,
        "label2id": _OBJECT,
        "layer_types": _TEXTS,
        "rope_scaling": _OBJECT,
        "rope_parameters": _OBJECT,
        "num_labels": _INTEGER,
        "vocab_size": _INTEGER,
        "hidden_act": _TEXT,
        **dict.fromkeys(("max_position_embeddings", "n_positions"), _LENGTH),
        **dict.fromkeys(
            ("dtype", "torch_dtype"),
            Rule(
                lambda value: isinstance(value, dict) or (_is_text(value) and _DTYPE.fullmatch(value) is not None),
                "the name of a number format, such as bfloat16",
            ),
        ),
        **dict.fromkeys(("is_encoder_decoder", "output_attentions", "output_hidden_states", "use_cache"), _FLAG),
        **_ID_RULES,
    },
    "tokenizer_config.json": {
        **_ROLE_RULES,
        "chat_template": Rule(_is_template, "text, or a list of objects with the texts `name` and `template`"),
        "added_tokens_decoder": Rule(_is_decoder, "an object of tokens with the text `content`, by number"),
        "additional_special_tokens": _NAMED_TOKENS,
        "extra_special_tokens": _NAMED_TOKENS,
        "model_specific_special_tokens": Rule(lambda value: _is_object(value, _is_token), "an object of tokens"),
        "tokenizer_class": _TEXT,
        "auto_map": _OBJECT,
        "model_max_length": _NUMBER,
        "model_input_names": _TEXTS,
        "split_special_tokens": _FLAG,
        "init_inputs": Rule(lambda value: isinstance(value, list), "a list"),
    },
    "special_tokens_map.json": {**_ROLE_RULES, "additional_special_tokens": _TOKENS},
    "generation_config.json": {
        **_ID_RULES,
        **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams"), _INTEGER),
        **dict.fromkeys(("temperature", "top_p", "top_k", "repetition_penalty"), _NUMBER),
        **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _ID_LIST),
        "watermarking_config": _OBJECT,
    },
    INDEX_FILE: {
        "metadata": _OBJECT,
        "weight_map": Rule(
            lambda value: _is_object(value, _is_weights_file), "an object of names of files in the model's own folder"
        ),
    },
    "chat_template.json": {"chat_template": Rule(_is_template, "text")},
    "adapter_config.json": {},
    "processor_config.json": {},
    "preprocessor_config.json": {},
}
_OF_NUMBERS = ("added_tokens.json", VOCABULARY_FILE)
CHECKED_FILES = (*_RULES, *_OF_NUMBERS)
"""The files in a model's folder that transformers or peft parse in Python."""


def most_bytes(name: str) -> int:
    """Return how long a file of a model's folder may be."""
    if name == "tokenizer.json":
        return TOKENIZER_BYTES
    return INDEX_BYTES if name in (INDEX_FILE, *_OF_NUMBERS) else SETTINGS_BYTES


def check_size(name: str, size: int, where: str) -> None:
    """Refuse a file that is too long, before it is read or downloaded. Raises `ModelError`."""
    if size > most_bytes(name):
        raise ModelError(f"{where} is larger than {in_mebibytes(most_bytes(name))}; copy it again")


def settings_of(content: bytes, name: str, where: str) -> dict[str, Any]:
    """Return the settings in the file `name` of a model's folder; `where` names it in errors.

    Raises:
        ModelError: it is no JSON object, or goes beyond a bound, or a known key has a value of a wrong type.
    """
    settings = object_of(content, where, ModelError, most_bytes(name))
    _check_rules(settings, name, where)
    return settings


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file of a model's folder. Raises `ModelError` as `settings_of`."""
    return settings_of(read_bounded(path, ModelError, most_bytes(path.name)), path.name, str(path))


def check_folder(directory: Path, name: str) -> None:
    """Check all `CHECKED_FILES` in the folder of the model called `name`. Raises `ModelError` as `settings_of`."""
    for file in CHECKED_FILES:
        path, where = directory / file, f"model.name={name}: {file}"
        if path.is_file():
            settings_of(read_bounded(path, ModelError, most_bytes(file), where), file, where)


def _check_rules(settings: dict[str, Any], name: str, where: str, section: str = "") -> None:
    if name in _OF_NUMBERS and not _IDS_OF_TEXTS.is_met(settings):
        raise ModelError(f"{where} is not {_IDS_OF_TEXTS.words}; copy it again")
    for key, rule in _RULES.get(name, {}).items():
        value = settings.get(key)
        if value is not None and not rule.is_met(value):
            raise ModelError(
                f"{where}: {section}{key}={_shown(value)} is not {rule.words}; correct it, or copy the model again"
            )
    if name == "config.json" and not section and settings.get("text_config"):
        # of a model with several parts, its language model
        _check_rules(settings["text_config"], name, where, "text_config.")


def _shown(value: Any) -> str:
    text = shown_text(ascii(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
