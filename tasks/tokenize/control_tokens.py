"""Control tokens come from the template alone: what looks like one in a row's content is tokenized as text.

A user who types `<|im_end|>` must not end his own turn. Such strings are put between two marker characters before
the template sees the content, and what stands between markers in the rendered text is encoded as plain text.
Text is encoded in pieces, cut where answers begin and before the token that ends them, so that the tokens of a
prompt never depend on the answer that follows: generation, too, sees the prompt without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEW_LINE = "\n"
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer and a template.

    `special` maps the text of each special token to its id. `in_answers` matches what an assistant's content may not
    hold, `in_prompts` what all other content may not: also tokens that are not special but are written by the
    template, such as `<tool_call>`, which an assistant does write. `opening_ids` are what the tokenizer writes before a
    text of its own accord, such as BOS.
    """

    special: dict[str, int]
    guarded_ids: frozenset[int]
    in_answers: re.Pattern[str]
    in_prompts: re.Pattern[str]
    new_line_ids: list[int]
    opening_ids: list[int]


class Markers(NamedTuple):
    """Two characters that the row does not contain."""

    opening: str
    closing: str

    def removed_from(self, text: str) -> str:
        """Return `text` without markers."""
        return text.replace(self.opening, "").replace(self.closing, "")


class Piece(NamedTuple):
    """A part of a rendered row: where it begins in characters, and which of its tokens are trained."""

    start: int
    text: str
    trained: Literal["none", "first", "all"]
    is_literal: bool = False


def find_control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Return the control tokens of `tokenizer` with the template that is set on it.

    Tokens count by their own `special` flag: a tokenizer's `all_special_ids` has only those with a role, such as eos,
    and misses Llama-3's `<|eot_id|>`.
    """
    template = template_text(tokenizer)
    added = {
        token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items() if token.content
    }
    special = {text: number for text, (number, token) in added.items() if token.special}
    special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # a word or white space that someone added to the vocabulary is no control token, though a template may contain it
    written = [text for text in added if text in template and not text.isalnum() and not text.isspace()]
    guarded = {**special, **{text: added[text][0] for text in written}}
    return ControlTokens(
        special=special,
        guarded_ids=frozenset(guarded.values()),
        in_answers=_any_of(special),
        in_prompts=_any_of(guarded),
        new_line_ids=tokenizer(_NEW_LINE, add_special_tokens=False, verbose=False)["input_ids"],
        opening_ids=_opening_ids(tokenizer),
    )


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the source of the template that is set on `tokenizer`, of all of them where it has several."""
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else "".join(template.values())


def _opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    alone, whole = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    return next((whole[:n] for n in range(len(whole)) if whole[n : n + len(alone)] == alone), [])


def _any_of(texts: dict[str, int]) -> re.Pattern[str]:
    # the longest first, so that a token goes before one that it contains; (?!) never matches
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def free_markers(content: str) -> Markers:
    """Return two characters of the private-use plane that `content` does not contain."""
    free = (chr(code) for code in _PRIVATE_USE if chr(code) not in content)
    return Markers(next(free), next(free))


def mark_messages(
    messages: list[dict[str, Any]], control: ControlTokens
) -> tuple[list[dict[str, Any]], Markers | None]:
    """Return the messages with control tokens in their contents marked, and the markers; None where there is none."""
    contents = [(value, _guard(turn, control)) for turn in messages for key, value in turn.items() if key != "role"]
    if not any(_holds(value, guard) for value, guard in contents):
        return messages, None
    markers = free_markers(json.dumps(messages, ensure_ascii=False))
    marked = [
        {
            key: value if key == "role" else mark(value, _guard(message, control), markers)
            for key, value in message.items()
        }
        for message in messages
    ]
    return marked, markers


def _holds(value: Any, guard: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return guard.search(value) is not None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(part, guard) for part in parts)


def _guard(message: dict[str, Any], control: ControlTokens) -> re.Pattern[str]:
    return control.in_answers if message["role"] == "assistant" else control.in_prompts


def mark(value: Any, guard: re.Pattern[str], markers: Markers) -> Any:
    """Return `value`, a text or a structure of texts, with each match of `guard` between markers."""
    if isinstance(value, str):
        return guard.sub(lambda found: f"{markers.opening}{found.group()}{markers.closing}", value)
    if isinstance(value, dict):
        return {key: mark(part, guard, markers) for key, part in value.items()}
    return [mark(part, guard, markers) for part in value] if isinstance(value, list) else value


