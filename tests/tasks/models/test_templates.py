"""A chat template that loops without end is stopped, and named, wherever it is rendered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.token_rows import canonical

from configs.errors import ModelError
from configs.schema import ModelConfig, TokenizeConfig
from tasks.models import templates
from tasks.models.chat import load_speaker
from tasks.models.usage import Usage, prompt_format
from tasks.plan.checks.token_checks import check_template
from tasks.plan.checks.tokenizers import read_tokenizer
from tasks.plan.resolve.models import find_model
from tasks.tokenize.prepare import tokenize_part

FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}"
TURN = "<|{{ m['role'] }}|>{{ m['content'] }}<eos>"
LOOPING = "{% for m in messages %}" + TURN + FOR_EVER + "{% endfor %}"
AT_LOOP = "{% if m['content'] == 'LOOP' %}" + FOR_EVER + "{% endif %}"
LOOPING_AT_ONE = "{% for m in messages %}" + AT_LOOP + TURN + "{% endfor %}"
TITLE = "the chat template (tokenize.chat_template)"
FIX = "repair its loops, or set tokenize.chat_template to another template"


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "TEMPLATE_SECONDS", 0.4)


@pytest.fixture
def looping_model(tiny_model: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (copy / "chat_template.jinja").write_text(LOOPING)
    return copy


def test_the_plan_stops_it(tiny_model: Path) -> None:
    files = find_model(ModelConfig(name=str(tiny_model)), None)
    assert files is not None
    tokenizer = read_tokenizer(files, "model.name=m")
    with pytest.raises(ModelError) as error:
        check_template(tokenizer, files.settings["config.json"], TokenizeConfig(), LOOPING)
    assert str(error.value) == (f"{TITLE} does not end at a question and its answer: it was stopped after 0.4 s\n{FIX}")


def test_tokenizing_stops_it_at_the_row_at_which_it_loops(tiny_model: Path, tmp_path: Path) -> None:
    rows = [[("user", "q"), ("assistant", answer)] for answer in ("a", "LOOP", "b")]
    splits = {name: tmp_path / f"rows-{name}.parquet" for name in ("train", "test")}
    for path in splits.values():
        canonical(rows).to_parquet(path)
    with pytest.raises(ModelError) as error:
        tokenize_part(TokenizeConfig(), "sft", LOOPING_AT_ONE, tiny_model, False, splits, 0, 1, tmp_path)
    assert str(error.value) == f"{TITLE} does not end at f:2: it was stopped after 0.4 s\n{FIX}"


@pytest.mark.parametrize("where", ["the model's page", "the chat"])
def test_asking_a_model_stops_it(where: str, looping_model: Path) -> None:
    asks: dict[str, Callable[[], object]] = {
        "the model's page": lambda: prompt_format(Usage("model", str(looping_model), "", new_tokens=3), looping_model),
        "the chat": lambda: load_speaker("tuned", str(looping_model), str(looping_model), "").answer("q", 3),
    }
    with pytest.raises(ModelError, match=r"^the model's chat template does not end: it was stopped after 0.4 s\n"):
        asks[where]()


@pytest.mark.parametrize("template", ["{% macro m() %}{{ m() }}{% endmacro %}{{ messages }}{{ m() }}"])
def test_a_template_that_calls_itself_fails_on_the_row(template: str, tiny_model: Path, tmp_path: Path) -> None:
    splits = {"train": tmp_path / "rows.parquet"}
    canonical([[("user", "q"), ("assistant", "a")]]).to_parquet(splits["train"])
    tokenize_part(TokenizeConfig(), "sft", template, tiny_model, False, splits, 0, 1, tmp_path)
    refused = pd.read_parquet(tmp_path / "refused-train.parquet")
    assert refused["reason"].tolist() == [f"{TITLE} fails on it with RecursionError"]
