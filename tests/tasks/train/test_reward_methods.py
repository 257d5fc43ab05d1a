"""Reward models: a new head is a function of the seed, is trained in 32 bits, and is saved whatever the method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.taught_models import IDS, LOADING, logits, saved, settings, taught, wrapped

from configs.schema import ModelConfig
from tasks.models.load import is_reward_model, load_reward_model, load_tokenizer
from tasks.train.merge import merge_adapter
from tasks.train.methods import (
    keep_trained_in_float32,
    stop_at_end_tokens,
    trainable_model,
)


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "lora_8bit"])
def test_a_reward_models_head_is_trained_and_saved(method: str, tiny_model: Path, tmp_path: Path) -> None:
    config = settings(method, objective="reward")
    start = trainable_model(config, LOADING, tiny_model, [], 258).score.weight.detach().clone()
    model = taught(config, tiny_model)
    output = saved(model, tiny_model, tmp_path / "out")
    if method != "full":
        assert set(json.loads((output / "adapter_config.json").read_text())["modules_to_save"]) >= {"score"}
        merge_adapter(LOADING, tiny_model, output, tmp_path / "merged")
        output = tmp_path / "merged"
    assert is_reward_model(output)
    again = load_reward_model(LOADING, output)
    assert again.config.num_labels == 1
    assert not torch.allclose(again.score.weight, start, atol=1e-3)
    assert logits(again).shape == (2, 1)
    if method in ("full", "lora"):
        torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)


def test_prefix_tuning_makes_a_reward_model_whose_score_is_that_of_the_text_whatever_the_padding(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = settings("prefix_tuning", objective="reward", prompt={"num_virtual_tokens": 4})
    model = taught(config, tiny_model)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "layers" in name)
    adapter = saved(model, tiny_model, tmp_path / "adapter")
    merge_adapter(LOADING, tiny_model, adapter, tmp_path / "merged")
    assert is_reward_model(tmp_path / "merged")
    again = load_reward_model(LOADING, tmp_path / "merged")
    again.config.pad_token_id = 0
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)
    padded = torch.nn.functional.pad(IDS, (0, 3), value=0)
    with torch.no_grad():
        scores = again(input_ids=padded, attention_mask=(padded != 0).long()).logits
    torch.testing.assert_close(scores, logits(again), atol=1e-5, rtol=1e-5)


def test_a_head_of_32_bits_reads_layers_of_16(tiny_model: Path) -> None:
    config = settings(objective="reward")
    model = trainable_model(config, ModelConfig(name="tiny", dtype="bfloat16"), tiny_model, [], 258)
    stop_at_end_tokens(model, load_tokenizer(tiny_model), [1])
    model = wrapped(config, model, [])
    keep_trained_in_float32(model)
    head = {name: p.dtype for name, p in model.named_parameters() if "score.modules_to_save" in name}
    assert list(head.values()) == [torch.float32]
    assert logits(model).dtype == torch.float32


def test_a_new_head_is_a_function_of_the_seed(tiny_model: Path) -> None:
    heads = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        config = settings("full", objective="reward", seed=seed)
        heads.append(trainable_model(config, LOADING, tiny_model, [], 258).score.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.01 < heads[0].std() < 0.04
