"""A model's answer in the terminal: nothing that it generates moves the cursor."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tasks.models.chat import Terminal


def test_an_answer_cannot_move_the_cursor(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    streamer = Terminal(tokenizer)
    for token in tokenizer("one\x1b[2J\ntwo \u202e", return_tensors="pt")["input_ids"][0]:
        streamer.put(token.unsqueeze(0))
    streamer.end()
    assert capsys.readouterr().out.split("one", 1)[1] == "\\x1b[2J\ntwo \\u202e\n"
