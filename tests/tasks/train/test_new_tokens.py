"""New special tokens: their rows, and no other, are trained; they outlive merge and reload, and tied stays tied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.taught_models import LOADING, logits, saved, settings, taught

from configs.errors import ConfigError, ModelError
from tasks.models.load import load_model, load_reward_model, load_tokenizer
from tasks.models.vocabulary import add_tokens, make_room
from tasks.train.merge import merge_adapter
from tasks.train.methods import adapter_config, trainable_model

NEW_TOKENS = ["<|tool|>", "<|end_of_tool|>"]
# the tiny model's 258 tokens are followed by the new ones
NEW_IDS = [258, 259]


@pytest.fixture(scope="module")
def more_tokens(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's tokenizer with two tokens more, as the tokenize stage writes it."""
    directory = tmp_path_factory.mktemp("more-tokens")
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.add_special_tokens({"additional_special_tokens": NEW_TOKENS}) == 2
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def untied(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output head of its own."""
    directory = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(tiny_model, directory)
    tensors = load_file(directory / "model.safetensors")
    torch.manual_seed(1)
    tensors["lm_head.weight"] = torch.randn(258, 64) * 0.02
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return directory


def test_a_new_token_begins_as_the_mean_of_those_before_it(untied: Path) -> None:
    model = trainable_model(settings("full"), LOADING, untied, NEW_IDS, 260)
    before = load_file(untied / "model.safetensors")
    for layer, name in ((model.model.embed_tokens, "model.embed_tokens"), (model.lm_head, "lm_head")):
        old = before[f"{name}.weight"]
        assert layer.weight.shape == (260, 64)
        assert torch.equal(layer.weight[:258], old)
        for row in layer.weight[258:]:
            torch.testing.assert_close(row, old.sum(0) / 258)
    assert model.config.vocab_size == 260


def test_new_tokens_take_spare_rows_first(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = load_model(LOADING, tiny_model)
    model.resize_token_embeddings(259)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    weight = trainable_model(settings("full"), LOADING, tmp_path, NEW_IDS, 260).model.embed_tokens.weight
    mean = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"].mean(0)
    assert weight.shape == (260, 64)
    torch.testing.assert_close(weight[258], mean)
    torch.testing.assert_close(weight[259], mean)


def test_a_token_that_the_base_has_keeps_its_embedding(tiny_model: Path) -> None:
    weight = trainable_model(settings("full"), LOADING, tiny_model, [7], 258).model.embed_tokens.weight
    assert torch.equal(weight, load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"])


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"260 tokens and the model 258 embeddings, none for token 258"):
        trainable_model(settings(), LOADING, tiny_model, [], 260)
    with pytest.raises(ModelError, match=r"none for token 258"):
        add_tokens(load_model(LOADING, tiny_model), [259], 260)


def test_a_tied_embedding_stays_tied_through_full_training_of_new_tokens(
    tiny_model: Path, more_tokens: Path, tmp_path: Path
) -> None:
    ids = torch.tensor([[5, 6, 258, 8, 9, 259], [30, 31, 32, 33, 34, 35]])
    model = taught(settings("full"), tiny_model, ids, (258, 259))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    output = saved(model, more_tokens, tmp_path / "out")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(output / "model.safetensors").items()}
    assert [name for name, shape in shapes.items() if 260 in shape] == ["model.embed_tokens.weight"]
    again = load_model(LOADING, output)
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    assert not torch.equal(again.model.embed_tokens.weight[258], again.model.embed_tokens.weight[259])
    assert torch.equal(logits(again, ids), logits(model, ids))


@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_under_an_adapter_only_the_rows_of_new_tokens_change_and_they_outlive_merge_and_reload(
    is_tied: bool, method: str, tiny_model: Path, untied: Path, more_tokens: Path, tmp_path: Path
) -> None:
    base = tiny_model if is_tied else untied
    ids = torch.tensor([[5, 6, 258, 8, 259, 9], [30, 31, 258, 33, 34, 35]])
    model = taught(settings(method), base, ids, (258, 259))
    adapter = saved(model, more_tokens, tmp_path / "adapter")
    # the two rows, not the whole embedding
    assert max(tensor.shape[0] for name, tensor in load_file(adapter / "adapter_model.safetensors").items()) <= 128
    merge_adapter(LOADING, base, adapter, tmp_path / "merged")
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "merged"))
    for name in ["model.embed_tokens.weight"] if is_tied else ["model.embed_tokens.weight", "lm_head.weight"]:
        assert after[name].shape == (260, 64)
        assert torch.equal(after[name][:258], before[name])
        assert all(not torch.allclose(row, before[name].mean(0), atol=1e-4) for row in after[name][258:])
    assert ("lm_head.weight" in after) is not is_tied
    assert len(load_tokenizer(tmp_path / "merged")) == 260
    if method == "lora":
        merged = load_model(LOADING, tmp_path / "merged")
        torch.testing.assert_close(logits(merged, ids), logits(model, ids), atol=1e-4, rtol=1e-4)


def test_new_tokens_are_refused_where_no_embedding_is_trained(tiny_model: Path) -> None:
    for method in ("prompt_tuning", "prefix_tuning"):
        with pytest.raises(ConfigError, match=rf"tokenize.new_special_tokens: train.method={method}"):
            adapter_config(settings(method), load_model(LOADING, tiny_model), NEW_IDS)


def test_a_reward_model_has_new_tokens_too(tiny_model: Path, more_tokens: Path, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 258, 8, 9, 259], [30, 31, 258, 33, 34, 35]])
    for method in ("full", "lora"):
        model = taught(settings(method, objective="reward"), tiny_model, ids, (258, 259))
        output = saved(model, more_tokens, tmp_path / method)
        if method == "lora":
            merge_adapter(LOADING, tiny_model, output, tmp_path / "merged")
            output = tmp_path / "merged"
        again = load_reward_model(LOADING, output)
        torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-4, rtol=1e-4)


def test_a_base_is_scored_with_the_embeddings_that_training_begins_with(tiny_model: Path, more_tokens: Path) -> None:
    base = load_model(LOADING, tiny_model)
    make_room(base, LOADING, tiny_model, len(load_tokenizer(more_tokens)))
    begun = trainable_model(settings("full"), LOADING, tiny_model, NEW_IDS, 260)
    assert torch.equal(base.get_input_embeddings().weight, begun.get_input_embeddings().weight)
