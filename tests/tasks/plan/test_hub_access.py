"""What a hub token may do is found before training: with the real client against a hub on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from configs.errors import HubError
from configs.schema import ModelConfig
from tasks.plan.hub import check_push_access
from tasks.plan.models import resolve_model

ROLES = {"hf_w": "write", "hf_r": "read", "hf_fw": "fine-grained", "hf_fr": "fine-grained-read"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with HubServer(tokens=ROLES) as server:
        # the client reads the address from the environment when it is imported
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


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
