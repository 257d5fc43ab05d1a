"""What is waited for is said, and every wait ends: loops, servers that say nothing, and servers that drip."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.slow_server import BYTES, Manner, SlowServer

from configs.errors import ConfigError, FineTuneError, HubError, UnreachableHubError, UnreachableStoreError
from configs.schema import ModelConfig
from configs.schema.data import DataConfig
from tasks.files import waiting
from tasks.files.streams import open_bytes
from tasks.files.waiting import NoAnswerError, Wait, waiting_for
from tasks.get_model.fetch import fetch_model
from tasks.plan.checks.settings import read_chat_template
from tasks.plan.resolve.data import resolve_data
from tasks.plan.resolve.headers import hub_header
from tasks.plan.resolve.hub import check_push_access
from tasks.plan.resolve.models import find_model
from tasks.push_to_hub.upload import publish
from tasks.rows.arrow import read_rows

SLOW: list[Manner] = ["silent", "dripping", "dripping the head"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAITING_SECONDS", "0.6")
    monkeypatch.setattr(waiting, "_FIRST_LINE_SECONDS", 0.2)


def in_time(*calls: Callable[[], object]) -> list[FineTuneError]:
    """Return the error that each call ends with, all at once in threads, as the plan asks; they must end in time."""
    errors: dict[int, FineTuneError] = {}

    def run(number: int) -> None:
        try:
            calls[number]()
        except FineTuneError as error:
            errors[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 25
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    assert sorted(errors) == list(range(len(calls))), "some are still waiting"
    return [errors[number] for number in range(len(calls))]


def test_a_loop_is_said_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"^gave up waiting for the answer after 0.6 s$"), waiting_for("the answer"):
        while True:
            pass
    assert 0.6 <= time.monotonic() - began < 2
    # after 0.2 s, and after twice that, which rounds to 0 or 1 s
    first, second = capsys.readouterr().out.splitlines()
    assert first == "still waiting for the answer (0 s; gives up after 0.6 s)"
    assert second in (first, first.replace("(0 s", "(1 s"))


def test_what_makes_progress_is_not_given_up() -> None:
    wait = Wait("bytes", 0.3, fewest_bytes=100)
    with wait:
        for _ in range(5):
            time.sleep(0.1)
            wait.moved(100)
    with pytest.raises(NoAnswerError), wait:
        for _ in range(10):
            time.sleep(0.1)
            wait.moved(20)


def test_tries_are_one_wait() -> None:
    wait = Wait("it", 0.3)
    began = time.monotonic()
    with pytest.raises(NoAnswerError):
        while True:
            with wait:
                time.sleep(0.1)
    assert time.monotonic() - began < 1


def test_an_error_that_comes_late_hits_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TICK_SECONDS", 0.001)
    ends = random.Random(0)
    for _ in range(150):
        try:
            with waiting_for("it", 0.003):
                end = time.monotonic() + ends.uniform(0.002, 0.005)
                while time.monotonic() < end:
                    pass
        except NoAnswerError:
            pass
        sum(range(100))


def test_a_forked_process_watches_its_own_waits() -> None:
    with waiting_for("the parent's", 5):
        child = os.fork()
        if child == 0:
            try:
                with waiting_for("the child's", 0.3):
                    time.sleep(0.5)
            except NoAnswerError as error:
                os._exit(0 if "the child's" in str(error) else 2)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.fixture(params=SLOW)
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowServer]:
    with SlowServer(request.param) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_a_slow_server_is_given_up(slow: SlowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, model = tmp_path / "artifact", tmp_path / "model"
    artifact.mkdir()
    model.mkdir()
    (artifact / "config.json").write_text("{}")
    rows = f"{slow.url}/rows.jsonl?key=secret"
    name, card = ModelConfig(name="owner/name"), "---\nlicense: mit\n---\n# Card\n"
    found, fetched, header, data_set, access, pushed, read, resolved, template, table = in_time(
        lambda: find_model(name, None),
        lambda: fetch_model(name, "a" * 40, model, None, lambda address, path: None),
        lambda: hub_header("owner/name", "model.safetensors", "a" * 40, None),
        lambda: resolve_data(DataConfig(sources=[{"hub": "owner/rows"}]), None),
        lambda: check_push_access("me/tuned", "hf_secret", "X"),
        lambda: publish(artifact, "me/x", True, "hf_secret", card, "name: x\n"),
        lambda: open_bytes(rows).read(),
        lambda: resolve_data(DataConfig(sources=[{"path": rows}]), None),
        lambda: read_chat_template(f"{slow.url}/template.jinja"),
        lambda: list(read_rows(f"{slow.url}/rows.parquet", ".parquet")),
    )
    gave_up = f"gave up waiting for {slow.url}/api/models/owner/name after 0.6 s"
    assert isinstance(found, UnreachableHubError)
    assert str(found).startswith(f"model.name=owner/name: {gave_up}; try again later")
    assert isinstance(fetched, HubError) and "download failed: gave up waiting" in str(fetched)
    assert isinstance(header, UnreachableHubError) and "gave up waiting" in str(header)
    assert str(data_set).startswith("data.sources[0].hub=owner/rows: gave up waiting")
    assert isinstance(access, UnreachableHubError) and "gave up waiting" in str(access)
    # an upload has three times as long
    assert f"does not answer: gave up waiting for {slow.url}/api/repos/create after 1.8 s" in str(pushed)
    assert f"the artifact is kept at {artifact}" in str(pushed)
    assert isinstance(read, UnreachableStoreError)
    fault = "cannot be read: its server was silent, or nearly so, for 0.6 s; check the address and the server"
    assert str(read).startswith(f"{slow.url}/rows.jsonl {fault}")
    assert isinstance(resolved, UnreachableStoreError)
    assert isinstance(template, ConfigError)
    assert str(template).startswith(f"tokenize.chat_template={slow.url}/template.jinja {fault}")
    # and not called damaged
    assert isinstance(table, UnreachableStoreError) and "silent" in str(table)
    shown = capsys.readouterr().out + "".join(map(str, (access, pushed, read, resolved)))
    assert "still waiting for " in shown and "s; gives up after 0.6 s)" in shown and "secret" not in shown


def test_a_large_file_may_take_longer_than_the_limit() -> None:
    with SlowServer("steady") as server:
        began = time.monotonic()
        assert len(open_bytes(f"{server.url}/rows.jsonl").read()) == BYTES
        assert time.monotonic() - began > 0.9


def test_a_slow_store_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with SlowServer("silent") as server:
        for name, value in {"ENDPOINT": server.url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(f"FLYTE_AWS_{name}", value)
        [error] = in_time(lambda: open_bytes("s3://bucket/rows.jsonl").read())
    assert isinstance(error, UnreachableStoreError) and "s3://bucket/rows.jsonl" in str(error)
