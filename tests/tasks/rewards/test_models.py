"""Scores of a reward model against a forward pass for each row alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import LlamaForSequenceClassification

from configs.errors import ModelError
from tasks.models.load import load_tokenizer
from tasks.rewards.models import RewardModel

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], []]
ANSWERS = [[20, 1], [21, 22, 23, 24, 25, 26, 1], [1], [27, 28, 1], [29, 1]]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path):
    return load_tokenizer(tiny_model)


@pytest.fixture
def model(tiny_model: Path):
    torch.manual_seed(3)
    scorer = LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    scorer.config.pad_token_id = 0
    return scorer


def alone(model, prompt: list[int], answer: list[int]) -> float:
    """Return the head's output at the last token of one row, taken from the hidden states."""
    model.eval()
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt + answer])).last_hidden_state
        return (hidden[0, -1] @ model.score.weight[0]).item()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_each_row_is_read_at_its_last_token_whatever_its_batch(batch_size: int, model, tokenizer) -> None:
    scores = RewardModel(model, tokenizer, batch_size).score(PROMPTS, ANSWERS)
    expected = [alone(model, *row) for row in zip(PROMPTS, ANSWERS, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 5


def test_an_end_token_that_pads_too_is_not_read_as_in_training(model, tokenizer) -> None:
    # transformers skips trailing padding tokens in training as in scoring
    model.config.pad_token_id = 1
    scores = RewardModel(model, tokenizer, 8).score(PROMPTS[:2], ANSWERS[:2])
    assert scores == pytest.approx([alone(model, PROMPTS[n], ANSWERS[n][:-1]) for n in range(2)], abs=1e-5)


def test_a_model_without_a_padding_token_takes_one_row_at_a_time(model, tokenizer) -> None:
    model.config.pad_token_id = None
    scores = RewardModel(model, tokenizer, 8).score(PROMPTS, ANSWERS)
    assert scores == pytest.approx([alone(model, *row) for row in zip(PROMPTS, ANSWERS, strict=True)], abs=1e-5)


def test_virtual_tokens_do_not_make_padding_the_last_token(model, tokenizer) -> None:
    tuned = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    tuned.eval()
    together = RewardModel(tuned, tokenizer, 8).score(PROMPTS, ANSWERS)
    with torch.no_grad():
        separately = [
            tuned(torch.tensor([prompt + answer])).logits.item()
            for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        ]
    assert together == pytest.approx(separately, abs=1e-5)


def test_scoring_leaves_a_training_model_in_training(model, tokenizer) -> None:
    model.train()
    RewardModel(model, tokenizer).score([[5]], [[6]])
    assert model.training


def test_nothing_is_scored_as_nothing(model, tokenizer) -> None:
    assert RewardModel(model, tokenizer).score([], []) == []


def test_an_empty_row_and_a_score_that_is_no_number_are_errors(model, tokenizer) -> None:
    with pytest.raises(ModelError, match="empty sequence"):
        RewardModel(model, tokenizer).score([[]], [[]])
    torch.nn.init.constant_(model.score.weight, float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        RewardModel(model, tokenizer).score([[5]], [[6]])
