"""Only the template may write control tokens: the same text in a row's content is tokenized as ordinary text.

A user who types `<|im_end|>` must not end the turn. So each such string in a content is put between two marker
characters before the template renders it, and text between markers is then encoded as plain text.

Text is encoded in pieces, cut where an answer begins and before the token that ends it. So the tokens of a prompt never
depend on the answer that follows, just as in generation.
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
# templates read these keys of tool definitions and calls, which must not change even where one is a new special token
_KEYS_OF_TEMPLATES = {"arguments", "description", "function", "id", "name", "parameters", "properties", "type"}
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer and its template.

    `special` maps the text of each special token to its id. `guarded_ids` are the ids of special tokens, and of added
    tokens that the template writes, such as `<tool_call>`. `in_prompts` matches all of these, `in_answers` the special
    tokens only, since an assistant does write `<tool_call>`; a match in a content becomes plain text. `opening_ids`
    are the ids that the tokenizer itself puts before a text, such as BOS.
    """

    special: dict[str, int]
    guarded_ids: frozenset[int]
    in_answers: re.Pattern[str]
    in_prompts: re.Pattern[str]
    new_line_ids: list[int]
    opening_ids: list[int]


class Markers(NamedTuple):
    """Two characters, not contained in the row, that enclose text to be encoded as plain text."""

    opening: str
    closing: str

    def removed_from(self, text: str) -> str:
        """Return `text` without markers."""
        return text.replace(self.opening, "").replace(self.closing, "")


class Piece(NamedTuple):
    """A part of a rendered row: where it begins, in characters, its text, and which of its tokens are trained.

    `is_literal` says that the text is encoded without control tokens.
    """

    start: int
    text: str
    trained: Literal["none", "first", "all"]
    is_literal: bool = False


def find_control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Return the control tokens of `tokenizer` and the template that is set on it.

    An added token's own `special` flag is read: a tokenizer's `all_special_ids` has only tokens with a role, such as
    eos, and lacks Llama-3's `<|eot_id|>`.
    """
    template = template_text(tokenizer)
    added = {
        token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items() if token.content
    }
    special = {text: number for text, (number, token) in added.items() if token.special}
    special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # an added word or white space is no control token, although a template may contain it
    in_template = [text for text in added if text in template and not text.isalnum() and not text.isspace()]
    guarded = {**special, **{text: added[text][0] for text in in_template}}
    return ControlTokens(
        special=special,
        guarded_ids=frozenset(guarded.values()),
        in_answers=_pattern_of(special),
        in_prompts=_pattern_of(guarded),
        new_line_ids=tokenizer(_NEW_LINE, add_special_tokens=False, verbose=False)["input_ids"],
        opening_ids=opening_ids_of(tokenizer),
    )


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the source of the template that is set on `tokenizer`; of several templates, all sources joined."""
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else "".join(template.values())


