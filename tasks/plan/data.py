"""Resolve each data source to what it holds right now, so that later steps are cached on content, not on names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def resolve_sources(config: DataConfig, token: str | None) -> list[str]:
    """Return for each source the hub commit, or the SHA-256 of the file.

    Raises:
        DataError: a file that is missing, empty, unreadable, or of an ending that no reader knows.
        HubError: a data set that the hub does not have or refuses.
    """
    return [_resolve_source(f"data.sources[{index}]", source, token) for index, source in enumerate(config.sources)]


def _resolve_source(where: str, source: SourceConfig, token: str | None) -> str:
    if source.hub is not None:
        from huggingface_hub import HfApi

        from tasks.plan.hub import explained

        with explained(f"{where}.hub={source.hub}", source.revision, "name a local file as `path`"):
            return HfApi(token=token or False).dataset_info(source.hub, revision=source.revision).sha or "main"
    assert source.path is not None
    if source.path.startswith("embedded:"):
        return f"embedded-{parse_embedded_source(source.path)}"
    path = Path(source.path).expanduser()
    if not path.exists():
        raise DataError(f"{where}.path={source.path} does not exist (looked in {Path.cwd()}); correct the path")
    if path.is_dir():
        raise DataError(f"{where}.path={source.path} is a directory; name a file in it, one source for each")
    if path.suffix.lower() not in FILE_ENDINGS:
        raise DataError(f"{where}.path={source.path} ends in none of {', '.join(FILE_ENDINGS)}; rename or convert it")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{where}.path={source.path} cannot be read: {error.strerror}; check its permissions") from None
    if path.stat().st_size == 0:
        raise DataError(f"{where}.path={source.path} is empty; it must hold at least 10 rows")
    return digest
