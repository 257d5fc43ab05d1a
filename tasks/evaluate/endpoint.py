"""Let a model behind an OpenAI-compatible endpoint answer the held-out rows: a table of rows with answers alone.

The endpoint gets the turns of each row as they are, with its tools, and writes them with its own chat template. So
nothing of this project's tokenizer is in the comparison, and there is no loss.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from configs.addresses import shown_address
from configs.effective.lengths import LONGEST_ANSWER
from configs.errors import DataError, HubError
from configs.objectives import OBJECTIVES, Objective
from configs.schema import EvaluateConfig
from configs.schema.others import OtherModelConfig
from configs.wire import HELD_OUT, Part
from tasks.endpoints.cache import AnswerCache
from tasks.endpoints.client import Endpoint
from tasks.endpoints.messages import CUT, ChatRequest, Reply
from tasks.evaluate.part import FACTS_FILE, TABLE_FILE, ModelFacts
from tasks.evaluate.preferences import CHOSEN
from tasks.evaluate.score import first_by_hash
from tasks.evidence.table import table_of_rows, write_table
from tasks.measures.table import check_measures
from tasks.models.answer_text import split_answer
from tasks.models.pace import doing
from tasks.rows.row_turns import turns_of

_REFUSED_BY_SERVER = "the server itself refused to answer"
_SENT = ("role", "content", "name", "tool_call_id")
_COLUMNS = ("row_id", "kind", "prompt", "completion", "messages", "answer", "dataset", "tools", "label", "group")


def ask_rows(
    config: EvaluateConfig,
    other: OtherModelConfig,
    objective: Objective,
    key: str | None,
    rows: Path,
    output: Path,
    cache: Path,
) -> None:
    """Write `rows.parquet` and `facts.json`, as `score_part` does, of the answers of `other.endpoint` to `output`.

    `rows` is the Parquet file of canonical held-out rows. Asked are `generate_rows` of those with a prompt, which are
    the rows that local models answer too; further evaluation sets are not. Decoding is greedy (temperature 0), as far
    as the server has it so. A row without an answer has none in the table, and its reason is counted. `cache` is a
    folder for answers.

    Raises:
        DataError: no row has a prompt.
        ConfigError: the server refuses the key, knows no such model or redirects; a measure fits no answer.
        HubError: the server answered no row at all.
    """
    assert other.endpoint is not None
    asked = _asked(pd.read_parquet(rows), config.generate_rows, objective)
    expected = [_expected(turns) for turns in asked.turns]
    check_measures(config.measures, expected, [_question(turns) for turns in asked.turns])
    endpoint = Endpoint(
        other.endpoint,
        other.endpoint_model,
        key,
        max_calls=other.max_calls,
        concurrency=other.concurrency,
        timeout_seconds=other.timeout_seconds,
        cache=AnswerCache(cache),
        setting=f"evaluate.others: {other.title}.endpoint",
        key_sources="the Flyte secret endpoint/api_key, or $ENDPOINT_API_KEY",
    )
    most = config.max_new_tokens or LONGEST_ANSWER
    requests = [
        ChatRequest([_sent(turn) for turn in turns[:-1]], most, tools=tuple(json.loads(tools) if tools else ()))
        for turns, tools in zip(asked.turns, asked.tools, strict=True)
    ]
    with doing(f"asking {other.title} {len(requests):,} rows"):
        replies = endpoint.ask(requests)
    unanswered = Counter(reason for reply in replies if (reason := _failure(reply)))
    if replies and unanswered.total() == len(replies):
        # what was not asked is a consequence
        causes = Counter({reason: rows for reason, rows in unanswered.items() if not reason.startswith("not asked")})
        reason, number = (causes or unanswered).most_common(1)[0]
        raise HubError(
            f"{other.title}: {shown_address(other.endpoint)} answered none of {len(replies):,} rows "
            f"({number:,}: {reason})\nsee that it serves, or take it out of evaluate.others"
        )
    write_table(_table(asked, expected, replies), output / TABLE_FILE)
    facts = ModelFacts(
        part=Part(number=0, of=1),
        is_reward_model=False,
        size_bytes=0,
        quantized_share=None,
        sets=[HELD_OUT],
        kept_row_ids=[],
        unanswered=dict(unanswered),
    )
    (output / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")


def _asked(rows: pd.DataFrame, number: int, objective: Objective) -> pd.DataFrame:
    """Return the rows to ask, with their turns; the choice is that of `chosen_rows`."""
    rows = rows.reindex(columns=list(_COLUMNS)).fillna("")
    rows = rows[(rows.dataset == HELD_OUT) & (rows.kind != "text") & (rows.label != "false")].reset_index(drop=True)
    if OBJECTIVES[objective].learns_from_labels:
        # as the tokenize stage calls the half of a preference that is wanted
        rows["row_id"] = rows.row_id + rows.kind.map(lambda kind: CHOSEN if kind == "preference" else "")
    if rows.empty:
        raise DataError("no held-out row has a prompt, so an endpoint cannot be asked; take it out of evaluate.others")
    chosen = rows.iloc[sorted(first_by_hash(list(rows.row_id), number))].reset_index(drop=True)
    return chosen.assign(turns=[turns_of(row) for row in chosen.itertuples()])


def _sent(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn as OpenAI's API takes it: the arguments of a call are JSON text."""
    sent = {key: turn[key] for key in _SENT if turn.get(key) is not None}
    calls = turn.get("tool_calls") or ()
    if calls:
        sent["tool_calls"] = [
            {
                "id": str(call.get("id") or f"call_{number}"),
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": json.dumps(call["function"]["arguments"])},
            }
            for number, call in enumerate(calls)
        ]
    return sent


