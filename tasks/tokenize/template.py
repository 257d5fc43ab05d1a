"""The tokenizer and its chat template: which one applies, and where in a rendered row the answers stand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.effective.lengths import longest_row, positions_of
from configs.errors import DataError, ModelError
from tasks.tokenize.control_tokens import ControlTokens, Markers, mark_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# for base models, which have none: plain words and the tokenizer's own end-of-text, so that no token is new
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
MODEL_CONFIG = "config.json"


@dataclass(frozen=True)
class Template:
    """`source` says where the template came from; `is_for_pairs` whether prompt/completion rows use it too."""

    source: str
    is_for_pairs: bool
    sha256: str


def load_tokenizer(directory: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `directory`, with a padding token.

    Raises:
        ModelError: it cannot be loaded or has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"the model's tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
    if tokenizer.eos_token_id is None:
        raise ModelError("the model's tokenizer has no eos_token; set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # padding is masked in loss and attention, so that sharing the id changes nothing
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def choose_template(tokenizer: PreTrainedTokenizerBase, given: str | None, has_messages: bool) -> Template:
    """Set the template on `tokenizer` and return which it is: the given one, the model's own, or the plain one.

    The plain one is used for `messages` rows only; prompts and completions of a base model are simply joined.
    """
    own = tokenizer.chat_template
    if given is not None:
        tokenizer.chat_template = given
        source = "config"
    elif own:
        source = "model"
    elif has_messages:
        tokenizer.chat_template = PLAIN_TEMPLATE
        source = "plain"
    else:
        return Template("none", False, "")
    if isinstance(tokenizer.chat_template, str):
        # as it is when the saved tokenizer is read again, so that both have one hash
        tokenizer.chat_template = tokenizer.chat_template.replace("\r\n", "\n")
    text = tokenizer.chat_template
    text = text if isinstance(text, str) else json.dumps(text, sort_keys=True)
    return Template(source, source != "plain", hashlib.sha256(text.encode()).hexdigest())


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    row_id: str,
    train_on: Literal["all_answers", "last_answer"] = "all_answers",
) -> tuple[str, list[tuple[int, int]]]:
    """Return the rendered text and the spans [start, end) of the assistant's turns in it, in characters.

    A turn's span begins after what the template writes to ask for an answer, and ends where the next turn begins; that
    it does is seen from what the template writes for the turns so far. Under `last_answer` it is enough that this holds
    for the last answer, as with templates that drop earlier turns' reasoning: where an earlier span cannot be told, the
    last one alone is returned.

    Raises:
        DataError: the template refuses the row, or rewrites earlier turns when later ones follow, so that spans
            cannot be told.
    """
    text = _apply(tokenizer, messages, row_id)
    spans: list[tuple[int, int] | None] = []
    for position, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        asked = _apply(tokenizer, messages[:position], row_id, add_generation_prompt=True)
        is_last = position + 1 == len(messages)
        answered = text if is_last else _apply(tokenizer, messages[: position + 1], row_id)
        is_within = answered.startswith(asked) and text.startswith(answered)
        spans.append((len(asked), len(answered)) if is_within else None)
        if not is_within and train_on == "all_answers":
            break
    if spans[-1] is None:
        fix = ", or set tokenize.train_on=last_answer" if train_on == "all_answers" else ""
        raise DataError(
            f"{row_id}: the chat template changes earlier turns when later ones follow; "
            f"name another with tokenize.chat_template{fix}"
        )
    told = [span for span in spans if span is not None]
    return text, told if len(told) == len(spans) else told[-1:]


def render_marked(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    control: ControlTokens,
    row_id: str,
    train_on: Literal["all_answers", "last_answer"] = "all_answers",
) -> tuple[str, list[tuple[int, int]], Markers | None]:
    """Return text and spans as `render` does, with control tokens that stand in contents between markers.

    Raises:
        DataError: as `render`, or a template that changes the marked text.
    """
    marked, markers = mark_messages(messages, control)
    text, spans = render(tokenizer, marked, row_id, train_on)
    if markers is not None and markers.removed_from(text) != _apply(tokenizer, messages, row_id):
        raise DataError(
            f"{row_id}: the chat template changes the text of a special token in this row's content\n"
            "remove that text from the row, or name another template with tokenize.chat_template"
        )
    return text, spans, markers


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], row_id: str, **kwargs: Any) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))
    except TemplateError as error:
        raise DataError(
            f"{row_id}: the chat template refuses this row ({error}); name another with tokenize.chat_template"
        ) from None


def text_config(directory: Path) -> dict[str, Any]:
    """Return the model's config.json, or the part of it that is of its language model."""
    config = json.loads((directory / MODEL_CONFIG).read_text(encoding="utf-8"))
    return dict(config.get("text_config") or config)


def longest_sequence(directory: Path, wanted: int | None) -> int:
    """Return the longest sequence in tokens: `wanted`, or the model's positions, at most 2048.

    Raises:
        ModelError: `wanted` is more than the model's positions.
    """
    return fitting_length(text_config(directory), wanted)


def fitting_length(config: dict[str, Any], wanted: int | None) -> int:
    """Return the longest sequence in tokens, as `longest_sequence`, by the content of the model's config.json.

    Raises:
        ModelError: `wanted` is more than the model's positions.
    """
    positions = positions_of(config)
    if wanted is not None and positions and wanted > positions:
        raise ModelError(
            f"tokenize.max_length={wanted} exceeds the model's {positions} positions; lower it or choose another model"
        )
    return longest_row(wanted, positions)
