"""Repositories of the test Hub, and the two ways in which the client uploads large files.

`hub_server` answers HTTP; this module keeps its state. Large files arrive either whole (Git LFS) or, whenever `hf_xet`
is installed, cut into compressed chunks (Xet). The client chooses Xet itself, and the server cannot refuse it, so a
server with LFS alone would not work with the client's defaults.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Literal

RepoType = Literal["model", "dataset", "space"]

# Above this size the Hub refuses a file as plain Git content, whatever its name.
MAX_REGULAR_BYTES = 10 * 1024 * 1024
LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz "
    "*.wasm *.xz *.zip *.zst *tfevents*"
)
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS.split()).encode()


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit, with the hashes by which the client recognises unchanged content."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def blob_id(self) -> str:
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def upload_oid(self) -> str:
        """The hash that the client compares with its local file, to leave an unchanged file out of a commit."""
        return self.sha256 if self.lfs else self.blob_id

    def lfs_info(self, oid_key: str) -> dict[str, Any]:
        """Return an answer's `lfs` entry; `oid_key` is its name for the hash, which differs between endpoints."""
        info = {oid_key: self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {"lfs": info} if self.lfs else {}


@dataclass(frozen=True)
class Commit:
    """`files` names what the commit changed; `tree` is the whole repository after it."""

    oid: str
    message: str
    description: str
    date: str
    files: tuple[str, ...]
    tree: Mapping[str, StoredFile] = field(repr=False)

    def entry(self, path: str, expand: bool) -> dict[str, Any] | None:
        """Return one entry of the Hub's file listing; None if the path does not exist."""
        if (file := self.tree.get(path)) is not None:
            entry = {"type": "file", "oid": file.blob_id, "size": len(file.data), "path": path, **file.lfs_info("oid")}
        elif below := [blob.blob_id for name, blob in sorted(self.tree.items()) if name.startswith(f"{path}/")]:
            entry = {"type": "directory", "oid": StoredFile("".join(below).encode()).blob_id, "size": 0, "path": path}
        else:
            return None
        return entry | ({"lastCommit": {"id": self.oid, "title": self.message, "date": self.date}} if expand else {})

    def paths(self, folder: str, recursive: bool) -> list[str]:
        """Return the files and folders in `folder` ("" for the root); Git has folders only as parts of file names."""
        root = f"{folder}/" if folder else ""
        inside = [path[len(root) :].split("/") for path in self.tree if path.startswith(root)]
        depths = ((parts, len(parts) if recursive else 1) for parts in inside)
        return sorted({root + "/".join(parts[: n + 1]) for parts, depth in depths for n in range(depth)})


@dataclass
class Repository:
    repo_id: str
    repo_type: RepoType = "model"
    private: bool = False
    gated: Literal[False, "auto", "manual"] = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("initial commit", {".gitattributes": StoredFile(GITATTRIBUTES)})

    def info(self, commit: Commit, blobs: bool) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for path, file in sorted(commit.tree.items()):
            details = {"size": len(file.data), "blobId": file.blob_id, **file.lfs_info("sha256")}
            siblings.append({"rfilename": path, **(details if blobs else {})})
        return {
            "_id": "0" * 24,
            "id": self.repo_id,
            "author": self.repo_id.split("/")[0],
            "sha": commit.oid,
            "createdAt": self.branches["main"][0].date,
            "lastModified": commit.date,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "usedStorage": sum(len(file.data) for file in commit.tree.values()),
            "siblings": siblings,
        }

    def at(self, revision: str) -> Commit | None:
        """Return the commit that a branch name or a commit id names, or None."""
        if history := self.branches.get(revision.removeprefix("refs/heads/")):
            return history[-1]
        revision = self.tags.get(revision, revision)
        return next((c for history in self.branches.values() for c in history if c.oid == revision), None)

    def history(self, commit: Commit) -> list[Commit]:
        """Return the commits up to and including `commit`, oldest first."""
        history = next(history for history in self.branches.values() if commit in history)
        return history[: history.index(commit) + 1]

    def commit(
        self,
        message: str,
        added: Mapping[str, StoredFile],
        deleted: Iterable[str] = (),
        branch: str = "main",
        description: str = "",
    ) -> Commit:
        history = self.branches.setdefault(branch, [])
        deleted = set(deleted) - set(added)
        tree = {path: file for path, file in history[-1].tree.items() if path not in deleted} if history else {}
        tree.update(added)
        # One second apart: the client orders commits by date, and a fast test makes several within a clock tick.
        date = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=len(history))
        parent = history[-1].oid if history else ""
        identity = [parent, self.repo_type, self.repo_id, branch, message]
        identity += [f"{path} {file.blob_id}" for path, file in sorted(tree.items())]
        oid = hashlib.sha1("\n".join(identity).encode()).hexdigest()
        stamp = date.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(oid, message, description, stamp, tuple(sorted({*added, *deleted})), tree)
        history.append(commit)
        return commit

    def wants_lfs(self, path: str, size: int, branch: str = "main") -> bool:
        """Return whether a file must be uploaded by LFS: as on the Hub, by .gitattributes, else by size."""
        attributes = self.branches[branch][-1].tree.get(".gitattributes")
        for line in (attributes.data.decode() if attributes else "").splitlines():
            pattern, *rest = line.split() or [""]
            if "filter=lfs" in rest and fnmatch(path if "/" in pattern else path.rpartition("/")[2], pattern):
                return True
        return size > MAX_REGULAR_BYTES


