"""Three template families, with expected texts written by hand; « and » enclose the trained tokens."""

from __future__ import annotations

import pytest

from configs.errors import DataError

SINGLE = [("user", "Hi"), ("assistant", "Ho")]
MULTI = [("user", "Hi"), ("assistant", "Ho"), ("user", "Why?"), ("assistant", "So.")]
SYSTEM = ("system", "Be brief.")

EXPECTED = {
    ("chatml", "single"): "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n",
    ("chatml", "single, system"): (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n"
    ),
    ("chatml", "multi"): (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»\n"
    ),
    ("chatml", "multi, system"): (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»\n"
    ),
    ("llama-3", "single"): (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Ho<|eot_id|>»"
    ),
    ("llama-3", "single, system"): (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Ho<|eot_id|>»"
    ),
    ("llama-3", "multi"): (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Ho<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«So.<|eot_id|>»"
    ),
    ("llama-3", "multi, system"): (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Ho<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«So.<|eot_id|>»"
    ),
    # the generation prompt ends with [/INST], so the space after it is the first token of the answer
    ("mistral", "single"): "<s>[INST] Hi [/INST]« Ho</s>»",
    ("mistral", "single, system"): "<s>[INST] Be brief.\n\nHi [/INST]« Ho</s>»",
    ("mistral", "multi"): "<s>[INST] Hi [/INST]« Ho</s>»[INST] Why? [/INST]« So.</s>»",
    ("mistral", "multi, system"): "<s>[INST] Be brief.\n\nHi [/INST]« Ho</s>»[INST] Why? [/INST]« So.</s>»",
}
CONVERSATIONS = {
    "single": SINGLE,
    "single, system": [SYSTEM, *SINGLE],
    "multi": MULTI,
    "multi, system": [SYSTEM, *MULTI],
}
END = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": "</s>"}


@pytest.fixture
def tokens(prepare, families):
    """Return a function that prepares rows with a family's template and tokenizer, as a run does."""

    def run(name: str, rows: list, **settings: object):
        return prepare(rows, families[name].template, families[name].directory, **settings)

    return run


@pytest.mark.parametrize(("name", "turns"), EXPECTED)
def test_each_answer_and_its_end_token_is_trained_and_nothing_else(name: str, turns: str, tokens) -> None:
    prepared = tokens(name, [CONVERSATIONS[turns]])
    assert prepared.marked(0) == EXPECTED[name, turns]
    assert prepared.report.end_token_ids == [prepared.tokenizer.convert_tokens_to_ids(END[name])]
    assert prepared.report.warnings == []


@pytest.mark.parametrize("name", END)
def test_a_pair_is_rendered_as_one_user_turn_and_one_answer(name: str, tokens) -> None:
    assert tokens(name, [("Hi", "Ho")]).marked(0) == EXPECTED[name, "single"]


@pytest.mark.parametrize(("name", "turns"), EXPECTED)
def test_the_prompt_is_everything_before_the_last_answer(name: str, turns: str, tokens) -> None:
    before_last_answer = EXPECTED[name, turns].rpartition("«")[0].replace("«", "").replace("»", "")
    assert tokens(name, [CONVERSATIONS[turns]]).prompt(0) == before_last_answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chatml",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»\n",
        ),
        (
            "llama-3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n«So.<|eot_id|>»",
        ),
        ("mistral", "<s>[INST] Hi [/INST] Ho</s>[INST] Why? [/INST]« So.</s>»"),
    ],
)
def test_only_the_last_answer_is_trained_by_setting_or_by_weight(name: str, expected: str, tokens) -> None:
    assert tokens(name, [MULTI], train_on="last_answer").marked(0) == expected
    # OpenAI's format gives an answer that is not trained the weight 0
    weighted = [(*turn, 0) if number == 1 else turn for number, turn in enumerate(MULTI)]
    assert tokens(name, [weighted]).marked(0) == expected
    with pytest.raises(DataError, match="no token of this row would be trained"):
        tokens(name, [MULTI, [(*turn, 0) if turn[0] == "assistant" else turn for turn in MULTI]])


