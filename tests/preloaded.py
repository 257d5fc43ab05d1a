"""Loads, before a fork server forks, what every training process would otherwise load after it.

The last module of a server's preload list: what is loaded when it ends is frozen.
"""

from __future__ import annotations

import gc
import importlib.util

import torch.utils.cpp_extension  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

if importlib.util.find_spec("deepspeed"):
    import deepspeed  # noqa: F401

# some thousand regular expressions, compiled when the first model is loaded
get_checkpoint_conversion_mapping("llama")
# a collection in a child would write to every object of the parent, and so copy all its memory
gc.collect()
gc.freeze()