def cut_at_markers(piece: Piece, markers: Markers | None) -> list[Piece]:
    """Return `piece` in parts, those between markers literal, without the markers.

    A template may separate two markers, by splitting a content; a lone one is dropped, and text is cut there too.
    """
    if markers is None:
        return [piece]
    opening, closing = markers
    cuts = re.compile(f"{opening}(?P<literal>[^{opening}{closing}]*){closing}|[{opening}{closing}]")
    pieces, position = [], 0
    for found in cuts.finditer(piece.text):
        pieces.append(Piece(piece.start + position, piece.text[position : found.start()], piece.trained))
        pieces.append(Piece(piece.start + found.start(), found["literal"] or "", piece.trained, is_literal=True))
        position = found.end()
    pieces.append(Piece(piece.start + position, piece.text[position:], piece.trained))
    kept = [part for part in pieces if part.text]
    # the token that ends a turn begins its piece; what follows that token is not trained
    return kept if piece.trained != "first" else [kept[0], *(part._replace(trained="none") for part in kept[1:])]


def encode_pieces(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Piece]], control: ControlTokens
) -> list[list[list[int]]]:
    """Return the token ids of each piece of each row, without the tokens that the tokenizer itself would add to a text.

    A piece is encoded after the special token that stands before it, or after a line break: at the beginning of a
    text, SentencePiece would put a space before it. One call encodes the pieces of all rows, so that a fast tokenizer
    uses all cores; the ids of a row do not depend on the others.
    """
    ends = tuple(control.special)
    placed = [
        (piece, before, piece.text if piece.is_literal else before + piece.text)
        for pieces in rows
        for piece, before in zip(pieces, ["", *(_before(piece, ends) for piece in pieces[:-1])], strict=False)
    ]
    prefixes = {"": [], _NEW_LINE: control.new_line_ids, **{text: [number] for text, number in control.special.items()}}
    after = _encode(tokenizer, (text for piece, _, text in placed if not piece.is_literal))
    merged = (
        piece.text
        for piece, before, text in placed
        if not piece.is_literal and not _begins_with(after[text], prefixes[before])
    )
    alone = _encode(tokenizer, merged)
    literal = _encode_literals(tokenizer, [text for piece, _, text in placed if piece.is_literal], control)

    def ids_of(piece: Piece, before: str, text: str) -> list[int]:
        if piece.is_literal:
            return literal[text]
        ids, prefix = after[text], prefixes[before]
        return ids[len(prefix) :] if _begins_with(ids, prefix) else alone[piece.text]

    encoded = iter([ids_of(*each) for each in placed])
    return [[next(encoded) for _ in pieces] for pieces in rows]


def _begins_with(ids: list[int], prefix: list[int]) -> bool:
    return ids[: len(prefix)] == prefix


def _before(piece: Piece, ends: tuple[str, ...]) -> str:
    """Return the special token, one of `ends`, that ends `piece`, or a line break where none does."""
    if piece.is_literal or not piece.text.endswith(ends):
        return _NEW_LINE
    return max((text for text in ends if piece.text.endswith(text)), key=len)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], split: bool = False) -> dict[str, list[int]]:
    """Return the token ids of each text, in one call; with `split`, special tokens are text."""
    given = list(dict.fromkeys(texts))
    if not given:
        return {}
    encoded = tokenizer(
        given,
        add_special_tokens=False,
        split_special_tokens=split,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return dict(zip(given, encoded["input_ids"], strict=True))


def _encode_literals(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], control: ControlTokens
) -> dict[str, list[int]]:
    """Return the tokens of each text of a control token, none of which is a control token."""
    encoded = _encode(tokenizer, (_NEW_LINE + text for text in texts), split=True)
    prefix = control.new_line_ids
    result, halved = {}, []
    for text in dict.fromkeys(texts):
        ids = encoded[_NEW_LINE + text]
        result[text] = ids[len(prefix) :] if _begins_with(ids, prefix) else ids
        if not control.guarded_ids.isdisjoint(result[text]) and len(text) > 1:
            halved.append(text)
    if halved:
        # tokens that are added but not special are found in spite of `split`; half of one is no token
        middles = {text: len(text) // 2 for text in halved}
        halves = [half for text in halved for half in (text[: middles[text]], text[middles[text] :])]
        parts = _encode_literals(tokenizer, halves, control)
        result |= {text: parts[text[: middles[text]]] + parts[text[middles[text] :]] for text in halved}
    return result
