"""Settings of a generation_config.json that have no effect, with which transformers 5 refuses to save it again.

Published models have them, such as a temperature without `do_sample: true`. The plan names them, and a model that is
loaded is loaded without them, so that training can save it. Neither torch nor transformers is imported: the plan reads
the file before either is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "top_k": 50,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Settings that only sampling reads, and the values at which they do nothing."""
_BEAMS: dict[str, Any] = {"early_stopping": False, "length_penalty": 1.0}
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
_CACHE = ("cache_implementation", "cache_config")


def flags_without_effect(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the settings that change nothing in this generation config, each with the reason.

    They are the ones for which transformers' `GenerationConfig.validate` refuses to save: sampling flags without
    `do_sample: true`, flags of beam search without beams, caches without a cache, outputs that are not returned, and a
    negative pad_token_id. Without them the model generates the same text.
    """
    found: dict[str, str] = {}
    if settings.get("do_sample") is not True:
        found |= dict.fromkeys(_set_flags(settings, _SAMPLING), "has no effect without do_sample: true")
    if settings.get("num_beams") in (None, 1):
        found |= dict.fromkeys(_set_flags(settings, _BEAMS), "has no effect without num_beams")
    if settings.get("use_cache") is False:
        found |= {name: "has no effect with use_cache: false" for name in _CACHE if settings.get(name) is not None}
    if settings.get("return_dict_in_generate") is not True:
        reason = "has no effect without return_dict_in_generate: true"
        found |= {name: reason for name in _OUTPUTS if settings.get(name) is True}
    pad = settings.get("pad_token_id")
    if isinstance(pad, int) and pad < 0:
        found["pad_token_id"] = "names no token"
    return found


def _set_flags(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    return [name for name, default in defaults.items() if settings.get(name) not in (None, default)]


def repair_generation_config(model: Any) -> None:
    """Remove from the model's generation_config, if it has one, the settings that change nothing."""
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        for name in flags_without_effect(vars(generation)):
            setattr(generation, name, None)
