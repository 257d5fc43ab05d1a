"""Bring the base model to a directory: a link to a local one, a download from the hub, or the embedded one."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.embedded.english_to_sql import make_unlabelled_text
from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import HubError
from configs.schema import ModelConfig

# another seed than that of the rows, so that the text is not the rows' own
_TEXT_SEED = 1_000
_TEXT_LINES = 8_000
_MODEL_SEED = 0
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
_PICKLED = ["*.bin", "*.pt", "*.pth"]
_FOREIGN = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", "*.ckpt"]


def fetch_model(config: ModelConfig, revision: str, directory: Path, token: str | None) -> None:
    """Fill `directory` with the base model at `revision`; local files are linked, not copied.

    Raises:
        HubError: the download fails.
    """
    if config.name == EMBEDDED_MODEL:
        from tasks.get_model.embedded import make_base_model

        make_base_model(make_unlabelled_text(_TEXT_LINES, _TEXT_SEED), directory, _MODEL_SEED)
        return
    local = Path(config.name).expanduser()
    if local.is_dir():
        for file in local.resolve().iterdir():
            if not file.name.startswith("."):
                (directory / file.name).symlink_to(file)
        return
    _download(config, revision, directory, token)


def _download(config: ModelConfig, revision: str, directory: Path, token: str | None) -> None:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # where both kinds of weights are published, the pickled ones are not even downloaded
    ignored = _FOREIGN if config.allow_pickled_weights else _FOREIGN + _PICKLED
    try:
        snapshot_download(
            config.name, revision=revision, local_dir=directory, token=token or False, ignore_patterns=ignored
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise HubError(f"model.name={config.name}: download failed ({type(error).__name__}); run again") from None
    shutil.rmtree(directory / ".cache", ignore_errors=True)


def copy_tokenizer(model: Path, directory: Path) -> None:
    """Copy all but the weights, so that steps which only need the tokenizer do not download the model."""
    for file in model.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHT_ENDINGS):
            shutil.copyfile(file, directory / file.name)