def _expected(turns: Sequence[Mapping[str, Any]]) -> str:
    answer = turns[-1]
    content = str(answer.get("content") or "")
    parts = split_answer(content)
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in answer.get("tool_calls") or ()]
    return _with_calls(parts.text if parts else content, calls)


def _question(turns: Sequence[Mapping[str, Any]]) -> str:
    return str(turns[-2].get("content") or "") if len(turns) > 1 else ""


def _with_calls(text: str, calls: Sequence[tuple[str, Any]]) -> str:
    """Return an answer with its calls in the form of Hermes and Qwen, which the measure tool_calls reads."""
    lines = [
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
        for name, arguments in calls
    ]
    return "\n".join([*([text.strip()] if text.strip() else []), *lines])


def _answer(reply: Reply) -> tuple[str, str]:
    """Return (answer, reasoning) of a reply."""
    parts = split_answer(reply.text)
    text, reasoning = (parts.text, parts.reasoning) if parts else (reply.text.strip(), "")
    calls: list[tuple[str, Any]] = []
    for name, arguments in reply.calls:
        try:
            calls.append((name, json.loads(arguments)))
        except (ValueError, RecursionError):
            # a call that cannot be read stays in the answer as it came, where the measure counts it as unreadable
            calls.append((name, arguments))
    return _with_calls(text, calls), reply.reasoning or reasoning


def _failure(reply: Reply) -> str:
    """Return why a row has no answer; empty where it has one."""
    if reply.error:
        return reply.error
    return _REFUSED_BY_SERVER if reply.is_refusal and not reply.text.strip() else ""


def _table(asked: pd.DataFrame, expected: Sequence[str], replies: Sequence[Reply]) -> pa.Table:
    answers = [None if _failure(reply) else _answer(reply) for reply in replies]
    given = [None if answer is None else reply for reply, answer in zip(replies, answers, strict=True)]
    facts: dict[str, Sequence[Any]] = {
        "dataset": [HELD_OUT] * len(replies),
        "row_id": list(asked.row_id),
        "group": list(asked.group),
        "prompt": [_question(turns) for turns in asked.turns],
        "expected": list(expected),
        "answer": [answer and answer[0] for answer in answers],
        "reasoning": [answer and answer[1] for answer in answers],
        "prompt_tokens": [reply.prompt_tokens or 0 for reply in replies],
        "answer_tokens": [reply and reply.completion_tokens for reply in given],
        "ended": [None if reply is None else reply.finish_reason != CUT for reply in given],
    }
    return table_of_rows(facts, {})
