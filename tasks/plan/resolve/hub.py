"""Asks the hub for access, identity and the right to write, and explains its errors in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from configs.addresses import shown_address
from configs.artifacts import PushedArtifact, repository_of
from configs.errors import FineTuneError, HubError, UnreachableHubError
from configs.schema.push_to_hub import fault_of_public_repository
from tasks.files.hub_client import use_patient_client
from tasks.files.waiting import NoAnswerError

T = TypeVar("T")
# what a client raises for a JSON that lacks a key, is of another type, or is no JSON; RecursionError for a deep one
MALFORMED_ANSWERS = (ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError)


@contextmanager
def explain_hub_errors(
    subject: str, revision: str | None = None, instead: str = "name a local directory"
) -> Iterator[None]:
    """Turn the hub client's errors into one line about `subject`, such as `model.name=owner/name`.

    `instead` is the fix for a user without a network.

    Raises:
        UnreachableHubError: the hub cannot be reached, or does not answer in time.
        HubError: the hub refuses or fails, or its answer is not of the form that its client, or the code in this
            context, reads; the message never holds a token.
    """
    endpoint = shown_address(constants.ENDPOINT)
    use_patient_client()
    try:
        yield
    except NoAnswerError as error:
        raise UnreachableHubError(f"{subject}: {error}; try again later, connect to the network or {instead}") from None
    except FineTuneError:
        raise
    except GatedRepoError:
        raise HubError(
            f"{subject} is gated; ask for access on {endpoint} and set HF_TOKEN to a token of that account"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{subject} has no revision {revision!r}; name one of its branches, tags or commits") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{subject} is not on {endpoint}, nor a directory here; check the spelling, or HF_TOKEN if it is private"
        ) from None
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise HubError(
                f"{subject}: {endpoint} refused the hub token (401): it has expired or is wrong\n"
                "set HF_TOKEN to a new one, or unset it if the repository is public"
            ) from None
        raise HubError(f"{subject}: {endpoint} answered {error.response.status_code}; try again later") from None
    except (httpx2.HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise UnreachableHubError(
            f"{subject}: {endpoint} cannot be reached ({type(error).__name__}); connect to the network or {instead}"
        ) from None
    except HFValidationError:
        raise HubError(f"{subject} is not a hub id of the form owner/name; correct it") from None
    except MALFORMED_ANSWERS as error:
        raise HubError(
            f"{subject}: {endpoint} answered in a form that is not a hub's ({type(error).__name__})\n"
            "check the address in HF_ENDPOINT, and what stands between this machine and the hub"
        ) from None


def answered(value: Any, kind: type[T]) -> T:
    """Return a value of the hub's answer. Raises `TypeError`, for `explain_hub_errors`, where it is of another type."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def check_push_access(
    repository: str,
    token: str | None,
    sources: str,
    artifacts: Sequence[PushedArtifact] = ("model",),
    private: bool = True,
) -> list[str]:
    """Ask the hub whether the token may write to the repositories of `artifacts`, creating nothing; return warnings.

    For an existing repository the hub answers (`auth-check/write`). A new one is created by its owner, which must be
    the token's user or an organization in which that user may create repositories, and which must be in the scopes of a
    fine-grained token. All artifacts except `model` go to `<repository>-<artifact>`.

    Raises:
        UnreachableHubError: the hub cannot be reached.
        HubError: there is no token; the token is refused, may only read, or may not write there; or a repository is
            public and the push is `private`.
    """
    subject = f"push_to_hub.repository={repository}"
    if token is None:
        raise HubError(
            f"{subject} needs a hub token; looked in {sources}\ncreate one with write access and set HF_TOKEN"
        )
    with explain_hub_errors(subject, instead="unset push_to_hub.repository"):
        try:
            identity = HfApi(token=token).whoami()
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                raise HubError(
                    f"{subject}: {shown_address(constants.ENDPOINT)} refused the token ({error.response.status_code})\n"
                    "create a new one with write access and set HF_TOKEN"
                ) from None
            if error.response.status_code == 404:
                return [f"{subject}: {shown_address(constants.ENDPOINT)} does not say who owns the token; not checked"]
            raise
    with explain_hub_errors(subject):
        access = identity.get("auth", {}).get("accessToken", {})
        # all that is read of the answer below
        is_writing, _ = _may_write(access), (_written_entities(access), _roles(identity))
    if not is_writing:
        raise HubError(f"{subject}: the token may only read; create one with write access and set HF_TOKEN")
    targets = [repository_of(repository, artifact) for artifact in artifacts]
    write_access = {target: _write_access(target, token) for target in targets}
    for target, may_write in write_access.items():
        if may_write == "no" or not _has_scope(access, target, may_write == "unknown"):
            raise HubError(_no_write_access(subject, target, access))
        if private and may_write == "yes":
            with explain_hub_errors(subject, instead="unset push_to_hub.repository"):
                is_public = HfApi(token=token).repo_info(target).private is False
            if is_public:
                raise HubError(fault_of_public_repository(target))
    if "unknown" not in write_access.values():
        return []
    return _check_owner(subject, repository.partition("/")[0], identity)


