"""Resolve each data source to what it holds right now, so that later steps are cached on content, not on names."""

from __future__ import annotations

import hashlib
from contextlib import closing

from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.places import DataFile, find_files
from configs.schema import DataConfig, SourceConfig
from configs.streams import open_raw, shown


def resolve_sources(config: DataConfig, token: str | None) -> list[str]:
    """Return for each source, and each evaluation set after them, what it holds right now.

    That is the hub commit, or a SHA-256 over the names and the stored bytes of its files.

    Raises:
        DataError: a file that is missing, empty, unreadable, or of an ending that no reader knows; a directory or
            glob that has no file to read.
        HubError: a data set that the hub does not have or refuses.
    """
    return [
        _resolve_source(f"data.{name}[{index}]", source, token)
        for name, sources in (("sources", config.sources), ("contamination", config.contamination))
        for index, source in enumerate(sources)
    ]


def _resolve_source(where: str, source: SourceConfig, token: str | None) -> str:
    if source.hub is not None:
        from huggingface_hub import HfApi

        from tasks.plan.hub import explained

        with explained(f"{where}.hub={source.hub}", source.revision, "name a local file as `path`"):
            return HfApi(token=token or False).dataset_info(source.hub, revision=source.revision).sha or "main"
    assert source.path is not None
    if isinstance(source.path, str) and source.path.startswith("embedded:"):
        return f"embedded-{parse_embedded_source(source.path)}"
    digest = hashlib.sha256()
    try:
        for file in find_files(source.path):
            digest.update(f"{file.name}\0{_content_digest(file)}\n".encode())
    except DataError as error:
        raise DataError(f"{where}.path={error}") from None
    return digest.hexdigest()


def _content_digest(file: DataFile) -> str:
    with closing(open_raw(file.path)) as stream:
        if not stream.peek(1):
            raise DataError(f"{shown(file.path)} is empty; it must hold at least one row")
        return hashlib.file_digest(stream, "sha256").hexdigest()
