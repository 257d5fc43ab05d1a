"""Replies that are kept on the disk: found again, and asked for again where they are damaged."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.judge_server import Asked, JudgeServer, Said

from tasks.endpoints.cache import AnswerCache, request_key
from tasks.endpoints.client import Endpoint, Waits
from tasks.endpoints.messages import ChatRequest, Reply, Token

REQUEST = ChatRequest(({"role": "user", "content": "Which?"},), 5, top_logprobs=2)
REPLY = Reply("4 é", "stop", 3, 1, tokens=(Token("4", (("4", -0.1), ("5", -9999.0))),))


def echo(asked: Asked) -> Said:
    return Said(asked.body["messages"][-1]["content"].upper())


def test_a_second_run_costs_no_calls(tmp_path: Path) -> None:
    requests = [ChatRequest(({"role": "user", "content": str(n)},), 5) for n in range(5)]
    settings = {"max_calls": 9, "concurrency": 2, "timeout_seconds": 5.0}
    with JudgeServer(echo) as server:
        runs = []
        for _ in range(2):
            judge = Endpoint(server.address, "m", None, cache=AnswerCache(tmp_path), **settings)  # type: ignore[arg-type]
            runs.append((judge.ask(requests), judge.num_calls))
        # a repeat is another question
        again = [dataclasses.replace(request, repeat=1) for request in requests]
        judge.ask(again)
    assert runs[0] == (runs[1][0], 5) and runs[1][1] == 0
    assert len(server.asked) == 10


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: "break off" if asked.number < 4 else Said("fine")) as server:
        judge = Endpoint(
            server.address,
            "m",
            None,
            max_calls=9,
            concurrency=1,
            timeout_seconds=5.0,
            cache=AnswerCache(tmp_path),
            waits=Waits(first_pause=0.001),
        )
        assert judge.ask([REQUEST])[0].error
        assert judge.ask([REQUEST])[0].text == "fine"


def test_a_reply_is_kept_as_it_was(tmp_path: Path) -> None:
    cache, key = AnswerCache(tmp_path / "new"), request_key("http://a/v1", "m", REQUEST)
    assert cache.get(key) is None
    cache.put(key, REPLY)
    assert AnswerCache(tmp_path / "new").get(key) == REPLY
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path == tmp_path / "new" / key[:2] / f"{key}.json"
    assert "Which?" not in path.read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"messages": ({"role": "user", "content": "Which"},)},
        {"messages": ({"role": "system", "content": "Which?"},)},
        {"max_tokens": 6},
        {"temperature": 1.0},
        {"top_logprobs": 3},
        {"stop": ("x",)},
        {"repeat": 1},
    ],
)
def test_the_key_depends_on_all_that_is_asked(change: dict) -> None:
    assert request_key("a", "m", dataclasses.replace(REQUEST, **change)) != request_key("a", "m", REQUEST)


def test_the_key_depends_on_address_and_model() -> None:
    assert len({request_key(*place, REQUEST) for place in (("a", "m"), ("b", "m"), ("a", "n"))}) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "",
        lambda text: text.replace('"4 \\u00e9"', '"5 \\u00e9"'),
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda text: json.dumps([text]),
        lambda text: json.dumps({**json.loads(text), "reply": {"text": 4}}),
        lambda text: json.dumps({**json.loads(text), "key": "0" * 64}),
        lambda text: "[" * 10_000,
    ],
)
def test_a_damaged_file_is_asked_for_again_and_no_other(tmp_path: Path, damage: Callable[[str], str]) -> None:
    cache = AnswerCache(tmp_path)
    keys = [request_key("a", model, REQUEST) for model in ("m", "n")]
    for key in keys:
        cache.put(key, REPLY)
    path = tmp_path / keys[0][:2] / f"{keys[0]}.json"
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    assert [cache.get(key) for key in keys] == [None, REPLY]
    cache.put(keys[0], REPLY)
    assert cache.get(keys[0]) == REPLY


def test_a_reply_under_another_ones_name_is_none(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    first, second = (request_key("a", model, REQUEST) for model in ("m", "n"))
    cache.put(first, REPLY)
    (tmp_path / second[:2]).mkdir(exist_ok=True)
    (tmp_path / first[:2] / f"{first}.json").rename(tmp_path / second[:2] / f"{second}.json")
    assert cache.get(second) is None


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    cache, key = AnswerCache(tmp_path), request_key("a", "m", REQUEST)
    (tmp_path / key[:2]).mkdir()
    # reading it would wait for ever
    os.mkfifo(tmp_path / key[:2] / f"{key}.json")
    assert cache.get(key) is None


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    cache, key = AnswerCache(tmp_path / "cache"), request_key("a", "m", REQUEST)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "cache" / key[:2]).mkdir(parents=True)
    (tmp_path / "cache" / key[:2] / f"{key}.json").symlink_to(mine)
    cache.put(key, REPLY)
    assert mine.read_text() == "mine" and cache.get(key) == REPLY


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file")
    for model in ("m", "n"):
        cache.put(request_key("a", model, REQUEST), REPLY)
    assert cache.get(request_key("a", "m", REQUEST)) is None
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"answers are not kept in {tmp_path / 'file'} (") and "asks for them again" in line
