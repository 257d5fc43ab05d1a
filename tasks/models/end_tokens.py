"""The tokens at which a model stops: those that end the trained answers, and those at which it stopped before.

The saved model and the evaluation both ask here, so both stop at the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, trained: Sequence[int]) -> list[int]:
    """Return the ids `trained`, in their order, then the model's own end tokens, each id once.

    The model's own are those of its generation_config and of its config, as long as they are control tokens of the
    tokenizer: a config.json that names none gets its class's default from transformers, which may be any word.
    """
    config = model.config.get_text_config()
    own = [*_ids(getattr(model, "generation_config", None)), *_ids(config), *_ids(model.config)]
    control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return list(dict.fromkeys([*trained, *(token for token in own if token in control)]))


def set_end_tokens(model: Any, end_token_ids: Sequence[int], pad_token_id: int | None) -> None:
    """Write the ids into the config and the generation_config of `model`; a single id as a number."""
    write_end_tokens(model.config, end_token_ids, pad_token_id)
    if getattr(model, "generation_config", None) is not None:
        write_end_tokens(model.generation_config, end_token_ids, pad_token_id)


def write_end_tokens(config: Any, end_token_ids: Sequence[int], pad_token_id: int | None) -> None:
    """Write the ids into a config, and into the section of its language model where it has one."""
    sections = [config]
    if isinstance(config, PreTrainedConfig):
        # some models of several parts name it for the whole model too
        whole = [config] if getattr(config, "eos_token_id", None) is not None else []
        sections = [config.get_text_config(), *whole]
    for section in sections:
        section.pad_token_id = pad_token_id
        try:
            section.eos_token_id = list(end_token_ids) if len(end_token_ids) > 1 else end_token_ids[0]
        except StrictDataclassError:
            # two of transformers' config classes hold a single id; generation reads the generation_config
            section.eos_token_id = end_token_ids[0]


def _ids(config: Any) -> list[int]:
    ids = getattr(config, "eos_token_id", None)
    return [] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]
