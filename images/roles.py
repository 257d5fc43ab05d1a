"""What each image is asked to hold: the packages that its tasks import, by name.

A test reads the imports off the source and keeps these lists equal to them. Their versions, and all that they need in
turn, are in the locks beside this file, which `make lock` writes.
"""

from __future__ import annotations

from typing import Literal

Role = Literal["cpu", "gpu", "gptq"]

_SHELL = ("flytekit", "pydantic", "click", "filelock", "kubernetes")
_MODELS = ("torch", "transformers", "peft", "pyarrow", "pandas", "numpy")
_SCORES = ("tqdm", "rapidfuzz")

PACKAGES: dict[Role, tuple[str, ...]] = {
    "cpu": (
        *_SHELL,
        *_MODELS,
        "aiohttp",
        "datasets",
        "diskcache",
        "flyteidl",
        "flytekitplugins-deck-standard",
        "flytekitplugins-kfpytorch",
        "fsspec",
        "httpx2",
        "huggingface_hub",
        "Jinja2",
        "matplotlib",
        "pandera",
        "py3langid",
        "PyYAML",
        "rensa",
        "safetensors",
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
        "flytekitplugins-deck-standard",
        "flytekitplugins-kfpytorch",
        "fsspec",
        "liger_kernel",
        "matplotlib",
        "safetensors",
        "trl",
        "xxhash",
    ),
    "gptq": (*_SHELL, *_MODELS, *_SCORES, "flytekitplugins-deck-standard", "gptqmodel", "matplotlib"),
}
"""Imported by the project's own source."""

INDIRECT: dict[Role, dict[str, str]] = {
    "cpu": {},
    "gpu": {
        "mlflow-skinny": "a tracker, which transformers imports",
        "ninja": "DeepSpeed and PyTorch compile with it",
        "tensorboard": "a tracker, which transformers imports",
        "wandb": "a tracker, which transformers imports",
    },
    "gptq": {"optimum": "transformers loads GPTQ weights with it"},
}
"""Imported by no file of the project, and needed: with the reason."""
