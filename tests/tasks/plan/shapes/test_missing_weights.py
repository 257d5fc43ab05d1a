"""A model whose files lack weights is refused before training, and whole models of many architectures are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.plan.resolve.models import find_model
from tasks.plan.shapes.missing_weights import check_weights, has_all_numbers

NAMED = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 101}
GATED = {**NAMED, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "mistral": GATED,
    "qwen2": {**GATED, "tie_word_embeddings": True},
    "qwen3": {**GATED, "head_dim": 8},
    "gemma": {**GATED, "head_dim": 8},
    "gemma2": {**GATED, "head_dim": 8},
    "phi3": GATED,
    "stablelm": GATED,
    # experts are stored one by one, and merged when they are loaded
    "mixtral": {**GATED, "num_local_experts": 4},
    "qwen3_moe": {**GATED, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 24},
    "gpt_neox": {**NAMED, "intermediate_size": 48},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 101},
    "falcon": NAMED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 101, "n_positions": 32},
    "opt": {**NAMED, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 101, "state_size": 4, "intermediate_size": 64},
}
DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")


def saved(family: str, directory: Path, **settings: Any) -> ModelConfig:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family].from_dict({**SETTINGS[family], **settings})
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return ModelConfig(name=str(directory))


def read(config: ModelConfig) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    from tasks.plan.resolve.headers import read_tensors

    files = find_model(config, None)
    assert files is not None
    weights = [name for name in files.sizes if name.endswith(".safetensors")]
    return files.settings["config.json"], read_tensors(files.read_header, weights)


@pytest.mark.parametrize("family", SETTINGS)
def test_a_whole_model_passes_and_one_without_a_weight_is_refused_by_its_name(family: str, tmp_path: Path) -> None:
    from tasks.plan.shapes.counted_shapes import count_shape

    config = saved(family, tmp_path)
    settings, tensors = read(config)
    shape = count_shape(settings, "m", has_activations=False)
    assert check_weights(config, settings, tensors, "sft") == ""
    assert has_all_numbers(settings, tensors, shape) is (family in DENSE)
    name = max(name for name in tensors if name.endswith(".weight") and ".1." in name and "experts" not in name)
    fewer = {key: size for key, size in tensors.items() if key != name}
    assert not has_all_numbers(settings, fewer, shape)
    with pytest.raises(ModelError, match=f"model.name={config.name} lacks 1 weights that .*, first {name}"):
        check_weights(config, settings, fewer, "sft")


def test_a_missing_expert_is_found_in_the_tensor_that_experts_are_merged_into(tmp_path: Path) -> None:
    config = saved("mixtral", tmp_path)
    settings, tensors = read(config)
    (name,) = [name for name in tensors if "layers.1." in name and "experts.3.w2" in name]
    del tensors[name]
    with pytest.raises(
        ModelError, match=r"layers.1.mlp.experts.down_proj has the shape \(3, 32, 48\) in its file, and \(4,"
    ):
        check_weights(config, settings, tensors, "sft")


def test_former_buffers_and_the_copy_of_a_tied_head_are_no_weights(tmp_path: Path) -> None:
    from tasks.plan.shapes.architectures import shape_of

    config = saved("qwen2", tmp_path)
    settings, tensors = read(config)
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,), "lm_head.weight": (101, 32)}
    assert has_all_numbers(settings, tensors, shape_of(settings, "m"))
    assert check_weights(config, settings, tensors, "sft") == ""


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    config = saved("llama", tmp_path)
    settings, tensors = read(config)
    tensors["model.norm.weight"] = (31,)
    with pytest.raises(ModelError, match=r"model.norm.weight has the shape \(31,\) in its file, and \(32,\) by its"):
        check_weights(config, settings, tensors, "sft")


def test_a_new_reward_model_may_lack_its_head_and_nothing_else(tmp_path: Path) -> None:
    config = saved("llama", tmp_path)
    settings, tensors = read(config)
    del tensors["lm_head.weight"]
    assert check_weights(config, settings, tensors, "reward") == ""
    with pytest.raises(ModelError, match=r"lacks 1 weights that its config.json asks for, first lm_head.weight"):
        check_weights(config, settings, tensors, "sft")
    del tensors["model.norm.weight"]
    with pytest.raises(ModelError, match=r"first model.norm.weight"):
        check_weights(config, settings, tensors, "reward")


def test_the_decoder_of_an_encoder_decoder_model_lacks_weights(tmp_path: Path) -> None:
    """The shape refuses Pegasus's own config.json already; one that claims to be the decoder alone is found here."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    sizes = {"vocab_size": 101, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = PegasusForConditionalGeneration(PegasusConfig(**sizes, **layers))
    model.save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path))
    settings, tensors = read(config)
    with pytest.raises(ModelError, match="'pegasus', which is an encoder-decoder model"):
        check_weights(config, settings, tensors, "sft")
    decoder = {**settings, "is_encoder_decoder": False, "is_decoder": True}
    # the embedding is stored as model.shared.weight, and the head is tied to it
    with pytest.raises(ModelError, match=r"lacks 2 weights that its config.json asks for, first lm_head.weight"):
        check_weights(config, decoder, tensors, "sft")


def test_the_headers_of_all_files_are_read(tmp_path: Path) -> None:
    config = saved("llama", tmp_path)
    (whole,) = tmp_path.glob("*.safetensors")
    tensors = load_file(whole)
    names = sorted(tensors)
    whole.unlink()
    for number, part in enumerate((names[:5], names[5:]), 1):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert read(config)[1] == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
