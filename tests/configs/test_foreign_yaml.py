"""Hostile and unlucky configs: each is one line with the file, the line and the fix, within bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from configs.errors import ConfigError
from configs.foreign_yaml import MAX_BYTES, MAX_DEPTH
from configs.load import check_config_argument, load_config, read_mapping
from configs.schema import FineTuneConfig
from tasks.files.front_matter import split_card

SMALLEST = "data: {sources: [{path: rows.jsonl}]}\n"
# nine levels of nine aliases: 3.5 billion values in 600 bytes
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{key}: &{key} [{','.join([f'*{before}'] * 9)}]\n" for before, key in zip("abcdefghi", "bcdefghij", strict=True)
)
LONG_TEXT = f"a: &a {'x' * 1_000_000}\nb: [{','.join(['*a'] * 100)}]\n"
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{key}: &{key} {{<<: [{','.join([f'*{before}'] * 20)}]}}\n"
    for before, key in zip("abcdefg", "bcdefgh", strict=True)
)


def refused(text: str | bytes, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 3 and len(message) < 600
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "config file FILE line 7: aliases make it longer than 8 Mi characters; use fewer"),
        (LONG_TEXT, "config file FILE line 2: aliases make it longer than 8 Mi characters; use fewer"),
        (MERGES, "config file FILE line 6: aliases make it longer than 8 Mi characters; use fewer"),
        ("a: &a [*a]\n", "config file FILE line 1: *a stands within its own value; write it out"),
        (f"a: {'[' * 100_000}", "config file FILE line 1: is nested more than 64 deep; write it flatter"),
        ("".join(f"{' ' * n}a:\n" for n in range(200)), "config file FILE line 65: is nested more than 64 deep; "),
        (
            f"name: {'9' * 5000}\n",
            "config file FILE line 1: name: a number of 5000 digits is too long, the most are 40",
        ),
        (f"a: [0x{'f' * 50}]\n", "config file FILE line 1: a: a number of 52 digits is too long, the most are 40"),
        ("name: 2024-01-01\n", "config file FILE line 1: name: 2024-01-01 is a date in YAML; write it in quotes"),
        ("a:\n- 2024-13-45\n", "config file FILE line 2: a: 2024-13-45 is a date in YAML; write it in quotes"),
        ("name: !!binary YQ==\n", "config file FILE line 1: name: the tag !!binary is not read here; write the value "),
        ("name: !!python/object/apply:os.system [ls]\n", "name: the tag !!python/object/apply:os.system is not read"),
        (
            "data: !!set {a}\n",
            "config file FILE line 1: data: the tag !!set is not read here; write the value without ",
        ),
        ('a: !!int "b"\n', "config file FILE line 1: a: the tag !!int is not read here; write the value without it"),
        ("2024: x\n", "config file FILE line 1: the key 2024 is not text; write it in quotes"),
        ("name: x\nyes: x\n", "config file FILE line 2: the key yes is not text; write it in quotes"),
        ("? [a, b]\n: x\n", "config file FILE line 1: a key is not text; write it in quotes"),
        ("? {a: b}\n: x\n", "config file FILE line 1: a key is not text; write it in quotes"),
        ("a: 1\n<<: [1]\n", "config file FILE line 2: expected a mapping for merging, but found scalar; fix the YAML"),
        ("a: <<\n", "config file FILE line 1: a: << is not a value; write it in quotes"),
        ("a: =\n", "config file FILE line 1: a: = is a sign of YAML's own; write it in quotes"),
        (
            "a: 0b_\n",
            "config file FILE line 1: a: 0b_ is another number in YAML than it looks like; write it in plain digits, "
            "or in quotes",
        ),
        ("a: *b\n", "config file FILE line 1: found undefined alias 'b'; fix the YAML"),
        ("name: x\nname: y\n", "config file FILE line 2: `name` is named twice; keep one"),
        ('name: "a\\0b"\n', "config file FILE line 1: name: an escape stands for no character of a text; remove it"),
        ('name: "\\ud800"\n', "config file FILE line 1: name: an escape stands for no character of a text; remove it"),
        ("name: x\ndata: \x01\n", "config file FILE line 2: U+0001 is not a character of a text; remove it"),
        ("name: x".encode("utf-16"), "config file FILE is not UTF-8 (byte 0); save it as UTF-8"),
        (b"#" * (MAX_BYTES + 1), "config file FILE is larger than 4 MiB"),
        ("--- 1\n--- 2\n", "config file FILE line 2: but found another document; fix the YAML"),
    ],
)
def test_a_hostile_config_is_one_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    assert message in refused(text, tmp_path)


@pytest.mark.parametrize("number", ["010", "1:30:00", "0x10", "0b11", "1:30.5"])
def test_a_number_that_is_another_than_it_looks_like_is_refused(number: str, tmp_path: Path) -> None:
    fault = f"line 2: max_steps: {number} is another number in YAML than it looks like; write it in plain digits, or in"
    assert fault in refused(f"train:\n  max_steps: {number}\n{SMALLEST}", tmp_path)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("x.unfinished", "name: 'x.unfinished' is the name of what another run leaves; choose another"),
        ("x.kept-2", "name: 'x.kept-2' is the name of what another run leaves; choose another"),
        ("2024", "name=2024 is not text; write it in quotes"),
        ("0123", "name: 0123 is another number in YAML than it looks like; write it in plain digits, or in quotes"),
        ("1_000", "name=1_000 is not text; write it in quotes"),
        ("1.5e+3", "name=1.5e+3 is not text; write it in quotes"),
        ("yes", "name=yes is not text; write it in quotes"),
        ("~", "name is empty"),
        ("-x", "name='-x' is not a name of letters, digits, _, . and - that begins with no dot and no hyphen"),
        ("x" * 300, f"name: '{'x' * 79}... has 300 bytes, and 100 at most; shorten it"),
        ("é" * 51, f"name: '{'é' * 51}' has 102 bytes, and 100 at most; shorten it"),
    ],
)
def test_a_name_that_is_no_text_is_shown_as_it_is_written(name: str, rule: str, tmp_path: Path) -> None:
    assert rule in refused(f"name: {name}\n{SMALLEST}", tmp_path)


def test_a_value_of_a_list_entry_is_shown_as_it_is_written(tmp_path: Path) -> None:
    message = refused("data: {sources: [{path: a}, {path: b, columns: {prompt: on}}]}\n", tmp_path)
    assert message == "config: data.sources[1].columns.prompt=on is not text; write it in quotes"


@pytest.mark.parametrize("name", ['"2024"', "'2024-01-01'", "1e5", "x" * 100, "é" * 50, "2024-01-01x"])
def test_a_name_in_quotes_may_be_digits(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"name: {name}\n{SMALLEST}", encoding="utf-8")
    assert load_config(tmp_path / "config.yaml").name == name.strip("'\"")


def test_aliases_and_merges_are_read_within_the_bounds(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "\ufeffa: &a {k: 1, l: 2}\nb: {<<: *a, l: 3}\nc: {x: {<<: *a, k: 4}}\nd: [*a, *a]\n", encoding="utf-8"
    )
    assert read_mapping(path) == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 3},
        "c": {"x": {"k": 4, "l": 2}},
        "d": [{"k": 1, "l": 2}] * 2,
    }
    path.write_text("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert len(read_mapping(path)["a"]) == 1


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    script = (
        "import resource, sys\nfrom configs.load import load_config\nfrom configs.errors import ConfigError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    load_config(sys.argv[1])\nexcept ConfigError:\n"
        "    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "bomb.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and int(done.stdout) < 20, done.stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"a":' + "[" * 50_000, "--config is nested more than 64 deep; write one JSON object, or name a file"),
        ('{"name": 1, "name": 2}', "--config names 'name' twice; keep one"),
        ('{"train": {"epochs": NaN}}', "--config holds NaN, which is not JSON"),
        (f'{{"name": {"9" * 5000}}}', "--config holds a number of 5000 digits, and the most are 40"),
        ('{"train": {"epochs": 1e400}}', "--config holds a number beyond 1.8e308"),
        ("[]", "--config is not a JSON object"),
        ('{"name": ', "--config is not readable JSON (line 1, column 10: Expecting value)"),
        ('{"name": "-x", "data": {"sources": [{"path": "a"}]}}', "config: name='-x' is not a name of letters"),
    ],
)
def test_a_config_on_the_command_line_has_the_same_bounds(value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config_argument(["pyflyte", "run", "workflows/fine_tune.py", "fine_tune", "--config", value])
    assert words in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "a\0b"}}, "model.name: holds a NUL or half of a character; remove it"),
        ({"output_directory": "a\0b"}, "output_directory: holds a NUL or half of a character; remove it"),
        ({"data": {"sources": [{"path": ["a", "b\0"]}]}}, "data.sources[0].path: holds a NUL or half of a character"),
        ({"tokenize": {"template_arguments": '{"a":' * 100_000}}, "template_arguments is nested more than 64 deep"),
        ({"tokenize": {"template_arguments": f'{{"a":{"9" * 5000}}}'}}, "template_arguments: holds a number of 5000"),
        ({"tokenize": {"template_arguments": '{"a": 1, "a": 2}'}}, "template_arguments: names 'a' twice; keep one"),
        ({"train": {"learning_rate": "9" * 5000}}, "train.learning_rate='9999"),
    ],
)
def test_what_a_form_sends_has_the_same_bounds(changes: dict, words: str) -> None:
    values = {"data": {"sources": [{"path": "rows.jsonl"}]}, **changes}
    with pytest.raises(ConfigError) as caught:
        FineTuneConfig.model_validate_json(json.dumps(values))
    assert words in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("metadata", [BOMB, f"a: {'[' * 5000}", f"a: {'9' * 5000}", "a: 2024-13-45", "? [a]\n: b"])
def test_the_metadata_of_a_hostile_card_are_none(metadata: str) -> None:
    card = f"---\n{metadata}\n---\ntext"
    assert split_card(card) == ({}, card)


def test_a_card_may_have_dates_and_numbers_as_keys() -> None:
    metadata, text = split_card("---\nlicense: mit\nreleased: 2024-07-18\n1: one\n---\ntext")
    assert (metadata["license"], str(metadata["released"]), metadata[1], text) == ("mit", "2024-07-18", "one", "text")
