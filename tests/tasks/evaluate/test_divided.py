"""A model that is divided, or loaded in 4 bits, is scored as it should be: on this machine over memory and disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tasks.models.load as loading
from configs.schema import EvaluateConfig, ModelConfig
from configs.wire import Part
from tasks.evaluate.part import score_part
from tasks.evaluate.subject import Subject, load_subject
from tasks.evidence.table import read_table
from tasks.models.parity import CountedRow, compare, write_reference
from tasks.models.placement import input_device, is_divided
from tasks.models.record import PARITY_FILE
from tasks.models.vocabulary import make_room
from tasks.quantize.bitsandbytes import quantize_model
from tasks.rewards.models import load_reward_models

MODEL = ModelConfig(name="tiny")
# places of the parts of the tiny Llama, whose output head is its embedding
DIVISIONS = {
    "layers on the disk": {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"},
    "embeddings on the disk": {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk"},
}


def rows(number: int = 12) -> pd.DataFrame:
    """Rows of which some share a beginning that is long enough to be computed once."""
    generator = np.random.default_rng(0)
    shared = generator.integers(5, 200, size=40).tolist()
    texts = [(shared if n % 2 else []) + generator.integers(5, 200, size=6 + n).tolist() for n in range(number)]
    return pd.DataFrame(
        {
            "row_id": [f"r:{n}" for n in range(number)],
            "input_ids": texts,
            "labels": [[-100] * (len(ids) - 4) + ids[-4:] for ids in texts],
            "prompt_length": [len(ids) - 4 for ids in texts],
            "prompt": "p",
            "expected": "yes",
            "dataset": "held-out",
        }
    )


def divide(monkeypatch: pytest.MonkeyPatch, places: dict[str, str], folder: Path) -> None:
    """Let the next models be divided over memory and disk, as they would be over GPUs."""
    everything = {**places, "model.norm": "cpu", "model.rotary_emb": "cpu"}
    everything |= {} if "score" in places else {"lm_head": places["model.embed_tokens"]}
    found = {"device_map": everything, "offload_folder": str(folder / "offloaded")}
    monkeypatch.setattr(loading, "placement", lambda *_: found)


def subject_of(model: Path, **settings: Any) -> Subject:
    config = EvaluateConfig(generate_rows=8, max_new_tokens=12, batch_size=4, **settings)
    return load_subject(config, MODEL, model, model, [1])


def table(subject: Subject, model: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    score_part(subject, model, rows(), [], Part(number=0, of=1), folder)
    return read_table(folder / "rows.parquet").to_pylist()


@pytest.mark.parametrize("division", DIVISIONS)
def test_a_divided_model_has_the_scores_of_the_whole_one(
    division: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = table(subject_of(tiny_model), tiny_model, tmp_path / "whole")
    divide(monkeypatch, DIVISIONS[division], tmp_path)
    subject = subject_of(tiny_model)
    # else nothing is shown
    assert is_divided(subject.model) and any(weight.is_meta for weight in subject.model.parameters())
    assert input_device(subject.model) == torch.device("cpu")
    parts = table(subject, tiny_model, tmp_path / "parts")
    assert len(parts) == len(whole) > 12
    for own, other in zip(whole, parts, strict=True):
        assert own["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-5)
        assert (own["row_id"], own["answer"]) == (other["row_id"], other["answer"])
    assert sum(row["answer"] is not None for row in parts) == 8


def test_rewards_and_kept_predictions_of_a_divided_model_are_those_of_the_whole_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loading.load_model(MODEL, tiny_model).eval()
    counted = np.asarray([False] * 3 + [True] * 4)
    write_reference(whole, [CountedRow(0, list(range(5, 12)), counted)], tmp_path / "kept.npz")
    scorer = loading.load_reward_model(MODEL, tiny_model, new_head=True)
    scorer.save_pretrained(tmp_path / "reward")
    loading.load_tokenizer(tiny_model).save_pretrained(tmp_path / "reward")
    tokenizer = loading.load_tokenizer(tiny_model)
    asked = [[5, 6, 7]] * 3, [[8, 9], [10], [11, 12, 13]]
    [expected] = [judge.score(*asked) for judge in load_reward_models(MODEL, [tmp_path / "reward"], tokenizer)]
    divide(monkeypatch, DIVISIONS["embeddings on the disk"], tmp_path)
    parity = compare(loading.load_model(MODEL, tiny_model).eval(), tmp_path / "kept.npz")
    assert parity.same_choice == 1 and parity.mean_divergence < 1e-6
    divide(monkeypatch, {**DIVISIONS["embeddings on the disk"], "score": "disk"}, tmp_path / "rewards")
    [judge] = load_reward_models(MODEL, [tmp_path / "reward"], tokenizer, gpus=2)
    assert is_divided(judge.model)
    assert judge.score(*asked) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_in_4_bits", [False, True])
def test_a_divided_model_gets_embeddings_for_new_tokens(
    is_in_4_bits: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = loading.load_tokenizer(tiny_model)
    tokenizer.add_tokens(["<one>", "<two>"])
    whole = loading.load_model(MODEL, tiny_model).eval()
    if is_in_4_bits:
        model = loading.load_model(MODEL, tiny_model, load_in="4bit").eval()
    else:
        divide(monkeypatch, DIVISIONS["layers on the disk"], tmp_path)
        model = loading.load_model(MODEL, tiny_model).eval()
    for each in (whole, model):
        make_room(each, MODEL, tiny_model, len(tokenizer))
    ids = torch.tensor([[5, len(tokenizer) - 1, 6]])
    with torch.no_grad():
        expected, found = whole(ids).logits, model(ids).logits
    assert found.shape == (1, 3, len(tokenizer))
    assert torch.isfinite(found).all()
    if not is_in_4_bits:
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def quantized(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the tiny model that the quantize stage wrote."""
    home = tmp_path_factory.mktemp("quantized")
    for method in ("4bit", "8bit"):
        quantize_model(method, MODEL, tiny_model, home / method)  # type: ignore[arg-type]
    return {method: home / method for method in ("4bit", "8bit")}


