"""Loading: type and attention kernel are what the config says, and a faulty model is never filled up in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.models.load import is_reward_model, load_model, load_reward_model, load_tokenizer
from tasks.tokenize import template


def config(**settings: object) -> ModelConfig:
    return ModelConfig(name="tiny", **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_configured_type(dtype: str, tiny_model: Path) -> None:
    model = load_model(config(dtype=dtype), tiny_model)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has bfloat16")
def test_auto_is_float32_on_a_cpu(tiny_model: Path) -> None:
    assert load_model(config(), tiny_model).dtype == torch.float32


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_attention_runs_the_configured_kernel(kernel: str, tiny_model: Path) -> None:
    assert load_model(config(attn_implementation=kernel), tiny_model).config._attn_implementation == kernel


def test_missing_weights_are_not_filled_with_random_numbers(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks 9 weights .* first model.layers.2"):
        load_model(config(), model)


def test_pickled_weights_load_only_when_allowed(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_model(config(), model)
    assert load_model(config(allow_pickled_weights=True), model).num_parameters() > 0


def test_a_model_without_a_head_scores_only_when_a_new_one_is_allowed(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks 1 weights .* first score.weight"):
        load_reward_model(config(), tiny_model)
    assert not is_reward_model(tiny_model)
    model = load_reward_model(config(), tiny_model, new_head=True)
    assert tuple(model.score.weight.shape) == (1, 64)
    model.save_pretrained(tmp_path)
    assert is_reward_model(tmp_path)
    assert torch.equal(load_reward_model(config(), tmp_path).score.weight, model.score.weight)


def test_a_new_head_excuses_no_other_missing_weight(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks 9 weights .* first model.layers.2"):
        load_reward_model(config(), model, new_head=True)


def test_virtual_tokens_in_the_adapter_folder_are_loaded_with_their_model(tiny_model: Path, tmp_path: Path) -> None:
    import peft

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    load_tokenizer(tiny_model).save_pretrained(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    wrapped = peft.get_peft_model(
        load_model(config(), tiny_model), peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    ).eval()
    wrapped.save_pretrained(model / "adapter")
    with torch.no_grad():
        base, expected, loaded = (
            m.eval()(ids).logits for m in (load_model(config(), tiny_model), wrapped, load_model(config(), model))
        )
    assert torch.equal(loaded, expected)
    assert not torch.allclose(loaded, base, atol=1e-3)
    assert not is_reward_model(model)


def test_a_kernel_that_the_caller_chose_goes_before_the_configs(tiny_model: Path) -> None:
    model = load_model(config(attn_implementation="sdpa"), tiny_model, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"rms_norm_eps": "a"}, r"cannot be loaded: Validation error for field 'rms_norm_eps'"),
        (
            "config.json",
            {"rope_scaling": {"rope_type": "linear", "factor": "x"}},
            "cannot be loaded: unsupported operand",
        ),
        ("config.json", {"attn_implementation": 5}, "cannot be loaded: 'int' object has no attribute"),
        ("config.json", {"pad_token_id": 10**9}, "cannot be loaded: Padding_idx must be within num_embeddings"),
        (
            "adapter_config.json",
            {"a": 1},
            "cannot be loaded: The PeftConfig config that is trying to be loaded is missing",
        ),
    ],
)
def test_what_transformers_refuses_is_an_error_of_the_model(
    file: str, change: dict, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    content = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(ModelError, match=words) as caught:
        load_model(ModelConfig(name="./model"), model)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


def test_what_the_tokenizers_refuse_is_an_error_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for file, content in (("tokenizer.json", '{"model": 5}'), ("tokenizer_config.json", '{"tokenizer_class": ["a"]}')):
        (model / file).write_text(content)
        with pytest.raises(ModelError, match="the model's tokenizer cannot be loaded: ") as caught:
            template.load_tokenizer(model, trust_remote_code=False)
        assert len(str(caught.value).splitlines()) == 1
