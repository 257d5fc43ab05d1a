"""Quantization says how far it is, where there is no terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs.schema import ModelConfig
from tasks.decks.progress import render_counts
from tasks.models import pace
from tasks.quantize.bitsandbytes import quantize_model


def test_weights_are_counted_as_they_are_quantized(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    added = pace.Count.add
    monkeypatch.setattr(pace.Count, "add", lambda self, *given: (added(self, *given), seen.append(self.line())))
    with pace.heartbeat("quantize 4bit") as heart:
        quantize_model("4bit", ModelConfig(name="tiny"), tiny_model, tmp_path / "small")
    # 2 layers of 9 weights, the embeddings and the last norm; the output head is tied
    assert [line.split("  ")[0].split(" in ")[0] for line in seen] == [
        *(f"quantize {number}/20 weights" for number in range(1, 20)),
        "quantize 20 weights",
    ]
    assert re.search(r"^quantize 4bit: quantize 20 weights in \d s", capsys.readouterr().out, re.MULTILINE)
    deck = render_counts("quantize 4bit", heart.counts, None)
    assert "20 of 20 weights" in deck and "under way" not in deck
    # whoever loads a model next has transformers' own bars
    from transformers.utils import logging

    assert logging.set_tqdm_hook(None) is None
