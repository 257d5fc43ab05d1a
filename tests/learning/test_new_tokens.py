"""New special tokens are trained by every objective, and kept: by all weights, and by an adapter."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import torch
from learning.tasks import LOADING, make_model, tokenize, train, words
from support.token_rows import Row, preference

from configs.objectives import ONLINE, Objective
from configs.schema import TokenizeConfig
from configs.schema.train import Method, TrainConfig
from tasks.models.load import load_model, load_reward_model

NEW = "<|user|>"
# it is the template, or a plain text, that holds control tokens: in a prompt or an answer this would be mere text
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|user|>' + message.content + '>' if message.role == 'user' else message.content + '<eos>' }}"
    "{% endfor %}"
)
METHODS: tuple[Method, ...] = ("full", "lora")


def rows_for(objective: Objective) -> list[Row]:
    texts = words(12, 4, seed=0)
    if objective == "cpt":
        return [f"{NEW}{text}" for text in texts]
    if objective in ("dpo", "reward", "kto"):
        return [preference(text, text.upper(), text) for text in texts]
    return [(text, text) for text in texts]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("objective", "method"), product(get_args(Objective), METHODS))
def test_a_new_token_is_trained_and_kept(objective: Objective, method: Method, base: Path, tmp_path: Path) -> None:
    rows = rows_for(objective)
    settings = TokenizeConfig(max_length=40, new_special_tokens=[NEW])
    tokens = tokenize(objective, base, rows[:8], rows[8:], tmp_path / "tokens", settings, TEMPLATE)
    [new] = tokens.report.new_token_ids
    assert all(new in ids for ids in pd.read_parquet(tokens.train / "tokens.parquet").input_ids)
    config = TrainConfig(
        objective=objective,
        method=method,
        max_steps=3,
        batch_size=8,
        micro_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        policy={"rewards": [{"kind": "regex", "pattern": "^[a-jA-J]"}], "max_new_tokens": 4},
        watch={"evaluations": 1},
    )
    run = train(config, base, tokens, tmp_path)
    before = load_model(LOADING, base).get_input_embeddings().weight
    load: Any = load_reward_model if objective == "reward" else load_model
    after = load(LOADING, run.model).get_input_embeddings().weight
    # it began as the mean of the others, where the reference's still is
    assert not torch.allclose(after[new], before[:new].mean(0), atol=1e-4)
    assert torch.equal(after[:new], before[:new]) == (method == "lora")
    if objective in ONLINE:
        [divergence] = [series for series in run.report.series if series.name == "kl"]
        assert abs(divergence.values[0]) < 1e-6
