"""A model trained on pairs without a chat template gets one that renders exactly what was trained."""

from __future__ import annotations

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer


@pytest.mark.parametrize("separator", ["\n", "\n### Answer:\n", ' "quoted" {{ x }} \\ é\t', ""])
def test_the_template_gives_the_trained_tokens(separator: str, prepare) -> None:
    pairs = [("What is 1 + 1?", "2"), ("Café\n{% if %}", 'He said "no".\n')]
    tokens = prepare(pairs, prompt_separator=separator)
    tokenizer = AutoTokenizer.from_pretrained(tokens.tokenizer_directory)
    for row, (prompt, answer) in enumerate(pairs):
        user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
        whole = tokenizer.apply_chat_template([user, assistant], return_dict=False)
        assert whole == list(tokens.rows.input_ids[row])
        asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
        assert asked == list(tokens.rows.input_ids[row][: tokens.rows.prompt_length[row]])


def test_it_writes_the_tokens_that_the_tokenizer_puts_before_a_text(prepare, families, tmp_path) -> None:
    directory = families["mistral"].directory
    tokens = prepare([("Q", "A")], model=directory)
    assert tokens.marked(0) == "<s>Q\n«A</s>»"
    tokenizer = AutoTokenizer.from_pretrained(tokens.tokenizer_directory)
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == list(tokens.rows.input_ids[0])


def test_it_refuses_what_was_not_trained(prepare) -> None:
    tokenizer = AutoTokenizer.from_pretrained(prepare([("Q", "A")]).tokenizer_directory)
    system, user, answer = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))
    for messages in ([system, user], [user, answer, user], [answer]):
        with pytest.raises(TemplateError, match="trained on one prompt and its answer"):
            tokenizer.apply_chat_template(messages)


def test_plain_texts_and_models_with_a_template_get_none(prepare, families) -> None:
    assert (
        AutoTokenizer.from_pretrained(prepare(["text"] * 2, objective="cpt").tokenizer_directory).chat_template is None
    )
    family = families["chatml"]
    tokens = prepare([("Q", "A")], family.template, family.directory)
    assert AutoTokenizer.from_pretrained(tokens.tokenizer_directory).chat_template == family.template


def test_a_model_trained_on_pairs_is_trained_on_them_again_as_before(prepare) -> None:
    """As the phases of an alignment are, whose tokenizer is that of the first one."""
    first = prepare([("Q", "A")], prompt_separator="\n> ")
    again = prepare([("Q", "A")], model=first.tokenizer_directory, prompt_separator="\n> ")
    assert again.report.template == first.report.template == "none"
    assert again.marked(0) == first.marked(0) == "Q\n> «A<eos>»"
    # with another separator it is the model's own template
    other = prepare([("Q", "A")], model=first.tokenizer_directory, prompt_separator="::")
    assert (other.report.template, other.marked(0)) == ("model", "Q\n> «A<eos>»")
