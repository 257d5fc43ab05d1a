"""Tokenizer, embedding and template are checked without torch, with the results of the tokenize stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from configs.errors import ConfigError, DataError, FineTuneError, ModelError
from configs.schema import ModelConfig, TokenizeConfig, TrainConfig
from tasks.plan.checks.preflight import NotCheckedError
from tasks.plan.checks.token_checks import check_length, check_template, check_tokenizer, read_checked_template
from tasks.plan.checks.tokenizers import SmallTokenizer, read_tokenizer
from tasks.plan.resolve.models import find_model
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.refused import InvalidRows
from tasks.tokenize.rows import Setup
from tasks.tokenize.spans import apply
from tasks.tokenize.template import Template, choose_template, load_tokenizer
from tasks.tokenize.turns import Conversation
from tasks.tokenize.vocabulary import check_vocabulary

TEMPLATES = Path(__file__).parents[2] / "tokenize" / "templates"
ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def read(model: Path) -> SmallTokenizer:
    files = find_model(ModelConfig(name=str(model)), None)
    assert files is not None
    return read_tokenizer(files, "model.name=m")


def settings(model: Path) -> dict[str, Any]:
    return json.loads((model / "config.json").read_text())


def checked(model: Path, given: str | None = None, **tokenize: Any) -> tuple[str, str]:
    return check_template(read(model), settings(model), TokenizeConfig(**tokenize), given)


def rendered(tokenizer: Any, turns: list[dict[str, Any]], asks: bool = False) -> str:
    """Return the turns as the tokenize stage renders them, by the template that is set on `tokenizer`."""
    config, template = TokenizeConfig(), Template("config", True, "")
    setup = Setup(tokenizer, find_control_tokens(tokenizer), template, config, 4096, "sft")
    return apply(Conversation(turns, []), tokenizer.chat_template, setup, "f:1", asks=asks)[0]


def test_the_small_tokenizer_equals_that_of_transformers(tiny_model: Path) -> None:
    small, whole = read(tiny_model), load_tokenizer(tiny_model, False)
    assert small.get_vocab() == whole.get_vocab()
    assert (small.eos_token, small.eos_token_id) == (whole.eos_token, whole.eos_token_id) == ("<eos>", 1)
    assert sorted(small.all_special_ids) == sorted(whole.all_special_ids)
    texts = ["What is 1?", "a<eos>b", ""]
    for split in (False, True):
        arguments = {"add_special_tokens": False, "split_special_tokens": split}
        assert small(texts, **arguments)["input_ids"] == whole(texts, **arguments)["input_ids"]


@pytest.mark.parametrize("name", ["chatml", "llama-3", "mistral"])
def test_templates_render_as_transformers_renders_them(name: str, tiny_model: Path) -> None:
    template = (TEMPLATES / f"{name}.jinja").read_text()
    small, whole = read(tiny_model), load_tokenizer(tiny_model, False)
    turns = [{"role": "user", "content": "é <b>"}, {"role": "assistant", "content": "2"}]
    for tokenizer in (small, whole):
        tokenizer.chat_template = template
    for has_prompt in (False, True):
        theirs = whole.apply_chat_template(turns, tokenize=False, add_generation_prompt=has_prompt)
        assert rendered(small, turns, has_prompt) == theirs


def test_a_template_sees_what_transformers_gives_it(tiny_model: Path) -> None:
    small, whole = read(tiny_model), load_tokenizer(tiny_model, False)
    template = (
        "{{ tools is none }} {{ documents is none }} {{ {'é': [1, '<']} | tojson(separators=(',', ':')) }} "
        "{{ eos_token }}{{ namespace(a=1).a }} {% generation %}{{ messages[0].content }}{% endgeneration %}"
    )
    small.chat_template = whole.chat_template = template
    turns = [{"role": "user", "content": "hi"}]
    theirs = whole.apply_chat_template(turns, tokenize=False)
    assert rendered(small, turns) == theirs == 'True True {"é":[1,"<"]} <eos>1 hi'


def test_a_template_is_rendered_without_torch() -> None:
    program = (
        "import sys; from tasks.plan.checks.token_checks import template_fault, tokenize_rows\n"
        "assert template_fault('{{ a }}') is None\n"
        "assert 'torch' not in sys.modules and 'transformers.modeling_utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_a_whole_model_passes(tiny_model: Path) -> None:
    found = check_tokenizer(read(tiny_model), settings(tiny_model), TokenizeConfig(new_special_tokens=["<|x|>"]))
    # <pad>, <eos> and 256 bytes
    assert found == "258 tokens, 1 new, 258 embeddings, answers end with <eos>"
    assert checked(tiny_model) == ("a plain one, as the model has none; turns end with <eos>", "")


def test_a_tokenizer_of_another_model_is_refused_as_the_stage_does(model: Path) -> None:
    change(model / "config.json", vocab_size=250)
    errors = []
    for tokenizer in (read(model), load_tokenizer(model, False)):
        choose_template(tokenizer, None, True)  # type: ignore[arg-type]
        with pytest.raises(ModelError) as caught:
            check_vocabulary(tokenizer, 250)  # type: ignore[arg-type]
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    with pytest.raises(ModelError, match=r"vocabulary of 250 tokens is smaller than its tokenizer's, .* 257"):
        check_tokenizer(read(model), settings(model), TokenizeConfig())


@pytest.mark.parametrize("wrong", [258, [1, 300]])
def test_an_end_token_without_an_embedding_is_named(wrong: Any, model: Path) -> None:
    change(model / "config.json", eos_token_id=wrong)
    with pytest.raises(ModelError, match=r"config.json names eos_token_id=(258|300), but .* has 258 tokens"):
        check_tokenizer(read(model), settings(model), TokenizeConfig())
    # some configs say with -1 that there is no such token
    change(model / "config.json", eos_token_id=1, pad_token_id=-1)
    check_tokenizer(read(model), settings(model), TokenizeConfig())


def test_a_new_token_that_the_vocabulary_has_is_named(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="new_special_tokens: <eos> is in the model's vocabulary already"):
        check_tokenizer(read(tiny_model), settings(tiny_model), TokenizeConfig(new_special_tokens=["<eos>"]))


def test_a_tokenizer_without_an_end_token_is_refused_or_left_to_its_class(model: Path) -> None:
    file = model / "tokenizer_config.json"
    change(file, eos_token=None, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ModelError, match=r"has no eos_token; set it in tokenizer_config.json"):
        read(model)
    change(file, tokenizer_class="GPT2Tokenizer")
    with pytest.raises(NotCheckedError, match="GPT2Tokenizer may define one"):
        read(model)
    change(file, eos_token="<end>")
    with pytest.raises(ModelError, match=r"does not have the eos_token that tokenizer_config.json names, <end>"):
        read(model)
    # older models name special tokens in another file
    content = {key: value for key, value in json.loads(file.read_text()).items() if key != "eos_token"}
    file.write_text(json.dumps(content))
    (model / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<eos>"}}))
    assert read(model).eos_token == "<eos>"


def test_files_that_cannot_be_read_are_refused_or_not_checked(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ModelError, match=r"the tokenizers package cannot read tokenizer.json"):
        read(model)
    (model / "tokenizer.json").rename(model / "vocab.json")
    with pytest.raises(NotCheckedError, match=r"has no tokenizer.json"):
        read(model)


def test_the_first_rows_are_rendered_with_their_tools(tiny_model: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [{"role": "user", "content": "SECRET"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    row = {"row_id": "f:1", "kind": "messages", "prompt": "", "completion": None, "messages": json.dumps(turns)}
    arguments = (read(tiny_model), settings(tiny_model))
    without_calls = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    # the plain template renders the call
    assert check_template(*arguments, TokenizeConfig(), None, [row])[1] == ""
    with pytest.raises(DataError, match=r"^f:1: .* does not render the call of a function \(1 such rows\)") as caught:
        check_template(*arguments, TokenizeConfig(), without_calls, [row])
    assert "SECRET" not in str(caught.value)
    _, warning = check_template(*arguments, TokenizeConfig(), without_calls, [row], invalid=InvalidRows(1, 2))
    assert warning.startswith("quarantined, as data.max_invalid_rows allows: f:1: the chat template")
    with pytest.raises(DataError, match=r"1 refused row, data.max_invalid_rows=2 tolerated, 2 already used by invalid"):
        check_template(*arguments, TokenizeConfig(), without_calls, [row], invalid=InvalidRows(2, 2))


def test_a_sentencepiece_model_alone_needs_its_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.tokenize import template

    (model / "tokenizer.model").write_bytes(b"model")
    # beside a tokenizer.json it is not read
    assert read(model).eos_token == "<eos>"
    (model / "tokenizer.json").unlink()
    monkeypatch.setattr(template, "find_spec", lambda name: None)
    for reading in (read, lambda folder: load_tokenizer(folder, False)):
        with pytest.raises(ModelError, match=r"tokenizer.model, and no tokenizer.json; the package sentencepiece"):
            reading(model)
    monkeypatch.setattr(template, "find_spec", lambda name: object())
    with pytest.raises(NotCheckedError, match=r"makes the tokenizer from a SentencePiece model, tokenizer.model"):
        read(model)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "config"])
def test_a_template_without_an_end_token_is_refused_wherever_it_is(place: str, model: Path) -> None:
    if place == "chat_template.jinja":
        (model / place).write_text(ENDLESS)
    elif place == "tokenizer_config.json":
        change(model / place, chat_template=ENDLESS)
    with pytest.raises(DataError, match=r"no end-of-turn token is trained .*\nset tokenize.chat_template to"):
        checked(model, ENDLESS if place == "config" else None)


def test_a_template_that_does_not_parse_is_named_with_its_line(model: Path, tmp_path: Path) -> None:
    broken = "{% for m in messages %}\n{{ m['content' }}\n{% endfor %}"
    file = tmp_path / "mine.jinja"
    file.write_text(broken)
    message = r"tokenize.chat_template=.*mine.jinja: line 2 is not valid Jinja \(.*; repair"
    with pytest.raises(ConfigError, match=message):
        read_checked_template(str(file))
    (model / "chat_template.jinja").write_text(broken)
    with pytest.raises(ModelError, match=r"the model's chat template: line 2 is not valid Jinja"):
        checked(model)


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('never messages') }}",
        "{{ messages[9]['content'] + 1 }}",
        "{% for m in messages %}{{ m.content | length + m.role }}{% endfor %}",
        "{{ messages.__class__.__mro__[1].__subclasses__()[0]() }}",
    ],
)
def test_a_template_that_fails_on_a_conversation_is_refused(text: str, tiny_model: Path) -> None:
    with pytest.raises(
        FineTuneError,
        match=r"a question and its answer: the chat template \(tokenize.chat_template\) (refuses|fails on) it",
    ) as caught:
        checked(tiny_model, text)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_template_that_rewrites_earlier_turns_is_named(tiny_model: Path) -> None:
    # like templates that drop the reasoning of all answers but the last
    text = (
        "{% for m in messages %}{{ m['role'] }}: "
        "{% if m['role'] == 'assistant' and not loop.last %}...{% else %}{{ m['content'] }}{% endif %}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert checked(tiny_model, text) == (
        "the config's; turns end with <eos>; rows with tools will be refused; conversations of several answers become "
        "one sequence for each answer",
        "",
    )


def test_generation_marks_and_loop_controls_are_supported(tiny_model: Path) -> None:
    text = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{% continue %}{% endif %}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ m['content'] | tojson }}{{ strftime_now('')}}{% endif %}{% endfor %}"
    )
    assert checked(tiny_model, text)[0] == "the config's; turns end with <eos>; rows with tools will be refused"


def test_lengths_are_those_that_the_stages_allow(tiny_model: Path) -> None:
    model = settings(tiny_model)

    def length(max_length: int | None, **train: Any) -> tuple[str, str]:
        return check_length(TokenizeConfig(max_length=max_length), TrainConfig(**train), model)

    assert length(None) == ("256 tokens of 256 positions", "")
    assert length(100) == ("100 tokens of 256 positions", "")
    with pytest.raises(ModelError, match=r"tokenize.max_length=257 exceeds the model's 256 positions"):
        length(257)
    prompt = {"method": "prefix_tuning", "prompt": {"num_virtual_tokens": 20}}
    # 236 and 20 are 256
    assert length(236, **prompt)[1] == ""
    assert "train.prompt.num_virtual_tokens=20 leaves 236 of 256 positions" in length(237, **prompt)[1]
    with pytest.raises(ConfigError, match="num_virtual_tokens=249 leaves 7 of the model's 256 positions\nlower it"):
        length(None, **{**prompt, "prompt": {"num_virtual_tokens": 249}})


def test_ids_are_decoded_as_by_transformers(tiny_model: Path) -> None:
    full, small = load_tokenizer(tiny_model, False), read(tiny_model)
    ids = [*full("Add 1 and 2.")["input_ids"], full.eos_token_id]
    for skips in (False, True):
        assert small.decode(ids, skip_special_tokens=skips) == full.decode(ids, skip_special_tokens=skips)
    assert small.decode(ids).endswith(full.eos_token)
