"""A server that answers in another form than a hub: one error that names the setting, with the real client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.hub_http import HttpServer, Response

from configs.errors import FineTuneError, HubError, ModelError
from configs.schema import DataConfig, ModelConfig
from tasks.plan.resolve.data import resolve_data
from tasks.plan.resolve.hub import check_push_access
from tasks.plan.resolve.models import find_model

NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
MODEL: dict[str, Any] = {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": "config.json", "size": 2}]}
USER: dict[str, Any] = {"type": "user", "name": "a", "orgs": [], "auth": {"accessToken": {"role": "write"}}}


class Hub:
    """Answers every request with `body`."""

    body = b""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    server = HttpServer(lambda *_: Response(hub.body))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield hub
    server.shutdown()
    server.server_close()


def check_refusal(error: FineTuneError, subject: str) -> None:
    first, second = str(error).splitlines()
    assert first.startswith(subject) and " answered in a form that is not a hub's (" in first
    assert second == "check the address in HF_ENDPOINT, and what stands between this machine and the hub"


WRONG = [b"", b"[]", b"5", b"null", b'"x"', b"<html>log in</html>", NESTED, b"\xff\xfe"]


@pytest.mark.parametrize(
    "body",
    [
        *WRONG,
        json.dumps({**MODEL, "sha": 5}).encode(),
        json.dumps({**MODEL, "siblings": 5}).encode(),
        json.dumps({**MODEL, "siblings": [5]}).encode(),
        json.dumps({**MODEL, "siblings": [{}]}).encode(),
        json.dumps({**MODEL, "siblings": [{"rfilename": 5}]}).encode(),
        json.dumps({**MODEL, "siblings": [{"rfilename": "a", "size": "x"}]}).encode(),
        json.dumps({**MODEL, "tags": [5]}).encode(),
    ],
)
def test_an_answer_on_a_model_that_is_no_model_is_one_error(body: bytes, hub: Hub) -> None:
    hub.body = body
    with pytest.raises(HubError) as caught:
        find_model(ModelConfig(name="a/b"), None)
    check_refusal(caught.value, "model.name=a/b: ")


@pytest.mark.parametrize("body", [*WRONG, b'{"id": "a/b", "sha": 5}'])
def test_an_answer_on_rows_that_is_no_data_set_is_one_error(body: bytes, hub: Hub) -> None:
    hub.body = body
    with pytest.raises(HubError) as caught:
        resolve_data(DataConfig(sources=[{"hub": "a/b"}]), None)
    check_refusal(caught.value, "data.sources[0].hub=a/b: ")


@pytest.mark.parametrize(
    "body",
    [
        *WRONG,
        json.dumps({**USER, "auth": 5}).encode(),
        json.dumps({**USER, "auth": {"accessToken": "x"}}).encode(),
        json.dumps({**USER, "orgs": 5}).encode(),
        json.dumps({**USER, "orgs": ["x"]}).encode(),
        json.dumps({**USER, "auth": {"accessToken": {"role": "fineGrained", "fineGrained": 5}}}).encode(),
        json.dumps({**USER, "auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": [5]}}}}).encode(),
    ],
)
def test_an_answer_on_a_token_that_is_no_user_is_one_error(body: bytes, hub: Hub) -> None:
    hub.body = body
    with pytest.raises(HubError) as caught:
        check_push_access("a/b", "hf_x", "X")
    check_refusal(caught.value, "push_to_hub.repository=a/b: ")


def test_a_hostile_file_of_a_hub_is_named(hub: Hub) -> None:
    hub.body = json.dumps({**MODEL, "siblings": [{"rfilename": "config.json", "size": 2**40}]}).encode()
    with pytest.raises(ModelError, match=r"^model\.name=a/b: config\.json is larger than 16 MiB; copy it again$"):
        find_model(ModelConfig(name="a/b"), None)


def test_a_name_that_no_hub_can_have_is_named(hub: Hub) -> None:
    with pytest.raises(HubError, match=r"^model\.name=a/-b is not a hub id of the form owner/name; correct it$"):
        find_model(ModelConfig(name="a/-b"), None)
