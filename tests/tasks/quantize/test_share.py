"""How much of a copy is quantized: counted in the copy, refused if too little, and shown where results are read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.tiny_families import tiny_model_of

from configs.errors import ModelError
from configs.linear_weights import share_sentence
from configs.schema import EvaluateConfig, ModelConfig
from configs.wire import Evaluation
from tasks.decks.scores import quantized_shares, render_scores
from tasks.evaluate.scores import evaluate_model
from tasks.models.load import load_tokenizer
from tasks.quantize.bitsandbytes import quantize_model

MODEL = ModelConfig(name="tiny")
ROWS = pd.DataFrame(
    {
        "row_id": ["a"],
        "input_ids": [[5, 6, 7, 8, 1]],
        "labels": [[-100, -100, 7, 8, 1]],
        "prompt_length": [2],
        "prompt": [""],
        "expected": ["x"],
        "dataset": ["held-out"],
        "rejected_ids": [[]],
        "is_wanted": [True],
    }
)


def model_folder(family: str, tokenizer: Path, folder: Path) -> Path:
    """Save a tiny model whose widths 4-bit kernels of every CPU take, with a tokenizer."""
    changes = {} if family in ("gpt2", "falcon") else {"intermediate_size": 128, "max_position_embeddings": 64}
    tiny_model_of(family, vocab_size=258, **changes).save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["8bit", "4bit"])
@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("falcon", r"quantizes 0\.0% .*FalconLinear \(100\.0%\)"),
        # attention 12,288; four experts of 3 x 64 x 128, and a router of 256
        ("mixtral", r"quantizes 11\.1% .*MixtralExperts \(88\.7%\) and MixtralTopKRouter \(0\.2%\)"),
    ],
)
def test_a_copy_of_which_too_little_is_quantized_is_refused(
    family: str, words: str, method, tiny_model: Path, tmp_path: Path
) -> None:
    model = model_folder(family, tiny_model, tmp_path / "model")
    with pytest.raises(ModelError, match=f"quantize.methods names {method}: bitsandbytes {words}") as refusal:
        quantize_model(method, MODEL, model, tmp_path / "small", min_share=0.5)
    assert str(refusal.value).endswith(f"\nleave {method} out of quantize.methods, or lower quantize.min_share")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("method", ["8bit", "4bit"])
@pytest.mark.parametrize(
    ("family", "share"), [("llama", 1.0), ("gpt2", 1.0), ("phi", 1.0), ("mixtral", 12_288 / 110_848)]
)
def test_the_log_the_scores_the_deck_and_the_card_have_the_share(
    family: str, share: float, method, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_folder(family, tiny_model, tmp_path / "model")
    quantize_model(method, MODEL, model, tmp_path / "small", min_share=0.1)
    line = next(line for line in capsys.readouterr().out.splitlines() if "weights of linear layers" in line)
    assert line.startswith(f"quantize {method}: {share:.1%} of the weights of linear layers are in {method}")
    assert ("; not MixtralExperts (88.7%)" in line) == (family == "mixtral")
    evaluations = {
        name: evaluate_model(EvaluateConfig(generate_rows=0), MODEL, folder, ROWS, model, [1])
        for name, folder in (("base", model), ("tuned", model), (f"quantized_{method}", tmp_path / "small"))
    }
    scores = evaluations[f"quantized_{method}"].scores
    assert scores.quantized_share == pytest.approx(share, abs=1e-12)
    assert scores.as_metrics()["quantized_share"] == scores.quantized_share
    assert evaluations["tuned"].scores.quantized_share is None
    shown = f"without embeddings and output head: quantized_{method} {share:.1%}."
    assert shown in quantized_shares(evaluations)[0]
    assert shown in render_scores(evaluations, 1)
    assert share_sentence(scores.quantized_share).startswith(f" {share:.1%} of the weights of its linear layers")


def test_a_model_that_is_not_quantized_says_nothing(tiny_model: Path) -> None:
    evaluation: Evaluation = evaluate_model(EvaluateConfig(generate_rows=0), MODEL, tiny_model, ROWS, tiny_model, [1])
    assert quantized_shares({"base": evaluation, "tuned": evaluation}) == []
    assert share_sentence(None) == ""
