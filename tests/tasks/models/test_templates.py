"""A chat template that loops without end is stopped, and named, wherever it is rendered."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.token_rows import canonical
from transformers.utils.chat_template_utils import render_jinja_template

from configs.errors import ModelError
from configs.schema import ModelConfig, TokenizeConfig
from tasks.models import templates
from tasks.models.chat import load_speaker
from tasks.models.template_bounds import bounded_memory
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


MIB = "more than 768 MiB of memory"
ELEMENTS = "texts or lists of more than 67,108,864 elements"
BITS = "numbers of more than 4096 bits"
# nested pairs: their comparison takes 2 ** 60 steps in C and no memory
PAIRS = (
    "{% set n = namespace(a=[0], b=[0]) %}"
    "{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ (9 ** (9 ** 9)) % 7 }}", f"computes too much: {BITS}"),
        ("{{ 'a' * 3000000000 }}", f"computes too much: {ELEMENTS}"),
        ("{{ 1 | round(999999999, 'ceil') }}", "computes too much: numbers of more than 300 digits"),
        ("{{ 'a'.ljust(10**10) }}", f"computes too much: {MIB}"),
        ("{{ '{:>1000000000}'.format(1) }}", f"computes too much: {MIB}"),
        (PAIRS, "does not end: it was stopped after 0.4 s"),
        (FOR_EVER, "does not end: it was stopped after 0.4 s"),
    ],
)
def test_a_process_apart_ends_what_python_cannot(template: str, found: str) -> None:
    with pytest.raises(ModelError) as error:
        templates.try_apart("the chat template", template, {})
    assert str(error.value).splitlines()[0] == f"the chat template {found}"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ (9 ** (9 ** 9)) % 7 }}", BITS),
        ("{% set n = namespace(v=3) %}{% for i in range(60) %}{% set n.v = n.v * n.v %}{% endfor %}", BITS),
        ("{{ [0] * 3000000000 }}", ELEMENTS),
        ("{{ 'a'.ljust(10**10) }}", MIB),
        ("{{ '%1000000000d' % 1 }}", MIB),
        ("{% set n = namespace(v='a') %}{% for i in range(60) %}{% set n.v = n.v + n.v %}{% endfor %}", MIB),
    ],
)
def test_what_a_later_row_computes_is_bounded_too(template: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "TEMPLATE_SECONDS", 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(ModelError) as error, templates.ending("the chat template", "f:2"):
        render_jinja_template([[]], chat_template=template)
    assert str(error.value).splitlines()[0] == f"the chat template computes too much at f:2: {found}"
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_blocks_in_threads_share_the_bound_of_memory() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounded_memory():
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        with bounded_memory():
            assert resource.getrlimit(resource.RLIMIT_AS)[0] == soft
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == soft
        child = os.fork()
        if child == 0:
            os._exit(0 if resource.getrlimit(resource.RLIMIT_AS) == before else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_small_powers_and_products_are_computed() -> None:
    template = "{{ 2 ** 10 }} {{ '=' * 3 }} {{ 2 * 1.5 }} {{ 2 ** -1 }} {{ 1.25 | round(1) }} {{ [0] * 2 }}"
    with templates.ending("the chat template"):
        texts, _ = render_jinja_template([[]], chat_template=template)
    assert texts == ["1024 === 3.0 0.5 1.2 [0, 0]"]


def test_a_conversation_has_a_longest_length() -> None:
    assert len(templates.accepted("a" * 2**26, "the chat template")) == 2**26
    with pytest.raises(ModelError, match=r"too much at f:1: a conversation of more than 67,108,864 characters\n"):
        templates.accepted("a" * (2**26 + 1), "the chat template", "f:1")
