"""Fingerprint the content, the prompt and the answer of rows in 16 bytes, to compare rows without holding texts."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.get_data.dedup import normalized
from tasks.get_data.hashed_texts import Digests
from tasks.rows.checks import whole_texts
from tasks.rows.formats import CANONICAL_COLUMNS

FINGERPRINTS = ("content", "question", "prompt", "exact_prompt", "answer", "group", "tools")
_CONTENT_COLUMNS = [name for name in CANONICAL_COLUMNS if name != "row_id"]
# beside what `whole_texts` holds
_FURTHER_COLUMNS = ["label", "tools", "answer", "rejected_answer"]


def fingerprints(
    rows: pd.DataFrame,
    groups: Sequence[str | None],
    seed: int,
    deduplicate: Literal["none", "exact", "normalized", "near"] = "exact",
) -> dict[str, Digests]:
    """Return {name: digests} of canonical rows, one array for each of `FINGERPRINTS`.

    content: all columns of the row, as `deduplicate` compares them: in Unicode form NFC, or normalized. question: a
    prompt, the first user turn of a conversation, or the whole of a text; hashed with `seed`, because the split orders
    rows by it. prompt: all turns before the last answer. exact_prompt: the same and the tools, in Unicode form NFC.
    answer: the completion of a pair, else 0. group: the value of `data.group_by`, else 0. tools: the tool definitions,
    else 0. Questions, prompts and answers are compared apart from case and white space: `_folded`.
    """
    columns = zip(rows.kind, rows.prompt, rows.completion, rows.messages, rows.tools, strict=True)
    questions, prompts, exact_prompts, answers = [], [], [], []
    for kind, prompt, completion, messages, tools in columns:
        conversation = json.loads(messages) if messages else []
        question = next((str(turn["content"]) for turn in conversation if turn["role"] == "user"), prompt)
        questions.append(_folded(question or completion))
        turns_before = conversation[:-1] if kind == "messages" else conversation
        # a single question is the same prompt as that of a pair
        is_question = [turn["role"] for turn in turns_before] in ([], ["user"])
        turns = "" if is_question else json.dumps(turns_before, ensure_ascii=False)
        prompts.append(_folded(turns) if turns else questions[-1])
        exact_prompts.append(_composed(f"{turns or question or completion}\0{tools}"))
        answers.append(_folded(completion) if kind == "pair" else None)
    return {
        "content": _blake2b(_contents(rows, is_exact=deduplicate in ("none", "exact"))),
        "question": _sha256(f"{seed}\0{question}" for question in questions),
        "prompt": _blake2b(prompts),
        "exact_prompt": _blake2b(exact_prompts),
        "answer": _blake2b(answers),
        "group": _sha256(None if group is None else f"{seed}\0\0{group}" for group in groups),
        "tools": _blake2b(tools or None for tools in rows.tools),
    }


def _contents(rows: pd.DataFrame, is_exact: bool) -> list[str]:
    if is_exact:
        return [_composed("\0".join(values)) for values in zip(*(rows[name] for name in _CONTENT_COLUMNS), strict=True)]
    texts = whole_texts(rows)
    for name in _FURTHER_COLUMNS:
        texts = texts + "\0" + rows[name]
    return [normalized(text) for text in texts]


def seeded(digests: Digests, seed: int) -> Digests:
    """Return SHA-256(seed, digest) of each digest."""
    return _sha256(f"{seed}\0{high:016x}{low:016x}" for high, low in digests.tolist())


def seeded_order(digests: Digests, seed: int) -> NDArray[np.int64]:
    """Return the positions of `digests` in the order of SHA-256(seed, digest), the same on every machine."""
    keys = seeded(digests, seed)
    return np.lexsort((keys[:, 1], keys[:, 0]))


def _folded(text: str) -> str:
    return " ".join(_composed(text).casefold().split())


def _composed(text: str) -> str:
    """Return `text` in Unicode form NFC, in which an accent typed in two ways is the same text."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


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
