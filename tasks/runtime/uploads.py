"""Uploads the local files that a config names to a cluster's store before its run starts.

flytekit's own upload of inputs takes paths of declared types only, opens files for writing, flattens folders, and skips
symbolic links, which the hub's cache consists of (flytekit/remote/remote.py, remote_fs.py). So this module takes only
the signed addresses from flytekit. The store's folder is named by a hash of the content: the same files have the same
address in every run, and Flyte's cache finds the later steps.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any, TypeVar

from flytekit.core.data_persistence import FileAccessProvider
from flytekit.exceptions.base import FlyteException

from configs.errors import DataError, RegistrationError
from configs.printable import one_line, print_line
from configs.schema import RunConfig
from tasks.files.local_files import LocalPlace, local_places, with_values

Config = TypeVar("Config", bound=RunConfig)

_GIB = 2**30
LARGEST_FILE_BYTES = 5 * _GIB
"""Limit of S3 for one PUT, which is all that a signed address allows
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html)."""
LARGEST_UPLOAD_BYTES = 20 * _GIB
"""Limit for all files of one run. More should be put into the store once, and not uploaded with every run."""
_OWN_UPLOAD_FIX = "put it into the store with its own client, such as `aws s3 cp --recursive`, and name its address"
# flyteadmin reads a file's name as part of a URL (flytestdlib/storage/url_path.go), which these characters break
_UNSAFE_CHARACTERS = re.compile(r"[#?%\\\x00-\x1f]")
LARGE_BYTES = 8 * 2**20
"""A file of at least this size is uploaded only if the store lacks it, and shows a progress bar."""


def with_uploads(config: Config, access: FileAccessProvider) -> Config:
    """Upload the local files that `config` names; return the config with their addresses.

    All files are checked before the first is sent.

    Raises:
        DataError, ModelError, ConfigError: a file or folder does not exist, or is too large to upload.
        RegistrationError: the cluster gives no address to upload to, or its store refuses a file.
    """
    places = local_places(config)
    _check_sizes(places)
    folders: dict[str, str] = {}
    values: dict[tuple[str | int, ...], str | list[str]] = {}
    for place in places:
        digests = {name: _md5(file) for file, name in place.files}
        root = _content_name(digests)
        if root not in folders:
            print_line(f"uploading {place.where}: {_summary(place)}")
            folders[root] = _upload(place, root, digests, access)
        values[place.keys] = place.value(folders[root])
    return with_values(config, values) if values else config


def _check_sizes(places: list[LocalPlace]) -> None:
    total = 0
    for place in places:
        for file, name in place.files:
            size = file.stat().st_size
            total += size
            if size > LARGEST_FILE_BYTES:
                raise DataError(
                    f"{place.where}: {one_line(name)} has {size / _GIB:.1f} GiB, and a run uploads files of at most "
                    f"{LARGEST_FILE_BYTES // _GIB} GiB\n{_OWN_UPLOAD_FIX}"
                )
            if total > LARGEST_UPLOAD_BYTES:
                raise DataError(
                    f"{place.where}: the files of this config have over {LARGEST_UPLOAD_BYTES // _GIB} GiB, too much "
                    f"to upload with a run\n{_OWN_UPLOAD_FIX}"
                )
            if _UNSAFE_CHARACTERS.search(name):
                raise DataError(f"{place.where}: {name!r} has a character that no address may have; rename the file")


def _summary(place: LocalPlace) -> str:
    num_bytes = sum(file.stat().st_size for file, _ in place.files)
    names = place.files[0][1] if len(place.files) == 1 else f"{len(place.files)} files"
    return f"{names} ({_size_text(num_bytes)})"


def _size_text(num_bytes: int) -> str:
    for unit_bytes, unit in ((_GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:.1f} {unit}"
    return f"{num_bytes} bytes"


def _md5(file: Path) -> bytes:
    # flyteadmin and S3 check an upload against its MD5
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _content_name(digests: dict[str, bytes]) -> str:
    """Return a folder name: a hash of the files' names and content."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + digests[name])
    return digest.hexdigest()[:32]


