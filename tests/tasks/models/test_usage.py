"""The code that a model's README shows runs, and gives the answer that the evaluation got."""

from __future__ import annotations

import ast
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from learning.tasks import LOADING, Tokens, tokenize, train

from configs.artifacts import PushedArtifact
from configs.schema import EvaluateConfig, TokenizeConfig
from configs.schema.train import TrainConfig
from tasks.evaluate.scores import evaluate_model
from tasks.models.usage import QUESTION, Usage, prompt_format, python_snippet, render_usage, vllm_snippet
from tasks.quantize.bitsandbytes import quantize_model

NEW_TOKENS = 12
PLAIN = [("What is the capital of Italy?", "Rome."), (QUESTION, "Paris."), ("Who?", "Ann.")] * 4
CHATS = [[("user", prompt), ("assistant", answer)] for prompt, answer in PLAIN]
CONFIG = TrainConfig(
    method="full",
    epochs=12,
    batch_size=4,
    micro_batch_size=4,
    learning_rate=5e-3,
    group_by_length=False,
    watch={"evaluations": 0},
)


def printed(code: str) -> str:
    """Run a snippet as a reader would, and return what it prints."""
    out = StringIO()
    with redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    return out.getvalue().strip()


def evaluated(model: Path, tokens: Tokens) -> str:
    """Return the answer to `QUESTION` that the evaluation got."""
    rows = pd.read_parquet(tokens.test / "tokens.parquet")
    config = EvaluateConfig(generate_rows=len(rows), max_new_tokens=NEW_TOKENS, batch_size=4)
    found = evaluate_model(config, LOADING, model, rows, tokens.tokenizer, tokens.report.end_token_ids)
    return next(item.answer for item in found.predictions if item.prompt == QUESTION).strip()


@pytest.fixture(scope="module", params=["pairs", "chats"])
def tokens(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokens of pairs without a template, and of conversations by the plain one."""
    rows: Any = PLAIN if request.param == "pairs" else CHATS
    config = TokenizeConfig(max_length=128, prompt_separator="\n### Answer: ")
    return tokenize("sft", tiny_model, rows, rows[:3], tmp_path_factory.mktemp("tokens") / "t", config)


@pytest.mark.parametrize("artifact", ["model", "adapter", "8bit", "4bit"])
def test_the_code_of_each_artifact_gives_the_answer_of_the_evaluation(
    artifact: PushedArtifact, tokens: Tokens, tiny_model: Path, tmp_path: Path
) -> None:
    method = "lora" if artifact == "adapter" else "full"
    run = train(CONFIG.model_copy(update={"method": method}), tiny_model, tokens, tmp_path)
    place = model = run.model
    if artifact == "adapter":
        place = run.saved
    elif artifact != "model":
        place = model = tmp_path / artifact
        quantize_model(artifact, LOADING, run.model, place)
    usage = Usage(artifact, str(place), str(tiny_model), new_tokens=NEW_TOKENS)
    assert prompt_format(usage, place) is not None
    answer = printed(python_snippet(usage, has_template=True))
    assert answer == evaluated(model, tokens)
    assert answer


def test_the_prompt_is_that_of_the_trained_tokens(tokens: Tokens, tiny_model: Path) -> None:
    asked = prompt_format(Usage("model", "x", ""), tokens.tokenizer)
    assert asked is not None
    row = pd.read_parquet(tokens.test / "tokens.parquet").iloc[1]
    from transformers import AutoTokenizer

    trained = AutoTokenizer.from_pretrained(tokens.tokenizer).decode(list(row.input_ids)[: row.prompt_length])
    assert asked.replace("{question}", QUESTION).strip() == trained.strip()


def test_a_model_without_a_template_continues_a_text(tiny_model: Path) -> None:
    usage = Usage("model", str(tiny_model), "", new_tokens=3)
    assert prompt_format(usage, tiny_model) is None
    assert isinstance(printed(python_snippet(usage, has_template=False)), str)
    text = render_usage(usage, tiny_model)
    assert "/v1/completions" in text and "{question}" not in text


@pytest.mark.parametrize("artifact", ["model", "adapter", "8bit", "gptq"])
def test_the_commands_for_vllm_parse(artifact: PushedArtifact) -> None:
    usage = Usage(artifact, "me/it's", "owner/base", template_arguments='{"enable_thinking": false}')
    serve, ask = vllm_snippet(usage, has_template=True).splitlines()
    assert shlex.split(serve.replace("it's", "its"))[:2] == ["vllm", "serve"]
    body = ast.literal_eval(shlex.split(ask)[-1].replace("false", "False"))
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and body["messages"][0]["content"] == QUESTION
    assert ("--quantization bitsandbytes" in serve) == (artifact == "8bit")
    assert ("--enable-lora" in serve) == (artifact == "adapter")


def test_arguments_of_the_template_are_in_the_code(tiny_model: Path) -> None:
    code = python_snippet(Usage("model", "me/x", "", template_arguments='{"enable_thinking": false}'), True)
    assert "return_dict=True, enable_thinking=False)" in code
    assert "trust_remote_code=True" in python_snippet(Usage("model", "me/x", "", trust_remote_code=True), True)
