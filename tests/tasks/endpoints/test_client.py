"""The client of endpoints, against a real server that answers or misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import openai
import pytest
from support.judge_server import Asked, JudgeServer, Manner, Raw, Said, Script

from configs.errors import ConfigError
from tasks.endpoints.cache import AnswerCache
from tasks.endpoints.client import BUSY, MOST_FAILED_IN_A_ROW, NOT_ASKED, STAYED_BUSY, Endpoint, Waits
from tasks.endpoints.messages import MOST_BYTES, UNREADABLE, ChatRequest, Reply, read_completion
from tasks.endpoints.sending import FILTERED, NO_CONNECTION, TIMED_OUT, TOO_LONG, retry_after

KEY = "sk-canary-8f2e51c09d7746aa"
FAST = Waits(first_pause=0.001)


def endpoint(server: JudgeServer, cache: Path | None = None, key: str | None = KEY, **settings: object) -> Endpoint:
    """Return an endpoint of the server that does not wait between tries."""
    chosen = {"max_calls": 1000, "concurrency": 4, "timeout_seconds": 5.0, "waits": FAST, **settings}
    kept = AnswerCache(cache) if cache else None
    return Endpoint(server.address, "judge-1", key, cache=kept, **chosen)  # type: ignore[arg-type]


def requests(number: int, **settings: object) -> list[ChatRequest]:
    return [
        ChatRequest(({"role": "user", "content": f"row secret {n}"},), 5, **settings)  # type: ignore[arg-type]
        for n in range(number)
    ]


def echo(asked: Asked) -> Said:
    return Said(asked.body["messages"][-1]["content"].upper())


def then(*answers: object) -> Script:
    """Return a script: the first answers in turn, and the last for ever."""
    return lambda asked: answers[min(asked.number, len(answers) - 1)]  # type: ignore[return-value]


def test_replies_stand_in_the_order_of_the_requests() -> None:
    with JudgeServer(echo) as server:
        asked = [ChatRequest([{"role": "user", "content": text}], 9, stop=("\n",)) for text in ("b", "a", "b")]
        replies = endpoint(server).ask(asked)
    assert [reply.text for reply in replies] == ["B", "A", "B"]
    assert replies[0] == Reply("B", "stop", prompt_tokens=11, completion_tokens=7)
    # what is asked twice is sent once
    assert len(server.asked) == 2
    sent = server.asked[0]
    assert (sent.path, sent.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert {name: sent.body[name] for name in ("model", "max_tokens", "temperature", "stop")} == {
        "model": "judge-1",
        "max_tokens": 9,
        "temperature": 0.0,
        "stop": ["\n"],
    }


def test_the_server_of_these_tests_is_one_for_the_package_openai() -> None:
    with JudgeServer(echo) as server:
        client = openai.OpenAI(api_key=KEY, base_url=server.address)
        reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("HI", "stop")
    assert reply.usage is not None and reply.usage.completion_tokens == 7


def test_no_more_requests_at_once_than_the_limit() -> None:
    with JudgeServer(echo, work_seconds=0.02) as server:
        replies = endpoint(server, concurrency=3).ask(requests(20))
    assert server.most_at_once == 3
    assert not any(reply.error for reply in replies)


def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    with JudgeServer(then(Raw(status=429, headers={"Retry-After": "1"}), Said("fine"))) as server:
        judge = endpoint(server)
        assert judge.ask(requests(1))[0].text == "fine"
    assert server.asked[1].seconds - server.asked[0].seconds >= 1
    # each request is a call
    assert judge.num_calls == 2


def test_a_pause_that_is_too_long_is_cut() -> None:
    with JudgeServer(then(Raw(status=503, headers={"Retry-After": "3600"}), Said("fine"))) as server:
        waits = Waits(first_pause=0.001, longest_pause=0.1)
        assert endpoint(server, waits=waits).ask(requests(1))[0].text == "fine"
    assert 0.1 <= server.asked[1].seconds - server.asked[0].seconds < 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("", None), ("soon", None), ("1e999", None)],
)
def test_retry_after_is_a_number(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_retry_after_is_a_date_too() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (retry_after("Fri, 31 Dec 2100 23:59:59 GMT") or 0) > 1e9


@pytest.mark.parametrize(
    ("answer", "error", "num_calls"),
    [
        (Raw(status=500), "the server's error 500", 4),
        (Raw(status=409), "the server's error 409", 4),
        (Raw(status=418), "the server's error 418", 1),
        (Raw(status=413), "the server's error 413", 1),
        (Raw(status=400, body=b"row secret 0"), "the server's error 400", 1),
        ("hang", TIMED_OUT, 4),
        ("dripping", TIMED_OUT, 4),
        ("close", NO_CONNECTION, 4),
        ("break off", NO_CONNECTION, 4),
        ("endless", TOO_LONG, 1),
        (Raw(b"", headers={"Content-Encoding": "gzip"}), "an answer that is compressed, unasked", 1),
        (Raw(b"<html>"), UNREADABLE, 1),
        (Raw(b""), UNREADABLE, 1),
        (Raw(b'{"choices": []}'), UNREADABLE, 1),
        (Raw(b"[" * 100_000), UNREADABLE, 1),
        (Raw(status=204, body=b""), UNREADABLE, 1),
    ],
)
def test_a_failure_is_a_reply_that_says_why(answer: Raw | Manner, error: str, num_calls: int) -> None:
    began = time.monotonic()
    with JudgeServer(then(answer)) as server:
        judge = endpoint(server, timeout_seconds=0.15 if answer in ("hang", "dripping") else 5.0)
        assert judge.ask(requests(1)) == [Reply(error=error)]
    assert (judge.num_calls, len(server.asked)) == (num_calls, num_calls)
    assert time.monotonic() - began < 3


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    with JudgeServer(then("endless")) as server:
        endpoint(server).ask(requests(1))
        time.sleep(0.1)
        sent = server.num_sent
    # what lay in the buffers of both sides was sent, too
    assert MOST_BYTES < sent < 20 * MOST_BYTES


def test_a_refusal_without_end_is_not_read() -> None:
    def endless_error(asked: Asked) -> Raw:
        return Raw(b" " * 2**23, status=500)

    with JudgeServer(endless_error) as server:
        assert endpoint(server).ask(requests(1)) == [Reply(error="the server's error 500")]


def test_a_broken_connection_is_tried_again() -> None:
    with JudgeServer(then("close", "break off", Raw(status=502), Said("fine"))) as server:
        assert endpoint(server).ask(requests(1))[0].text == "fine"
    assert len(server.asked) == 4


def test_a_server_that_is_not_there_is_a_reply() -> None:
    with JudgeServer(echo) as server:
        pass
    judge = endpoint(server)
    assert judge.ask(requests(1)) == [Reply(error=NO_CONNECTION)]
    assert judge.num_calls == 4


def test_the_budget_counts_all_requests() -> None:
    with JudgeServer(echo) as server:
        judge = endpoint(server, max_calls=7)
        replies = judge.ask(requests(20))
        assert [bool(reply.error) for reply in replies] == [False] * 7 + [True] * 13
        # of the same run
        assert judge.ask(requests(21)[20:]) == [Reply(error="budget of 7 calls spent")]
    assert {reply.error for reply in replies[7:]} == {"budget of 7 calls spent"}
    assert len(server.asked) == 7


def test_tries_count_in_the_budget() -> None:
    with JudgeServer(then(Raw(status=500))) as server:
        replies = endpoint(server, max_calls=6, concurrency=1).ask(requests(3))
    assert [reply.error for reply in replies] == ["the server's error 500", *["budget of 6 calls spent"] * 2]
    assert len(server.asked) == 6


def test_a_server_that_answers_nothing_is_given_up() -> None:
    with JudgeServer(then(Raw(status=500))) as server:
        replies = endpoint(server, concurrency=1).ask(requests(MOST_FAILED_IN_A_ROW + 5))
    assert [reply.error for reply in replies[-5:]] == [NOT_ASKED] * 5
    assert len(server.asked) == 4 * MOST_FAILED_IN_A_ROW


@pytest.mark.parametrize(
    ("status", "key", "words"),
    [
        (401, KEY, "refuses the key (401); set the Flyte secret judge/api_key, or $JUDGE_API_KEY"),
        (403, KEY, "refuses the key (403)"),
        (401, None, "wants a key, and there is none (401)"),
        (404, KEY, "has no such model, or no chat completions at this address (404)"),
        (302, KEY, "redirects (302) to http://127.0.0.1:1/steal, and a key is sent to no other address"),
    ],
)
def test_what_is_wrong_for_all_questions_ends_at_once(status: int, key: str | None, words: str) -> None:
    location = {"Location": "http://user:hunter22@127.0.0.1:1/steal?token=hunter22"}
    with JudgeServer(then(Raw(b"row secret 0" + KEY.encode(), status, location))) as server:
        with pytest.raises(ConfigError) as caught:
            endpoint(server, key=key, concurrency=2).ask(requests(50))
        assert len(server.asked) <= 4
        assert str(caught.value).startswith(f"evaluate.judge.endpoint={server.address} {words}")
    assert "hunter22" not in str(caught.value) and "secret 0" not in str(caught.value) and KEY not in str(caught.value)


def test_a_redirect_carries_the_key_nowhere() -> None:
    with JudgeServer(echo) as other:
        place = {"Location": f"{other.address}/chat/completions"}
        with JudgeServer(then(Raw(status=307, headers=place))) as server, pytest.raises(ConfigError, match="redirects"):
            endpoint(server).ask(requests(1))
    assert other.asked == []


def test_the_key_stands_in_one_header_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with JudgeServer(lambda asked: Said(f"your key is {asked.headers['authorization']}, on line 3")) as server:
        judge = endpoint(server, tmp_path / "cache", waits=Waits(first_line=0.001))
        replies = judge.ask(requests(3))
    assert replies[0].text == "your key is Bearer ***, on line 3"
    assert KEY not in repr(judge) and KEY not in repr(replies)
    assert all(KEY not in json.dumps([asked.body, asked.path]) for asked in server.asked)
    assert all([name for name, value in a.headers.items() if KEY in value] == ["authorization"] for a in server.asked)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(KEY not in path.read_text() and "row secret" not in path.read_text() for path in files)
    out, err = capfd.readouterr()
    assert KEY not in out + err + caplog.text


def test_nothing_of_other_servers_leaves_with_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET")
    for name in names:
        monkeypatch.setenv(f"OPENAI_{name}", "another-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: another-secret\nAuthorization: another-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with JudgeServer(echo) as server:
        assert endpoint(server, key=None).ask(requests(1))[0].text == "ROW SECRET 0"
    headers = server.asked[0].headers
    assert "authorization" not in headers and not any("another-secret" in value for value in headers.values())


@pytest.mark.parametrize("key", ["sk-é", "sk-1\nX-Other: 2", "sk-\x00"])
def test_a_key_that_no_header_can_hold_is_not_quoted(key: str) -> None:
    with pytest.raises(ConfigError, match=r"the key for evaluate\.judge\.endpoint holds characters") as caught:
        Endpoint("http://127.0.0.1:1/v1", "m", key, max_calls=1, concurrency=1, timeout_seconds=1.0)
    assert "sk-" not in str(caught.value)


def test_a_line_break_at_the_end_of_a_secret_is_no_part_of_it() -> None:
    with JudgeServer(echo) as server:
        assert endpoint(server, key=f"{KEY}\n").ask(requests(1))[0].error == ""
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("refused", "message", "sent_at_last"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", {"max_completion_tokens"}),
        ("temperature", "Unsupported value: 'temperature' does not support 0.0.", {"max_tokens", "logprobs"}),
        ("logprobs", "extra parameters are not permitted: 'logprobs', 'top_logprobs'", {"max_tokens", "temperature"}),
    ],
)
def test_parameters_that_a_model_does_not_know_are_left_out(
    refused: str, message: str, sent_at_last: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def choosy(asked: Asked) -> Raw | Said:
        if refused in asked.body:
            return Raw(json.dumps({"error": {"message": message}}).encode(), status=400)
        return Said("fine")

    with JudgeServer(choosy) as server:
        replies = endpoint(server, concurrency=1).ask(requests(3, top_logprobs=5))
    assert [reply.text for reply in replies] == ["fine"] * 3
    # asked once more, and then known
    assert len(server.asked) == 4
    assert refused not in server.asked[-1].body and sent_at_last <= server.asked[-1].body.keys()
    assert f"does not know {refused}" in capsys.readouterr().out


def test_a_refused_value_is_no_unknown_parameter() -> None:
    message = b'{"error": {"message": "max_tokens is too large: the context has 4096 tokens"}}'
    with JudgeServer(then(Raw(message, status=400))) as server:
        assert endpoint(server).ask(requests(1)) == [Reply(error="the server's error 400")]
    assert len(server.asked) == 1


def test_a_server_that_refuses_all_parameters_is_not_asked_for_ever() -> None:
    message = b'{"error": {"message": "unknown parameter: temperature"}}'
    with JudgeServer(then(Raw(message, status=422))) as server:
        assert endpoint(server).ask(requests(1)) == [Reply(error="the server's error 400")]
    assert len(server.asked) == 2


def test_long_work_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with JudgeServer(echo, work_seconds=0.1) as server:
        endpoint(server, concurrency=1, waits=Waits(first_line=0.12)).ask(requests(4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"endpoint: 1/4 questions to {server.address}; 2 of at most 1,000 calls"
    # after 0.12 and 0.36 s, of at least 0.4; the next would come after 0.84 s
    assert len(lines) == 2


def test_it_asks_from_within_an_event_loop() -> None:
    async def inside() -> list[Reply]:
        return endpoint(server).ask(requests(1))

    with JudgeServer(echo) as server:
        assert asyncio.run(inside())[0].text == "ROW SECRET 0"


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999999/v1", "http://[::1/v1", "http://127.0.0.1:70000/v1"])
def test_an_address_of_no_server_is_an_error_of_the_config(address: str) -> None:
    judge = Endpoint(address, "m", KEY, max_calls=9, concurrency=1, timeout_seconds=1.0, waits=FAST)
    with pytest.raises(ConfigError, match=r"evaluate\.judge\.endpoint=.* is no address of a server"):
        judge.ask(requests(1))


def test_a_reply_that_utf_8_cannot_hold_can_be_kept(tmp_path: Path) -> None:
    with JudgeServer(then(Said("half \ud83d, whole \U0001f600"))) as server:
        judge = endpoint(server, tmp_path)
        assert judge.ask(requests(1))[0].text == "half \ufffd, whole \U0001f600"
        assert judge.ask([ChatRequest(({"role": "user", "content": "\ud800"},), 5)])[0].error == ""
    assert server.asked[1].body["messages"][0]["content"] == "\ufffd"


@pytest.mark.parametrize(
    ("message", "is_refusal"),
    [({"refusal": "I will not."}, True), ({"refusal": None}, False), ({"refusal": ""}, False)],
)
def test_a_refusal_that_the_server_reports_is_one(message: dict[str, str | None], is_refusal: bool) -> None:
    assert read_completion(Said(None, message=message).body()).is_refusal is is_refusal


@pytest.mark.parametrize("count", ["7", -1, 1.5, True, 2**70])
def test_counts_that_are_none_are_not_reported(count: object) -> None:
    body = json.loads(Said("x").body()) | {"usage": {"prompt_tokens": 3, "completion_tokens": count}}
    reply = read_completion(json.dumps(body).encode())
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("x", 3, None)


def test_questions_that_are_refused_one_by_one_do_not_end_the_rest() -> None:
    # rows that are too long for the model, or that a filter stops, stand together in a set of unsafe prompts
    script = then(*[Raw(status=400)] * (MOST_FAILED_IN_A_ROW + 2), Said("fine"))
    with JudgeServer(script) as server:
        replies = endpoint(server, concurrency=1).ask(requests(MOST_FAILED_IN_A_ROW + 3))
    assert {reply.error for reply in replies[:-1]} == {"the server's error 400"}
    assert replies[-1].text == "fine"


@pytest.mark.parametrize(
    "body", [b'{"error": {"code": "content_filter"}}', b'{"error": {"type":"content_policy_violation"}}']
)
def test_a_filter_of_the_server_is_named(body: bytes) -> None:
    with JudgeServer(then(Raw(body, status=400))) as server:
        assert endpoint(server).ask(requests(1)) == [Reply(error=FILTERED)]
    assert len(server.asked) == 1


def test_a_server_that_stays_busy_is_given_up() -> None:
    waits = Waits(first_pause=0.02, longest_busy=0.3)
    with JudgeServer(then(Raw(status=429))) as server:
        began = time.monotonic()
        replies = endpoint(server, concurrency=1, waits=waits).ask(requests(100))
        seconds = time.monotonic() - began
    assert (replies[0].error, replies[-1].error) == (BUSY, STAYED_BUSY)
    # 100 questions with their pauses would take more than 7 s
    assert seconds < 3 and len(server.asked) < 100


def test_a_server_that_is_busy_between_answers_is_not_given_up() -> None:
    def every_other(asked: Asked) -> Raw | Said:
        return Said("fine") if asked.number % 2 else Raw(status=429)

    with JudgeServer(every_other) as server:
        replies = endpoint(server, concurrency=1, waits=Waits(first_pause=0.02, longest_busy=0.1)).ask(requests(20))
    assert [reply.text for reply in replies] == ["fine"] * 20


@pytest.mark.parametrize(
    "message",
    [
        "Requested sample logprobs of 5, which is greater than max allowed: 3",
        "Input should be less than or equal to 3: top_logprobs",
        "logprobs must be between 0 and 3",
    ],
)
def test_a_server_with_fewer_alternatives_is_asked_without(message: str) -> None:
    def choosy(asked: Asked) -> Raw | Said:
        return Raw(message.encode(), status=400) if "top_logprobs" in asked.body else Said("fine")

    with JudgeServer(choosy) as server:
        assert endpoint(server).ask(requests(1, top_logprobs=5))[0].text == "fine"
    assert len(server.asked) == 2


def test_no_row_stands_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with JudgeServer(echo) as server:
        endpoint(server).ask(requests(1))
    assert "row secret" not in caplog.text.lower() and KEY not in caplog.text
