"""Text of many kinds that no training of this project is about: how much worse the model predicts it is what it lost.

Perplexity is by token, so it compares models of one tokenizer. Bits per byte compare any two models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from configs.addresses import shown_address
from configs.errors import DataError
from configs.printable import one_line
from tasks.measures.measured import RowValues
from tasks.rows.text_files import open_text

EMBEDDED_TEXT = "embedded:general-text"
_EMBEDDED_FILE = Path(__file__).with_name("general_text.txt")
# a usual tokenizer makes about 2,000 tokens of the text
_EMBEDDED_TOKENS = 4_000
_FILE_TOKENS = 50_000
# read of a user's file; more would not fit into the tokens that are scored
_FILE_CHARACTERS = 2**21


@dataclass(frozen=True)
class GeneralText:
    """Pieces of text as tokens. `counted` has a bool array [tokens] for each piece: False for a token that nothing
    predicts. `num_bytes` counts the UTF-8 bytes of the text behind the counted tokens of each piece. `numbers` are the
    places of the pieces in the text, from 1: the same for every tokenizer.
    """

    pieces: list[str]
    numbers: list[int]
    tokens: list[list[int]]
    counted: list[np.ndarray]
    num_bytes: list[int]
    left_out: int
    """Pieces that were not taken, because the limit of tokens was reached."""


def text_pieces(text: str) -> list[str]:
    """Return the pieces of a text, which blank lines separate, without white space around them."""
    pieces: list[str] = []
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            pieces.append("\n".join(lines).strip())
            lines = []
    return pieces


def read_text(place: str) -> str:
    """Return the general text of a setting: the project's own, or that of a .txt file, at most 2 Mi characters of it.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has no text.
    """
    if place == EMBEDDED_TEXT:
        return _EMBEDDED_FILE.read_text(encoding="utf-8")
    if place.startswith("embedded:"):
        raise DataError(f"evaluate.retained.general_text={one_line(place)} is not known; write {EMBEDDED_TEXT}")
    with open_text(place) as stream:
        text = stream.read(_FILE_CHARACTERS)
    if not text.strip():
        raise DataError(
            f"evaluate.retained.general_text: {shown_address(place)} has no text; write paragraphs with blank lines "
            "between them, or set it to none"
        )
    return text


def pieces_tokens(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[list[int]]:
    """Return the token ids of each piece, with the tokens that the tokenizer puts before any text.

    Each piece starts anew: no token is predicted from another piece. A piece is cut after `max_length` tokens.
    """
    return _tokens(tokenizer, text_pieces(text), max_length)


def general_text(tokenizer: PreTrainedTokenizerBase, place: str, max_length: int) -> GeneralText:
    """Return the general text of the setting `place`, as tokens to score.

    At most 4,000 tokens of the project's own text are taken, and 50,000 of a file, in whole pieces; always one piece.
    A piece is cut after `max_length` tokens. A first token is not counted, nor are special tokens: a tokenizer without
    a token for the beginning then leaves out the first word of each piece, for every model alike.

    Raises:
        DataError: as `read_text`; or the tokenizer makes no token of the text that another one predicts.
    """
    pieces = text_pieces(read_text(place))
    most = _EMBEDDED_TOKENS if place == EMBEDDED_TEXT else _FILE_TOKENS
    result = GeneralText([], [], [], [], [], 0)
    total = left_out = 0
    for number, piece in enumerate(pieces, 1):
        # once the limit is reached, pieces are only counted
        ids = _tokens(tokenizer, [piece], max_length)[0] if total < most else []
        if not ids or (result.tokens and total + len(ids) > most):
            left_out, total = left_out + 1, most
            continue
        total += len(ids)
        counted = np.array([token not in tokenizer.all_special_ids for token in ids])
        counted[0] = False
        result.pieces.append(piece)
        result.numbers.append(number)
        result.tokens.append(ids)
        result.counted.append(counted)
        result.num_bytes.append(len(_decoded(tokenizer, ids, counted).encode()))
    if not any(mask.any() for mask in result.counted):
        raise DataError(
            "evaluate.retained.general_text: the model's tokenizer makes no two tokens of any piece; name a longer text"
        )
    return replace(result, left_out=left_out)


def loss_values(log_probabilities: Sequence[np.ndarray], counted: Sequence[np.ndarray]) -> RowValues:
    """Return the loss of each piece: `values` are nats per counted token, `sums` [pieces, 2] (nats, counted tokens).

    `log_probabilities` [tokens] of each piece are 0 where not `counted`. exp() of the score is the perplexity.
    """
    sums = np.array(
        [
            (-float(own[mask].sum(dtype=np.float64)), float(mask.sum()))
            for own, mask in zip(log_probabilities, counted, strict=True)
        ],
        dtype=np.float64,
    ).reshape(len(counted), 2)
    values = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    lone = int((sums[:, 1] == 0).sum())
    return RowValues(values, sums, "mean", {"a piece of one token": lone} if lone else {})


def bits_per_byte(loss: RowValues, num_bytes: Sequence[int]) -> RowValues:
    """Return the bits per byte of each piece, from its loss: `sums` [pieces, 2] are (bits, UTF-8 bytes).

    Comparable between tokenizers, as in Gao et al. 2020 (arXiv:2101.00027): bits per byte = nats / (ln 2 * bytes). Bits
    and bytes are those of the counted tokens; a piece without any byte does not count. The score is over all bytes.
    """
    bits, sizes = loss.sums[:, 0] / math.log(2), np.asarray(num_bytes, dtype=np.float64)
    is_counted = np.isfinite(loss.values) & (sizes > 0)
    values = np.divide(bits, sizes, out=np.full(len(sizes), np.nan), where=is_counted)
    missing = int((~is_counted).sum())
    return RowValues(
        values,
        np.stack([bits, sizes], axis=-1) * is_counted[:, None],
        "mean",
        {"no byte of the piece is predicted": missing} if missing else {},
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], max_length: int) -> list[list[int]]:
    return [list(tokenizer(piece).input_ids[:max_length]) for piece in pieces]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], counted: np.ndarray) -> str:
    kept = [token for token, is_counted in zip(ids, counted, strict=True) if is_counted]
    return str(tokenizer.decode(kept, clean_up_tokenization_spaces=False))
