"""Fingerprint the content, the prompt and the answer of rows in 16 bytes, to compare rows without holding texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.get_data.dedup import normalized
from tasks.get_data.hashed_texts import Digests
from tasks.rows.checks import whole_texts

FINGERPRINTS = ("content", "question", "prompt", "answer", "group", "tools")


def fingerprints(rows: pd.DataFrame, groups: Sequence[str | None], seed: int) -> dict[str, Digests]:
    """Return {name: digests} of canonical rows, one array for each of `FINGERPRINTS`.

    content: the whole normalized text, with the label and the tool definitions. question: a prompt, the first user turn
    of a conversation, or the whole of a text; hashed with `seed`, as the split orders rows by it. prompt: all turns
    before the last answer. answer: the completion of a pair, else 0. group: the value of `data.group_by`, else 0.
    tools: the tool definitions, else 0.
    """
    texts = [normalized(text) for text in whole_texts(rows) + rows.label]
    # no text holds a NUL, so a row with tools equals none without
    texts = [f"{text}\0{tools}" if tools else text for text, tools in zip(texts, rows.tools, strict=True)]
    columns = zip(rows.kind, rows.prompt, rows.completion, rows.messages, strict=True)
    questions, prompts, answers = [], [], []
    for kind, prompt, completion, messages in columns:
        conversation = json.loads(messages) if messages else []
        question = next((str(turn["content"]) for turn in conversation if turn["role"] == "user"), prompt)
        questions.append(_folded(question or completion))
        turns_before = conversation[:-1] if kind == "messages" else conversation
        prompts.append(_folded(json.dumps(turns_before, ensure_ascii=False)) if turns_before else questions[-1])
        answers.append(_folded(completion) if kind == "pair" else None)
    return {
        "content": _blake2b(texts),
        "question": _sha256(f"{seed}\0{question}" for question in questions),
        "prompt": _blake2b(prompts),
        "answer": _blake2b(answers),
        "group": _sha256(None if group is None else f"{seed}\0\0{group}" for group in groups),
        "tools": _blake2b(tools or None for tools in rows.tools),
    }


def seeded(digests: Digests, seed: int) -> Digests:
    """Return SHA-256(seed, digest) of each digest."""
    return _sha256(f"{seed}\0{high:016x}{low:016x}" for high, low in digests.tolist())


def seeded_order(digests: Digests, seed: int) -> NDArray[np.int64]:
    """Return the positions of `digests` in the order of SHA-256(seed, digest), the same on every machine."""
    keys = seeded(digests, seed)
    return np.lexsort((keys[:, 1], keys[:, 0]))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _blake2b(texts: Iterable[str | None]) -> Digests:
    return _as_digests(
        b"\0" * 16 if text is None else hashlib.blake2b(_encoded(text), digest_size=16).digest() for text in texts
    )


def _sha256(texts: Iterable[str | None]) -> Digests:
    return _as_digests(b"\0" * 16 if text is None else hashlib.sha256(_encoded(text)).digest()[:16] for text in texts)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_digests(digests: Iterable[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
