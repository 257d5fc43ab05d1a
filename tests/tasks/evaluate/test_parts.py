"""Scores do not depend on how many pods score the rows, and rows are chosen whatever others there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import ArtifactError, ConfigError
from configs.schema import EvaluateConfig, ModelConfig
from configs.wire import Evaluation, Part
from tasks.evaluate.part import check_rows, score_part
from tasks.evaluate.score import chosen_rows, rows_of_part
from tasks.evaluate.scores import join_parts
from tasks.evaluate.subject import load_subject
from tasks.evidence.table import read_table

MODEL = ModelConfig(name="tiny")


def rows(number: int = 23) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "row_id": f"r:{n}",
                "input_ids": (ids := generator.integers(5, 200, size=int(generator.integers(4, 12))).tolist()),
                "labels": [-100] * 2 + ids[2:],
                "prompt_length": 2,
                "prompt": "p",
                "expected": "yes" if n % 3 else "no",
                "dataset": "held-out" if n < 20 else "books",
            }
            for n in range(number)
        ]
    )


def scored(model: Path, folder: Path, of: int) -> tuple[Evaluation, list[dict[str, object]]]:
    config = EvaluateConfig(generate_rows=9, max_new_tokens=4, measures=["accuracy", "macro_f1", "token_f1"])
    subject = load_subject(config, MODEL, model, model, [1])
    parts = []
    for number in reversed(range(of)):
        parts.append(folder / f"part-{number}-of-{of}")
        parts[-1].mkdir()
        score_part(subject, model, rows(), [], Part(number=number, of=of), parts[-1], "d")
    table = folder / f"{of}.parquet"
    return join_parts(config.measures, parts, table), read_table(table).to_pylist()


def test_any_number_of_parts_gives_the_same_scores(tiny_model: Path, tmp_path: Path) -> None:
    one, one_rows = scored(tiny_model, tmp_path, 1)
    for of in (2, 5, 30):
        many, many_rows = scored(tiny_model, tmp_path, of)
        assert many.scores.eval_loss == pytest.approx(one.scores.eval_loss, rel=1e-6)
        assert [own.value for own in many.scores.answers] == [own.value for own in one.scores.answers]
        assert many.predictions == one.predictions
        assert (
            [other.name for other in many.others] == [other.name for other in one.others] == ["books", "general text"]
        )
        assert many.kept_losses == pytest.approx(one.kept_losses, abs=1e-4)
        ids = [(row["dataset"], row["row_id"], row["answer"]) for row in one_rows]
        assert [(row["dataset"], row["row_id"], row["answer"]) for row in many_rows] == ids
    assert one.scores.generated_rows == 9 and one.model_digest == "d"


def test_parts_of_another_run_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    scored(tiny_model, tmp_path, 2)
    with pytest.raises(ArtifactError, match="do not belong to one run"):
        join_parts([], [tmp_path / "part-1-of-2"], tmp_path / "rows.parquet")


def test_rows_are_chosen_by_their_ids_alone() -> None:
    whole = rows()
    chosen = set(whole.row_id[chosen_rows(whole, 9)])
    assert len(chosen) == 9
    shuffled = whole.sample(frac=1, random_state=1).reset_index(drop=True)
    assert set(shuffled.row_id[chosen_rows(shuffled, 9)]) == chosen
    # without one of the chosen rows, the others stay and one is added
    fewer = whole[whole.row_id != min(chosen)].reset_index(drop=True)
    assert len(set(fewer.row_id[chosen_rows(fewer, 9)]) & chosen) == 8
    assert chosen_rows(whole.assign(prompt_length=0), 9).sum() == 0
    assert chosen_rows(whole, 100).sum() == 23


def test_parts_are_all_rows_once() -> None:
    for of in (1, 2, 7, 40):
        ids = [row_id for number in range(of) for row_id in rows_of_part(rows(), number, of).row_id]
        assert ids == list(rows().row_id)


def test_a_measure_that_fits_no_row_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(ConfigError, match="numeric_answer needs expected answers with a number"):
        check_rows(EvaluateConfig(measures=["numeric_answer"]), rows())