def _check_owner(subject: str, owner: str, identity: dict[str, Any]) -> list[str]:
    """Return a warning if the token's user is not known to have rights at the owner of a repository to be created."""
    roles = _roles(identity)
    if roles.get(owner.lower()) == "read":
        raise HubError(
            f"{subject}: the token's user may only read in the organization {owner}\n"
            "ask its admin for the role `contributor` or `write`, or push to a repository of your own"
        )
    if owner.lower() not in [str(identity.get("name")).lower(), *roles]:
        return [f"{subject}: {owner} is neither the token's user nor one of its organizations; the push may be refused"]
    return []


def _roles(identity: dict[str, Any]) -> dict[str, str]:
    """Return the user's roles by organization, in lower case."""
    return {str(org.get("name")).lower(): str(org.get("roleInOrg") or "") for org in identity.get("orgs", [])}


def _may_write(access: dict[str, Any]) -> bool:
    """Return whether a token with this role may write anywhere."""
    return bool(_written_entities(access)) if access.get("role") == "fineGrained" else access.get("role") != "read"


def _written_entities(access: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (type, name) of the users, organizations and repositories that a fine-grained token may write to."""
    scopes = access.get("fineGrained", {}).get("scoped", [])
    entities = [scope.get("entity", {}) for scope in scopes if "repo.write" in scope.get("permissions", [])]
    return [(str(entity.get("type")), str(entity.get("name"))) for entity in entities]


def _has_scope(access: dict[str, Any], target: str, is_new: bool) -> bool:
    """Return whether a fine-grained token's scopes cover `target`; a repository's scope cannot create a new one."""
    if access.get("role") != "fineGrained":
        return True
    owner = target.partition("/")[0].lower()
    return any(
        (kind in ("user", "org") and name.lower() == owner)
        or (kind == "model" and name.lower() == target.lower() and not is_new)
        for kind, name in _written_entities(access)
    )


def _write_access(repository: str, token: str) -> Literal["yes", "no", "unknown"]:
    """Ask whether the token may write to a repository; `unknown` if it does not exist yet, or the hub has no answer."""
    use_patient_client()
    try:
        HfApi(token=token).auth_check(repository, write=True)
    except (RepositoryNotFoundError, GatedRepoError) as error:
        return "no" if isinstance(error, GatedRepoError) else "unknown"
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            return "no"
        # a self-hosted hub may not have this endpoint
        return "unknown"
    except NoAnswerError as error:
        raise UnreachableHubError(
            f"push_to_hub.repository={repository}: {error}; try again later or unset push_to_hub.repository"
        ) from None
    except (httpx2.HTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise UnreachableHubError(
            f"push_to_hub.repository={repository}: {shown_address(constants.ENDPOINT)} cannot be reached "
            f"({type(error).__name__}); connect to the network or unset push_to_hub.repository"
        ) from None
    return "yes"


def _no_write_access(subject: str, target: str, access: dict[str, Any]) -> str:
    if access.get("role") == "fineGrained":
        names = sorted({name for _, name in _written_entities(access)})
        shown = ", ".join(names[:3]) + (", ..." if names[3:] else "")
        return (
            f"{subject}: the fine-grained token may write to {shown}, and not to {target}\n"
            f"give it write access to {target.partition('/')[0]}, or set HF_TOKEN to another"
        )
    return (
        f"{subject}: the token's user may not write to {target}, which exists\n"
        "ask its owner for write access, or name another repository"
    )
