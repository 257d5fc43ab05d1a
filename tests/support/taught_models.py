"""A tiny model after a few plain steps of each method, and what is looked at in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from configs.schema import ModelConfig
from configs.schema.train import TrainConfig
from tasks.models.load import load_tokenizer
from tasks.train.methods import (
    adapter_config,
    check_method,
    stop_at_end_tokens,
    trainable_model,
)

LOADING = ModelConfig(name="tiny")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [30, 31, 32, 33, 34, 35]])


def settings(method: str = "lora", **others: Any) -> TrainConfig:
    return TrainConfig(method=method, **{"lora": {"rank": 4, "alpha": 8}, **others})


def wrapped(config: TrainConfig, model: Any, new_token_ids: list[int]) -> Any:
    """Return the model as TRL makes it: with the adapter on it."""
    adapter = adapter_config(config, model, new_token_ids)
    torch.manual_seed(config.seed)
    return model if adapter is None else get_peft_model(model, adapter)


def taught(config: TrainConfig, directory: Path, ids: torch.Tensor = IDS, new_token_ids: tuple[int, ...] = ()) -> Any:
    """Return a model after three steps of AdamW on `ids`, or, of a reward model, on raising the first row's score."""
    model = trainable_model(config, LOADING, directory, list(new_token_ids), 258 + len(new_token_ids))
    stop_at_end_tokens(model, load_tokenizer(directory), [1])
    check_method(config, model)
    model = wrapped(config, model, list(new_token_ids)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        if config.objective == "reward":
            scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
            loss = -torch.nn.functional.logsigmoid(scores[0] - scores[1])
        else:
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def saved(model: Any, tokenizer: Path, output: Path) -> Path:
    model.save_pretrained(output)
    load_tokenizer(tokenizer).save_pretrained(output)
    return output


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def hashes(model: torch.nn.Module) -> dict[str, str]:
    return {
        name.removeprefix("base_model."): hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
