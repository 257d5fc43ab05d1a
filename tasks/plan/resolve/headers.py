"""Reads which tensors a model's weight files hold, from the headers of its safetensors files, wherever they are.

A safetensors file begins with the length of its header, 8 bytes, and the header, a JSON object of names with types and
shapes (https://github.com/huggingface/safetensors#format), so a model of any size is read in kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.addresses import first_line
from configs.errors import HubError, ModelError
from configs.foreign_json import JsonFault, in_mebibytes, parse_object
from configs.printable import one_line
from tasks.plan.shapes.missing_weights import Tensors

HEADER_BYTES = 100_000_000
"""Most bytes of a header: the library's own limit, MAX_HEADER_SIZE."""
# as many requests at a time: a large model has hundreds of files
_REQUESTS = 16


def read_tensors(read_header: Callable[[str], dict[str, Any]], files: Iterable[str]) -> Tensors:
    """Return the tensors of all `files`; `read_header` returns the header of one.

    Raises:
        ModelError: a header is damaged.
        HubError: the hub cannot be reached, or refuses.
    """
    with ThreadPoolExecutor(_REQUESTS) as pool:
        headers = list(pool.map(read_header, files))
    try:
        return {
            name: tuple(map(_size, tensor["shape"]))
            for header in headers
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError("a safetensors header of the model is damaged; copy the model again") from None


def _size(size: Any) -> int:
    if not isinstance(size, int) or not 0 <= size < 2**63:
        raise ValueError("a size is not a number of elements")
    return size


def header_of(read: Callable[[int, int], bytes], where: str) -> dict[str, Any]:
    """Return the header of a file of which `read(start, end)` returns bytes; `where` is for messages.

    Raises:
        ModelError: it is damaged.
    """
    try:
        length = int.from_bytes(read(0, 8), "little")
        if length > HEADER_BYTES:
            raise JsonFault(f"is longer than {in_mebibytes(HEADER_BYTES)}")
        return parse_object(read(8, 8 + length), HEADER_BYTES)
    except JsonFault as fault:
        raise ModelError(f"{where} is cut short or damaged (its header {fault}); copy it again") from None


def local_header(path: Path) -> dict[str, Any]:
    """Return the header of a file on this machine.

    Raises:
        ModelError: it is damaged.
    """

    def read(start: int, end: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(max(min(end, path.stat().st_size) - start, 0))

    return header_of(read, str(path))


def hub_header(name: str, file: str, commit: str, token: str | None) -> dict[str, Any]:
    """Return the header of a file of the hub's repository `name`.

    Raises:
        UnreachableHubError, HubError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    from tasks.plan.resolve.hub import explain_hub_errors

    subject = f"model.name={name}"
    with explain_hub_errors(subject, commit):
        try:
            metadata = HfApi(token=token or False).parse_safetensors_file_metadata(name, file, revision=commit)
        except SafetensorsParsingError as error:
            raise HubError(f"{subject}: {one_line(file)} has no readable header ({first_line(error, 100)})") from None
    return {tensor: {"shape": info.shape} for tensor, info in metadata.tensors.items()}
