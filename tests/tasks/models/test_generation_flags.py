"""Flags that change nothing are found exactly where transformers refuses to save a generation config."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from tasks.models.generation_flags import flags_without_effect, repair_generation_config

IDLE: list[tuple[dict[str, Any], set[str]]] = [
    ({"temperature": 0.6, "top_p": 0.9}, {"temperature", "top_p"}),
    ({"do_sample": False, "temperature": 0.6}, {"temperature"}),
    ({"top_k": 20, "min_p": 0.1, "top_h": 0.3, "typical_p": 0.9}, {"top_k", "min_p", "top_h", "typical_p"}),
    ({"epsilon_cutoff": 0.1, "eta_cutoff": 0.1}, {"epsilon_cutoff", "eta_cutoff"}),
    ({"early_stopping": True, "length_penalty": 0.8}, {"early_stopping", "length_penalty"}),
    ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation"}),
    ({"output_scores": True, "output_attentions": True}, {"output_scores", "output_attentions"}),
    ({"pad_token_id": -1}, {"pad_token_id"}),
]
USED: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
    # the values at which they do nothing
    {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "epsilon_cutoff": 0.0},
    {"num_beams": 2, "early_stopping": True, "length_penalty": 0.8},
    {"return_dict_in_generate": True, "output_scores": True},
    {"cache_implementation": "static", "pad_token_id": 0},
]


@pytest.mark.parametrize(("settings", "expected"), IDLE)
def test_flags_without_effect_are_removed_and_the_rest_can_be_saved(
    settings: dict[str, Any], expected: set[str]
) -> None:
    assert flags_without_effect(settings).keys() == expected
    config = GenerationConfig.from_dict({**settings, "repetition_penalty": 1.1})
    with pytest.raises(ValueError, match="is invalid"):
        config.validate(strict=True)
    repair_generation_config(SimpleNamespace(generation_config=config))
    config.validate(strict=True)
    assert config.repetition_penalty == 1.1
    assert all(getattr(config, name) is None for name in expected)


@pytest.mark.parametrize("settings", USED)
def test_flags_that_are_used_are_kept(settings: dict[str, Any]) -> None:
    assert flags_without_effect(settings) == {}
    config = GenerationConfig.from_dict(settings)
    config.validate(strict=True)
    before = config.to_dict()
    repair_generation_config(SimpleNamespace(generation_config=config))
    assert config.to_dict() == before
