"""Upload one artifact: to a branch of its own first, where it is verified, and then as one commit to its place.

Until that commit the repository serves what it served before. A push that breaks goes on where it stopped, since the
hub keeps the large files that it has. The same artifact again makes no commit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.sha import git_hash

from configs.addresses import secrets_of_environment, shown_address
from configs.errors import HubError
from configs.foreign_yaml import MAX_BYTES
from configs.printable import one_line
from configs.schema.push_to_hub import fault_of_public_repository
from tasks.files.hub_client import use_patient_client
from tasks.files.waiting import NoAnswerError, waiting_for
from tasks.push_to_hub.artifact_files import CARD_FILE, CONFIG_FILE, artifact_files, is_licence, stale_files
from tasks.push_to_hub.card_file import joined_card, pushed_files
from tasks.push_to_hub.private_texts import check_private, without_places

_MESSAGE = "Upload fine-tuned model with its evidence"
_NUM_TRIES = 3
_OF_BASE = "BASE_MODEL_"
Hashes = tuple[int, str, str]
"""Size, SHA-256 and Git's hash of a file; a hub has the second of large files, and the third of others."""


@dataclass(frozen=True)
class Commit:
    """Where an artifact is. `is_new` is false where the repository held the same files before."""

    url: str
    is_new: bool


@dataclass(frozen=True)
class _Target:
    """The place of an artifact: a branch of a repository, at its newest commit, with its files by path."""

    api: HfApi
    repository: str
    branch: str
    head: str
    files: dict[str, Hashes]


class _MovedOnError(Exception):
    """Another commit came between the look at a repository and the commit to it."""


def publish(
    directory: Path,
    repository: str,
    private: bool,
    token: str,
    card: str,
    config: str,
    revision: str | None = None,
    base: str = "",
    paths: Collection[str] = (),
    rows: Collection[str] = (),
) -> Commit:
    """Create `repository` if need be, and upload `directory` with its card and config as one commit to `revision`.

    `revision` is a branch, which is created if need be; without it, `main`. Files that belong to another model go in
    the same commit. The commit gets a tag, `artifact-` and the first characters of the artifact's hash.

    `base` is written in place of the folder from which a library loaded the model. `paths` of this machine and the
    texts `rows` must not be in any file.

    Raises:
        HubError: the hub refuses or cannot be reached, the repository is public and must be private, a file holds what
            is private, or what arrived is not what was sent. The artifact stays where it is, for the next run.
    """
    files = without_places(artifact_files(directory), base)
    files[CONFIG_FILE] = config.encode()
    check_private(
        repository,
        {**files, CARD_FILE: card.encode()},
        [*paths, str(directory)],
        [token, *secrets_of_environment()],
        rows,
    )
    use_patient_client()
    api = HfApi(token=token)
    branch = revision or "main"
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        _check_visibility(api, repository, private)
        if branch != "main":
            api.create_branch(repository, branch=branch, exist_ok=True)
        for number in range(1, _NUM_TRIES + 1):
            try:
                return _publish_once(_look_at(api, repository, branch), files, card)
            except _MovedOnError:
                if number == _NUM_TRIES:
                    raise HubError(
                        f"push_to_hub.repository={repository}: others commit to {branch} while this push runs; run the "
                        f"same command again\nthe artifact is kept at {one_line(directory)}"
                    ) from None
        raise AssertionError("the loop returns or raises")
    except HubError:
        raise
    except (httpx2.HTTPError, OSError, RuntimeError, AttributeError, LookupError, TypeError, ValueError) as error:
        # the last four: an answer of the hub without what the client reads from it, or of another type
        raise HubError(_failure(error, repository, directory)) from None


def _check_visibility(api: HfApi, repository: str, private: bool) -> None:
    if private and api.repo_info(repository).private is False:
        raise HubError(fault_of_public_repository(repository))


