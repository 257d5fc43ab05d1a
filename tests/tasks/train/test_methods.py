"""What is trained is trained, what is not is left alone, and what is merged and read again is the same model."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.taught_models import IDS, LOADING, hashes, logits, saved, settings, taught, wrapped

from configs.errors import ArtifactError, ConfigError
from configs.schema import ModelConfig
from tasks.models.load import load_model, load_reward_model, load_tokenizer
from tasks.train.merge import check_saved, merge_adapter, name_base
from tasks.train.methods import (
    adapter_config,
    check_bitsandbytes,
    check_method,
    keep_trained_in_float32,
    stop_at_end_tokens,
    trainable_model,
)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {}),
        ("lora", {"use_rslora": True}),
        ("lora", {"use_dora": True}),
        ("lora", {"use_dora": True, "use_rslora": True}),
        ("qlora", {}),
        ("qlora", {"use_dora": True}),
        ("lora_8bit", {}),
    ],
)
def test_an_adapter_has_changed_and_merges_into_the_base_as_published(
    method: str, options: dict[str, bool], tiny_model: Path, tmp_path: Path
) -> None:
    model = taught(settings(method, lora={"rank": 4, "alpha": 8, **options}), tiny_model)
    adapter = saved(model, tiny_model, tmp_path / "adapter")
    check_saved(adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    # 7 linear layers in each of 2 blocks; B begins at zero
    assert len([name for name in tensors if "lora_B" in name]) == 14
    assert all(tensor.abs().sum() > 0 for tensor in tensors.values())
    merge_adapter(LOADING, tiny_model, adapter, tmp_path / "merged")
    base, merged = load_model(LOADING, tiny_model), load_model(LOADING, tmp_path / "merged")
    unmerged = PeftModel.from_pretrained(load_model(LOADING, tiny_model), adapter)
    assert not torch.allclose(logits(base), logits(unmerged), atol=1e-2)
    torch.testing.assert_close(logits(merged), logits(unmerged), atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    if method == "lora":
        torch.testing.assert_close(logits(model), logits(unmerged), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_the_update_is_scaled_by_alpha_over_rank_or_its_root(
    use_rslora: bool, scale: float, tiny_model: Path, tmp_path: Path
) -> None:
    model = taught(settings(lora={"rank": 4, "alpha": 8, "use_rslora": use_rslora}), tiny_model)
    adapter = saved(model, tiny_model, tmp_path / "adapter")
    merge_adapter(LOADING, tiny_model, adapter, tmp_path / "merged")
    tensors = load_file(adapter / "adapter_model.safetensors")
    layer = "model.layers.1.mlp.up_proj"
    a, b = (tensors[f"base_model.model.{layer}.lora_{which}.weight"] for which in "AB")
    before, after = (load_file(d / "model.safetensors")[f"{layer}.weight"] for d in (tiny_model, tmp_path / "merged"))
    torch.testing.assert_close(after - before, scale * (b @ a), atol=1e-6, rtol=1e-4)


def test_dora_trains_magnitudes_in_32_bits_over_a_base_in_16(tiny_model: Path) -> None:
    config = settings(lora={"rank": 4, "use_dora": True})
    model = trainable_model(config, ModelConfig(name="tiny", dtype="bfloat16"), tiny_model, [], 258)
    model = wrapped(config, model, [])
    magnitudes = {n: p for n, p in model.named_parameters() if "magnitude" in n}
    assert len(magnitudes) == 14
    assert all(p.dtype == torch.float32 and p.requires_grad for p in magnitudes.values())
    before = {name: p.detach().clone() for name, p in magnitudes.items()}
    optimizer = torch.optim.AdamW(magnitudes.values(), lr=1e-4, weight_decay=0.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    # in bfloat16 a step of 1e-4 from magnitudes near 0.2 is lost
    assert all((p != before[name]).all() for name, p in magnitudes.items())


def test_what_is_trained_over_a_quantized_base_is_kept_in_32_bits(tiny_model: Path) -> None:
    model = trainable_model(settings("qlora"), LOADING, tiny_model, [], 258)
    model = wrapped(settings("qlora"), model, []).to(torch.bfloat16)
    keep_trained_in_float32(model)
    types = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert (True, torch.float32) in types
    assert (True, torch.bfloat16) not in types
    assert (False, torch.bfloat16) in types


def test_gpt2s_own_kind_of_linear_layer_is_trained_and_merged(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    base = tmp_path / "gpt2"
    sizes = {"vocab_size": 258, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=1, bos_token_id=1)).save_pretrained(base)
    load_tokenizer(tiny_model).save_pretrained(base)
    model = taught(settings(), base)
    adapter = saved(model, base, tmp_path / "adapter")
    # c_attn and c_proj of the attention, c_fc and c_proj of the MLP
    assert len([name for name in load_file(adapter / "adapter_model.safetensors") if "lora_B" in name]) == 4
    merge_adapter(LOADING, base, adapter, tmp_path / "merged")
    assert not torch.allclose(logits(load_model(LOADING, base)), logits(model), atol=1e-3)
    torch.testing.assert_close(logits(load_model(LOADING, tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_virtual_tokens_leave_every_weight_of_the_base_as_it_was_and_change_the_output(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = taught(settings(method, prompt={"num_virtual_tokens": 4}), tiny_model)
    untouched = hashes(load_model(LOADING, tiny_model))
    assert {name: digest for name, digest in hashes(model).items() if name in untouched} == untouched
    adapter = saved(model, tiny_model, tmp_path / "adapter")
    merge_adapter(LOADING, tiny_model, adapter, tmp_path / "merged")
    again = load_model(LOADING, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    last = IDS.shape[1]
    torch.testing.assert_close(logits(again)[:, -last:], logits(model)[:, -last:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(again)[:, -last:], logits(load_model(LOADING, tiny_model)), atol=1e-3)
    generated = again.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > last


def test_prompt_tuning_begins_with_tokens_of_the_vocabulary_or_with_those_of_a_text(tiny_model: Path) -> None:
    table = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    begins = {}
    for text in (None, "abcd"):
        config = settings("prompt_tuning", prompt={"num_virtual_tokens": 4, "init_text": text})
        model = wrapped(config, trainable_model(config, LOADING, tiny_model, [], 258), [])
        begins[text] = model.prompt_encoder["default"].embedding.weight
    ids = load_tokenizer(tiny_model)("abcd")["input_ids"]
    assert torch.equal(begins["abcd"], table[ids])
    assert all((row == table).all(1).any() for row in begins[None])


def test_a_saved_adapter_names_its_base_and_no_path_of_this_machine(tiny_model: Path, tmp_path: Path) -> None:
    config = settings("prompt_tuning", prompt={"num_virtual_tokens": 2, "init_text": "ab"})
    model = taught(config, tiny_model)
    adapter = saved(model, tiny_model, tmp_path / "adapter")
    name_base(ModelConfig(name="owner/base", revision="abc"), adapter)
    written = (adapter / "adapter_config.json").read_text()
    assert str(tiny_model) not in written
    assert json.loads(written)["base_model_name_or_path"] == "owner/base"
    assert json.loads(written)["revision"] == "abc"
    again = PeftModel.from_pretrained(load_model(LOADING, tiny_model), adapter)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["q_porj"]}, r"train.lora.target_modules: q_porj matches no linear layer.*q_proj"),
        ({"target_modules": ["q_proj", "lm_head"]}, r"target_modules: lm_head is the output head"),
        ({"rank": 65}, r"train.lora.rank=65 exceeds the width of model.layers.0.self_attn.q_proj, 64; lower it"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    method: str, lora: dict[str, Any], message: str, tiny_model: Path
) -> None:
    config = settings(method, lora=lora)
    with pytest.raises(ConfigError, match=message):
        check_method(config, trainable_model(config, LOADING, tiny_model, [], 258))


def test_a_rank_may_be_as_large_as_the_layer_and_is_checked_on_targets_only(tiny_model: Path) -> None:
    model = load_model(LOADING, tiny_model)
    check_method(settings(lora={"rank": 64}), model)
    model.model.layers[1].self_attn.k_proj = torch.nn.Linear(64, 8)
    check_method(settings(lora={"rank": 64, "target_modules": ["q_proj"]}), model)
    with pytest.raises(ConfigError, match=r"rank=64 exceeds the width of model.layers.1.self_attn.k_proj, 8"):
        check_method(settings(lora={"rank": 64, "target_modules": ["q_proj", "k_proj"]}), model)


def test_a_reward_models_head_is_no_target(tiny_model: Path) -> None:
    config = settings(objective="reward", lora={"rank": 4, "target_modules": ["q_proj", "score"]})
    with pytest.raises(ConfigError, match="score is the output head"):
        check_method(config, trainable_model(config, LOADING, tiny_model, [], 258))


@pytest.mark.parametrize(("count", "longest_row", "fits"), [(248, 0, True), (249, 0, False), (56, 200, True)])
def test_virtual_tokens_leave_room_for_rows(count: int, longest_row: int, fits: bool, tiny_model: Path) -> None:
    config, model = settings("prompt_tuning", prompt={"num_virtual_tokens": count}), load_model(LOADING, tiny_model)
    if fits:
        check_method(config, model, longest_row)
        count, longest_row = count + 1, max(longest_row, 8)
        config = settings("prompt_tuning", prompt={"num_virtual_tokens": count})
    with pytest.raises(ConfigError, match=rf"num_virtual_tokens={count} leaves {256 - count} of the model's 256 pos"):
        check_method(config, model, longest_row)


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_bitsandbytes_missing_or_on_a_device_it_does_not_know_is_said_with_the_fix(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bitsandbytes(settings(method), torch.device("cpu"))
    with pytest.raises(ConfigError, match=rf"train.method={method}: bitsandbytes cannot quantize on vulkan.*use lora"):
        check_bitsandbytes(settings(method), torch.device("vulkan"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=rf"train.method={method} needs bitsandbytes.*install it, or use lora"):
        check_bitsandbytes(settings(method), torch.device("cpu"))


def test_generation_ends_where_rows_end_and_a_reward_model_knows_padding(tiny_model: Path) -> None:
    model, tokenizer = load_model(LOADING, tiny_model), load_tokenizer(tiny_model)
    stop_at_end_tokens(model, tokenizer, [7])
    # 1 is the model's own
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == ([7, 1], 0)
    reward = load_reward_model(LOADING, tiny_model, new_head=True)
    reward.config.pad_token_id = None
    stop_at_end_tokens(reward, tokenizer, [7])
    assert (reward.config.pad_token_id, reward.config.eos_token_id) == (0, 1)


def test_an_empty_tensor_is_not_called_saved(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no weights"):
        check_saved(tmp_path)
    save_file({"lora_A": torch.zeros(0, 4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="empty lora_A"):
        check_saved(tmp_path)


def test_the_objective_decides_what_peft_is_told(tiny_model: Path) -> None:
    model = load_model(LOADING, tiny_model)
    assert adapter_config(settings("full"), model, []) is None
    assert adapter_config(settings(), model, []).task_type == peft.TaskType.CAUSAL_LM
