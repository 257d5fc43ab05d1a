"""What a hub token may do is checked before training, with the real client against a hub on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from support.hub_server import HubServer
from support.resolved import resolve_model

from configs.errors import HubError, UnreachableHubError
from configs.schema import ModelConfig
from tasks.plan.resolve.hub import check_push_access

ROLES = {"hf_w": "write", "hf_r": "read", "hf_fw": "fine-grained", "hf_fr": "fine-grained-read"}


def connect_client(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    # the client reads the address from the environment when it is imported
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with HubServer(tokens=ROLES) as server:
        yield connect_client(server, monkeypatch)


@pytest.fixture
def big_hub(monkeypatch: pytest.MonkeyPatch):
    """A user in two organizations, with tokens of several scopes, beside somebody else's repository."""
    with HubServer(
        tokens={**ROLES, "hf_one": "fine-grained", "hf_lab": "fine-grained"},
        orgs={"lab": "contributor", "club": "read"},
        scopes={"hf_one": [("model", "owner/here")], "hf_lab": [("org", "lab")]},
        expired=["hf_old"],
    ) as server:
        server.add_repo("owner/here", {"config.json": b"{}"}, private=True)
        server.add_repo("other/here", {"config.json": b"{}"})
        yield connect_client(server, monkeypatch)


@pytest.mark.parametrize("token", ["hf_w", "hf_fw"])
def test_a_token_that_may_write_passes(token: str, hub: HubServer) -> None:
    assert check_push_access(f"{hub.user}/tuned", token, "X") == []


@pytest.mark.parametrize("token", ["hf_r", "hf_fr"])
def test_a_token_that_may_only_read_is_refused(token: str, hub: HubServer) -> None:
    with pytest.raises(HubError, match=f"{hub.user}/tuned: the token may only read"):
        check_push_access(f"{hub.user}/tuned", token, "X")


def test_another_owner_is_a_warning(hub: HubServer) -> None:
    [warning] = check_push_access("somebody/tuned", "hf_w", "X")
    assert "somebody is neither the token's user" in warning


def test_a_wrong_token_is_refused_and_not_shown(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"refused the token \(401\)") as caught:
        check_push_access("me/tuned", "hf_wrong", "X")
    assert "hf_wrong" not in str(caught.value)


def test_no_token_lists_where_one_was_looked_for(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"looked in the cellar"):
        check_push_access("me/tuned", None, "the cellar")


def test_a_revision_is_resolved_to_its_commit(hub: HubServer, tiny_model: Path) -> None:
    first = hub.add_repo("owner/base", {file.name: file for file in tiny_model.iterdir()})
    api = HfApi(endpoint=hub.endpoint, token="hf_w")
    api.create_branch("owner/base", branch="next")
    second = api.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id="owner/base", revision="next").oid
    for revision, commit in ((None, first), ("main", first), ("next", second), (first, first)):
        assert resolve_model(ModelConfig(name="owner/base", revision=revision), None).revision == commit
    with pytest.raises(HubError, match="has no revision 'gone'"):
        resolve_model(ModelConfig(name="owner/base", revision="gone"), None)


@pytest.mark.parametrize(
    ("repository", "fault"),
    [
        ("owner/here", None),
        ("owner/new", None),
        ("lab/new", None),
        ("club/new", "may only read in the organization club"),
        ("other/here", "the token's user may not write to other/here, which exists"),
    ],
)
def test_a_repository_is_checked_without_creating_it(repository: str, fault: str | None, big_hub: HubServer) -> None:
    if fault is None:
        assert check_push_access(repository, "hf_w", "X") == []
    else:
        with pytest.raises(HubError, match=fault):
            check_push_access(repository, "hf_w", "X")
    assert {method for method, _ in big_hub.requests} == {"GET"}


def test_a_fine_grained_token_writes_where_its_scopes_say(big_hub: HubServer) -> None:
    # hf_one: the one repository owner/here; hf_lab: all of the organization
    assert check_push_access("owner/here", "hf_one", "X") == []
    assert check_push_access("lab/new", "hf_lab", "X", ("model", "8bit")) == []
    for repository, token, artifacts in (
        ("owner/new", "hf_one", ("model",)),
        ("owner/here", "hf_one", ("model", "8bit")),
        ("owner/here", "hf_lab", ("model",)),
    ):
        with pytest.raises(HubError, match=r"the fine-grained token may write to .*, and not to owner/") as caught:
            check_push_access(repository, token, "X", artifacts)
        assert len(str(caught.value).splitlines()) == 2 and token not in str(caught.value)


def test_an_expired_token_is_refused_for_reading_and_writing(big_hub: HubServer, tiny_model: Path) -> None:
    big_hub.add_repo("owner/base", {file.name: file for file in tiny_model.iterdir()})
    with pytest.raises(HubError, match=r"refused the token \(401\)"):
        check_push_access("owner/here", "hf_old", "X")
    with pytest.raises(HubError, match=r"refused the hub token \(401\): it has expired or is wrong\n.*unset it"):
        resolve_model(ModelConfig(name="owner/base"), "hf_old")


def test_an_unreachable_hub_has_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for check in (
        lambda: check_push_access("owner/here", "hf_w", "X"),
        lambda: resolve_model(ModelConfig(name="owner/base"), None),
    ):
        with pytest.raises(UnreachableHubError, match=r"127.0.0.1:9 cannot be reached \(ConnectError\)"):
            check()


def test_the_license_is_that_of_the_card(big_hub: HubServer, tiny_model: Path) -> None:
    files = {file.name: file for file in tiny_model.iterdir()}
    big_hub.add_repo("owner/plain", files)
    big_hub.add_repo("owner/carded", {**files, "README.md": b"---\nlicense: apache-2.0\n---\nA model.\n"})
    big_hub.add_repo("owner/named", {**files, "README.md": b"---\nlicense: other\nlicense_name: my-own\n---\n"})
    for name, expected in (("plain", "not stated"), ("carded", "apache-2.0"), ("named", "my-own")):
        assert resolve_model(ModelConfig(name=f"owner/{name}"), None).license == expected


def test_a_public_repository_is_refused_unless_the_push_is_public(hub: HubServer) -> None:
    repository = f"{hub.user}/open"
    hub.add_repo(repository, {"config.json": b"{}"})
    message = f"push_to_hub.repository={repository} is public, and push_to_hub.private is true: a push would publish"
    with pytest.raises(HubError, match=message):
        check_push_access(repository, "hf_w", "X")
    assert check_push_access(repository, "hf_w", "X", private=False) == []
    hub.set_private(repository, True)
    assert check_push_access(repository, "hf_w", "X") == []
    # each artifact has a repository of its own
    hub.add_repo(f"{repository}-adapter", {"config.json": b"{}"})
    with pytest.raises(HubError, match=f"push_to_hub.repository={repository}-adapter is public"):
        check_push_access(repository, "hf_w", "X", ["model", "adapter"])
