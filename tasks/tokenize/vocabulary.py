"""The tokenizer's vocabulary: what is added to it, whether the model has it, and a hash by which stages compare it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError, ModelError
from tasks.tokenize.control_tokens import find_control_tokens, template_text
from tasks.tokenize.template import MODEL_CONFIG, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_special_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """Add control tokens to `tokenizer`, in order, and return their ids.

    Raises:
        ConfigError: the tokenizer has one already, in which case its embedding is not new.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    for text in texts:
        if text in known:
            raise ConfigError(
                f"tokenize.new_special_tokens: {text} is in the model's vocabulary already; remove it from the list"
            )
    # normalized, a token would also be found where the text only looks like it
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts], special_tokens=True)
    return [int(number) for number in tokenizer.convert_tokens_to_ids(texts)]


def model_vocabulary_size(directory: Path) -> int | None:
    """Return the number of the model's embeddings, None where its config.json does not say."""
    size = text_config(directory).get("vocab_size")
    return None if size is None else int(size)


def write_model_facts(source: Path, target: Path, new_token_ids: Sequence[int]) -> None:
    """Write to `target` what this stage asks of the config.json in `source`, with room for new tokens.

    A further stage of a run tokenizes with the folder `target`. The rest is left out: transformers would choose the
    class of a tokenizer by the kind of its model, where the saved tokenizer itself says it.
    """
    config = text_config(source)
    facts = {name: config[name] for name in ("max_position_embeddings", "n_positions") if config.get(name)}
    size = model_vocabulary_size(source)
    if size is not None:
        facts["vocab_size"] = max([size, *(number + 1 for number in new_token_ids)])
    (target / MODEL_CONFIG).write_text(json.dumps(facts) + "\n", encoding="utf-8")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int | None) -> None:
    """Refuse a tokenizer that writes tokens for which the model has no embedding.

    A special token that is neither in the template nor the tokenizer's own end, beginning or padding is not written,
    such as that of images in Gemma's tokenizer, of which the text-only model knows nothing; where a row holds it, the
    row is refused.

    Raises:
        ModelError: such a tokenizer.
    """
    if size is None:
        return
    beyond = {text: number for text, number in tokenizer.get_vocab().items() if number >= size}
    if not beyond:
        return
    control = find_control_tokens(tokenizer)
    template = template_text(tokenizer)
    unwritten = control.special.keys() - set(tokenizer.all_special_tokens)
    written = sorted(number for text, number in beyond.items() if text not in unwritten or text in template)
    if written:
        raise ModelError(
            f"the model's vocabulary of {size} tokens is smaller than its tokenizer's, which reaches to {written[-1]}: "
            f"there is no embedding of {tokenizer.convert_ids_to_tokens(written[0])} (token {written[0]})\n"
            "use the tokenizer that the model was trained with; to add tokens to it, name them in "
            "tokenize.new_special_tokens"
        )


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of all tokens with their ids, and of which of them are special."""
    special = sorted(find_control_tokens(tokenizer).special.items())
    roles = sorted((role, str(text)) for role, text in tokenizer.special_tokens_map.items())
    content = json.dumps([sorted(tokenizer.get_vocab().items()), special, roles])
    return hashlib.sha256(content.encode()).hexdigest()
