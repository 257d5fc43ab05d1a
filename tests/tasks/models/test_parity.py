"""How far a saved model is from the weights as training held them: by hand, and through a whole chain."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learning.tasks import LOADING, evaluate, tokenize, train
from peft import PeftModel
from transformers import AutoModelForCausalLM

from configs.schema import TokenizeConfig
from configs.schema.train import TrainConfig
from configs.wire import Parity
from tasks.models import parity
from tasks.models.parity import CountedRow, compare, rows_to_keep, write_reference
from tasks.models.record import PARITY_FILE
from tasks.quantize.bitsandbytes import quantize_model


class Predictor(torch.nn.Module):
    """A model of four tokens that predicts the same in every place."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        self.device = torch.device("cpu")

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 4))


def test_losses_and_divergences_are_those_of_the_definitions(tmp_path: Path) -> None:
    row = CountedRow(0, [0, 0, 1, 2], np.array([False, False, True, True]))
    path = tmp_path / PARITY_FILE
    write_reference(Predictor(0.5, 0.25, 0.125, 0.125), [row], path)
    found = compare(Predictor(0.25, 0.5, 0.125, 0.125), path)
    assert (found.rows, found.tokens) == ([0], 2)
    # tokens 1 and 2: -log 1/4 and -log 1/8; then -log 1/2 and -log 1/8
    assert found.held_loss == pytest.approx(2.5 * math.log(2))
    assert found.own_loss == pytest.approx(2.0 * math.log(2))
    # 1/2 log(2) + 1/4 log(1/2), in both places
    assert found.mean_divergence == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert found.high_divergence == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert found.same_choice == 0.0
    assert compare(Predictor(0.5, 0.25, 0.125, 0.125), path).mean_divergence == pytest.approx(0.0, abs=1e-9)


def test_the_rest_of_a_vocabulary_is_one_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_NUM_LIKELIEST", 1)
    row = CountedRow(0, [0, 0], np.array([False, True]))
    path = tmp_path / PARITY_FILE
    write_reference(Predictor(0.5, 0.25, 0.125, 0.125), [row], path)
    found = compare(Predictor(0.25, 0.25, 0.25, 0.25), path)
    # KL((1/2, 1/2), (1/4, 3/4)), less than over all tokens
    assert found.mean_divergence == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)


@pytest.mark.parametrize(
    ("number", "places"), [(3, [0, 1, 2]), (16, list(range(16))), (32, list(range(0, 32, 2))), (1, [0]), (0, [])]
)
def test_the_rows_are_at_even_distances_and_numbered_in_their_order(number: int, places: list[int]) -> None:
    rows = rows_to_keep([([n, n], [False, True]) for n in range(number)])
    assert [row.number for row in rows] == list(range(len(places)))
    assert [row.input_ids[0] for row in rows] == places


ROWS = [(f"What is {n} plus {n}?", f"It is {n + n}.") for n in range(24)]
CONFIG = TrainConfig(
    method="full",
    epochs=4,
    batch_size=4,
    micro_batch_size=4,
    learning_rate=3e-3,
    group_by_length=False,
    watch={"evaluations": 0},
)


def of_adapter(base: Path, adapter: Path) -> Parity:
    """Return the parity of an adapter on its base in 32 bits."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return compare(PeftModel.from_pretrained(model, adapter).eval(), adapter / PARITY_FILE)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_evaluated_is_what_was_trained(method: str, tiny_model: Path, tmp_path: Path) -> None:
    """The chain: weights in training, adapter on its base, merged, quantized."""
    tokens = tokenize("sft", tiny_model, ROWS[:16], ROWS[16:], tmp_path / "tokens", TokenizeConfig(max_length=64))
    run = train(CONFIG.model_copy(update={"method": method}), tiny_model, tokens, tmp_path)
    merged = evaluate(run.model, tokens)
    found = merged.parity
    assert found is not None and len(found.rows) == 8
    # the rows are those of the scores
    losses = [merged.kept_losses[number] for number in found.rows]
    assert sum(losses) / found.tokens == pytest.approx(found.own_loss, abs=1e-4)
    assert found.own_loss == pytest.approx(found.held_loss, abs=1e-5)
    assert found.mean_divergence < 1e-10 and found.same_choice == 1.0
    if method == "lora":
        assert of_adapter(tiny_model, run.saved).mean_divergence < 1e-10
    copies = {}
    for bits in ("8bit", "4bit"):
        quantize_model(bits, LOADING, run.model, tmp_path / bits)
        copies[bits] = evaluate(tmp_path / bits, tokens).parity
    assert 1e-8 < copies["8bit"].mean_divergence < copies["4bit"].mean_divergence
    assert copies["4bit"].high_divergence > copies["4bit"].mean_divergence


def test_rounding_to_16_bits_is_seen(tiny_model: Path, tmp_path: Path) -> None:
    """A base published in bfloat16: small changes by an adapter are lost when it is merged into such weights."""
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tiny_model / name).read_bytes())
    tokens = tokenize("sft", base, ROWS[:16], ROWS[16:], tmp_path / "tokens", TokenizeConfig(max_length=64))
    config = CONFIG.model_copy(update={"method": "lora", "learning_rate": 2e-4, "epochs": 1})
    run = train(config, base, tokens, tmp_path)
    before, after = evaluate(base, tokens), evaluate(run.model, tokens)
    found = after.parity
    assert before.parity is None and found is not None
    # the adapter on its base, in 32 bits as in training, has all that was learned
    exact = of_adapter(base, run.saved)
    assert found.mean_divergence > 100 * exact.mean_divergence
    assert abs(found.own_loss - found.held_loss) > 10 * abs(exact.own_loss - exact.held_loss)
