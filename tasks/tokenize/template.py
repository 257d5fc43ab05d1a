"""The tokenizer and its chat template: which template applies, and where the answers are in a rendered row."""

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

# for base models, which have no template: plain words and the tokenizer's own end-of-text token, so no token is new
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
MODEL_CONFIG = "config.json"


@dataclass(frozen=True)
class Template:
    """Which chat template is in use.

    `source` is `config`, `model`, `plain` or `none`. `is_for_pairs` says whether prompt/completion rows use it too.
    """

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
        # padding is masked in loss and attention, so sharing the id changes nothing
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def choose_template(tokenizer: PreTrainedTokenizerBase, given: str | None, has_messages: bool) -> Template:
    """Set the chat template on `tokenizer` and return which one it is: the given, the model's own, or the plain one.

    The plain template renders conversations only; a base model's prompts and completions are joined without one.
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
        # a saved tokenizer is loaded with these line breaks; its template then has the same hash
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

    A span begins after the template's generation prompt and ends where the next turn begins. Both positions are the
    lengths of renderings of the turns so far, which must be prefixes of the whole text. A template that drops the
    reasoning of earlier turns breaks this for those turns. Under `last_answer` it must hold for the last answer only,
    and where it fails for an earlier one, only the last span is returned.

    Raises:
        DataError: the template refuses the row, or changes earlier turns when later ones follow, so the spans are
            unknown.
    """
    text = _apply(tokenizer, messages, row_id)
    spans: list[tuple[int, int] | None] = []
    for position, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        before = _apply(tokenizer, messages[:position], row_id, add_generation_prompt=True)
        is_last = position + 1 == len(messages)
        through = text if is_last else _apply(tokenizer, messages[: position + 1], row_id)
        are_prefixes = through.startswith(before) and text.startswith(through)
        spans.append((len(before), len(through)) if are_prefixes else None)
        if not are_prefixes and train_on == "all_answers":
            break
    if spans[-1] is None:
        fix = ", or tokenize.train_on to last_answer" if train_on == "all_answers" else ""
        raise DataError(
            f"{row_id}: the chat template changes earlier turns when later ones follow; "
            f"set tokenize.chat_template to another template{fix}"
        )
    known_spans = [span for span in spans if span is not None]
    return text, known_spans if len(known_spans) == len(spans) else known_spans[-1:]


def render_marked(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    control: ControlTokens,
    row_id: str,
    train_on: Literal["all_answers", "last_answer"] = "all_answers",
) -> tuple[str, list[tuple[int, int]], Markers | None]:
    """Return text, spans and markers: as `render`, but each control token in a content stands between markers.

    The markers are None where no content holds a control token.

    Raises:
        DataError: as `render`, or the template changes the marked text.
    """
    marked, markers = mark_messages(messages, control)
    text, spans = render(tokenizer, marked, row_id, train_on)
    if markers is not None and markers.removed_from(text) != _apply(tokenizer, messages, row_id):
        raise DataError(
            f"{row_id}: the chat template changes the text of a special token in this row's content\n"
            "remove that text from the row, or set tokenize.chat_template to another template"
        )
    return text, spans, markers


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], row_id: str, **kwargs: Any) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))
    except TemplateError as error:
        raise DataError(
            f"{row_id}: the chat template refuses this row ({error}); set tokenize.chat_template to another template"
        ) from None


def text_config(directory: Path) -> dict[str, Any]:
    """Return the model's config.json; of a model with several parts, the section of its language model."""
    config = json.loads((directory / MODEL_CONFIG).read_text(encoding="utf-8"))
    return dict(config.get("text_config") or config)


def resolve_max_length(config: dict[str, Any], max_length: int | None) -> int:
    """Return the longest allowed sequence in tokens: `max_length`, or by default the model's positions, at most 2048.

    `config` is the language model's config.json.

    Raises:
        ModelError: `max_length` exceeds the model's positions.
    """
    positions = positions_of(config)
    if max_length is not None and positions and max_length > positions:
        raise ModelError(
            f"tokenize.max_length={max_length} exceeds the model's {positions} positions; lower it or choose another "
            "model"
        )
    return longest_row(max_length, positions)
