"""A SentencePiece model without a tokenizer.json: its own tokens, and a saved tokenizer that no longer needs it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

# an environment that was made before the package was added does not have it
sentencepiece = pytest.importorskip("sentencepiece")

TEXT = "What is one and one? Two. It is so, why and how."
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a SentencePiece model of about 70 pieces, trained here."""
    folder, written = tmp_path / "model", io.BytesIO()
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, "[INST] one [/INST]"] * 20),
        model_writer=written,
        vocab_size=80,
        model_type="bpe",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **roles}))
    config = {"model_type": "llama", "max_position_embeddings": 512, "vocab_size": 80}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_tokens_are_those_of_the_sentencepiece_model(model: Path, prepare: Any) -> None:
    tokens = prepare([("What is one?", "Two.")], TEMPLATE, model)
    assert tokens.text(0) == "<s>[INST] What is one? [/INST] Two.</s>"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    answer = [label for label in tokens.rows.labels[0] if label != -100]
    assert answer == [*pieces.encode("Two."), pieces.eos_id()]
    assert (tokens.tokenizer_directory / "tokenizer.json").is_file()
