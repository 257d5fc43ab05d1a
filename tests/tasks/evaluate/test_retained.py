"""What a model should not lose, scored on a small model: sets of their own, with their measures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from configs.measures import Measured, ReasonCount, Scores
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.evaluate import RetainedConfig
from configs.wire import Evaluation, Part
from tasks.evaluate.part import score_part
from tasks.evaluate.retained import retained_tables
from tasks.evaluate.scores import evaluate_model, join_parts, score_line
from tasks.evaluate.subject import load_subject
from tasks.evidence.table import score_of
from tasks.models.generation import Answer
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
    # a byte a token
    assert found.scores.bits_per_byte == pytest.approx(total / math.log(2) / number, rel=1e-5)
    assert score_line(found.scores).endswith(f"bits per byte {found.scores.bits_per_byte:.4f} over 2 rows")
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
    assert shares(retained_tables(subject, [known], other)) == {
        "memorized training rows": (1.0, 1),
        "memorized held-out rows": (0.0, 1),
    }
    # two sequences of one pack, as packed training has them: only the second is known by heart
    first, second = other.iloc[0], known.iloc[0]
    pack = pd.DataFrame(
        [
            {
                "row_ids": ["a:1", "a:2"],
                "input_ids": [*first.input_ids, *second.input_ids],
                "labels": [*first.labels, *second.labels],
                "position_ids": [*range(len(first.input_ids)), *range(len(second.input_ids))],
            }
        ]
    )
    found = retained_tables(subject, [pack], other)
    assert shares(found)["memorized training rows"] == (0.5, 2)
    assert found[0].select(["row_id", "memorized"]).to_pylist() == [
        {"row_id": "a:1", "memorized": 0.0},
        {"row_id": "a:2", "memorized": 1.0},
    ]


def test_unwanted_answers_are_not_completed(tiny_model: Path) -> None:
    config = EvaluateConfig(retained=RetainedConfig(general_text="none", memorization_rows=4))
    subject = load_subject(config, MODEL, tiny_model, tiny_model, [1])
    rows = rows_of(*[([5, 6, 7] + [9, 200] * 10, 3)] * 3).assign(is_wanted=[True, False, True])
    training, _ = retained_tables(subject, [rows], rows)
    assert training["row_id"].to_pylist() == ["r:0", "r:2"]


def test_rows_that_do_not_count_are_shown_with_their_reason(tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(retained=RetainedConfig(general_text="none", memorization_rows=4))
    subject = load_subject(config, MODEL, tiny_model, tiny_model, [1])
    short, long = ([5, 6, 7, 8], 2), ([5, 6] + [9, 200] * 10, 2)
    # no training row counts; a set without any number must not vanish
    training = rows_of(short, short, short)
    score_part(subject, tiny_model, rows_of(short, long), [training], Part(number=0, of=1), tmp_path)
    found = {other.name: other.scores.answers for other in join_parts([], [tmp_path], tmp_path / "all").others}
    [of_training], [of_held_out] = found["memorized training rows"], found["memorized held-out rows"]
    assert (of_training.key, of_training.value, of_training.rows) == ("memorized", None, 0)
    assert [(own.reason, own.rows) for own in of_training.not_counted] == [("the answer has fewer than 16 tokens", 3)]
    assert (of_held_out.value, of_held_out.rows) == (0.0, 1)
    assert [(own.reason, own.rows) for own in of_held_out.not_counted] == [("the answer has fewer than 16 tokens", 1)]


def test_the_log_says_what_was_measured_of_each_set(tiny_model: Path) -> None:
    retained = RetainedConfig(general_text="none", refusals=True, memorization_rows=4)
    config = EvaluateConfig(max_new_tokens=2, retained=retained)
    rows = rows_of(([5, 6, 7, 8], 2), ([5, 6] + [9, 200] * 10, 2))
    lines = {
        other.name: score_line(other.scores)
        for other in evaluate_model(config, MODEL, tiny_model, rows, tiny_model, [1]).others
    }
    short = "1 not counted: the answer has fewer than 16 tokens"
    assert lines == {
        "unsafe prompts": "refused 0.0% of 40",
        "harmless prompts": "wrongly refused 0.0% of 40",
        "memorized held-out rows": f"completed word for word 0.0% of 1 ({short})",
    }
    no_row = Scores(loss_rows=0, loss_tokens=0, generated_rows=0, size_bytes=0, answers=[
        Measured(key="memorized", name="memorized", value=None, rows=0,
                 not_counted=[ReasonCount(reason="the row has no prompt", rows=3)])])  # fmt: skip
    assert score_line(no_row) == "completed word for word - of 0 (3 not counted: the row has no prompt)"


def test_texts_without_prompts_are_shown_as_such(tiny_model: Path) -> None:
    config = EvaluateConfig(retained=RetainedConfig(general_text="none", memorization_rows=2))
    subject = load_subject(config, MODEL, tiny_model, tiny_model, [1])
    score = retained_tables(subject, [rows_of(([9] * 30, 0))], ROWS)[0]
    assert score["memorized"].null_count == score.num_rows == 1
    assert b"the row has no prompt" in score.schema.metadata[b"not_counted"]


def test_a_prompt_without_room_for_an_answer_does_not_count(tiny_model: Path, tmp_path: Path) -> None:
    further = tmp_path / "more.jsonl"
    # 256 positions, a byte a token, and 64 tokens of an answer: 192 fit and 193 do not
    prompts = [{"prompt": "x" * 192}, {"prompt": "x" * 193}, {"prompt": "x" * 500}]
    further.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    unsafe, _ = scored(tiny_model, general_text="none", refusals=True, unsafe_prompts=str(further)).others
    [refused] = unsafe.scores.answers
    assert (refused.rows, unsafe.scores.generated_rows) == (41, 41)
    assert [(own.reason, own.rows) for own in refused.not_counted] == [
        ("the prompt leaves no room for an answer in the model's positions", 2)
    ]


def test_reasoning_gets_more_room_and_does_not_count_where_that_is_too_little(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def thinking(model, tokenizer, rows, config, ends, counts_right) -> list[Answer]:
        # every model of this kind thinks for 100 tokens, and about the first prompt without end
        asked.append((len(rows), config.max_new_tokens))
        return [
            Answer([5], "I cannot help with that.", "Hm.", "", True)
            if config.max_new_tokens > 100 and not row_id.endswith(":1")
            else Answer([5], "", "Hm", "", False)
            for row_id in rows.row_id
        ]

    monkeypatch.setattr("tasks.evaluate.retained.generate_answers", thinking)
    config = EvaluateConfig(max_new_tokens=180, retained=RetainedConfig(general_text="none", refusals=True))
    unsafe, _ = retained_tables(load_subject(config, MODEL, tiny_model, tiny_model, [1]), [], ROWS)
    assert asked[:2] == [(40, 64), (40, 180)]
    assert score_of(unsafe, "refusal_rate") == (1.0, 39)
    assert json.loads(unsafe.schema.metadata[b"not_counted"]) == {
        "refusal_rate": {"the reasoning was cut before any answer": 1}
    }


def test_virtual_tokens_take_positions(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("x" * 400)
    further = tmp_path / "more.jsonl"
    # 256 positions less 20 virtual tokens and 64 of an answer: 172 fit and 173 do not
    further.write_text("".join(json.dumps({"prompt": "x" * length}) + "\n" for length in (172, 173)))
    retained = RetainedConfig(
        general_text=str(text), refusals=True, unsafe_prompts=str(further), memorization_rows=2,
        harness=[{"task": "embedded:arithmetic", "limit": 2}],
    )  # fmt: skip
    subject = load_subject(EvaluateConfig(retained=retained), MODEL, tiny_model, tiny_model, [1])
    tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)
    subject = dataclasses.replace(subject, model=get_peft_model(subject.model, tuning).eval())
    # 236 tokens fit beside the virtual ones, and 237 do not
    rows = rows_of(([5] * 216 + [9] * 20, 216), ([5] * 217 + [9] * 20, 217))
    tables = {table["dataset"][0].as_py(): table for table in retained_tables(subject, [rows], rows)}
    assert len(tables) == 6
    assert tables["general text"]["eval_loss#sums"].to_pylist()[0][1] == 235
    assert score_of(tables["unsafe prompts"], "refusal_rate")[1] == 41
    assert score_of(tables["memorized training rows"], "memorized")[1] == 1
    assert score_of(tables["harness: embedded:arithmetic"], "harness")[1] == 2


def shares(tables: Sequence[pa.Table]) -> dict[str, tuple[float | None, int]]:
    """Return (share completed word for word, rows that count) by the names of the sets."""
    return {table["dataset"][0].as_py(): score_of(table, "memorized") for table in tables}


def test_a_task_of_the_harness_is_a_set_with_a_value_for_each_document(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [found] = scored(tiny_model, general_text="none", harness=[{"task": "embedded:arithmetic", "limit": 10}]).others
    [measured] = found.scores.answers
    assert (found.name, measured.key, measured.rows) == ("harness: embedded:arithmetic", "harness", 10)
    assert measured.value is not None and 0 <= measured.value <= 1