def losses(subject: Subject, model: Path, folder: Path) -> list[float]:
    return [row["eval_loss"] for row in table(subject, model, folder)]


def test_in_4_bits_a_model_has_the_scores_of_its_4_bit_copy(
    quantized: dict[str, Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = subject_of(tiny_model, load_in="4bit")
    assert "scored in 4bit: 100.0% of the weights of linear layers" in capsys.readouterr().out
    copy = subject_of(quantized["4bit"])
    own, of_copy, whole = (
        losses(each, folder, tmp_path / name)
        for each, folder, name in (
            (subject, tiny_model, "own"),
            (copy, quantized["4bit"], "copy"),
            (subject_of(tiny_model), tiny_model, "whole"),
        )
    )
    assert own == pytest.approx(of_copy, rel=1e-5)
    assert own != pytest.approx(whole, rel=1e-3)
    # the share is of what is saved: the model itself is not quantized
    assert (subject.quantized_share, copy.quantized_share) == (None, 1.0)


def test_quantized_copies_are_scored_as_they_are(quantized: dict[str, Path]) -> None:
    for method, layer in (("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")):
        subject = subject_of(quantized[method], load_in="4bit")
        kinds = {type(module).__name__ for module in subject.model.modules()}
        assert layer in kinds and subject.quantized_share == 1.0 and subject.is_as_saved
        assert ("Linear4bit" in kinds) == (method == "4bit")


def test_weights_in_4_bits_are_not_compared_with_those_of_training(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    counted = np.asarray([False] * 3 + [True] * 4)
    row = CountedRow(0, list(range(5, 12)), counted)
    write_reference(loading.load_model(MODEL, model).eval(), [row], model / PARITY_FILE)
    for load_in, is_compared in (("as_saved", True), ("4bit", False)):
        folder = tmp_path / load_in
        table(subject_of(model, load_in=load_in), model, folder)
        assert (json.loads((folder / "facts.json").read_text())["parity"] is not None) == is_compared
