"""A batch of rows is encoded in one call, and each row gets exactly the ids that it gets on its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.tokenize import tokens
from tasks.tokenize.control_tokens import ControlTokens, Piece, encode_pieces, find_control_tokens
from tasks.tokenize.rows import Row
from tasks.tokenize.tokens import tokenize_rows

TYPED = [
    "<|im_end|>",
    "<|im_start|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<s>",
    "</s>",
    "<eos>",
    "<think>",
    "\U000f0000",
]
TEXTS = [
    "a",
    "",
    " ",
    "\n",
    "\n\nb",
    " é🎉 ",
    "[INST] x [/INST]",
    "a" * 300,
    *TYPED,
    *(f"x{text}y{text}" for text in TYPED),
]


def encode_row(tokenizer, pieces: list[Piece], control: ControlTokens) -> list[list[int]]:
    """Return the ids of each piece with one call per piece: the simplest way, which batches must agree with."""
    results = []
    for number, piece in enumerate(pieces):
        if piece.is_literal:
            results.append(_encode_literal(tokenizer, piece.text, control))
            continue
        before = "" if number == 0 else _before(pieces[number - 1], control)
        prefix = [control.special[before]] if before in control.special else _encode(tokenizer, before)
        ids = _encode(tokenizer, before + piece.text)
        results.append(ids[len(prefix) :] if ids[: len(prefix)] == prefix else _encode(tokenizer, piece.text))
    return results


def _before(piece: Piece, control: ControlTokens) -> str:
    ends = [] if piece.is_literal else [text for text in control.special if piece.text.endswith(text)]
    return max(ends, key=len) if ends else "\n"


def _encode(tokenizer, text: str, split: bool = False) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=split, verbose=False)["input_ids"]


def _encode_literal(tokenizer, text: str, control: ControlTokens) -> list[int]:
    ids = _encode(tokenizer, "\n" + text, split=True)
    if ids[: len(control.new_line_ids)] == control.new_line_ids:
        ids = ids[len(control.new_line_ids) :]
    if control.guarded_ids.isdisjoint(ids) or len(text) < 2:
        return ids
    middle = len(text) // 2
    return [i for half in (text[:middle], text[middle:]) for i in _encode_literal(tokenizer, half, control)]


def hard_rows() -> list[Row]:
    """Return rows of every kind, with each text once as the prompt and once as the answer."""
    rows = []
    for text in TEXTS:
        for prompt, completion in ((text, "b"), ("p", text)):
            rows.append(Row(f"f:{len(rows)}", "pair", prompt, completion, ""))
            turns = [{"role": "system", "content": prompt}, {"role": "user", "content": prompt}]
            turns += [{"role": "assistant", "content": completion}, turns[1], {"role": "assistant", "content": "z"}]
            rows.append(Row(f"f:{len(rows)}", "messages", prompt, "z", json.dumps(turns)))
        rows.append(Row(f"f:{len(rows)}", "text", "", text + "t", ""))
    return rows


@pytest.mark.parametrize("over_length", ["auto", "cut_left", "cut_right", "split"])
def test_a_row_does_not_depend_on_the_rows_beside_it(over_length: str, family) -> None:
    setup = family.setup(over_length=over_length, max_length=64)
    rows = hard_rows()
    together = tokenize_rows(rows, setup)
    apart = [tokenize_rows([row], setup) for row in rows]
    assert together.records == [record for batch in apart for record in batch.records]
    for name in ("dropped", "truncated", "split", "control_text", "without_bos"):
        assert getattr(together, name) == [row_id for batch in apart for row_id in getattr(batch, name)]
    assert len(together.records) > 20 and together.control_text


@pytest.mark.parametrize("is_for_pairs", [True, False])
def test_rows_have_the_ids_of_one_call_per_piece(is_for_pairs: bool, family, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = family.setup()
    setup = replace(setup, template=replace(setup.template, is_for_pairs=is_for_pairs))
    batched = tokenize_rows(hard_rows(), setup).records
    monkeypatch.setattr(
        tokens,
        "encode_pieces",
        lambda tokenizer, rows, control: [encode_row(tokenizer, r, control) for r in rows],
    )
    assert batched == tokenize_rows(hard_rows(), setup).records


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(
            st.builds(
                Piece,
                st.just(0),
                st.lists(st.sampled_from([*TYPED, "a", "\n", " ", "bc"]), max_size=4).map("".join),
                st.just("none"),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        max_size=4,
    )
)
def test_any_pieces_have_the_ids_of_one_call_per_piece(rows, family) -> None:
    control = find_control_tokens(family.tokenizer)
    expected = [encode_row(family.tokenizer, pieces, control) for pieces in rows]
    assert encode_pieces(family.tokenizer, rows, control) == expected


@pytest.mark.parametrize("legacy", [False, True])
def test_a_sentencepiece_tokenizer_has_the_ids_of_one_call_per_piece(legacy: bool) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", "<0x0A>", "▁", *"abcINST[/]", "▁a"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    control = find_control_tokens(tokenizer)
    texts = ["a", " a", "\na", "[INST] a [/INST]", "</s>", "a</s>", "", "\n"]
    rows = [
        [Piece(0, one, "none"), Piece(0, two, "none", literal)] for one in texts for two in texts for literal in (0, 1)
    ]
    expected = [encode_row(tokenizer, pieces, control) for pieces in rows]
    assert encode_pieces(tokenizer, rows, control) == expected
    # the space at the beginning of a text is not put before a later piece
    assert expected[0] == [[vocabulary["▁a"]], [vocabulary["a"]]]
