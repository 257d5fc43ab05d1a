"""Sixteen bytes for what a row says, asks and answers: what is compared between rows without holding their text."""

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

FINGERPRINTS = ("content", "question", "asked", "answer", "group")


def fingerprints(rows: pd.DataFrame, groups: Sequence[str | None], seed: int) -> dict[str, Digests]:
    """Return {name: digests} of canonical rows, one array for each of `FINGERPRINTS`.

    content: the whole normalized text, with the label. question: a prompt, the first user turn of a conversation, or
    the whole of a text; hashed with `seed`, since the split orders by it. asked: all that comes before the last answer.
    answer: the completion of a pair, else 0. group: the value of `data.group_by`, else 0.
    """
    texts = [normalized(text) for text in whole_texts(rows) + rows.label]
    columns = zip(rows.kind, rows.prompt, rows.completion, rows.messages, strict=True)
    questions, asked, answers = [], [], []
    for kind, prompt, completion, messages in columns:
        conversation = json.loads(messages) if messages else []
        question = next((str(turn["content"]) for turn in conversation if turn["role"] == "user"), prompt)
        questions.append(_folded(question or completion))
        before = conversation[:-1] if kind == "messages" else conversation
        asked.append(_folded(json.dumps(before, ensure_ascii=False)) if before else questions[-1])
        answers.append(_folded(completion) if kind == "pair" else None)
    return {
        "content": _blake2b(texts),
        "question": _sha256(f"{seed}\0{question}" for question in questions),
        "asked": _blake2b(asked),
        "answer": _blake2b(answers),
        "group": _sha256(None if group is None else f"{seed}\0\0{group}" for group in groups),
    }


def seeded_order(digests: Digests, seed: int) -> NDArray[np.int64]:
    """Return the positions of `digests` ordered by SHA-256(seed, digest): random, and the same on every machine."""
    keys = _sha256(f"{seed}\0{high:016x}{low:016x}" for high, low in digests.tolist())
    return np.lexsort((keys[:, 1], keys[:, 0]))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _blake2b(texts: Iterable[str | None]) -> Digests:
    return _numbers(
        b"\0" * 16 if text is None else hashlib.blake2b(_encoded(text), digest_size=16).digest() for text in texts
    )


def _sha256(texts: Iterable[str | None]) -> Digests:
    return _numbers(b"\0" * 16 if text is None else hashlib.sha256(_encoded(text)).digest()[:16] for text in texts)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _numbers(digests: Iterable[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
