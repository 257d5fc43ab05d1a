"""What the machines of one job have written for Flyte so far: their outputs, errors and Deck share a folder."""

from __future__ import annotations

import re
import tempfile
import textwrap
from pathlib import Path

import flytekit
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flytekit.core import constants
from flytekit.core.context_manager import FlyteContextManager

# the names of the files in which machines report their errors begin like this
ERROR_FILES = Path(constants.ERROR_FILE_NAME).stem


def written_files() -> list[str]:
    """Return the names of the files that the machines of this task have written."""
    prefix = flytekit.current_context().output_metadata_prefix
    if not prefix:
        return []
    files = FlyteContextManager.current_context().file_access.get_filesystem_for_path(prefix)
    files.invalidate_cache()
    return [Path(path).name for path in files.ls(prefix, detail=False)] if files.exists(prefix) else []


def first_error() -> tuple[str, str] | None:
    """Return the class and the message of the earliest error that a machine has reported; None if none has.

    Of an error that nobody has foreseen only the first line is returned: the others are its trace.
    """
    errors = [_read(name) for name in written_files() if name.startswith(ERROR_FILES)]
    if not errors:
        return None
    first = min(errors, key=lambda error: error.timestamp.ToNanoseconds())
    # flytekit writes the trace, and after it the class and the message
    _, _, message = first.message.rpartition("\nMessage:\n\n")
    name, _, text = textwrap.dedent(message).partition(": ")
    return name, text.splitlines()[0] if re.search(r"^\s*File \"", text, re.MULTILINE) else text


def _read(name: str) -> ContainerError:
    access = FlyteContextManager.current_context().file_access
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        access.get_data(access.join(flytekit.current_context().output_metadata_prefix, name), str(copy))
        return ErrorDocument.FromString(copy.read_bytes()).error
