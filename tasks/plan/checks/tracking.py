"""Checks the tracker that will follow a training: its package, its address, its key or token."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import httpx2

from configs.errors import ConfigError, UnreachableTrackerError
from configs.printable import one_line
from configs.schema.tracking import TrackingConfig
from configs.schema.train import TrainConfig
from tasks.files.waiting import NoAnswerError, waiting_for

_CLOUD = "https://api.wandb.ai"
_TIMEOUT_SECONDS = 15.0


def with_run_name(train: TrainConfig, name: str, execution: str) -> TrainConfig:
    """Return `train` with a run name for the tracker, if it has none: the config's name, objective, and execution."""
    if train.tracking.tracker == "none" or train.tracking.run_name is not None:
        return train
    run_name = "-".join(filter(None, [name, train.objective, execution]))
    return train.model_copy(update={"tracking": train.tracking.model_copy(update={"run_name": run_name})})


def check_tracking(
    tracking: TrackingConfig,
    secrets: Mapping[str, str],
    sources: str,
    filesystem_of: Callable[[str], Any],
    is_laptop: bool,
) -> None:
    """Ask the tracker whether it accepts a run, without creating one.

    `secrets` maps the variables that the tracker's library reads to keys and tokens; `sources` says where they were
    looked for. A tracker that cannot be reached now is an error, because it would miss a run of hours; one that is lost
    during training is only a warning there.

    Raises:
        UnreachableTrackerError: it cannot be reached.
        ConfigError: its package is missing here, it refuses the key, or its folder is not writable.
    """
    if tracking.tracker == "none":
        return
    if is_laptop and importlib.util.find_spec(tracking.tracker) is None:
        raise ConfigError(
            f"train.tracking.tracker={tracking.tracker} needs the package {tracking.tracker}, which is not installed "
            "here\ninstall it with `pip install -e '.[tracking]'`, or set tracker to none"
        )
    if tracking.tracker == "wandb":
        _check_wandb(tracking, secrets.get("WANDB_API_KEY"), sources)
    elif tracking.tracker == "mlflow":
        _check_mlflow(tracking, secrets, sources)
    elif tracking.tracker == "tensorboard":
        if tracking.folder is not None:
            _check_folder(tracking.folder, filesystem_of, is_laptop)
    else:
        assert_never(tracking.tracker)


def _check_wandb(tracking: TrackingConfig, key: str | None, sources: str) -> None:
    address = (tracking.address or _CLOUD).rstrip("/")
    if key is None:
        raise ConfigError(
            f"train.tracking.tracker=wandb needs an API key; looked in {sources}\n"
            f"take one from {'https://wandb.ai' if tracking.address is None else address}/authorize and set "
            "WANDB_API_KEY, or the secret on a cluster"
        )
    query = {"operationName": "Viewer", "query": "query Viewer { viewer { id } }"}
    answer = _ask(tracking, f"{address}/graphql", query, ("api", key))
    if answer.status_code in (401, 403) or (answer.is_success and not _viewer(answer)):
        raise ConfigError(
            f"train.tracking.tracker=wandb: {one_line(address)} refused the API key; looked in {sources}\ncreate a "
            "new one there"
        )
    _check_answer(answer, address, "W&B")


def _viewer(answer: httpx2.Response) -> object:
    try:
        return (answer.json().get("data") or {}).get("viewer")
    except (ValueError, AttributeError):
        # not JSON: another kind of server
        return "unknown"


def _check_mlflow(tracking: TrackingConfig, secrets: Mapping[str, str], sources: str) -> None:
    address = str(tracking.address).rstrip("/")
    token, user = secrets.get("MLFLOW_TRACKING_TOKEN"), secrets.get("MLFLOW_TRACKING_USERNAME")
    headers = {"Authorization": f"Bearer {token}"} if token and not user else {}
    basic = (user, secrets.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    answer = _ask(tracking, f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1}, basic, headers)
    if answer.status_code in (401, 403):
        found = " and ".join(sorted(secrets)) or "none"
        raise ConfigError(
            f"train.tracking.address={one_line(address)} refused access ({answer.status_code}); found {found}, looked "
            "in "
            f"{sources}\nset a token, or a user and a password, that may write"
        )
    _check_answer(answer, address, "MLflow")


def _ask(
    tracking: TrackingConfig,
    url: str,
    content: dict[str, Any],
    basic: tuple[str, str] | None,
    headers: dict[str, str] | None = None,
) -> httpx2.Response:
    try:
        with waiting_for(url):
            return httpx2.post(url, json=content, auth=basic, headers=headers, timeout=_TIMEOUT_SECONDS)
    except (httpx2.HTTPError, NoAnswerError) as error:
        setting = "tracker=wandb" if tracking.address is None else f"address={tracking.address}"
        raise UnreachableTrackerError(
            f"train.tracking.{setting}: {url.split('/api/')[0].removesuffix('/graphql')} cannot be reached "
            f"({type(error).__name__})\n"
            "correct the address, let this machine reach it, or set train.tracking.tracker=none"
        ) from None


def _check_answer(answer: httpx2.Response, address: str, kind: str) -> None:
    try:
        answer.raise_for_status()
        answer.json()
    except (httpx2.HTTPStatusError, ValueError):
        raise ConfigError(
            f"train.tracking.address={one_line(address)} is no {kind} server (it answered {answer.status_code})\n"
            "correct the address, or try again later"
        ) from None


def _check_folder(folder: str, filesystem_of: Callable[[str], Any], is_laptop: bool) -> None:
    if not is_laptop and "://" not in folder:
        raise ConfigError(
            f"train.tracking.folder={one_line(folder)} would be on the disk of a pod, and lost with it; name a store, "
            "such as "
            "s3://bucket/curves, or leave it unset to use the execution's own"
        )
    try:
        files = filesystem_of(folder)
        target = f"{str(files._strip_protocol(folder)).rstrip('/')}/.write-test-{uuid.uuid4().hex[:8]}"
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
        files.pipe_file(target, b"")
        files.rm(target)
    # every kind of store has its own errors
    except Exception as error:
        raise ConfigError(
            f"train.tracking.folder={one_line(folder)} cannot be written to ({type(error).__name__}); name another, "
            "or give this "
            "machine access"
        ) from None
