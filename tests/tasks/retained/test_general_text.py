"""The general text: its pieces, their tokens, and losses that start anew in each piece."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from configs.errors import DataError
from tasks.evaluate.likelihood import token_log_probabilities
from tasks.measures.measured import score
from tasks.retained.general_text import (
    EMBEDDED_TEXT,
    bits_per_byte,
    general_text,
    loss_values,
    pieces_tokens,
    read_text,
    text_pieces,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_blank_lines_separate_pieces() -> None:
    assert text_pieces(" a\nb \r\n\n \t\n  c\n\n") == ["a\nb", "c"]
    assert text_pieces("\n \n") == []


def test_the_projects_text_has_sixty_distinct_pieces() -> None:
    pieces = text_pieces(read_text(EMBEDDED_TEXT))
    assert len(pieces) == len(set(pieces)) == 60
    assert all(20 < len(piece) < 300 for piece in pieces)


def test_a_piece_starts_anew(tiny_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("What is 3 plus 4?\n\nWhat is 5?")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    text = general_text(tokenizer, str(path), 256)
    assert text.tokens == [tokenizer(piece).input_ids for piece in ("What is 3 plus 4?", "What is 5?")]
    assert not any(mask[0] for mask in text.counted)
    own = token_log_probabilities(model, text.tokens, text.counted, tokenizer.pad_token_id, 2)
    losses = loss_values(own, text.counted)
    # by hand: each piece alone through the model
    nats, number = 0.0, 0
    for ids in text.tokens:
        logits = model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        nats -= sum(float(logits[place - 1, ids[place]]) for place in range(1, len(ids)))
        number += len(ids) - 1
    assert score(losses.sums.sum(axis=0), "mean") == pytest.approx(nats / number, rel=1e-4)
    assert losses.sums[:, 1].sum() == number
    bits = bits_per_byte(losses, text.num_bytes)
    # a byte a token: all of a piece but its first, which nothing predicts
    assert text.num_bytes == [16, 9] and text.numbers == [1, 2]
    assert score(bits.sums.sum(axis=0), bits.reduction) == pytest.approx(nats / math.log(2) / 25, rel=1e-4)


def test_tokens_are_cut_and_lone_ones_do_not_count(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [len(ids) for ids in pieces_tokens(tokenizer, "What is 3 plus 4?\n\nW", 3)] == [3, 1]
    losses = loss_values([np.array([0.0, -2.0, -4.0]), np.array([0.0])], [np.array([0, 1, 1], bool), np.array([False])])
    np.testing.assert_array_equal(losses.values, [3.0, np.nan])
    assert losses.sums.tolist() == [[6.0, 2.0], [0.0, 0.0]] and losses.not_counted == {"a piece of one token": 1}
    # 6 nats are 8.656 bits, over 4 bytes
    bits = bits_per_byte(losses, [4, 0])
    np.testing.assert_allclose(bits.values, [2.1640, np.nan], atol=1e-4)
    assert bits.sums.tolist()[1] == [0.0, 0.0] and bits.not_counted == {"no byte of the piece is predicted": 1}
    assert score(bits_per_byte(losses, [0, 0]).sums.sum(axis=0), "mean") is None


def test_what_is_not_taken_is_counted(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(["p" * 30_000, "q" * 20_000, "r"]))
    text = general_text(tokenizer, str(path), 10**6)
    assert ([len(ids) for ids in text.tokens], text.left_out) == ([30_000, 20_000], 1)
    path.write_text("p" * 60_000 + "\n\nq")
    text = general_text(tokenizer, str(path), 10**6)
    assert ([len(ids) for ids in text.tokens], text.left_out) == ([60_000], 1)


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfea", b"caf\xe9"])
def test_a_text_that_cannot_be_used_is_one_error(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.txt"):
        general_text(tokenizer, str(path), 256)
    with pytest.raises(DataError, match="embedded:general-text"):
        general_text(tokenizer, "embedded:other", 256)
    path.write_text("p")
    with pytest.raises(DataError, match="no two tokens"):
        general_text(tokenizer, str(path), 256)