def _look_at(api: HfApi, repository: str, branch: str) -> _Target:
    head = api.repo_info(repository, revision=branch).sha
    if not isinstance(head, str):
        raise ValueError("the hub names no commit")
    return _Target(api, repository, branch, head, _remote_files(api, repository, head))


def _remote_files(api: HfApi, repository: str, revision: str) -> dict[str, Hashes]:
    """Return the files of a revision; of a large file the hub does not say Git's hash of the content."""
    found: dict[str, Hashes] = {}
    for entry in api.list_repo_tree(repository, recursive=True, revision=revision):
        if blob := getattr(entry, "blob_id", None):
            lfs = getattr(entry, "lfs", None)
            found[entry.path] = (lfs.size, lfs.sha256, "") if lfs else (entry.size, "", blob)  # type: ignore[union-attr]
    return found


def _publish_once(target: _Target, artifact: Mapping[str, Path | bytes], card: str) -> Commit:
    """Bring an artifact to its place as one commit; see `publish`.

    Raises:
        _MovedOnError: the branch has another commit meanwhile.
    """
    existing = _read_text(target, CARD_FILE)
    pushed = {name: sha for name, sha in pushed_files(existing).items() if name in target.files}
    # what another has changed since, or put there, is theirs
    ours = [name for name, sha in pushed.items() if sha in target.files[name][1:]]
    files = _beside_the_users(artifact, target, ours)
    hashes = {name: _hashes(content) for name, content in files.items()}
    licences = {name: hashes[name][2] for name in files if is_licence(name)}
    files[CARD_FILE] = joined_card(card, existing, licences).encode()
    hashes[CARD_FILE] = _hashes(files[CARD_FILE])
    changed = [name for name in files if not _same(target.files.get(name), hashes[name])]
    stale = [*stale_files(target.files, files), *(name for name in ours if name not in files)]
    digest = sha256("\n".join(f"{name} {hashes[name][1]}" for name in sorted(hashes)).encode()).hexdigest()[:12]
    staging = f"push-{digest}"
    if not changed and not stale:
        _tag(target, digest, target.head)
        _delete_branch(target, staging)
        return Commit(f"{shown_address(constants.ENDPOINT)}/{target.repository}/commit/{target.head}", is_new=False)
    if changed:
        _stage(target, staging, {name: files[name] for name in changed}, {name: hashes[name] for name in changed})
    operations = [CommitOperationCopy(name, name, src_revision=staging) for name in changed]
    try:
        commit = target.api.create_commit(
            target.repository,
            [*operations, *(CommitOperationDelete(name) for name in stale)],
            commit_message=_MESSAGE,
            revision=target.branch,
            parent_commit=target.head,
        )
    except HfHubHTTPError as error:
        if error.response.status_code in (409, 412):
            raise _MovedOnError from None
        raise
    _verify(target, commit.oid, hashes, stale)
    _tag(target, digest, commit.oid)
    _delete_branch(target, staging)
    return Commit(url=shown_address(commit.commit_url), is_new=True)


def _beside_the_users(
    artifact: Mapping[str, Path | bytes], target: _Target, ours: Collection[str]
) -> dict[str, Path | bytes]:
    """Return the files of an artifact, its licences under another name where a file of the user's has theirs."""
    files: dict[str, Path | bytes] = {}
    for name, content in artifact.items():
        is_theirs = is_licence(name) and name in target.files and name not in ours
        if is_theirs and not _same(target.files[name], _hashes(content)):
            files[f"{_OF_BASE}{name}"] = content
        else:
            files[name] = content
    return files


