"""A Hugging Face Hub on loopback, so that tests can push and pull with the real client.

A mocked `HfApi` accepts whatever it is told; what breaks a push in practice (a refused token, a commit that fails
after the weights went up, a second push of the same folder) is decided between the client and the server. This server
implements the parts of the Hub's protocol that `huggingface_hub` and `datasets` use for whoami, repositories, uploads
(Git LFS and Xet) and downloads, keeps everything in memory, and fails on request.

    with HubServer(tokens={"hf_write": "write", "hf_read": "read"}) as server:
        HfApi(endpoint=server.endpoint, token="hf_write").upload_folder(...)

As on the real Hub, a new repository starts with an initial commit that holds `.gitattributes`. Left out: pull
requests, `.gitignore` rules, uploads in parts, downloads by Xet, and the check of a model card beyond its shape.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from email.message import Message
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

from support.hub_http import HttpServer, Response
from support.hub_protocol import ROUTE_NAMES, ROUTES, Call, HubError, Request, Role, Route
from support.hub_storage import Commit, LargeFiles, Repository, RepoType, StoredFile


class HubServer:
    """The server, which runs within its `with` block.

    `requests` logs every request, `authorizations` every token that came with one, refused tokens included.
    """

    def __init__(
        self,
        tokens: Mapping[str, Role],
        user: str = "owner",
        orgs: Mapping[str, str] | None = None,
        scopes: Mapping[str, Collection[tuple[str, str]]] | None = None,
        expired: Collection[str] = (),
    ) -> None:
        """`orgs`: the user's roles by organization; `scopes`: what fine-grained tokens write to: (type, name)."""
        self.tokens = dict(tokens)
        self.user = user
        self.orgs = dict(orgs or {})
        self.scopes = dict(scopes or {})
        self.expired = set(expired)
        self.requests: list[Request] = []
        self.authorizations: list[str] = []
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._granted: dict[tuple[str, str], Collection[str]] = {}
        self._large = LargeFiles()
        # Another address for each server: by it, the Xet client remembers on disk what it has already uploaded.
        self._cas = f"cas-{secrets.token_hex(8)}"
        # Injected answers by route; None lets a request pass.
        self._failures: dict[str, deque[Response | None]] = {}
        self._held: set[str] = set()
        self.is_holding = False
        self._release = threading.Event()
        self._lock = threading.Lock()
        self._httpd = HttpServer(self.answer)
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._httpd.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        repo_type: RepoType = "model",
        gated: bool = False,
        private: bool = False,
        granted: Collection[str] = (),
    ) -> str:
        """Publish a repository, readable only by the tokens in `granted` if `gated`; return its commit id."""
        repo = Repository(repo_id, repo_type, private, "manual" if gated else False)
        contents = {path: data if isinstance(data, bytes) else data.read_bytes() for path, data in files.items()}
        stored = {path: StoredFile(data, repo.wants_lfs(path, len(data))) for path, data in contents.items()}
        with self._lock:
            self._repositories[repo_type, repo_id] = repo
            self._granted[repo_type, repo_id] = granted
            for file in stored.values():
                # Otherwise a copy within the repository would name content that was never uploaded.
                self._large.add(file.data)
            return repo.commit("Add files", stored).oid

    def files(self, repo_id: str, repo_type: RepoType = "model") -> dict[str, bytes]:
        with self._lock:
            tree = self._repositories[repo_type, repo_id].branches["main"][-1].tree
        return {path: file.data for path, file in tree.items()}

    def commits(self, repo_id: str, repo_type: RepoType = "model", branch: str = "main") -> list[Commit]:
        """Return the commits of a branch, oldest first, including the repository's initial one."""
        with self._lock:
            return list(self._repositories[repo_type, repo_id].branches[branch])

    def refs(self, repo_id: str, repo_type: RepoType = "model") -> tuple[list[str], dict[str, str]]:
        """Return the names of the branches, and the commit of each tag."""
        with self._lock:
            repo = self._repositories[repo_type, repo_id]
            return sorted(repo.branches), dict(repo.tags)

    def set_private(self, repo_id: str, private: bool) -> None:
        with self._lock:
            self._repositories["model", repo_id].private = private

    def push_by_another(self, repo_id: str, files: Mapping[str, bytes]) -> None:
        """Commit files to main, as another client may do at any time."""
        with self._lock:
            repo = self._repositories["model", repo_id]
            repo.commit("By another", {path: StoredFile(data) for path, data in files.items()})

    def fail_next(
        self,
        route: str,
        status: int = 500,
        times: int = 1,
        after: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let `after` requests of a route pass, then fail the next `times`; status 0 breaks the connection.

        If the status is 408, 429, 500, 502, 503 or 504, or the connection breaks, the client itself repeats a request
        six times over 23 seconds (over 5 with the header `Retry-After: 0`), and an upload by Xet over minutes. Any
        other status is final at once. `resolve` counts both HEAD and GET.
        """
        if route not in ROUTE_NAMES:
            raise ValueError(f"no route {route!r}, only {sorted(ROUTE_NAMES)}")
        with self._lock:
            queue = self._failures.setdefault(route, deque())
            queue.extend([None] * after)
            queue.extend([Response(b'{"error": "injected by the test"}', status, dict(headers or {}))] * times)

    def hold_next_answer(self, route: str) -> None:
        """Carry out the next request of a route, but send no answer to it before the server closes."""
        if route not in ROUTE_NAMES:
            raise ValueError(f"no route {route!r}, only {sorted(ROUTE_NAMES)}")
        with self._lock:
            self._held.add(route)

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Response:
        url = urlsplit(target)
        found = ((route, route.path.fullmatch(url.path)) for route in ROUTES if method in route.methods)
        route, match = next((pair for pair in found if pair[1]), (None, None))
        with self._lock:
            self.requests.append(Request(method, url.path))
            try:
                response = self._dispatch(route, match, parse_qs(url.query), headers, body)
            except HubError as error:
                response = Response(json.dumps({"error": error.message}).encode(), error.status, error.headers)
            except Exception as error:
                # Not 500 for a fault of this server: the client would retry for minutes.
                response = Response(json.dumps({"error": f"test server: {error!r}"}).encode(), 400)
            held = route is not None and route.name in self._held
            if held:
                self._held.discard(route.name)
        if held:
            self.is_holding = True
            self._release.wait()
        return response

    def _dispatch(
        self,
        route: Route | None,
        match: re.Match[str] | None,
        query: dict[str, list[str]],
        headers: Message,
        body: bytes,
    ) -> Response:
        if route is None or match is None:
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        access = route.access
        token = headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token is not None and access != "signed":
            self.authorizations.append(token)
        if (queue := self._failures.get(route.name)) and (failure := queue.popleft()) is not None:
            return failure
        groups = {key: unquote(text) for key, text in match.groupdict().items() if text is not None}
        if access != "signed":
            self._authenticate(token, access)
        call = Call(groups, query, headers, body, token, self._find(groups, token, access))
        result = getattr(self, f"_{route.name}")(call)
        return result if isinstance(result, Response) else Response(json.dumps(result).encode())

    def _authenticate(self, token: str | None, access: str) -> None:
        if token in self.expired:
            raise HubError(401, 'Invalid credentials in Authorization header: User Access Token "x" is expired')
        if token is not None and token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        if token is None and access in ("user", "write"):
            raise HubError(401, "Invalid username or password.")
        if access == "write" and token is not None and self.tokens[token] not in ("write", "fine-grained"):
            raise HubError(403, "You must use a write token to upload to a repository.")

    def _find(self, groups: dict[str, str], token: str | None, access: str) -> Repository | None:
        if "repo" not in groups:
            return None
        key = groups.get("type", "model"), groups["repo"]
        repo = self._repositories.get(key)
        if repo is None or (repo.private and token is None):
            # Without a token, a private and a missing repository get the same answer, 401.
            if token is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if repo.gated and access == "content" and token not in self._granted.get(key, ()):
            message = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
            if token is None:
                raise HubError(401, f"{message}. You must have access to it and be authenticated.", "GatedRepo")
            raise HubError(403, f"{message} and you are not in the authorized list.", "GatedRepo")
        return repo

    def _url(self, repo: Repository) -> str:
        return f"{self.endpoint}/{'' if repo.repo_type == 'model' else repo.repo_type + 's/'}{repo.repo_id}"

    def _whoami(self, call: Call) -> dict[str, Any]:
        role = self.tokens[cast(str, call.token)]
        access: dict[str, Any] = {"displayName": "test", "role": role, "createdAt": "2024-01-01T00:00:00.000Z"}
        if role.startswith("fine-grained"):
            permissions = ["repo.content.read"] + ["repo.write"] * (role == "fine-grained")
            entities = self._scopes(cast(str, call.token))
            scoped = [
                {"entity": {"_id": "0" * 24, "type": kind, "name": name}, "permissions": permissions}
                for kind, name in entities
            ]
            access |= {"role": "fineGrained", "fineGrained": {"global": [], "scoped": scoped}}
        auth = {"type": "access_token", "accessToken": access}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        return {"type": "user", "id": "0" * 24, "name": self.user, "fullname": self.user, "orgs": orgs, "auth": auth}

    def _scopes(self, token: str) -> Collection[tuple[str, str]]:
        return self.scopes.get(token, [("user", self.user)])

    def _auth_check(self, call: Call) -> dict[str, Any]:
        """Answer whether the token may read or write to a repository that exists."""
        if "write" not in call.groups:
            return {}
        role = self.tokens[call.token] if call.token else "read"
        owner = call.repo.repo_id.partition("/")[0]
        is_ours = owner == self.user or self.orgs.get(owner) in ("write", "admin")
        may_write = role in ("write", "fine-grained") and is_ours
        if role == "fine-grained" and call.token:
            may_write = may_write and any(name in (owner, call.repo.repo_id) for _, name in self._scopes(call.token))
        if not may_write:
            raise HubError(403, "You don't have the permission to write to this repository")
        return {}

    def _create(self, call: Call) -> Response:
        wanted = call.json
        repo_type = cast(RepoType, wanted.get("type") or "model")
        repo_id = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        answer, status = {"name": repo_id}, 200
        if (repo := self._repositories.get((repo_type, repo_id))) is not None:
            # The refusal holds the address too: with `exist_ok` the client reads it from there.
            answer, status = {"error": f"You already created this {repo_type} repo"}, 409
        else:
            repo = Repository(repo_id, repo_type, private=wanted.get("visibility") == "private")
            self._repositories[repo_type, repo_id] = repo
        return Response(json.dumps({**answer, "url": self._url(repo)}).encode(), status)

    def _validate_yaml(self, call: Call) -> dict[str, Any]:
        bare = not re.match(r"---\s*\n.+?\n---\s*(\n|$)", call.json["content"], re.DOTALL)
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if bare else []
        return {"errors": [], "warnings": warnings}

    def _info(self, call: Call) -> dict[str, Any]:
        info = call.repo.info(call.commit, blobs=call.flag("blobs"))
        wanted = call.query.get("expand")
        return {key: value for key, value in info.items() if wanted is None or key in {"_id", "id", *wanted}}

    def _tree(self, call: Call) -> list[dict[str, Any] | None]:
        folder = call.groups.get("path", "")
        paths = call.commit.paths(folder, call.flag("recursive"))
        if folder and not paths:
            raise HubError(404, f"{folder} does not exist on {call.groups['rev']!r}", "EntryNotFound")
        return [call.commit.entry(path, call.flag("expand")) for path in paths]

    def _paths_info(self, call: Call) -> list[dict[str, Any]]:
        form = parse_qs(call.body.decode())
        entries = [call.commit.entry(path.strip("/"), form.get("expand") == ["true"]) for path in form["paths"]]
        return [entry for entry in entries if entry is not None]

    def _commits(self, call: Call) -> list[dict[str, Any]]:
        author = {"authors": [{"user": self.user}]}
        history = reversed(call.repo.history(call.commit))
        return [{"id": c.oid, "title": c.message, "message": c.description, "date": c.date, **author} for c in history]

    def _refs(self, call: Call) -> dict[str, Any]:
        heads = [(name, history[-1].oid) for name, history in call.repo.branches.items()]
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in call.repo.tags.items()]
        return {"branches": branches, "converts": [], "tags": tags, "pullRequests": []}

    def _tag(self, call: Call) -> Response:
        tag = call.json["tag"]
        if tag in call.repo.tags:
            raise HubError(409, f"Reference already exists: {tag}")
        call.repo.tags[tag] = call.commit.oid
        return Response(b"{}", 201)

    def _delete_branch(self, call: Call) -> Response:
        if call.branch == "main":
            raise HubError(403, "The branch main cannot be deleted")
        del call.repo.branches[call.branch]
        return Response(b"{}")

    def _branch(self, call: Call) -> Response:
        name = call.groups["rev"]
        if name in call.repo.branches:
            raise HubError(409, f"Reference already exists: {name}")
        call.groups["rev"] = json.loads(call.body or b"{}").get("startingPoint", "main")
        call.repo.branches[name] = call.repo.history(call.commit)
        return Response(b"{}", 201)

    def _preupload(self, call: Call) -> dict[str, Any]:
        tree, answers = call.repo.branches[call.branch][-1].tree, []
        for file in call.json["files"]:
            path, lfs = file["path"], call.repo.wants_lfs(file["path"], file["size"], call.branch)
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append({**answer, "oid": tree[path].upload_oid} if path in tree else answer)
        return {"files": answers}

    def _lfs_batch(self, call: Call) -> dict[str, Any]:
        objects = call.json["objects"]
        for item in objects:
            if (oid := item["oid"]) not in self._large.by_sha256:
                addresses = ("upload", "lfs-upload"), ("verify", "lfs-verify")
                item["actions"] = {name: {"href": f"{self.endpoint}/{route}/{oid}"} for name, route in addresses}
        return {"transfer": "basic", "objects": objects}

    def _lfs_upload(self, call: Call) -> dict[str, Any]:
        if "xorb" in call.groups:
            self._large.add_xorb(call.groups["xorb"], call.body)
        elif StoredFile(call.body).sha256 == call.groups["oid"]:
            self._large.add(call.body)
        else:
            raise HubError(400, "The content does not have the SHA-256 that it was announced with")
        return {"was_inserted": True}

    def _lfs_verify(self, call: Call) -> dict[str, Any]:
        if len(self._large.by_sha256.get(call.groups["oid"], b"")) != call.json["size"]:
            raise HubError(404, "Not uploaded, or not whole")
        return {}

    def _xet_token(self, call: Call) -> dict[str, Any]:
        return {"casUrl": f"{self.endpoint}/{self._cas}", "accessToken": "xet", "exp": int(time.time()) + 3600}

    def _xet_shard(self, call: Call) -> dict[str, Any]:
        self._large.add_shard(call.body)
        return {"result": 1}

    def _commit(self, call: Call) -> dict[str, Any]:
        repo, branch = call.repo, call.branch
        tree = repo.branches[branch][-1].tree
        if call.flag("create_pr"):
            raise HubError(501, "This server has no pull requests")
        header: dict[str, str] = {}
        added: dict[str, StoredFile] = {}
        deleted: list[str] = []
        for line in call.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                header = value
            elif key == "file":
                added[value["path"]] = StoredFile(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self._large.by_sha256:
                    pointer = "Your push was rejected because an LFS pointer pointed to a file that does not exist."
                    raise HubError(400, f"{pointer} Offending file: {value['path']}")
                added[value["path"]] = StoredFile(self._large.by_sha256[value["oid"]], lfs=True)
            else:
                folder = value["path"].rstrip("/") + "/"
                gone = [path for path in tree if f"{path}/".startswith(folder)]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                deleted += gone
        if (parent := header.get("parentCommit")) and not repo.branches[branch][-1].oid.startswith(parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        commit = repo.commit(header["summary"], added, deleted, branch, header.get("description", ""))
        url = f"{self._url(repo)}/commit/{commit.oid}"
        return {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""}

    def _resolve(self, call: Call) -> Response:
        commit, path = call.commit, call.groups["path"]
        file = commit.tree.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{file.upload_oid}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
        }
        if file.lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(file.data))}
        size = len(file.data)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
        if wanted is None:
            return Response(file.data, 200, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            raise HubError(416, "Range not satisfiable", Content_Range=f"bytes */{size}")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Response(file.data[start:end], 206, headers)