@pytest.mark.parametrize(("name", "bos"), [("llama-3", "<|begin_of_text|>"), ("mistral", "<s>")])
@pytest.mark.parametrize("row", [MULTI, ("Hi", "Ho")], ids=["conversation", "pair"])
def test_a_template_and_a_tokenizer_that_both_write_bos_give_one_bos(name: str, bos: str, row, tokens) -> None:
    prepared = tokens(name, [row])
    bos_id = prepared.tokenizer.convert_tokens_to_ids(bos)
    assert prepared.tokenizer("a")["input_ids"][0] == bos_id
    assert list(prepared.rows.input_ids[0]).count(bos_id) == 1
    assert prepared.rows.input_ids[0][0] == bos_id


def test_the_end_token_is_found_when_it_has_no_role_in_the_tokenizer(prepare, families, tmp_path) -> None:
    """In Llama-3's base model, eos does not end a turn, and `<|eot_id|>` has no role in the tokenizer."""
    from transformers import AutoTokenizer

    family = families["llama-3"]
    tokenizer = AutoTokenizer.from_pretrained(family.directory)
    tokenizer.eos_token = "<eos>"
    base = tmp_path / "base"
    tokenizer.save_pretrained(base)
    (base / "config.json").write_text('{"max_position_embeddings": 512}', encoding="utf-8")
    assert "<|eot_id|>" not in AutoTokenizer.from_pretrained(base).all_special_tokens
    prepared = prepare([SINGLE], family.template, base)
    assert prepared.marked(0) == EXPECTED["llama-3", "single"]
    assert prepared.report.end_token_ids == [tokenizer.convert_tokens_to_ids("<|eot_id|>")]


def test_no_token_spans_a_prompt_and_its_answer(prepare, tiny_model, tmp_path) -> None:
    """Two merged line breaks would take the first one of the answer, which the prompt of a generation does not hold."""
    import json

    merging = tmp_path / "merging"
    merging.mkdir()
    for path in tiny_model.iterdir():
        (merging / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((merging / "tokenizer.json").read_text(encoding="utf-8"))
    # Ċ is the byte-level alphabet's line break
    tokenizer["model"]["vocab"]["ĊĊ"] = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["merges"] = [["Ċ", "Ċ"]]
    tokenizer["pre_tokenizer"]["use_regex"] = False
    (merging / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    model = json.loads((merging / "config.json").read_text(encoding="utf-8"))
    (merging / "config.json").write_text(json.dumps({**model, "vocab_size": 259}), encoding="utf-8")
    template = (
        "{% for m in messages %}{{ m['role'] + '\n' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    prepared = prepare([[("user", "a\n\nb"), ("assistant", "\nc")]], template, merging)
    assert prepared.marked(0) == "user\na\n\nbassistant\n«\nc<eos>»"
    assert len(prepared.rows.input_ids[0]) == len("user\na\n\nbassistant\n\nc") - 1 + 1  # one merge, one <eos>


@pytest.mark.parametrize("legacy", [False, True])
def test_pieces_are_encoded_as_within_the_whole_text(legacy: bool) -> None:
    """SentencePiece puts a space before a text, its legacy form also after a special token; neither before a piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tasks.tokenize.control_tokens import Piece, encode_pieces, find_control_tokens

    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", "<0x0A>", "▁", *"abcINST[/]"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    pieces = ["[INST] a\nb [/INST]", " c\na", "</s>[INST] b [/INST]", "c", "</s>"]
    control = find_control_tokens(tokenizer)
    (encoded,) = encode_pieces(tokenizer, [[Piece(0, text, "none") for text in pieces]], control)
    whole = tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    assert [i for ids in encoded for i in ids] == whole
    assert tokenizer.convert_ids_to_tokens(encoded[3]) == ["c"]
