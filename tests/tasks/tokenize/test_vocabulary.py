"""New special tokens, a tokenizer and a model of different vocabulary, and phases that must share a tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.token_rows import preference
from transformers import AddedToken, AutoTokenizer

from configs.errors import ConfigError, DataError, ModelError
from tasks.tokenize.checks import check_same_tokenizer

# the template writes <|tool|> before each question
TEMPLATE = "{% for m in messages %}{% if m['role'] == 'user' %}<|tool|>{% endif %}{{ m['content'] }}<eos>{% endfor %}"
NEW = ["<|tool|>", "<|end|>"]


def with_tokens(model: Path, directory: Path, *tokens: AddedToken, **config: object) -> Path:
    """Return a copy of the model's folder with `tokens` added to its tokenizer and `config` set in its config.json.

    A value of None removes the setting.
    """
    shutil.copytree(model, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(directory)
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in {**values, **config}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return directory


def test_new_tokens_are_control_tokens_of_the_template_and_text_in_contents(prepare) -> None:
    tokens = prepare([("a<|tool|>b", "c<|tool|>")], TEMPLATE, new_special_tokens=NEW)
    # the tiny model's tokenizer has 258 tokens
    assert tokens.report.new_token_ids == [258, 259]
    assert tokens.text(0) == "<|tool|>a<|tool|>b<eos>c<|tool|><eos>"
    ids = list(tokens.rows.input_ids[0])
    assert (ids[0], ids.count(258)) == (258, 1)
    # the template's <|tool|> is one token; of each typed one, every byte is a token
    assert len(ids) == 1 + 10 + 1 + 9 + 1


def test_plain_texts_hold_new_tokens(prepare) -> None:
    tokens = prepare(["a<|end|>b<|tool|>"], objective="cpt", new_special_tokens=NEW)
    assert [number for number in tokens.rows.input_ids[0] if number > 257] == [259, 258]
    assert tokens.report.warnings == []


def test_the_saved_tokenizer_has_the_new_tokens_and_the_reported_hash(prepare) -> None:
    first = prepare(["t<|tool|><|end|>"], new_special_tokens=NEW)
    saved = AutoTokenizer.from_pretrained(first.tokenizer_directory)
    assert saved.convert_tokens_to_ids(NEW) == [258, 259]
    assert saved("<|tool|>")["input_ids"] == [258]
    config = json.loads((first.tokenizer_directory / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 260
    # like the next phase of a run, which adds no tokens
    again = prepare(["t<|tool|>"], None, first.tokenizer_directory)
    assert again.report.tokenizer_hash == first.report.tokenizer_hash
    assert again.report.new_token_ids == []
    assert len(first.report.tokenizer_hash) == 64


@pytest.mark.parametrize(
    "changed", [["<|tool|>"], ["<|end|>", "<|tool|>"], []], ids=["one less", "another order", "none"]
)
def test_the_hash_tells_vocabularies_apart(changed: list[str], prepare) -> None:
    one = prepare(["t"], new_special_tokens=NEW).report
    other = prepare(["t"], new_special_tokens=changed).report
    assert one.tokenizer_hash != other.tokenizer_hash


def test_the_hash_tells_special_tokens_from_words(prepare, tiny_model: Path, tmp_path: Path) -> None:
    models = [
        with_tokens(tiny_model, tmp_path / str(n), AddedToken("<x>", special=bool(n)), vocab_size=259) for n in (0, 1)
    ]
    hashes = [prepare(["t"], None, model).report.tokenizer_hash for model in models]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("token", ["<eos>", "a"])
def test_a_new_token_that_the_vocabulary_has_already_is_refused(token: str, prepare) -> None:
    with pytest.raises(ConfigError) as error:
        prepare(["t"], new_special_tokens=["<|tool|>", token])
    assert str(error.value) == (
        f"tokenize.new_special_tokens: {token} is in the model's vocabulary already; remove it from the list"
    )


def test_a_token_named_twice_is_refused(prepare) -> None:
    with pytest.raises(ConfigError, match=r"^tokenize.new_special_tokens names <\|x\|> twice"):
        prepare(["t"], new_special_tokens=["<|x|>", "<|y|>", "<|x|>"])


@pytest.mark.parametrize("token", ["", " "])
def test_an_empty_new_token_is_refused(token: str, prepare) -> None:
    with pytest.raises(ConfigError, match=r"^tokenize.new_special_tokens holds ' ?'; a token must have"):
        prepare(["t"], new_special_tokens=[token])


def test_new_tokens_that_no_row_has_are_a_warning(prepare) -> None:
    rows = [preference("q<|end|>", "a", "b")]
    control, unseen = prepare(rows, TEMPLATE, objective="dpo", new_special_tokens=NEW).report.warnings
    assert control.startswith("2 rows hold the text of special tokens")
    assert unseen.startswith("tokenize.new_special_tokens: no training row has <|end|>, so nothing is learned of it")


def test_a_new_token_of_rejected_answers_alone_is_seen(prepare) -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['content'] == 'b' %}<|tool|>{% endif %}<eos>{% endfor %}"
    )
    tokens = prepare([preference("q", "a", "b")], template, objective="dpo", new_special_tokens=["<|tool|>"])
    assert tokens.report.warnings == []
    assert list(tokens.rows.rejected_ids[0])[1:] == [258, 1]


def test_a_tokenizer_beyond_the_models_vocabulary_is_refused(prepare, tiny_model: Path, tmp_path: Path) -> None:
    model = with_tokens(tiny_model, tmp_path / "model", AddedToken("word"), AddedToken("more"))
    with pytest.raises(ModelError) as error:
        prepare([("q", "a")], None, model)
    assert str(error.value) == (
        "the model's vocabulary of 258 tokens is smaller than its tokenizer's, whose ids go up to 259: word (token "
        "258) has no embedding\nuse the tokenizer that the model was trained with; to add tokens to it, name them in "
        "tokenize.new_special_tokens"
    )


@pytest.mark.parametrize("size", [258, 264, None])
def test_a_model_s_vocabulary_may_be_as_large_or_larger_or_unknown(size, prepare, tiny_model, tmp_path) -> None:
    model = with_tokens(tiny_model, tmp_path / "model", vocab_size=size)
    tokens = prepare(["t<|tool|>"], None, model, new_special_tokens=["<|tool|>"])
    assert tokens.report.new_token_ids == [258]
    config = json.loads((tokens.tokenizer_directory / "config.json").read_text(encoding="utf-8"))
    # raised for the new token, unless the model has room for it
    assert config.get("vocab_size") == {258: 259, 264: 264, None: None}[size]


def test_the_vocabulary_of_a_model_with_a_text_config_is_read(prepare, tiny_model: Path, tmp_path: Path) -> None:
    parts = {"vocab_size": None, "text_config": {"vocab_size": 100, "max_position_embeddings": 64}}
    model = with_tokens(tiny_model, tmp_path / "model", **parts)
    with pytest.raises(ModelError, match=r"the model's vocabulary of 100 tokens is smaller than its tokenizer's"):
        prepare([("q", "a")], None, model)


def test_a_special_token_that_is_never_written_may_be_beyond_the_vocabulary(prepare, tiny_model, tmp_path) -> None:
    """An example is the image token in the tokenizer of Gemma 3's text-only model."""
    model = with_tokens(tiny_model, tmp_path / "model", AddedToken("<image>", special=True))
    assert prepare([("q<image>", "a")], None, model).text(0) == "q<image>\na<eos>"
    with pytest.raises(ModelError, match=r"<image> \(token 258\) has no embedding"):
        prepare([("q", "a")], "{% for m in messages %}<image>{{ m['content'] }}<eos>{% endfor %}", model)
    with pytest.raises(DataError) as error:
        prepare(["t", "t<image>"], None, model)
    assert str(error.value) == (
        "f:2: has a token without an embedding in the model's vocabulary of 258 tokens (2 such rows)\n"
        "remove the special token from these texts, or use a model that has it"
    )


def test_phases_share_one_tokenizer_and_one_template(prepare) -> None:
    first = prepare([("q", "a")], TEMPLATE, new_special_tokens=["<|tool|>"])
    last = prepare([("q", "a")], TEMPLATE, first.tokenizer_directory)
    check_same_tokenizer([first.report, last.report, last.report])
    other = prepare([("q", "a")], TEMPLATE + "{# other #}", first.tokenizer_directory)
    with pytest.raises(ConfigError, match=r"^phase 3 has another chat template than the first phase: config, config\n"):
        check_same_tokenizer([first.report, last.report, other.report])
    plain = prepare([("q", "a")], TEMPLATE)
    with pytest.raises(ConfigError, match=r"^phase 2 has another tokenizer than the first phase \(SHA-256 "):
        check_same_tokenizer([first.report, plain.report])
