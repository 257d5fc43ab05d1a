"""Wrong values, as a form or a file has them: one line that names the path, the value, the rule and the fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig

SOURCES = {"sources": [{"path": "rows.jsonl"}]}
SMALLEST: dict[str, Any] = {"model": {"name": "owner/name"}, "data": SOURCES}
NO_ROWS = "names no rows; give exactly one of `path` and `hub`, or remove the entry"
NO_FILE = "names no file; write a file, glob, directory or address as text, or a list of these"
FIRST_ENTRY = "entry 1 is empty; fill it in, or remove it from the list"
EMPTY = "is an empty entry; fill it in, or remove it from the list"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epochs": -1.0}}, "train.epochs=-1 is not above 0; raise it"),
        ({"train": {"batch_size": 0}}, "train.batch_size=0 is below 1; raise it"),
        ({"data": {**SOURCES, "test_fraction": 1.0}}, "data.test_fraction=1 is not below 1; lower it"),
        ({"data": {**SOURCES, "shards": 1001}}, "data.shards=1001 is above 1000; lower it"),
        ({"train": {"batch_size": "many"}}, "train.batch_size='many' is not a whole number; write one, such as 16"),
        ({"train": {"batch_size": [8]}}, "train.batch_size is not a whole number; write one, such as 16"),
        ({"train": {"epochs": {}}}, "train.epochs={} is not a number; write one with a point, such as 0.0001"),
        ({"train": {"group_by_length": "on the whole"}},
         "train.group_by_length='on the whole' is neither true nor false; write one of them"),
        ({"train": {"watch": {"keep": "all"}}}, "train.watch.keep='all' is not a choice; write 'best' or 'last'"),
        ({"tokenize": {"prompt_separator": 5}}, "tokenize.prompt_separator=5 is not text; write it in quotes"),
        ({"train": {"tracking": {"project": ""}}},
         "train.tracking.project='' is too short; write at least 1 character"),
        ({"train": {"lora": {"target_modules": []}}},
         "train.lora.target_modules is too short; name at least 1 entry"),
        ({"train": {"lora": {"target_modules": ["q_proj", None]}}}, f"train.lora.target_modules[1] {EMPTY}"),
        ({"data": {"sources": [{"path": "rows.jsonl"}, {}]}}, f"data.sources[1]: {NO_ROWS}"),
        ({"data": {"sources": [{"path": [None]}]}}, f"data.sources[0].path: {FIRST_ENTRY}"),
        ({"model": {"name": "a/b "}}, "model.name: 'a/b ' begins or ends with white space; remove it"),
        (
            {"data": {"sources": [{"path": ["a.csv", "b.csv\t"]}]}},
            "data.sources[0].path: 'b.csv\\t' begins or ends with white space; remove it",
        ),
        (
            {"data": {"sources": [{"path": "a", "tools": '[{"name": "add",]'}]}},
            "data.sources[0].tools is not readable JSON (line 1, column 17: Expecting property name enclosed in double "
            "quotes); write a list of definitions, such as "
            '[{"name": "add", "parameters": {}}]',
        ),
        (
            {"data": {"sources": [{"path": "a", "tools": [{"name": "add"}, {"description": "x"}]}]}},
            "data.sources[0].tools: tool 2 is not a function with a name; write a list of definitions, such as "
            '[{"name": "add", "parameters": {}}]',
        ),
        ({"data": {"sources": [{"path": " "}]}}, f"data.sources[0].path: ' ' {NO_FILE}"),
        ({"data": {"sources": [{"path": "a", "hub": "b/c"}]}},
         "data.sources[0]: path=a and hub=b/c are both set; give exactly one of `path` and `hub`"),
        ({"data": {}}, "data.sources is missing; it has no default: set it"),
        ({"train": {"policy": {"rewards": [{}]}}},
         "train.policy.rewards[0].kind is missing; it has no default: set it, or remove the entry"),
        ({"train": {"cluster": {"node_selectors": [{"key": "a", "value": "b"}, {}]}}},
         "train.cluster.node_selectors[1]: key and value are missing; they have no default: set them, or remove the "
         "entry"),
        ({"plan": {"gpu_types": [{"name": "mine"}]}},
         "plan.gpu_types[0]: memory_gb, peak_teraflops and memory_gb_per_second are missing; they have no default: set "
         "them, or remove the entry"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, **changes}))
    assert str(caught.value) == f"config: {message}"


def test_what_is_missing_in_two_places_is_two_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        AlignConfig.model_validate_json(json.dumps({"sft": {}, "policy": {"data": SOURCES, "train": {}}}))
    assert str(caught.value).splitlines() == [
        "config: model is missing; it has no default: set it",
        "config: sft: data and train are missing; they have no default: set them",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model": {"name": "m\nError: all is well"}},
            r"model.name is not a plain name or path: it holds the character \n",
        ),
        (
            {"data": {"sources": [{"path": ["a.jsonl", "b\x1b[2J.jsonl"]}]}},
            r"path is not a plain name or path: it holds the character \x1b; remove it",
        ),
        ({"output_directory": "out\u2028put"}, r"it holds the character \u2028; remove it"),
        ({"nam\n\u202ee": 1}, r"config: nam\n\u202ee is not a setting"),
        ({"train": {"objective": "s\x1bft\u202e"}}, r"train.objective='s\x1bft\u202e'"),
    ],
)
def test_a_setting_cannot_forge_a_line(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FineTuneConfig.model_validate_json(json.dumps({"data": SOURCES} | change))
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).isprintable()


def test_separators_patterns_and_columns_may_have_line_breaks() -> None:
    source = {"path": "a.csv", "columns": {"prompt": "prompt\n(English)"}, "tools": '[\n{"name": "add"}]'}
    texts = {"prompt_separator": "\n\t", "new_special_tokens": ["a\n"]}
    config = FineTuneConfig.model_validate_json(json.dumps({"tokenize": texts, "data": {"sources": [source]}}))
    assert config.tokenize.prompt_separator == "\n\t"
    assert config.data.sources[0].columns.prompt == "prompt\n(English)"
