"""Embeddings of new tokens: those that the tokenizer has and the model lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import gather_params_ctx
from transformers import PreTrainedModel

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.models.load import load_tokenizer


def fit_vocabulary(
    model: PreTrainedModel, model_config: ModelConfig, directory: Path, new_token_ids: list[int], vocabulary_size: int
) -> None:
    """Add embeddings to `model`, loaded from `directory`, for those `new_token_ids` that its own tokenizer lacks.

    Raises:
        ModelError: the model has fewer embeddings than the tokenizer has tokens.
    """
    if new_token_ids or model.get_input_embeddings().num_embeddings < vocabulary_size:
        known = _vocabulary_size(directory, model_config.trust_remote_code)
        # a token that the base knows keeps its trained embedding
        add_tokens(model, [token for token in new_token_ids if token >= known], vocabulary_size)


def make_room(model: PreTrainedModel, model_config: ModelConfig, directory: Path, vocabulary_size: int) -> None:
    """Give `model` an embedding for each of `vocabulary_size` tokens, as training does at its start.

    Raises:
        ModelError: the model's own tokenizer has tokens for which it has no embedding.
    """
    if model.get_input_embeddings().num_embeddings < vocabulary_size:
        known = _vocabulary_size(directory, model_config.trust_remote_code)
        add_tokens(model, list(range(known, vocabulary_size)), vocabulary_size)


def _vocabulary_size(directory: Path, trust_remote_code: bool) -> int:
    return max(load_tokenizer(directory, trust_remote_code).get_vocab().values()) + 1


def add_tokens(model: PreTrainedModel, new_token_ids: list[int], vocabulary_size: int) -> None:
    """Give `model` at least `vocabulary_size` embeddings. New ones become the mean of all embeddings before them.

    Spare embeddings, which many models have, are used first. A tied output head stays tied.

    Raises:
        ModelError: a token that is not new has no embedding: the tokenizer belongs to another model.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    unknown = sorted(set(range(num_rows, vocabulary_size)) - set(new_token_ids))
    if unknown:
        raise ModelError(
            f"the tokenizer has {vocabulary_size} tokens and the model {num_rows} embeddings, none for token "
            f"{unknown[0]}\nuse the tokenizer that the model was published with"
        )
    if vocabulary_size > num_rows:
        model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
    if not new_token_ids:
        return
    for weight in {id(module.weight): module.weight for module in token_layers(model).values()}.values():
        with gather_params_ctx([weight]), torch.no_grad():
            mean = weight[: min(new_token_ids)].mean(0, dtype=torch.float32)
            weight[new_token_ids] = mean.to(weight.dtype)


def token_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Return the input embedding and, where the model has one, the output head, by name."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {name: module for name, module in model.named_modules() if any(module is layer for layer in layers)}
