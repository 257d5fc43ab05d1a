"""The packages that each image must hold: those that its tasks import.

A test compares these lists with the imports in the source. The locks beside this file, which `make lock` writes, add
versions and the packages that these require.
"""

from __future__ import annotations

from typing import Literal

Role = Literal["cpu", "gpu", "gptq"]

_SHELL = ("flytekit", "pydantic", "click", "filelock", "huggingface_hub", "kubernetes", "PyYAML", "regex", "xxhash")
_MODELS = ("torch", "transformers", "peft", "pyarrow", "pandas", "numpy")
_SCORES = ("tqdm", "rapidfuzz", "aiohttp", "httpx2", "jsonschema", "referencing", "sacrebleu", "scipy", "zstandard")

PACKAGES: dict[Role, tuple[str, ...]] = {
    "cpu": (
        *_SHELL,
        *_MODELS,
        "aiohttp",
        "datasets",
        "flyteidl",
        "flytekitplugins-deck-standard",
        "flytekitplugins-kfpytorch",
        "fsspec",
        "httpx2",
        "Jinja2",
        "jsonschema",
        "matplotlib",
        "openai",
        "pandera",
        "py3langid",
        "rapidfuzz",
        "referencing",
        "rensa",
        "sacrebleu",
        "safetensors",
        "scipy",
        "tokenizers",
        "tqdm",
        "zstandard",
    ),
    "gpu": (
        *_SHELL,
        *_MODELS,
        *_SCORES,
        "accelerate",
        "bitsandbytes",
        "datasets",
        "deepspeed",
        "flyteidl",
        "flytekitplugins-deck-standard",
        "flytekitplugins-kfpytorch",
        "fsspec",
        "liger_kernel",
        "matplotlib",
        "safetensors",
        "trl",
    ),
    "gptq": (*_SHELL, *_MODELS, *_SCORES, "flytekitplugins-deck-standard", "fsspec", "gptqmodel", "matplotlib"),
}
"""Packages that the project's own source imports."""

INDIRECT: dict[Role, dict[str, str]] = {
    "cpu": {
        "lm-eval": "the plan checks the names of its tasks, if the config names any",
        "sentencepiece": "transformers reads the tokenizers with it that have no tokenizer.json",
        "trl": "its chat templates for training are read as files",
    },
    "gpu": {
        "lm-eval": "its tasks measure what a model retained, if the config names any",
        "mlflow-skinny": "a tracker, imported if the config names it",
        "ninja": "DeepSpeed and PyTorch compile with it",
        "tensorboard": "a tracker, imported if the config names it",
        "wandb": "a tracker, imported if the config names it",
    },
    "gptq": {"optimum": "transformers loads GPTQ weights with it"},
}
"""Packages that are needed although no task imports them by itself, each with the reason."""
