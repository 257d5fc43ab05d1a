"""The config's rules: presets load, misspelt keys are refused, and every message names the path, value and rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import PRESETS, check_config_argument, dump_config, load_align_config, load_config
from configs.schema import FineTuneConfig

SMALLEST = {"model": {"name": "owner/name"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
PRESET_FILES = sorted(PRESETS.glob("*.yaml"))


def parse(**changes: object) -> FineTuneConfig:
    return FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, **changes}))


def loader_of(preset: Path):
    """Return the function that loads a preset; presets of several phases are configs of the workflow align."""
    return load_align_config if preset.stem.startswith("align") else load_config


def mapping_paths(value: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of all mappings in a config file."""
    found = []
    if isinstance(value, dict):
        found.append(path)
        for key, inner in value.items():
            found += mapping_paths(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += mapping_paths(inner, (*path, number))
    return found


@pytest.mark.parametrize("preset", PRESET_FILES, ids=lambda p: p.stem)
def test_preset_loads_and_is_named_like_its_file(preset: Path) -> None:
    assert loader_of(preset)(preset).name == preset.stem


@pytest.mark.parametrize("preset", PRESET_FILES, ids=lambda p: p.stem)
def test_preset_with_a_misspelt_key_fails_anywhere(preset: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(preset.read_text())
    for path in mapping_paths(content):
        wrong = yaml.safe_load(preset.read_text())
        place = wrong
        for part in path:
            place = place[part]
        place["misspelt_key"] = 1
        file = tmp_path / "wrong.yaml"
        file.write_text(yaml.safe_dump(wrong))
        with pytest.raises(ConfigError, match="misspelt_key is not a setting"):
            loader_of(preset)(file)


@pytest.mark.parametrize("preset", PRESET_FILES, ids=lambda p: p.stem)
def test_presets_hold_only_what_differs_from_the_defaults(preset: Path) -> None:
    content = yaml.safe_load(preset.read_text())
    for phase in ("sft", "reward", "policy"):
        content |= {"train": content.get("train", {}) | content.get(phase, {}).get("train", {})}
    for section in ("tokenize", "train", "evaluate", "quantize", "push_to_hub"):
        defaults = getattr(parse(), section).model_dump(mode="json")
        same = {key for key, value in content.get(section, {}).items() if defaults.get(key) == value}
        # these settings are what a preset is about, so it may write them out
        assert same <= {"method", "epochs", "batch_size", "micro_batch_size"}, same


def test_the_smallest_config_has_only_model_and_data() -> None:
    config = parse()
    assert (config.train.method, config.train.nodes, config.data.max_invalid_rows) == ("lora", 1, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, ["trian", "did you mean train"]),
        ({"train": {"learning_rat": 1}}, ["train.learning_rat", "did you mean learning_rate"]),
        ({"train": {"nodes": 3.7}}, ["train.nodes=3.7", "neither a number of machines", "1:5"]),
        ({"train": {"nodes": "5:2"}}, ["train.nodes=5:2", "neither a number of machines"]),
        ({"train": {"processes_per_node": 1.5}}, ["train.processes_per_node=1.5", "whole number"]),
        ({"train": {"epochs": "many"}}, ["train.epochs='many'"]),
        ({"train": {"method": "lroa"}}, ["train.method='lroa'", "'lora'"]),
        ({"data": {"sources": []}}, ["data.sources", "at least one source"]),
        ({"data": {"sources": [{}]}}, ["data.sources[0]", "exactly one of `path` and `hub`"]),
        ({"data": {"sources": [{"path": "x", "hub": "y/z"}]}}, ["exactly one of `path` and `hub`"]),
        ({"data": {}}, ["data.sources is missing"]),
        ({"data": {"deduplicate": "nearly", "sources": [{"path": "x"}]}}, ["data.deduplicate='nearly'"]),
        ({"train": {"learning_rate": float("nan")}}, ["train.learning_rate"]),
        ({"push_to_hub": {"repository": "no-owner"}}, ["push_to_hub.repository='no-owner'"]),
        (
            {"quantize": {"methods": []}, "push_to_hub": {"repository": "a/b", "artifacts": ["4bit"]}},
            ["push_to_hub.artifacts", "4bit"],
        ),
        ({"train": {"method": "qlora", "sharding": "zero3"}}, ["qlora", "zero3", "zero2"]),
        ({"quantize": {"methods": ["8bit", "8bit"]}}, ["quantize", "twice"]),
    ],
)
def test_a_wrong_setting_is_named_with_value_and_rule(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    for word in words:
        assert word in message


def test_many_faults_are_three_lines_and_a_count() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(train={f"wrong_{n}": n for n in range(5)})
    assert len(str(caught.value).splitlines()) == 3
    assert "(and 2 more)" in str(caught.value)


def test_a_whole_float_is_an_integer_as_a_console_form_sends_it() -> None:
    assert parse(train={"nodes": 2.0}).train.nodes == 2


def test_configs_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().train.nodes = 2  # type: ignore[misc]


def test_the_resolved_config_loads_again_unchanged(tmp_path: Path) -> None:
    config = parse(train={"method": "full"})
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"- a\n- b\n", ["is a list"]),
        (b"model: {name: x\ndata: 3", ["line"]),
        ("name: Ü".encode("latin-1"), ["not UTF-8"]),
    ],
)
def test_a_broken_config_file_is_named(content: bytes, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_the_command_line_is_checked_only_for_pyflyte_run(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    for arguments in (
        ["pyflyte", "run", "w.py", "w", "--config", missing],
        ["/venv/bin/pyflyte", "-v", "run", "w.py", "w", f"--config={missing}"],
    ):
        with pytest.raises(ConfigError, match="does not exist"):
            check_config_argument(arguments)
    for arguments in (
        ["pyflyte", "--config", missing, "register"],
        ["pytest", "run", "--config", missing],
        ["pyflyte", "run", "w.py", "w", "--config", json.dumps(SMALLEST)],
        [],
    ):
        check_config_argument(arguments)
