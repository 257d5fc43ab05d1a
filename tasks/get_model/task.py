"""Flyte tasks: fetch the base model once, of which all later stages read this copy; and adapters to compare with."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from flytekit import Cache, Deck, task
from flytekit.core.context_manager import FlyteContextManager
from flytekit.types.directory import FlyteDirectory

from configs.addresses import shown_address
from configs.printable import print_line
from configs.schema import ModelConfig
from configs.versions import source_version
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import local_path, store_folder
from tasks.runtime.pods import CPU, DECK_FIELDS, scratch_directory
from tasks.runtime.secrets import HUB_TOKEN, read_hub_token
from tasks.runtime.shown_errors import shows_errors


class BaseModel(NamedTuple):
    model: FlyteDirectory
    tokenizer: FlyteDirectory


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=3,
    cache=Cache(version=source_version("tasks/get_model", "configs/embedded"), serialize=True),
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def get_model(config: ModelConfig, revision: str) -> BaseModel:
    """Fetch the base model at `revision`, and its tokenizer and configuration apart from the weights."""
    from tasks.decks import html
    from tasks.decks.short import render_facts
    from tasks.get_model import fetch
    from tasks.models.pace import doing, heartbeat

    model, tokenizer = scratch_directory("model"), scratch_directory("tokenizer")
    access = FlyteContextManager.current_context().file_access
    with heartbeat("model"), doing(lambda: f"fetching the base model, {_size_of(model)} so far"):
        fetch.fetch_model(
            config, revision, model, read_hub_token(), lambda address, path: access.get_data(address, str(path))
        )
    fetch.copy_tokenizer(model, tokenizer)
    facts = [("model", shown_address(config.name)), ("revision", revision), ("size", _size_of(model))]
    Deck("model", html.fragment(render_facts("Base model", facts)))
    print_line(f"model: {shown_address(config.name)} ({revision[:12]})")
    return BaseModel(model=store_folder(model, "base"), tokenizer=store_folder(tokenizer, "tokenizer"))


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=3,
    cache=Cache(version=source_version("tasks/get_model", "configs/embedded"), serialize=True),
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
@shows_errors
def get_adapter(config: ModelConfig, revision: str, base_tokenizer: FlyteDirectory) -> BaseModel:
    """Fetch an adapter, which `config` names, at `revision`; what its folder lacks of a tokenizer is that of the base.

    `base_tokenizer` holds the tokenizer and configuration of the base model.
    """
    from tasks.get_model import adapter, fetch
    from tasks.models.pace import doing, heartbeat

    folder, tokenizer = scratch_directory("adapter"), scratch_directory("tokenizer")
    access = FlyteContextManager.current_context().file_access
    with heartbeat("adapter"), doing(lambda: f"fetching the adapter, {_size_of(folder)} so far"):
        fetch.fetch_model(
            config, revision, folder, read_hub_token(), lambda address, path: access.get_data(address, str(path))
        )
    adapter.complete_tokenizer(local_path(base_tokenizer), folder, tokenizer)
    print_line(f"adapter: {shown_address(config.name)} ({revision[:12]})")
    return BaseModel(model=store_folder(folder, "adapter"), tokenizer=store_folder(tokenizer, "tokenizer"))


def _size_of(folder: Path) -> str:
    """Return the size of the files in a folder; a file may go while it is read, as one that is not whole yet."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return f"{size / 1e9:,.2f} GB"
