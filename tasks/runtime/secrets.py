"""Reads tokens and keys from Flyte secrets or environment variables, and says where it looks for them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import flytekit
from flytekit import Secret

from configs.schema.tracking import TrackerName

HUB_TOKEN = Secret(group="huggingface", key="token")
JUDGE_KEY = Secret(group="judge", key="api_key")
ENDPOINT_KEY = Secret(group="endpoint", key="api_key")
_ENDPOINT_VARIABLES = ("ENDPOINT_API_KEY",)
_JUDGE_VARIABLES = ("JUDGE_API_KEY",)
_HUB_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

# keyed by the variable that the tracker's own library reads
_TRACKER_SECRETS: dict[TrackerName, dict[str, Secret]] = {
    "wandb": {"WANDB_API_KEY": Secret(group="wandb", key="api_key")},
    "mlflow": {
        "MLFLOW_TRACKING_TOKEN": Secret(group="mlflow", key="token"),
        "MLFLOW_TRACKING_USERNAME": Secret(group="mlflow", key="username"),
        "MLFLOW_TRACKING_PASSWORD": Secret(group="mlflow", key="password"),
    },
}
TRACKER_SECRETS = [secret for secrets in _TRACKER_SECRETS.values() for secret in secrets.values()]


def _sources(secret: Secret, variables: Sequence[str]) -> str:
    return f"the Flyte secret {secret.group}/{secret.key}, " + ", ".join(f"${name}" for name in variables)


HUB_TOKEN_SOURCES = _sources(HUB_TOKEN, _HUB_VARIABLES)


def read_hub_token() -> str | None:
    """Return the hub token from the Flyte secret or else from the environment; None if neither holds one."""
    return _read(HUB_TOKEN, _HUB_VARIABLES)


JUDGE_KEY_SOURCES = _sources(JUDGE_KEY, _JUDGE_VARIABLES)


def read_judge_key() -> str | None:
    """Return the key of a judge's endpoint; None if there is none, as servers of one's own need none."""
    return _read(JUDGE_KEY, _JUDGE_VARIABLES)


def read_endpoint_key() -> str | None:
    """Return the key of the endpoints of `evaluate.others`; None if there is none."""
    return _read(ENDPOINT_KEY, _ENDPOINT_VARIABLES)


def read_tracker_secrets(tracker: TrackerName) -> dict[str, str]:
    """Return the keys and tokens found for a tracker, by the variable that its library reads."""
    found = {name: _read(secret, [name]) for name, secret in _TRACKER_SECRETS.get(tracker, {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def tracker_sources(tracker: TrackerName) -> str:
    """Return text that names the secrets and variables in which a tracker's keys and tokens are looked for."""
    return "; ".join(_sources(secret, [name]) for name, secret in _TRACKER_SECRETS.get(tracker, {}).items())


def _read(secret: Secret, variables: Sequence[str]) -> str | None:
    try:
        return flytekit.current_context().secrets.get(group=secret.group, key=secret.key).strip() or None
    except ValueError:
        # flytekit raises it for a missing secret
        pass
    return next((os.environ[name].strip() for name in variables if os.environ.get(name, "").strip()), None)
