"""The Hub's protocol for the server on loopback: its routes, its requests, and its error answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.message import Message
from typing import Any, Literal, NamedTuple

from support.hub_storage import Commit, Repository

Role = Literal["write", "read", "fine-grained", "fine-grained-read"]

_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_API = rf"/api/(?P<type>model|dataset|space)s/{_REPO}"
_FILES = rf"/(?:(?P<type>dataset|space)s/)?{_REPO}"
_CAS = r"/cas-[0-9a-f]+/v1"
_REV = r"(?P<rev>[^/]+)"


class Route(NamedTuple):
    name: str
    methods: tuple[str, ...]
    path: re.Pattern[str]
    access: Literal["anyone", "user", "write", "content", "signed"]


# "content" needs access to a gated repository; its metadata does not. "signed" addresses come from the answer to an
# authorised request, and the client calls them without its token.
ROUTES = (
    Route("whoami", ("GET",), re.compile(r"/api/whoami-v2"), "user"),
    Route("auth_check", ("GET",), re.compile(rf"{_API}/auth-check(?:/(?P<write>write))?"), "anyone"),
    Route("create", ("POST",), re.compile(r"/api/repos/create"), "write"),
    Route("validate_yaml", ("POST",), re.compile(r"/api/validate-yaml"), "anyone"),
    Route("info", ("GET",), re.compile(rf"{_API}(?:/revision/{_REV})?"), "anyone"),
    Route("tree", ("GET",), re.compile(rf"{_API}/tree/{_REV}(?:/(?P<path>.+))?"), "anyone"),
    Route("paths_info", ("POST",), re.compile(rf"{_API}/paths-info/{_REV}"), "anyone"),
    Route("commits", ("GET",), re.compile(rf"{_API}/commits/{_REV}"), "anyone"),
    Route("refs", ("GET",), re.compile(rf"{_API}/refs"), "anyone"),
    Route("branch", ("POST",), re.compile(rf"{_API}/branch/{_REV}"), "write"),
    Route("delete_branch", ("DELETE",), re.compile(rf"{_API}/branch/{_REV}"), "write"),
    Route("tag", ("POST",), re.compile(rf"{_API}/tag/{_REV}"), "write"),
    Route("preupload", ("POST",), re.compile(rf"{_API}/preupload/{_REV}"), "write"),
    Route("commit", ("POST",), re.compile(rf"{_API}/commit/{_REV}"), "write"),
    Route("lfs_batch", ("POST",), re.compile(rf"{_FILES}\.git/info/lfs/objects/batch"), "write"),
    Route("lfs_upload", ("PUT",), re.compile(r"/lfs-upload/(?P<oid>[0-9a-f]{64})"), "signed"),
    Route("lfs_verify", ("POST",), re.compile(r"/lfs-verify/(?P<oid>[0-9a-f]{64})"), "anyone"),
    Route("xet_token", ("GET",), re.compile(rf"{_API}/xet-write-token/{_REV}"), "write"),
    Route("lfs_upload", ("POST",), re.compile(rf"{_CAS}/xorbs/[^/]+/(?P<xorb>[0-9a-f]{{64}})"), "signed"),
    Route("xet_shard", ("POST",), re.compile(rf"{_CAS}/shards"), "signed"),
    Route("resolve", ("GET", "HEAD"), re.compile(rf"{_FILES}/resolve/{_REV}/(?P<path>.+)"), "content"),
)
ROUTE_NAMES = frozenset(route.name for route in ROUTES)


class Request(NamedTuple):
    method: str
    path: str


class HubError(Exception):
    """An error answer that the client turns into an exception, mostly by its `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}
        # A message may quote a path, which a header cannot carry in every script.
        self.headers["X-Error-Message"] = ascii(message)[1:-1]
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass
class Call:
    """One request, as a route's handler gets it."""

    groups: dict[str, str]
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    token: str | None
    repository: Repository | None

    @property
    def repo(self) -> Repository:
        assert self.repository is not None
        return self.repository

    @property
    def branch(self) -> str:
        if self.groups["rev"] not in self.repo.branches:
            raise HubError(404, f"Invalid rev id: {self.groups['rev']}", "RevisionNotFound")
        return self.groups["rev"]

    @property
    def commit(self) -> Commit:
        commit = self.repo.at(self.groups.get("rev", "main"))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {self.groups['rev']}", "RevisionNotFound")
        return commit

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")
