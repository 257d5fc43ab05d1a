"""Loads, before the fork server forks, what each training process would otherwise load after it."""

from __future__ import annotations

import gc
import importlib.util

import torch.utils.cpp_extension  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import tasks.train.attempt
import tasks.train.objectives  # noqa: F401

if importlib.util.find_spec("deepspeed"):
    import deepspeed  # noqa: F401

# some thousand regular expressions, compiled when the first model is loaded
get_checkpoint_conversion_mapping("llama")
# a collection in a child would write to every object of the parent, and so copy all its memory
gc.collect()
gc.freeze()
