"""Counting ends in time: models that go through a row token by token are counted in short rows, or given up."""

from __future__ import annotations

from typing import Any

import pytest

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 101}
MAMBA = {"model_type": "mamba", **SIZES, "state_size": 4, "intermediate_size": 128}
GPT_NEOX = {"model_type": "gpt_neox", **SIZES, "intermediate_size": 128, "num_attention_heads": 4}


def model_of(settings: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[settings["model_type"]].from_dict(settings))


@pytest.mark.parametrize(("settings", "expected"), [(MAMBA, True), (GPT_NEOX, False)])
def test_a_loop_over_the_tokens_of_a_row_shows_in_the_number_of_operations(
    settings: dict[str, Any], expected: bool
) -> None:
    from tasks.plan.shapes.counted_activations import goes_token_by_token

    assert goes_token_by_token(model_of(settings)) is expected


def test_a_mamba_is_followed_over_short_rows_only() -> None:
    from torch.nn.modules.module import register_module_forward_pre_hook
    from transformers import MambaModel

    from tasks.plan.shapes.counted_shapes import count_shape

    lengths: set[int] = set()
    handle = register_module_forward_pre_hook(
        lambda module, inputs: lengths.add(inputs[0].shape[1]) if isinstance(module, MambaModel) else None
    )
    try:
        shape = count_shape(MAMBA, "m")
    finally:
        handle.remove()
    # 8 tokens, and 2 and 4 times as many; rows of 512 took minutes
    assert lengths == {8, 16, 32}
    # no attention: nothing grows with the length of the row
    assert shape.score_bytes == (0, 0, 0)
    # in 32 bits: of each of 4 states of 128 channels, at least its decay, its input and the state before, 4 bytes each
    assert shape.saved_bytes is not None and shape.saved_bytes[2] > 3 * 4 * 128 * 4
    assert shape.notes == ()


def test_both_fits_find_the_numbers_of_a_layer() -> None:
    from tasks.plan.shapes.counted_activations import _fitted_by_three, _fitted_by_two

    # 5 bytes a token, 3 for each token and position, and 1000 whatever the rows are
    assert _fitted_by_two(lambda rows, length: 1000 + rows * (5 * length + 3 * length**2)) == (5, 3)
    # 7 for each row
    saved, scores = _fitted_by_three(lambda rows, length: rows * (7 + 5 * length + 3 * length**2))
    assert (saved, scores) == (pytest.approx(5), pytest.approx(3))


def test_counting_is_given_up_at_its_limit_with_the_assumption_that_replaces_it() -> None:
    from tasks.plan.shapes.counted_shapes import _activations

    config = model_of(GPT_NEOX).config
    assert _activations(config, [1, 1], limit_seconds=60)[1] == ()
    activations, notes = _activations(config, [1, 1], limit_seconds=0)
    assert activations is None
    assert notes == (
        "counting was given up after 0 s: activations are taken to be those of a Llama of the same widths",
    )
