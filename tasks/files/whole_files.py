"""Writes a file as a whole: under another name beside its place, which it then takes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text in place of what lies at `path`: a link there is replaced, and never written through.

    If it fails, as on a full disk, what lay there stays.

    Raises:
        OSError: the folder cannot be written to, or a folder lies at `path`.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    partial = Path(name)
    try:
        with open(number, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        # mkstemp lets nobody else read; a report is like any other file
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
