"""A chat template for a model that was trained on pairs without one: it renders exactly what was trained.

With it `apply_chat_template`, and servers that use it, ask the model as it was asked in training.
"""

from __future__ import annotations

import json

from tasks.tokenize.rows import Setup

_TEMPLATE = (
    "{{%- if messages | length > 2 or messages[0]['role'] != 'user' -%}}"
    "{{{{ raise_exception('The model was trained on one prompt and its answer, without a system text') }}}}"
    "{{%- endif -%}}"
    "{{{{- {opening} + messages[0]['content'] + {separator} -}}}}"
    "{{%- if messages | length > 1 -%}}{{{{- messages[1]['content'] + eos_token -}}}}{{%- endif -%}}"
)


def pair_template(setup: Setup) -> str:
    """Return a template that writes the tokens before a text, the prompt, the separator, and an answer with its end."""
    opening = "".join(setup.tokenizer.convert_ids_to_tokens(setup.control.opening_ids))
    return _TEMPLATE.format(opening=_literal(opening), separator=_literal(setup.config.prompt_separator))


def _literal(text: str) -> str:
    """Return a text as a literal of Jinja, which reads JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
