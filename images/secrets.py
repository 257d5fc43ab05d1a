"""The hub token: where it may come from, and nothing else about it."""

from __future__ import annotations

import os

import flytekit
from flytekit import Secret

HUB_TOKEN = Secret(group="huggingface", key="token")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
HUB_TOKEN_SOURCES = f"the Flyte secret {HUB_TOKEN.group}/{HUB_TOKEN.key}, " + ", ".join(f"${v}" for v in _VARIABLES)


def read_hub_token() -> str | None:
    """Return the hub token from the Flyte secret or else from the environment; None when neither holds one."""
    try:
        return flytekit.current_context().secrets.get(group=HUB_TOKEN.group, key=HUB_TOKEN.key).strip() or None
    except ValueError:
        # flytekit's word for a secret that is not there
        pass
    return next((os.environ[name].strip() for name in _VARIABLES if os.environ.get(name, "").strip()), None)
