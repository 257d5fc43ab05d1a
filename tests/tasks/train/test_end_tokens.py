"""A trained model stops at the tokens that end its answers and at its own, and has no setting that training changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import CONFIG_MAPPING, GenerationConfig, LlamaConfig, LlamaForCausalLM

from configs.schema import ModelConfig, TrainConfig
from tasks.models.end_tokens import end_tokens, write_end_tokens
from tasks.models.load import DTYPES, load_model, load_tokenizer
from tasks.train.fit import FitInputs, fit
from tasks.train.merge import merge_adapter

LOADING = ModelConfig(name="tiny")
# ids of the base's tokenizer: <pad> 0, <eos> 1, bytes 2 to 257, and the two added here
END, STOP, WORD = 258, 259, 9


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows that end with `END`."""
    directory = tmp_path_factory.mktemp("tokens")
    rows = [{"input_ids": [40 + n, 50, 60, END], "labels": [-100, 50, 60, END]} for n in range(4)]
    pd.DataFrame(rows).to_parquet(directory / "tokens.parquet")
    return directory


def made(tiny_model: Path, directory: Path, generation: dict[str, Any], dtype: str = "float32", **config: Any) -> Path:
    """Write a Llama of 260 tokens, <|end|> and <|stop|> among them, with these settings, and return its folder."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|stop|>"]})
    tokenizer.save_pretrained(directory)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    names = {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **names, "eos_token_id": 1, **config})).to(DTYPES[dtype])
    model.save_pretrained(directory)
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def trained(
    base: Path, tokens: Path, folder: Path, method: str = "full", loading: ModelConfig = LOADING, **settings: Any
) -> Path:
    """Train one step and return the folder of the whole model: of an adapter, the one it is merged into."""
    config = TrainConfig(method=method, max_steps=1, batch_size=4, prompt={"num_virtual_tokens": 2}, **settings)
    inputs = FitInputs(model=base, train_tokens=tokens, tokenizer=base, end_token_ids=[END])
    fit(config, loading, inputs, folder / "trained")
    if method == "full":
        return folder / "trained"
    merge_adapter(loading, base, folder / "trained", folder / "merged")
    return folder / "merged"


def content(directory: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((directory / name).read_text(encoding="utf-8"))


def differences(base: Path, other: Path) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two config.json differ."""
    before, after = content(base), content(other)
    named = {name: (before.get(name), after.get(name)) for name in before.keys() | after.keys()}
    return {name: pair for name, pair in named.items() if pair[0] != pair[1]}


def test_the_models_own_control_tokens_follow_the_trained_ones(tiny_model: Path, tmp_path: Path) -> None:
    base = made(tiny_model, tmp_path, {"eos_token_id": [STOP, WORD, END]})
    model, tokenizer = load_model(LOADING, base), load_tokenizer(base)
    # of generation_config 259, of config 1; 9 is a byte
    assert end_tokens(model, tokenizer, [END]) == [END, STOP, 1]
    assert end_tokens(model, tokenizer, [1]) == [1, STOP, END]


def test_a_config_class_that_holds_one_end_token_gets_the_most_frequent() -> None:
    several, single = LlamaConfig(), CONFIG_MAPPING["inkling_text"]()
    for config in (several, single):
        write_end_tokens(config, [7, 8], 0)
    assert (several.eos_token_id, single.eos_token_id) == ([7, 8], 7)


@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
def test_all_files_of_the_trained_model_name_the_same_ends(
    method: str, tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    base = made(tiny_model, tmp_path / "base", {"eos_token_id": STOP})
    output = trained(base, tokens, tmp_path, method)
    assert (
        content(output)["eos_token_id"] == content(output, "generation_config.json")["eos_token_id"] == [END, STOP, 1]
    )
    tokenizer = load_tokenizer(output)
    # an evaluation of either asks for the same tokens
    ends = [end_tokens(load_model(LOADING, directory), tokenizer, [END]) for directory in (base, output)]
    assert ends == [[END, STOP, 1]] * 2


def test_a_quantized_copy_stops_where_its_model_does(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from tasks.quantize.bitsandbytes import quantize_model

    output = trained(made(tiny_model, tmp_path / "base", {"eos_token_id": STOP}), tokens, tmp_path)
    quantize_model("8bit", LOADING, output, tmp_path / "quantized")
    name = "generation_config.json"
    assert content(tmp_path / "quantized", name) == content(output, name)
    assert content(tmp_path / "quantized")["eos_token_id"] == [END, STOP, 1]


@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_training_leaves_the_settings_of_the_model_as_they_were(
    method: str, use_cache: bool, tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    base = made(
        tiny_model,
        tmp_path / "base",
        {"eos_token_id": 1, "do_sample": True, "temperature": 0.6},
        "bfloat16",
        use_cache=use_cache,
        attention_dropout=0.1,
        bos_token_id=3,
    )
    loading = ModelConfig(name="tiny", attn_implementation="eager")
    output = trained(base, tokens, tmp_path, method, loading)
    assert differences(base, output) == {"eos_token_id": (1, [END, 1])}
    assert content(output)["use_cache"] is use_cache
    assert content(output)["dtype"] == "bfloat16"
    generation = content(output, "generation_config.json")
    assert (generation["do_sample"], generation["temperature"]) == (True, 0.6)
    assert "bos_token_id" not in generation


def test_a_type_that_the_config_sets_and_rows_of_new_tokens_are_the_only_other_changes(
    tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    base = made(tiny_model, tmp_path / "base", {"eos_token_id": 1}, pad_token_id=None)
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = TrainConfig(method="full", max_steps=1, batch_size=4)
    inputs = FitInputs(
        model=base, train_tokens=tokens, tokenizer=tmp_path / "tokenizer", end_token_ids=[1], new_token_ids=[260]
    )
    fit(config, ModelConfig(name="tiny", dtype="bfloat16"), inputs, tmp_path / "out")
    expected = {"vocab_size": (260, 261), "pad_token_id": (None, 0)}
    assert differences(base, tmp_path / "out") == expected | {"dtype": ("float32", "bfloat16")}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_base_whose_generation_config_cannot_be_saved_is_trained_without_its_idle_flags(
    method: str, tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    idle = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    base = made(tiny_model, tmp_path / "base", {"eos_token_id": STOP, "repetition_penalty": 1.1, **idle})
    output = trained(base, tokens, tmp_path, method)
    GenerationConfig.from_pretrained(output).validate(strict=True)
    saved = content(output, "generation_config.json")
    saved.pop("transformers_version")
    assert saved == {
        "do_sample": False,
        "eos_token_id": [END, STOP, 1],
        "pad_token_id": 0,
        "repetition_penalty": 1.1,
    }
