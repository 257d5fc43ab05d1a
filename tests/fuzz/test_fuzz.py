"""Any bytes in a config, in rows or in a model's folder give a result or one of the project's errors.

`make test` takes 20 seconds for each of the three, with seeds that stay the same; `make fuzz` takes a minute, or
SECONDS, with seeds of their own, which a failure prints.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from support.data_files import COMPRESS, encode
from support.loading import load_data

from configs.errors import FineTuneError
from configs.load import load_align_config, load_config
from configs.printable import printable
from configs.schema import DataConfig, FineTuneConfig
from tasks.plan.checks.preflight import Answer, answer
from tasks.plan.checks.questions import Surroundings, training_questions

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60")) / 3
FIRST_SEED = random.randrange(2**32) if "FUZZ_SECONDS" in os.environ else 0
PRESETS = sorted((Path(__file__).parents[2] / "configs" / "presets").glob("*.yaml"))

NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**40, 1e308, -0.0, 0.1, float("inf"), float("nan")])
LOOP = "{% for i in range(10**9) %}{% endfor %}"
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "\x00", "\u202e", "\ufeff", "{{ 1/0 }}", LOOP, "../../x", "=1+1", "a" * 9999]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
DEEP = st.sampled_from(["[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "[" * 300 + "]" * 300, "9" * 5000])


def for_a_while(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check values of a strategy for a fixed time; hypothesis shrinks a value that fails, and prints its seed."""
    end = time.monotonic() + SECONDS
    for number in count(FIRST_SEED):
        if time.monotonic() > end:
            return

        @seed(number)
        @settings(
            max_examples=25, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
        )
        @given(strategy)
        def values_are_handled(value: Any) -> None:
            if time.monotonic() < end + SECONDS:
                check(value)

        values_are_handled()


def outcome(run: Callable[[], object]) -> None:
    """Run, and let only a result or one of the project's errors pass."""
    try:
        run()
    except FineTuneError as error:
        assert_clear(error)


def assert_clear(error: BaseException) -> None:
    text = str(error)
    assert 1 <= len(text.splitlines()) <= 4, text
    assert "fault of the project" not in text and len(text) < 5000
    assert printable(text) == text


