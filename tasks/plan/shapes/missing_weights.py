"""Compares the tensors of a model's files with those that transformers expects, before anything is downloaded.

Weights that the files lack would be random numbers, so that part of the model would be untrained. transformers itself
matches the names, with its rules for former names and merged experts, on the meta device: no number is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from math import prod
from typing import Any

from configs.addresses import first_line
from configs.errors import ModelError
from configs.objectives import SCORING, Objective
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.plan.shapes.dense_families import is_dense
from tasks.plan.shapes.shape import ModelShape

Tensors = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""
# of former transformers: computed, not loaded
_COMPUTED = ("rotary_emb.inv_freq",)


def has_all_numbers(settings: Mapping[str, Any], tensors: Tensors, shape: ModelShape) -> bool:
    """Return whether the files of a dense family hold exactly as many numbers as its model, which loads no PyTorch.

    False means that the names must be compared.
    """
    if not is_dense(dict(settings)):
        return False
    is_tied_head = {"lm_head.weight"} if shape.is_tied else set()
    counted = [size for name, size in tensors.items() if name not in is_tied_head and not name.endswith(_COMPUTED)]
    return sum(prod(size) for size in counted) == shape.parameters


def check_weights(config: ModelConfig, settings: dict[str, Any], tensors: Tensors, objective: Objective) -> str:
    """Check that files with `tensors` hold all weights, in their shapes, of the model with the config.json `settings`.

    The head of a new reward model may be missing. Returns why transformers cannot compare them, empty if it did.

    Raises:
        ModelError: weights are missing or have other shapes, or transformers refuses the settings.
    """
    import torch
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    from tasks.models.library_errors import LIBRARY_ERRORS
    from tasks.models.load import HEAD_WEIGHTS, refuse_missing
    from tasks.plan.shapes.counted_activations import quiet
    from tasks.plan.shapes.counted_shapes import causal_config

    is_reward = objective in SCORING
    loaded_config = causal_config(settings, config.name)
    kind = (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if is_reward else MODEL_FOR_CAUSAL_LM_MAPPING)[
        type(loaded_config)
    ]
    state = {name: torch.empty(size, device="meta") for name, size in tensors.items()}
    try:
        with quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            _, found = kind.from_pretrained(
                None,
                config=loaded_config,
                state_dict=state,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except LIBRARY_ERRORS as error:
        return f"transformers cannot compare them without data: {first_line(error, 100)}"
    refuse_missing(config, sorted(name for name in found["missing_keys"] if not (is_reward and name in HEAD_WEIGHTS)))
    for name, in_file, expected in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"model.name={one_line(config.name)}: {one_line(name)} has the shape {tuple(in_file)} in its file, and "
            f"{tuple(expected)} by "
            "its config.json\ncopy the model again, or correct config.json"
        )
    return ""