class LargeFiles:
    """Uploaded content by its SHA-256, kept for the commit that will name it."""

    def __init__(self) -> None:
        self.by_sha256: dict[str, bytes] = {}
        self._xorbs: dict[bytes, list[bytes]] = {}

    def add(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        self.by_sha256[oid] = data
        return oid

    def add_xorb(self, name: str, body: bytes) -> None:
        """Keep the chunks of one Xet container (https://huggingface.co/docs/xet/xorb)."""
        # Xet prints a hash as four little-endian numbers, so its text is not the hex of its bytes.
        key = b"".join(int(name[i : i + 16], 16).to_bytes(8, "little") for i in range(0, 64, 16))
        chunks, position = [], 0
        # Chunks carry version 0; anything else is the optional footer.
        while position < len(body) and body[position] == 0:
            stored = int.from_bytes(body[position + 1 : position + 4], "little")
            scheme, size = body[position + 4], int.from_bytes(body[position + 5 : position + 8], "little")
            chunk = _decompress(body[position + 8 : position + 8 + stored], scheme)
            if len(chunk) != size:
                raise ValueError(f"chunk of {len(chunk)} bytes, announced as {size}")
            chunks.append(chunk)
            position += 8 + stored
        self._xorbs[key] = chunks

    def add_shard(self, body: bytes) -> None:
        """Assemble the files that a shard describes (https://huggingface.co/docs/xet/shard)."""
        position = 48
        while (name := body[position : position + 32]) != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", body, position + 32)
            if len(name) < 32:
                raise ValueError("shard without an end mark")
            data = b""
            for _ in range(count):
                position += 48
                start, end = struct.unpack_from("<II", body, position + 40)
                data += b"".join(self._xorbs[body[position : position + 32]][start:end])
            self.add(data)
            # One verification entry for each range and one for the file's metadata may follow.
            position += 48 * (1 + count * (flags >> 31 & 1) + (flags >> 30 & 1))


def _decompress(data: bytes, scheme: int) -> bytes:
    if scheme == 0:
        return data
    plain = _lz4_frame(data)
    if scheme == 1:
        return plain
    # Scheme 2 stores first the first byte of every group of four, then every second byte, and so on.
    ungrouped, position = bytearray(len(plain)), 0
    for lane in range(4):
        size = (len(plain) - lane + 3) // 4
        ungrouped[lane::4] = plain[position : position + size]
        position += size
    return bytes(ungrouped)


def _lz4_frame(data: bytes) -> bytes:
    """Decompress an LZ4 frame (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md): Python has no LZ4."""
    flags = data[4]
    position = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    out = bytearray()
    while word := int.from_bytes(data[position : position + 4], "little"):
        block = data[position + 4 : position + 4 + (word & 0x7FFFFFFF)]
        if word >> 31:
            out += block
        else:
            _lz4_block(block, out)
        position += 4 + len(block) + (4 if flags & 16 else 0)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    position = 0

    def length(start: int) -> int:
        nonlocal position
        total = start
        while start == 15:
            total += block[position]
            position += 1
            if block[position - 1] != 255:
                break
        return total

    while True:
        token = block[position]
        position += 1
        literals = length(token >> 4)
        out += block[position : position + literals]
        position += literals
        # The last sequence of a block has literals only.
        if position >= len(block):
            return
        offset = int.from_bytes(block[position : position + 2], "little")
        position += 2
        size = length(token & 15) + 4
        source = len(out) - offset
        repeated = bytes(out[source : source + size])
        # A copy may run into the bytes that it is writing, which repeats them.
        out += (repeated * (size // len(repeated) + 1))[:size]
