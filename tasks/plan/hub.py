"""What the hub says, in words of one line: access, identity, and whether a token may write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from configs.errors import HubError


@contextmanager
def explained(subject: str, revision: str | None = None, instead: str = "name a local directory") -> Iterator[None]:
    """Turn the hub client's errors into one line about `subject`, such as `model.name=owner/name`.

    `instead` is what a user without a network may do.

    Raises:
        HubError: for every refusal or failure of the hub; never with a token in it.
    """
    endpoint = constants.ENDPOINT
    try:
        yield
    except GatedRepoError:
        raise HubError(
            f"{subject} is gated; ask for access on {endpoint} and set HF_TOKEN to a token of that account"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{subject} has no revision {revision!r}; name a branch, tag or commit that it has") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{subject} is not on {endpoint}, nor a directory here; check the spelling, or HF_TOKEN if it is private"
        ) from None
    except HfHubHTTPError as error:
        raise HubError(f"{subject}: {endpoint} answered {error.response.status_code}; try again later") from None
    except (httpx2.HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise HubError(
            f"{subject}: {endpoint} cannot be reached ({type(error).__name__}); connect to the network or {instead}"
        ) from None


def check_push_access(repository: str, token: str | None, sources: str) -> list[str]:
    """Ask the hub who the token is, without creating anything; return warnings.

    Raises:
        HubError: no token, a token that is refused, or one that may only read.
    """
    subject = f"push_to_hub.repository={repository}"
    if token is None:
        raise HubError(
            f"{subject} needs a hub token; looked in {sources}\ncreate one with write access and set HF_TOKEN"
        )
    with explained(subject, instead="unset push_to_hub.repository"):
        try:
            identity = HfApi(token=token).whoami()
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                raise HubError(
                    f"{subject}: {constants.ENDPOINT} refused the token ({error.response.status_code})\n"
                    "create a new one with write access and set HF_TOKEN"
                ) from None
            if error.response.status_code == 404:
                return [f"{subject}: {constants.ENDPOINT} cannot say whom the token belongs to; not checked"]
            raise
    if not _may_write(identity.get("auth", {}).get("accessToken", {})):
        raise HubError(f"{subject}: the token may only read; create one with write access and set HF_TOKEN")
    owner = repository.partition("/")[0]
    owners = [identity.get("name"), *(org.get("name") for org in identity.get("orgs", []))]
    if owner.lower() not in [str(name).lower() for name in owners]:
        return [f"{subject}: {owner} is neither the token's user nor one of its organizations; the push may be refused"]
    return []


def _may_write(access: dict[str, Any]) -> bool:
    """Return whether a token of this role may write somewhere: which repository is known only when it is pushed to."""
    if access.get("role") != "fineGrained":
        return access.get("role") != "read"
    scopes = access.get("fineGrained", {}).get("scoped", [])
    return any("repo.write" in scope.get("permissions", []) for scope in scopes)