def _upload(place: LocalPlace, root: str, digests: dict[str, bytes], access: FileAccessProvider) -> str:
    """Upload the files of one setting into a folder named `root`; return the folder's address."""
    filesystem = access.raw_output_fs
    folder = f"{access.raw_output_prefix.rstrip('/')}/{root}"
    for file, name in place.files:
        if access.raw_output_prefix.startswith("flyte://"):
            # flytekit's stand-in for a cluster's store: only flyteadmin knows the real address
            folder = _put_file(place.where, file, name, root, digests[name], filesystem._remote)
        else:
            access.put_data(str(file), f"{folder}/{name}")
    return folder


def _put_file(where: str, file: Path, name: str, root: str, md5: bytes, remote: Any) -> str:
    """Upload one file to a signed address; return the address of the folder `root`."""
    import requests

    platform = remote.config.platform
    try:
        signed = remote.client.get_upload_signed_url(
            remote.default_project, remote.default_domain, content_md5=md5, filename=name, filename_root=root
        )
    except (FlyteException, RuntimeError) as error:
        # flytekit wraps the cluster's refusal in a RuntimeError
        raise RegistrationError(_refusal_at(where, name, remote, error)) from error
    verify = False if platform.insecure_skip_verify is True else platform.ca_cert_file_path
    # the part after `root` may be escaped, and readers of stores do not unescape it
    folder = str(signed.native_url).partition(f"/{root}/")[0] + f"/{root}"
    if file.stat().st_size >= LARGE_BYTES and _is_uploaded(remote, signed.native_url, file.stat().st_size, verify):
        print_line(f"  {name} is in the store already")
        return folder
    headers = {"Content-Length": str(file.stat().st_size), "Content-MD5": base64.b64encode(md5).decode()}
    headers |= {**remote.get_extra_headers_for_protocol(signed.native_url), **signed.headers}
    try:
        with _ProgressFile(file) as stream:
            # requests never sees the end of an empty stream
            content = stream if file.stat().st_size else b""
            answer = requests.put(signed.signed_url, data=content, headers=headers, verify=verify, timeout=(30, 600))
    except (requests.RequestException, OSError) as error:
        raise RegistrationError(
            f"{where}: {one_line(name)} cannot be uploaded ({type(error).__name__}); check the network and run again"
        ) from None
    if not answer.ok:
        raise RegistrationError(
            f"{where}: the store answered {answer.status_code} to the upload of {one_line(name)}; run again"
        )
    return folder


def _refusal_at(where: str, name: str, remote: Any, error: BaseException) -> str:
    """Return the message for a cluster that gave no address to upload to."""
    from grpc import Call

    from tasks.runtime.refusals import refusal_message

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Call):
        cause = cause.__cause__
    if cause is None:
        return f"{where}: {one_line(name)} cannot be uploaded ({type(error).__name__}); check the network and run again"
    place = f"project {remote.default_project}, domain {remote.default_domain}"
    message = refusal_message(cause.code(), cause.details() or "", place, remote.config.platform.endpoint, entity=name)
    return f"{where}: {message}"


def _is_uploaded(remote: Any, address: str, size: int, verify: Any) -> bool:
    """Return whether the store has this file. Its address holds a hash of its content, and S3 checked the MD5."""
    import requests

    try:
        signed = remote.client.get_download_signed_url(address)
        answer = requests.get(signed.signed_url, headers={"Range": "bytes=0-0"}, verify=verify, timeout=30, stream=True)
    except (FlyteException, requests.RequestException):
        # not every cluster gives addresses to read from; the file is then sent again
        return False
    with answer:
        return answer.status_code == 206 and answer.headers.get("Content-Range", "").endswith(f"/{size}")


class _ProgressFile(io.FileIO):
    """A file that shows its reading as a progress bar, if it is large and stderr is a terminal."""

    def __init__(self, file: Path) -> None:
        from tqdm import tqdm

        super().__init__(file, "rb")
        size = file.stat().st_size
        disable = None if size >= LARGE_BYTES else True
        self._bar = tqdm(total=size, unit="B", unit_scale=True, desc=one_line(file.name), disable=disable, leave=False)

    def read(self, size: int | None = -1, /) -> bytes | Any:
        block = super().read(-1 if size is None else size)
        self._bar.update(len(block or b""))
        return block

    def close(self) -> None:
        self._bar.close()
        super().close()
