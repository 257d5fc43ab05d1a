"""General text, whose perplexity says whether a model still models language at large.

The text that ships is of the project's own wording: short pieces of everyday language, science, law, code and five
other languages. A user's file may take its place.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from configs.errors import DataError
from configs.printable import one_line
from tasks.files.streams import is_remote

GENERAL_TEXT = "general text"
"""The name of the set in tables and gate rules."""
EMBEDDED = "embedded:general-text"
_FILE = Path(__file__).parent / "general_text.txt"
_MOST_TOKENS = 50_000
_LONGEST_PIECE = 512


def read_text(place: str) -> str:
    """Return the content of the text file at `place`, or the project's own text.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is empty.
    """
    if place == EMBEDDED:
        return _FILE.read_text(encoding="utf-8")
    where = f"evaluate.retained.general_text={one_line(place)}"
    try:
        if is_remote(place):
            import fsspec

            with fsspec.open(place, "r", encoding="utf-8") as file:
                text = str(file.read())
        else:
            text = Path(place).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or 'no answer'})") from None
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text; convert it") from None
    if not text.strip():
        raise DataError(f"{where} is empty; name a file with text, or null for none")
    return text


def text_pieces(text: str) -> list[str]:
    """Return the paragraphs of a text, which blank lines divide."""
    return [piece.strip() for piece in re.split(r"\n\s*\n", text) if piece.strip()]


def piece_tokens(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[list[int]]:
    """Return the token ids of each paragraph, of at least 2 tokens, cut at `max_length` and at 512.

    Each begins anew, with the special tokens that the tokenizer puts first. At most 50,000 tokens in all.
    """
    found, total = [], 0
    for piece in text_pieces(text):
        ids = list(tokenizer(piece, truncation=True, max_length=min(max_length, _LONGEST_PIECE))["input_ids"])
        if len(ids) > 1:
            found.append(ids)
            total += len(ids)
        if total >= _MOST_TOKENS:
            break
    return found
