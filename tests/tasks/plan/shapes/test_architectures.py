"""Shapes from config.json: published counts to the last parameter, and arithmetic against transformers' own models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from configs.errors import ModelError
from tasks.plan.shapes import architectures
from tasks.plan.shapes.architectures import SHAPES, known_shape, shape_of
from tasks.plan.shapes.dense_families import FAMILIES, dense_shape
from tasks.plan.shapes.shape import ModelShape

PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "openai-community/gpt2": 124_439_808,
    # 1024 x 128 + 2 x (4 x 128^2 + 3 x 128 x 512 + 2 x 128) + 128
    "embedded:english-to-sql": 656_000,
}
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 101,
    "pad_token_id": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "grouped queries": {"num_key_value_heads": 2},
    "one key": {"num_key_value_heads": 1},
    "head width": {"head_dim": 10, "num_key_value_heads": 3},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "no biases": {"attention_bias": False, "mlp_bias": False},
    "positions": {"max_position_embeddings": 77},
}
NOT_COUNTED = ("saved_bytes", "temporary_bytes", "score_bytes", "notes")


def counted(settings: dict[str, Any], has_activations: bool = False) -> ModelShape:
    from tasks.plan.shapes.counted_shapes import count_shape

    return count_shape(settings, "m", has_activations)


def test_every_shape_file_has_its_published_count() -> None:
    files = {known.name for known in architectures._known_shapes().values()}
    assert files == set(PUBLISHED)
    assert len(list(SHAPES.glob("*.json"))) == len(PUBLISHED)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_published_counts_are_exact(name: str, parameters: int) -> None:
    known = known_shape(name.upper())
    assert known is not None and known.license and known.source
    shape = shape_of(known.settings, known.name)
    assert shape.parameters == parameters
    assert shape.positions and shape.is_exact


def test_a_model_without_a_file_is_not_known() -> None:
    assert known_shape("me/my-model") is None
    assert known_shape("gpt2") is known_shape("openai-community/gpt2")


@pytest.mark.parametrize("content", ["[]", "{", '{"name": "m"}', '{"name": "m", "nmae": 1}'])
def test_a_file_that_is_not_a_shape_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ModelError, match=r"configs/shapes/mine\.json is not a shape"):
        architectures._read_shape_file(tmp_path / "mine.json")


def test_no_torch_is_loaded_for_any_model_with_a_file() -> None:
    program = (
        "import sys; from tasks.plan.shapes.architectures import _known_shapes, shape_of\n"
        "for known in _known_shapes().values(): shape_of(known.settings, known.name)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_the_shape_file_of_the_embedded_model_matches_its_architecture() -> None:
    from tasks.get_model.embedded import _architecture, make_tokenizer

    made = _architecture(make_tokenizer(["select a from b where c = d"])).to_dict()
    known = known_shape("embedded:english-to-sql")
    assert known is not None
    # the tokenizer is as large as its text allows, 1,024 tokens at most
    kept = {key: value for key, value in known.settings.items() if key != "vocab_size"}
    assert {key: made[key] for key in kept} == kept


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_computed_shapes_equal_those_of_transformers_models(family: str, variant: str) -> None:
    settings = {"model_type": family, **SMALL, **VARIANTS[variant]}
    by_hand, by_count = dense_shape(settings, "m"), counted(settings)
    names = [
        field.name for field in fields(ModelShape) if field.name not in (*NOT_COUNTED, "linears", "embedding_width")
    ]
    assert {name: getattr(by_hand, name) for name in names if name != "head_width"} == {
        name: getattr(by_count, name) for name in names if name != "head_width"
    }
    assert set(by_hand.linear_maps) == set(by_count.linear_maps)
    assert by_hand.parameters == by_count.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_that_a_config_omits_have_transformers_defaults(family: str) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family]()
    shape = dense_shape({"model_type": family}, "m")
    assert (shape.hidden, shape.layers, shape.heads) == (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    )
    assert (shape.vocabulary, shape.intermediate) == (config.vocab_size, config.intermediate_size)
    assert shape.key_value_heads == config.num_key_value_heads
    assert (shape.positions, shape.is_tied) == (config.max_position_embeddings, config.tie_word_embeddings)
    assert shape.head_width == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


# grouped queries, as many keys as queries, one key: each with two families, and each family with two of them
@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("qwen3", (8, 4)),
        ("qwen3", (8, 1)),
        ("phi3", (8, 4)),
        ("phi3", (8, 8)),
        ("gemma", (8, 8)),
        ("gemma", (8, 1)),
    ],
    ids=str,
)
def test_bytes_that_a_layer_saves_equal_those_of_transformers(family: str, heads: tuple[int, int]) -> None:
    width = 32 if heads[1] > 1 else 48
    sizes = {"hidden_size": 320, "intermediate_size": 576, "num_attention_heads": heads[0], "head_dim": width}
    settings = {"model_type": family, **SMALL, **sizes, "num_key_value_heads": heads[1]}
    by_hand, by_count = dense_shape(settings, "m"), counted(settings, has_activations=True)
    assert by_hand.saved_bytes == by_count.saved_bytes
    assert by_hand.score_bytes == by_count.score_bytes
    assert by_hand.temporary_bytes == by_count.temporary_bytes


@pytest.mark.parametrize("name", ["openai-community/gpt2", "mistralai/Mixtral-8x7B-v0.1"])
def test_counts_in_a_shape_file_equal_a_new_count(name: str) -> None:
    known = known_shape(name)
    assert known is not None and known.counted is not None
    assert replace(counted(known.settings, has_activations=True), name=name) == shape_of(known.settings, name)
    # with other settings under the same name, the counts of the file are not used
    other = {key: 2 if key in ("n_layer", "num_hidden_layers") else value for key, value in known.settings.items()}
    assert shape_of(other, name).layers == 2


def test_notes_state_what_was_assumed() -> None:
    known = known_shape("microsoft/Phi-3-mini-4k-instruct")
    assert known is not None
    shape = shape_of({**known.settings, "auto_map": {}, "quantization_config": {"quant_method": "gptq"}}, known.name)
    assert [note.split(";")[0] for note in shape.notes] == [
        "the repository's own code (auto_map) is not run: the shape is that of transformers' own model",
        "its weights are quantized already",
    ]
    assert not shape.is_exact and shape.parameters == PUBLISHED[known.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "foo"}, "is of architecture 'foo', which transformers 5."),
        ({"model_type": "foo", "auto_map": {}}, "'foo', which needs code of its own"),
        ({"model_type": "bert"}, "'bert', which reads text in both directions"),
        ({"model_type": "bart"}, "'bart', which is an encoder-decoder model"),
        ({"model_type": "pegasus"}, "'pegasus', which is an encoder-decoder model"),
        ({"model_type": "xlnet", "d_head": 8}, "'xlnet', which reads text in both directions"),
        ({"model_type": "gemma4_unified_assistant"}, "'gemma4_unified_assistant', which takes no labels"),
        ({"model_type": "t5"}, "'t5', which transformers does not load as a causal"),
        ({"model_type": "gpt2", "vocab_size": "48"}, "config.json is refused by transformers' gpt2"),
        ({"model_type": "gpt2", "num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is not between 1 and 2048"),
        ({"model_type": "gpt2", "hidden_size": -48}, "hidden_size=-48 is not between 1"),
        ({"hidden_size": "48"}, "hidden_size=48 is not a whole number"),
        ({"hidden_size": None}, "hidden_size=None is not a whole number"),
        ({"hidden_size": True}, "hidden_size=True is not a whole number"),
        ({"hidden_size": 50}, "hidden_size=50 is not a multiple of num_attention_heads=6"),
        ({"num_key_value_heads": 4}, "num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 is not between 1 and 2048"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000 is not between"),
        ({"intermediate_size": 4096.5}, "intermediate_size=4096.5 is not a whole number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings=no is neither true nor false"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_model_and_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as refusal:
        shape_of({"model_type": "llama", **SMALL, **change}, "me/m")
    text = str(refusal.value)
    assert text.startswith("model.name=me/m: config.json") and message in text
    assert 1 <= len(text.splitlines()) <= 2


def test_settings_that_are_no_object_are_refused() -> None:
    with pytest.raises(ModelError, match="is not a JSON object"):
        shape_of([], "me/m")  # type: ignore[arg-type]
