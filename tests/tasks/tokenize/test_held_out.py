"""Held-out rows with another model's tokenizer: its own template, its own end token, and every row accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.token_rows import canonical

from configs.errors import DataError
from configs.schema import TokenizeConfig
from configs.wire_few_shot import HeldOutReport
from tasks.tokenize.held_out import held_out_tokens

from .conftest import Family, marked

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "test.parquet"
    canonical(rows).fillna("").assign(dataset="held-out").to_parquet(path)
    return path


def tokens(
    folder: Path, model: Path, rows: list[Any], template: str | None = None, prefers_own: bool = True, **settings: Any
) -> tuple[pd.DataFrame, HeldOutReport]:
    for name in ("output", "saved"):
        (folder / name).mkdir(exist_ok=True)
    report = held_out_tokens(
        TokenizeConfig(**settings), "sft", template, model, False, written(folder, rows), folder / "output",
        folder / "saved", prefers_own,
    )  # fmt: skip
    return pd.read_parquet(folder / "output" / "tokens.parquet"), report


def test_a_tokenizer_with_a_template_writes_its_own_and_another_is_not_asked(
    families: dict[str, Family], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    family = families["llama-3"]
    (tmp_path / "model").mkdir()
    own = AutoTokenizer.from_pretrained(family.directory)
    own.chat_template = family.template
    own.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_bytes((family.directory / "config.json").read_bytes())
    found, report = tokens(tmp_path, tmp_path / "model", [("Why?", "So.")], TEMPLATE)
    text = marked(found.input_ids[0], found.labels[0], own)
    assert "<|start_header_id|>user<|end_header_id|>" in text and text.endswith("«So.<|eot_id|>»")
    assert (report.rows, report.template) == (1, "model")
    [end] = report.end_token_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").convert_ids_to_tokens(end) == "<|eot_id|>"
    # the run's own model is asked with the template of the config
    given, report = tokens(tmp_path, tmp_path / "model", [("Why?", "So.")], TEMPLATE, prefers_own=False)
    assert report.template == "config" and list(given.input_ids[0]) != list(found.input_ids[0])


def test_a_tokenizer_without_a_template_takes_the_runs_or_none(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found, report = tokens(tmp_path, tiny_model, [("Why?", "So.")], TEMPLATE)
    assert marked(found.input_ids[0], found.labels[0], tokenizer) == "[user]Why?<eos>«[assistant]So.<eos>»"
    assert report.template == "config"
    found, report = tokens(tmp_path, tiny_model, [("Why?", "So.")])
    assert marked(found.input_ids[0], found.labels[0], tokenizer) == "Why?\n«So.<eos>»"
    assert report.template == "none"


def test_longer_rows_than_in_training_are_taken_and_too_long_ones_counted(tiny_model: Path, tmp_path: Path) -> None:
    # a letter is a token, max_length is 16: up to 64 tokens are scored
    rows = [("a", "b" * 30), ("c", "d" * 61), ("e", "f" * 62)]
    found, report = tokens(tmp_path, tiny_model, rows, max_length=16)
    assert [len(ids) for ids in found.input_ids] == [33, 64]
    assert (report.rows, report.too_long_rows, report.refused_rows) == (2, 1, 0)
    assert report.summary_line() == "2 held-out rows, chat template: none; 1 rows are too long"
    with pytest.raises(DataError, match="no held-out row is left for another model's tokenizer: all are too long"):
        tokens(tmp_path, tiny_model, rows[2:], max_length=16)


def test_rows_that_the_template_refuses_are_counted_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
    bad = {"kind": "messages", "messages": '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, '
           '{"role": "assistant", "content": "a"}]'}  # fmt: skip
    found, report = tokens(tmp_path, tiny_model, [("Why?", "So."), bad], refusing)
    assert (len(found), report.refused_rows) == (1, 1) and report.refusal
    assert report.refusal in report.summary_line() and "Why" not in report.summary_line()
