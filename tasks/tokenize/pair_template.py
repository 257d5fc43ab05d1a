"""A chat template for a model that was trained on pairs without one: it renders exactly what was trained.

With it `apply_chat_template`, and servers that use it, ask the model as it was asked in training.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.tokenize.control_tokens import opening_ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEMPLATE = (
    "{{%- if messages | length > 2 or messages[0]['role'] != 'user' -%}}"
    "{{{{ raise_exception('The model was trained on one prompt and its answer, without a system text') }}}}"
    "{{%- endif -%}}"
    "{{{{- {opening} + messages[0]['content'] + {separator} -}}}}"
    "{{%- if messages | length > 1 -%}}{{{{- messages[1]['content'] + eos_token -}}}}{{%- endif -%}}"
)


def pair_template(tokenizer: PreTrainedTokenizerBase, separator: str) -> str:
    """Return a template that writes the tokens before a text, the prompt, the separator, and an answer with its end."""
    opening = "".join(tokenizer.convert_ids_to_tokens(opening_ids_of(tokenizer)))
    return _TEMPLATE.format(opening=_literal(opening), separator=_literal(separator))


def without_pair_template(tokenizer: PreTrainedTokenizerBase, separator: str) -> None:
    """Take the template away from a tokenizer of which it is this one: pairs are joined as before, without it.

    So a model that was trained on pairs goes on as it began, as in the phases of an alignment.
    """
    if tokenizer.chat_template == pair_template(tokenizer, separator):
        tokenizer.chat_template = None


def _literal(text: str) -> str:
    """Return a text as a literal of Jinja, which reads JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
