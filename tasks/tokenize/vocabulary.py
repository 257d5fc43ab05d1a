"""The tokenizer's vocabulary: new tokens, its end token, whether the model has all embeddings, and a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError, ModelError
from configs.printable import one_line
from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import find_control_tokens, template_text
from tasks.tokenize.template import MODEL_CONFIG, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_special_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """Add the control tokens `texts` to `tokenizer`, in order, and return their ids.

    Raises:
        ConfigError: the tokenizer has one of them already, so its embedding would not be new.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    for text in texts:
        if text in known:
            raise ConfigError(
                f"tokenize.new_special_tokens: {one_line(text)} is in the model's vocabulary already; remove it from "
                "the list"
            )
    # a normalized token would also be found in text that is merely similar
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts], special_tokens=True)
    return [int(token_id) for token_id in tokenizer.convert_tokens_to_ids(texts)]


def new_end_token(
    tokenizer: PreTrainedTokenizerBase, config: TokenizeConfig, end_token_ids: Sequence[int]
) -> str | None:
    """Return the token that `tokenize.replace_end_token` makes the tokenizer's eos_token, None where its own stays.

    `end_token_ids` end the trained answers, the most frequent first. A template that reads eos_token would write other
    text with another one than it did in training.
    """
    is_kept = config.replace_end_token == "keep" or tokenizer.eos_token_id in end_token_ids
    if is_kept or "eos_token" in template_text(tokenizer):
        return None
    return str(tokenizer.convert_ids_to_tokens(end_token_ids[0]))


def replace_end_token(tokenizer: PreTrainedTokenizerBase, config: TokenizeConfig, end_token_ids: Sequence[int]) -> str:
    """Set the eos_token that `new_end_token` returns; return the tokenizer's own, empty where it stays.

    Padding stays as it is, also where it is the former eos_token.
    """
    token, own = new_end_token(tokenizer, config, end_token_ids), str(tokenizer.eos_token)
    if token is None:
        return ""
    tokenizer.eos_token = token
    return own


def model_vocabulary_size(directory: Path) -> int | None:
    """Return the number of the model's embeddings, None where its config.json does not say it."""
    size = text_config(directory).get("vocab_size")
    return None if size is None else int(size)


def write_model_config(source: Path, target: Path, new_token_ids: Sequence[int]) -> None:
    """Write to `target` a config.json with what this stage reads of the one in `source`: positions and vocabulary size.

    The vocabulary size includes the new tokens. A later phase of the run tokenizes with the folder `target`. All other
    settings are left out: by the model's type, transformers would choose a tokenizer class other than the saved one.
    """
    config = text_config(source)
    settings = {name: config[name] for name in ("max_position_embeddings", "n_positions") if config.get(name)}
    size = model_vocabulary_size(source)
    if size is not None:
        settings["vocab_size"] = max([size, *(token_id + 1 for token_id in new_token_ids)])
    (target / MODEL_CONFIG).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int | None) -> None:
    """Refuse a tokenizer that writes tokens without an embedding in the model, which has `size` embeddings.

    Such a token is allowed if it is special and nothing writes it: it is not in the template, and has no role such as
    BOS, EOS or padding. An example is the image token in the tokenizer of Gemma's text-only model. A row that holds it
    is refused later.

    Raises:
        ModelError: the tokenizer writes such a token.
    """
    if size is None:
        return
    without_embedding = {text: token_id for text, token_id in tokenizer.get_vocab().items() if token_id >= size}
    if not without_embedding:
        return
    control = find_control_tokens(tokenizer)
    template = template_text(tokenizer)
    without_role = control.special.keys() - set(tokenizer.all_special_tokens)
    written = sorted(
        token_id for text, token_id in without_embedding.items() if text not in without_role or text in template
    )
    if written:
        raise ModelError(
            f"the model's vocabulary of {size} tokens is smaller than its tokenizer's, whose ids go up to "
            f"{written[-1]}: {one_line(tokenizer.convert_ids_to_tokens(written[0]))} (token {written[0]}) has no "
            "embedding\n"
            "use the tokenizer that the model was trained with; to add tokens to it, name them in "
            "tokenize.new_special_tokens"
        )


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of all tokens with their ids, of the special tokens, and of their roles except eos.

    Which token ends answers depends on the rows too, and may differ between the phases of a run.
    """
    special = sorted(find_control_tokens(tokenizer).special.items())
    roles = sorted((role, str(text)) for role, text in tokenizer.special_tokens_map.items() if role != "eos_token")
    content = json.dumps([sorted(tokenizer.get_vocab().items()), special, roles])
    return hashlib.sha256(content.encode()).hexdigest()
