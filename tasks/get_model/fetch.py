"""Put the base model into a directory: from a local one (linked), a store, the hub, or made (the embedded one)."""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from configs.addresses import shown_address
from configs.embedded.english_to_sql import make_unlabelled_text
from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import HubError, ModelError
from configs.schema import ModelConfig
from tasks.files.model_files import PICKLED_PATTERNS, UNUSED_PATTERNS, needed_files
from tasks.files.model_settings import check_folder
from tasks.files.stored_folder import folder_revision, stored_files
from tasks.files.streams import is_remote, user_error, waiting_for_store
from tasks.files.waiting import NoAnswerError

# differs from the seed of the embedded rows, so that the text is not that of the rows
_TEXT_SEED = 1_000
_TEXT_LINES = 8_000
_MODEL_SEED = 0
_LOOK_SECONDS = 0.2
_FURTHER_TEMPLATES = "additional_chat_templates"
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def fetch_model(
    config: ModelConfig, revision: str, directory: Path, token: str | None, download: Callable[[str, Path], None]
) -> None:
    """Fill `directory` with the base model at `revision`; local files are linked, not copied.

    Args:
        config: The model section of the config.
        revision: Commit of the hub, or hash of a stored folder's files.
        directory: The directory to fill.
        token: Hub token; None for public models.
        download: Copies one file of a store, given by its address, to a path.

    Raises:
        HubError: the download fails.
        ModelError: a store's folder has changed since the run was planned; or a file that transformers would parse
            has wrong content, which the plan has not read for a folder that changed.
        DataError: a store cannot be read.
    """
    if config.name == EMBEDDED_MODEL:
        from tasks.get_model.embedded import make_base_model

        make_base_model(make_unlabelled_text(_TEXT_LINES, _TEXT_SEED), directory, _MODEL_SEED)
        return
    if is_remote(config.name):
        _fetch_stored(config, revision, directory, download)
    elif (local := Path(config.name).expanduser()).is_dir():
        for file in local.resolve().iterdir():
            if not file.name.startswith("."):
                (directory / file.name).symlink_to(file)
    else:
        _download(config, revision, directory, token)
    # all later stages load this copy
    check_folder(directory, shown_address(config.name))


def _fetch_stored(config: ModelConfig, revision: str, directory: Path, download: Callable[[str, Path], None]) -> None:
    found = stored_files(config.name)
    files = {name: found[name] for name in needed_files(found, config.allow_pickled_weights)}
    if folder_revision(files) != revision:
        raise ModelError(f"model.name={shown_address(config.name)} has changed since this run began; run again")
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        _download_stored(download, f"{config.name.rstrip('/')}/{name}", directory / name)


def _download_stored(download: Callable[[str, Path], None], address: str, path: Path) -> None:
    """Copy one file of a store; give the store up if the copy does not grow.

    The copy is made in a thread of its own: its library waits where no error of ours can reach it.

    Raises:
        UnreachableStoreError: the store was silent for too long.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            download(address, path)
        except BaseException as error:  # raised below, in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    size = 0
    try:
        with waiting_for_store(address) as wait:
            while thread.is_alive():
                thread.join(_LOOK_SECONDS)
                grown = path.stat().st_size if path.is_file() else 0
                wait.moved(max(0, grown - size))
                size = grown
    except NoAnswerError as error:
        raise user_error(address, error) from None
    if failure:
        raise failure[0]


def _download(config: ModelConfig, revision: str, directory: Path, token: str | None) -> None:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from tasks.files.hub_client import use_patient_client

    # pickled weights that must not be loaded are not downloaded either
    ignored = list(UNUSED_PATTERNS if config.allow_pickled_weights else UNUSED_PATTERNS + PICKLED_PATTERNS)
    use_patient_client()
    try:
        snapshot_download(
            config.name, revision=revision, local_dir=directory, token=token or False, ignore_patterns=ignored
        )
    except NoAnswerError as error:
        raise HubError(f"model.name={config.name}: download failed: {error}; run again") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise HubError(f"model.name={config.name}: download failed ({type(error).__name__}); run again") from None
    shutil.rmtree(directory / ".cache", ignore_errors=True)


def copy_tokenizer(model: Path, directory: Path) -> None:
    """Copy all files but the weights, for stages that need no weights; of folders, that of further chat templates."""
    for file in model.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHT_ENDINGS):
            shutil.copyfile(file, directory / file.name)
    if (model / _FURTHER_TEMPLATES).is_dir():
        shutil.copytree(model / _FURTHER_TEMPLATES, directory / _FURTHER_TEMPLATES)
