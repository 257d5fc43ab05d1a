"""The tokenizer and its chat template: which template applies, and where the answers are in a rendered row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.effective.lengths import longest_row, positions_of
from configs.errors import ModelError
from configs.printable import one_line
from tasks.files.model_settings import read_settings
from tasks.models.library_errors import is_of_library, reason_of
from tasks.tokenize.known_templates import known_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# for base models, which have no template: plain words and the tokenizer's own end-of-text token, so no token is new
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% if tools %}Tools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}Assistant:"
    "{% if message['reasoning_content'] %} <think>\n{{ message['reasoning_content'] }}\n</think>\n\n{% endif %}"
    "{% if message['content'] or not message['tool_calls'] %}"
    "{{ '' if message['reasoning_content'] else ' ' }}{{ message['content'] }}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}{{ '\\nCall: ' }}"
    "{{ {'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson }}{% endfor %}"
    "{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
MODEL_CONFIG = "config.json"
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")


@dataclass(frozen=True)
class Template:
    """Which chat template is in use.

    `source` is `config`, `model`, `plain` or `none`. `is_for_pairs` says whether prompt/completion rows use it too.
    `name` is TRL's name of a vendor's template, empty for others; `training` is the text of TRL's variant for training,
    empty where there is none. `arguments` are the variables that the template is given.
    """

    source: str
    is_for_pairs: bool
    sha256: str
    name: str = ""
    training: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The template in an error or a warning."""
        return f"the chat template ({self.name or _TITLES[self.source]})"


_TITLES = {"config": "tokenize.chat_template", "model": "the model's own", "plain": "the plain one", "none": "none"}


def sentencepiece_file(names: Iterable[str]) -> str | None:
    """Return the SentencePiece model among the names of a model's files, if its tokenizer must be made from it.

    Raises:
        ModelError: there is one, and the package that reads it is not installed; transformers names another.
    """
    present = set(names)
    file = next((name for name in _SENTENCEPIECE_FILES if name in present), None)
    if file is None or "tokenizer.json" in present:
        return None
    if find_spec("sentencepiece") is None:
        raise ModelError(
            f"the model has a SentencePiece model, {file}, and no tokenizer.json; the package sentencepiece reads it "
            "and is not installed\ninstall it with pip install sentencepiece, or save the tokenizer with transformers, "
            "which writes tokenizer.json"
        )
    return file


def load_tokenizer(directory: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `directory`, with a padding token.

    Raises:
        ModelError: it cannot be loaded or has no end-of-text token.
    """
    sentencepiece_file(path.name for path in directory.iterdir())
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not is_of_library(error):
            raise
        raise ModelError(f"the model's tokenizer cannot be loaded: {reason_of(error)}") from None
    if tokenizer.eos_token_id is None:
        raise ModelError("the model's tokenizer has no eos_token; set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # padding is masked in loss and attention, so sharing the id changes nothing
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def choose_template(
    tokenizer: PreTrainedTokenizerBase,
    given: str | None,
    has_messages: bool,
    arguments: Mapping[str, Any] | None = None,
) -> Template:
    """Set the chat template on `tokenizer` and return which one it is: the given, the model's own, or the plain one.

    The plain template renders conversations only; a base model's prompts and completions are joined without one.
    `arguments` are the variables that the template is given; the hash covers them.

    Raises:
        ModelError: the model has several templates, and none of them is the default.
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
    if isinstance(text, dict) and "default" not in text:
        raise ModelError(
            f"the model has several chat templates ({one_line(', '.join(sorted(text)))}), and none is named default\n"
            "set tokenize.chat_template to a file with the one to use"
        )
    known = known_template(text["default"] if isinstance(text, dict) else text)
    whole = text if isinstance(text, str) else json.dumps(text, sort_keys=True)
    if arguments:
        whole += json.dumps(arguments, sort_keys=True)
    return Template(
        source,
        source != "plain",
        hashlib.sha256(whole.encode()).hexdigest(),
        name=known.name if known else "",
        training=known.training if known else "",
        arguments=dict(arguments or {}),
    )


def template_for(tokenizer: PreTrainedTokenizerBase, has_tools: bool) -> str:
    """Return the template set on `tokenizer`; of several, the one for tools if the row has any, else the default."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return str(template["tool_use"] if has_tools and "tool_use" in template else template["default"])
    return str(template)


def text_config(directory: Path) -> dict[str, Any]:
    """Return the model's config.json; of a model with several parts, the section of its language model."""
    config = read_settings(directory / MODEL_CONFIG)
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