class Known:
    """Values to change. Hypothesis prints its strategies, and these are long."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"{len(self.values)} known"


@st.composite
def changed_json(draw: st.DrawFn, known: Known) -> Any:
    """One of the known documents, in which up to three values, keys or entries are others, or gone."""
    document = json.loads(json.dumps(known.values[draw(st.integers(0, len(known.values) - 1))]))
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = document
        while isinstance(parent, dict | list) and parent:
            key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
            if not (isinstance(parent[key], dict | list) and parent[key]) or draw(st.integers(0, 3)) == 0:
                change = draw(st.sampled_from(["value", "value", "value", "gone", "renamed"]))
                if change == "value":
                    parent[key] = draw(VALUES)
                elif change == "gone":
                    del parent[key]
                elif isinstance(parent, dict):
                    parent[draw(TEXTS)] = parent.pop(key)
                break
            parent = parent[key]
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, known: Known) -> bytes:
    """Some of the known bytes, of which a stretch is cut out, repeated or replaced."""
    content = known.values[draw(st.integers(0, len(known.values) - 1))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 4, 100, len(content)])))
        new = draw(st.binary(max_size=8) | st.sampled_from([content[start:end] * 3, b"", b"\xef\xbb\xbf", b"\xff\xfe"]))
        content = content[:start] + new + content[end:]
    return content


def encoded(value: Any) -> bytes:
    # NaN and infinity are written as Python does, which some files hold
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def test_any_bytes_of_a_config_are_a_config_or_one_error(tmp_path: Path) -> None:
    import yaml

    texts = [preset.read_bytes() for preset in PRESETS]
    documents = [yaml.safe_load(text) for text in texts]
    changed = changed_json(Known(documents))
    as_yaml = changed.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))
    contents = (
        changed.map(encoded) | as_yaml | changed_bytes(Known(texts)) | st.binary(max_size=200) | DEEP.map(str.encode)
    )
    path = tmp_path / "config.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        outcome(lambda: load_config(path))
        outcome(lambda: load_align_config(path))

    for_a_while(contents, check)


ROWS = [
    {"prompt": "What is 2 + 2?", "completion": "4"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "id": 7},
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "w", "arguments": '{"c": "Rome"}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "21"},
            {"role": "assistant", "content": "21 degrees.", "reasoning_content": "Read it."},
        ],
        "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}],
    },
    {"instruction": "Translate.", "input": "Haus", "output": "house", "system": "Be brief."},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"text": "A manual."},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
]


def test_any_bytes_of_rows_are_rows_or_one_error(tmp_path: Path) -> None:
    flat = [[{key: str(value) for key, value in row.items()} for _ in range(3)] for row in ROWS]
    files = {kind: [encode(kind, rows) for rows in flat] for kind in (".csv", ".tsv", ".parquet", ".arrow", ".json")}
    files[".jsonl"] = [b"".join(encoded(row) + b"\n" for row in [row] * 3) for row in ROWS]
    one_of = changed_json(Known([[row] * 3 for row in ROWS]))
    lines = one_of.map(lambda rows: b"".join(encoded(row) + b"\n" for row in rows if row or rows))
    contents = st.one_of(
        lines.map(lambda content: (".jsonl", content)),
        one_of.map(lambda rows: (".json", encoded(rows))),
        *(changed_bytes(Known(known)).map(lambda content, kind=kind: (kind, content)) for kind, known in files.items()),
        st.tuples(st.sampled_from(sorted(files)), st.binary(max_size=100) | DEEP.map(str.encode)),
    )
    compressed = st.tuples(contents, st.sampled_from(["", "", "", ".gz", ".zst"]), st.booleans())

    def check(value: tuple[tuple[str, bytes], str, bool]) -> None:
        (kind, content), compression, is_cut = value
        packed = COMPRESS[compression](content)
        path = tmp_path / f"rows{kind}{compression}"
        path.write_bytes(packed[: len(packed) // 2] if is_cut and compression else packed)
        data = {"sources": [{"path": str(path)}], "max_invalid_rows": 10}
        outcome(lambda: load_data(DataConfig.model_validate(data)))
        path.unlink()

    for_a_while(compressed, check)


def test_any_bytes_in_a_models_folder_are_a_plan_or_errors(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in tiny_model.iterdir() if path.suffix == ".json")
    parsed = {name: json.loads((tiny_model / name).read_bytes()) for name in names}
    # what the toy does not have, and models have
    parsed["tokenizer_config.json"]["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    parsed["model.safetensors.index.json"] = {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}
    parsed["added_tokens.json"] = {"<more>": 300}
    changed = st.sampled_from(sorted(parsed)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            changed_json(Known([parsed[name]])).map(encoded)
            | changed_bytes(Known([encoded(parsed[name])]))
            | DEEP.map(str.encode)
            | VALUES.map(encoded),
        )
    )
    weights = changed_bytes(Known([(tiny_model / "model.safetensors").read_bytes()])).map(
        lambda content: ("model.safetensors", content)
    )
    given_template = TEXTS.map(lambda text: ("chat_template.jinja", text.encode("utf-8", "surrogatepass")))
    surroundings = Surroundings(
        is_laptop=True,
        token=None,
        token_sources="$HF_TOKEN",
        tracker_secrets={},
        tracker_sources="$X",
        filesystem_of=lambda address: None,
        scratch=tmp_path,
    )

    def check(value: tuple[str, bytes]) -> None:
        name, content = value
        model = tmp_path / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(tiny_model, model)
        (model / name).write_bytes(content)
        config = FineTuneConfig.model_validate(
            {
                "model": {"name": str(model)},
                "data": {"sources": [{"path": str(rows_file)}]},
                "output_directory": str(tmp_path / "outputs"),
                "quantize": {"methods": []},
            }
        )
        answers: list[Answer] = answer(training_questions(config, surroundings))
        for given_answer in answers:
            if given_answer.error is not None:
                assert_clear(given_answer.error)

    for_a_while(changed | weights | given_template, check)