def opening_ids_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text."""
    bare, whole = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    return next((whole[:n] for n in range(len(whole)) if whole[n : n + len(bare)] == bare), [])


def _pattern_of(texts: dict[str, int]) -> re.Pattern[str]:
    # the longest first: a token may contain a shorter one; (?!) never matches
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def unused_markers(content: str) -> Markers:
    """Return two characters of the private-use plane that `content` does not contain."""
    unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in content)
    return Markers(next(unused), next(unused))


def mark_messages(
    messages: list[dict[str, Any]], tools: list[Any], control: ControlTokens
) -> tuple[list[dict[str, Any]], list[Any], Markers | None]:
    """Return messages and tool definitions with the control tokens in them between markers, and the markers.

    Where nothing holds a control token, return both unchanged, and None.
    """
    contents = [(value, _pattern_for(message, control)) for message in messages for value in _contents(message)]
    if not any(_matches(value, pattern) for value, pattern in [*contents, (tools, control.in_prompts)]):
        return messages, tools, None
    markers = unused_markers(json.dumps([messages, tools], ensure_ascii=False))
    marked = [
        {
            key: value if key == "role" else mark(value, _pattern_for(message, control), markers)
            for key, value in message.items()
        }
        for message in messages
    ]
    return marked, mark(tools, control.in_prompts, markers), markers


def _contents(message: dict[str, Any]) -> list[Any]:
    return [value for key, value in message.items() if key != "role"]


def _matches(value: Any, pattern: re.Pattern[str]) -> bool:
    """Return whether `pattern` matches anywhere in `value`, a text or a structure of texts."""
    if isinstance(value, str):
        return pattern.search(value) is not None
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_matches(part, pattern) for part in parts)


def _pattern_for(message: dict[str, Any], control: ControlTokens) -> re.Pattern[str]:
    return control.in_answers if message["role"] == "assistant" else control.in_prompts


def mark(value: Any, pattern: re.Pattern[str], markers: Markers) -> Any:
    """Return `value`, a text or a structure of texts, with each match of `pattern` between markers."""
    if isinstance(value, str):
        return pattern.sub(lambda match: f"{markers.opening}{match.group()}{markers.closing}", value)
    if isinstance(value, dict):
        # the keys too: a call may have an argument, and a tool a property, of any name
        return {
            key if key in _KEYS_OF_TEMPLATES else mark(key, pattern, markers): mark(part, pattern, markers)
            for key, part in value.items()
        }
    return [mark(part, pattern, markers) for part in value] if isinstance(value, list) else value


def cut_at_markers(piece: Piece, markers: Markers | None) -> list[Piece]:
    """Return `piece` cut at its markers, without them; the parts between two markers are literal.

    A template that splits a content can part two markers; the text is then cut at the single marker.
    """
    if markers is None:
        return [piece]
    opening, closing = markers
    cuts = re.compile(f"{opening}(?P<literal>[^{opening}{closing}]*){closing}|[{opening}{closing}]")
    parts, position = [], 0
    for match in cuts.finditer(piece.text):
        parts.append(Piece(piece.start + position, piece.text[position : match.start()], piece.trained))
        parts.append(Piece(piece.start + match.start(), match["literal"] or "", piece.trained, is_literal=True))
        position = match.end()
    parts.append(Piece(piece.start + position, piece.text[position:], piece.trained))
    kept = [part for part in parts if part.text]
    # of a piece of which only the first token is trained, that token is in the first part
    return kept if piece.trained != "first" else [kept[0], *(part._replace(trained="none") for part in kept[1:])]


def encode_pieces(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Piece]], control: ControlTokens
) -> list[list[list[int]]]:
    """Return the token ids of each piece of each row, without tokens that the tokenizer itself adds to a text.

    At the beginning of a text, SentencePiece puts a space before the first word. So a piece is encoded with a prefix,
    whose ids are then removed: the special token that ends the piece before it, or else a line break. The first piece
    of a row has no prefix. One call encodes the pieces of all rows, so a fast tokenizer uses all cores. The ids of a
    row do not depend on the other rows.
    """
    special_texts = tuple(control.special)
    prefixed = [
        (piece, prefix, piece.text if piece.is_literal else prefix + piece.text)
        for pieces in rows
        for piece, prefix in zip(
            pieces, ["", *(_prefix_after(piece, special_texts) for piece in pieces[:-1])], strict=False
        )
    ]
    prefix_ids = {
        "": [],
        _NEW_LINE: control.new_line_ids,
        **{text: [token_id] for text, token_id in control.special.items()},
    }
    ids_with_prefix = _encode(tokenizer, (text for piece, _, text in prefixed if not piece.is_literal))
    # where the tokenizer merged the prefix with the text, the piece is encoded without it
    merged = (
        piece.text
        for piece, prefix, text in prefixed
        if not piece.is_literal and not _begins_with(ids_with_prefix[text], prefix_ids[prefix])
    )
    ids_without_prefix = _encode(tokenizer, merged)
    literal_ids = _encode_literals(tokenizer, [text for piece, _, text in prefixed if piece.is_literal], control)

    def ids_of(piece: Piece, prefix: str, text: str) -> list[int]:
        if piece.is_literal:
            return literal_ids[text]
        ids = ids_with_prefix[text]
        begins_with_prefix = _begins_with(ids, prefix_ids[prefix])
        return ids[len(prefix_ids[prefix]) :] if begins_with_prefix else ids_without_prefix[piece.text]

    encoded = iter([ids_of(piece, prefix, text) for piece, prefix, text in prefixed])
    return [[next(encoded) for _ in pieces] for pieces in rows]


def _begins_with(ids: list[int], prefix: list[int]) -> bool:
    return ids[: len(prefix)] == prefix


def _prefix_after(piece: Piece, special_texts: tuple[str, ...]) -> str:
    """Return the prefix of the piece after `piece`: the special token that ends `piece`, or else a line break."""
    if piece.is_literal or not piece.text.endswith(special_texts):
        return _NEW_LINE
    return max((text for text in special_texts if piece.text.endswith(text)), key=len)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], split: bool = False) -> dict[str, list[int]]:
    """Return the token ids of each text, all encoded in one call; with `split`, special tokens are plain text."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    encoded = tokenizer(
        distinct,
        add_special_tokens=False,
        split_special_tokens=split,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return dict(zip(distinct, encoded["input_ids"], strict=True))


def _encode_literals(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], control: ControlTokens
) -> dict[str, list[int]]:
    """Return the token ids of the texts of control tokens, encoded as plain text: no id is that of a control token."""
    encoded = _encode(tokenizer, (_NEW_LINE + text for text in texts), split=True)
    prefix = control.new_line_ids
    result, still_control = {}, []
    for text in dict.fromkeys(texts):
        ids = encoded[_NEW_LINE + text]
        result[text] = ids[len(prefix) :] if _begins_with(ids, prefix) else ids
        if not control.guarded_ids.isdisjoint(result[text]) and len(text) > 1:
            still_control.append(text)
    if still_control:
        # even with `split`, the tokenizer finds added tokens that are not special, so their text is encoded in halves
        halves = {text: (text[: len(text) // 2], text[len(text) // 2 :]) for text in still_control}
        half_ids = _encode_literals(tokenizer, [half for pair in halves.values() for half in pair], control)
        result |= {text: half_ids[left] + half_ids[right] for text, (left, right) in halves.items()}
    return result
