"""What a model should not lose, scored on a small model: sets of their own, with their measures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.evaluate import RetainedConfig
from configs.wire import Evaluation
from tasks.evaluate.retained import retained_tables
from tasks.evaluate.scores import evaluate_model
from tasks.evaluate.subject import load_subject
from tasks.evidence.table import score_of
from tasks.models.load import load_model, load_tokenizer

from .test_score import rows_of

MODEL = ModelConfig(name="tiny")
ROWS = rows_of(([5, 6, 7, 8], 2), ([9, 10, 11], 1))


def scored(model: Path, **retained: object) -> Evaluation:
    config = EvaluateConfig(max_new_tokens=2, retained=RetainedConfig.model_validate(retained))
    return evaluate_model(config, MODEL, model, ROWS, model, [1])


def test_general_text_has_the_loss_of_its_tokens(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Two words.\n\nAnd three more.")
    [found] = scored(tiny_model, general_text=str(text)).others
    assert found.name == "general text"
    model, tokenizer = load_model(MODEL, tiny_model).eval(), load_tokenizer(tiny_model, False)
    total, number = 0.0, 0
    for piece in ("Two words.", "And three more."):
        ids = torch.tensor([tokenizer(piece)["input_ids"]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        number += ids.shape[1] - 1
    assert found.scores.loss_tokens == number
    assert found.scores.eval_loss == pytest.approx(total / number, rel=1e-5)
    assert found.scores.perplexity == pytest.approx(math.exp(total / number), rel=1e-5)
    assert found.scores.answers == []


def test_refusals_are_counted_on_both_sets(tiny_model: Path) -> None:
    unsafe, harmless = scored(tiny_model, general_text="none", refusals=True).others
    assert (unsafe.name, harmless.name) == ("unsafe prompts", "harmless prompts")
    [refused], [wrongly] = unsafe.scores.answers, harmless.scores.answers
    assert (refused.key, refused.rows, wrongly.key, wrongly.rows) == ("refusal_rate", 40, "over_refusal_rate", 40)
    # random weights write no words
    assert refused.value == wrongly.value == 0.0
    assert wrongly.lower_is_better and not refused.lower_is_better
    assert unsafe.scores.eval_loss is None


def test_a_model_that_knows_an_answer_by_heart_is_found(tiny_model: Path) -> None:
    config = EvaluateConfig(retained=RetainedConfig(general_text="none", memorization_rows=4))
    subject = load_subject(config, MODEL, tiny_model, tiny_model, [1])
    prompt = [5, 6, 7]
    with torch.no_grad():
        own = subject.model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=0)
    known = rows_of((own[0].tolist(), 3))
    other = rows_of((prompt + [9, 200] * 10, 3))
    tables = {table["dataset"][0].as_py(): table for table in retained_tables(subject, [known], other)}
    assert score_of(tables["memorized training rows"], "memorized") == (1.0, 1)
    assert score_of(tables["memorized held-out rows"], "memorized") == (0.0, 1)


def test_a_task_of_the_harness_is_a_set_with_a_value_for_each_document(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [found] = scored(tiny_model, general_text="none", harness=[{"task": "embedded:arithmetic", "limit": 10}]).others
    [measured] = found.scores.answers
    assert (found.name, measured.key, measured.rows) == ("harness: embedded:arithmetic", "harness", 10)
    assert measured.value is not None and 0 <= measured.value <= 1