def _stage(target: _Target, staging: str, files: dict[str, Path | bytes], hashes: dict[str, Hashes]) -> None:
    """Upload files to a branch of their own, and verify them there; what is there already is not sent again."""
    target.api.create_branch(target.repository, branch=staging, revision=target.head, exist_ok=True)
    there = _remote_files(target.api, target.repository, staging)
    missing = [name for name in files if not _same(there.get(name), hashes[name])]
    if missing:
        size = sum(hashes[name][0] for name in missing)
        # what travels by Xet is no request of this client, which ends its own
        hub = shown_address(constants.ENDPOINT)
        with waiting_for(f"{hub} to take {len(missing)} files, {size / 1e9:,.2f} GB", math.inf):
            target.api.create_commit(
                target.repository,
                [CommitOperationAdd(name, files[name]) for name in missing],
                commit_message=_MESSAGE,
                revision=staging,
            )
    _verify(target, staging, hashes, [])


def _verify(target: _Target, revision: str, hashes: dict[str, Hashes], gone: list[str]) -> None:
    """Check that a revision has files with the size and hash that they have here.

    Raises:
        HubError: it does not; names the first such file.
    """
    there = _remote_files(target.api, target.repository, revision)
    wrong = [name for name in hashes if not _same(there.get(name), hashes[name])] + [n for n in gone if n in there]
    if wrong:
        raise HubError(
            f"push_to_hub.repository={target.repository}: {one_line(wrong[0])} is not there as it was sent "
            f"({len(wrong)} of "
            f"{len(hashes)} files); was it changed meanwhile? run the same command again"
        )


def _hashes(content: Path | bytes) -> Hashes:
    operation = CommitOperationAdd("file", content)
    info = operation.upload_info
    data = content if isinstance(content, bytes) else None
    if data is None and info.size <= _MAX_REGULAR_BYTES:
        assert isinstance(content, Path)
        data = content.read_bytes()
    return info.size, info.sha256.hex(), "" if data is None else git_hash(data)


# the hub takes no larger file as plain content of Git
_MAX_REGULAR_BYTES = 10 * 2**20


def _same(there: Hashes | None, here: Hashes) -> bool:
    """Return whether a hub's file is that of this machine: by SHA-256 if it is large, else by Git's hash."""
    if there is None or there[0] != here[0]:
        return False
    return there[1] == here[1] if there[1] else there[2] == here[2]


def _read_text(target: _Target, name: str) -> str:
    if name not in target.files:
        return ""
    if target.files[name][0] > MAX_BYTES:
        fix = "shorten it, since a push keeps its text"
        raise HubError(f"{name} of {target.repository} is larger than {MAX_BYTES // 2**20} MiB; {fix}")
    path = target.api.hf_hub_download(target.repository, name, revision=target.head)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise HubError(
            f"{one_line(name)} of {target.repository} is not UTF-8; repair it, since a push keeps its text"
        ) from None


def _delete_branch(target: _Target, branch: str) -> None:
    """Delete a branch; none is there if nothing was uploaded, or if an earlier push was stopped after this."""
    try:
        target.api.delete_branch(target.repository, branch=branch)
    except HfHubHTTPError as error:
        if error.response.status_code != 404:
            raise


def _tag(target: _Target, digest: str, revision: str) -> None:
    target.api.create_tag(target.repository, tag=f"artifact-{digest}", revision=revision, exist_ok=True)


def _failure(error: Exception, repository: str, directory: Path) -> str:
    # the client raises a RuntimeError for the answer of a storage server, which is its cause
    answer = error if isinstance(error, HfHubHTTPError | NoAnswerError) else error.__cause__
    fix = "run the same command again"
    if isinstance(answer, NoAnswerError):
        what = f"does not answer: {answer}"
    elif isinstance(answer, HfHubHTTPError):
        status = answer.response.status_code
        what = f"answered {status}"
        if status in (401, 403):
            fix = "use a token that may write there"
    else:
        what = f"did not take the upload ({type(error).__name__})"
    return (
        f"push_to_hub.repository={repository}: {shown_address(constants.ENDPOINT)} {what}; {fix}: "
        "nothing is trained again\n"
        f"the artifact is kept at {one_line(directory)}"
    )
