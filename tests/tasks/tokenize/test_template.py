"""Templates that rewrite earlier turns, mark answers themselves, or write no BOS."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from configs.errors import DataError
from tasks.tokenize.turns import Conversation

# like Qwen3's template, it keeps reasoning only in the turns after the last question
DROPS_REASONING = """{%- set last = namespace(question=0) -%}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] == 'assistant' and loop.index0 < last.question and '</think>' in m['content'] -%}
{{- '<|im_start|>assistant\n' + m['content'].split('</think>')[-1] + '<|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
THOUGHTS = [("user", "U"), ("assistant", "x</think>A"), ("user", "V"), ("assistant", "y</think>B")]
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_drops_earlier_reasoning_trains_one_answer_at_a_time(prepare, families) -> None:
    tokens = prepare([THOUGHTS], DROPS_REASONING, families["chatml"].directory)
    assert list(tokens.rows.row_id) == ["f:1#answer1", "f:1#answer2"]
    assert tokens.marked(0) == "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n«x</think>A<|im_end|>»\n"
    assert tokens.marked(1) == (
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n«y</think>B<|im_end|>»\n"
    )
    assert list(tokens.rows.prompt) == ["U", "V"]
    # both splits hold the row
    assert tokens.report.one_answer_each_rows == 4
    assert tokens.report.warnings[0].startswith("4 sequences (f:1#answer1, f:1#answer2, f:1#answer1, ...) are parts of")


def test_a_template_that_drops_earlier_reasoning_can_train_the_last_answer(prepare, families) -> None:
    tokens = prepare([THOUGHTS], DROPS_REASONING, families["chatml"].directory, train_on="last_answer")
    before = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
    assert tokens.marked(0) == before + "<|im_start|>assistant\n«y</think>B<|im_end|>»\n"
    assert tokens.prompt(0) == before + "<|im_start|>assistant\n"


def test_a_template_that_drops_earlier_reasoning_can_train_a_single_answer(prepare, families) -> None:
    tokens = prepare([THOUGHTS[:2]], DROPS_REASONING, families["chatml"].directory)
    assert tokens.marked(0).endswith("«x</think>A<|im_end|>»\n")


def test_a_last_answer_whose_prompt_is_rewritten_is_refused(prepare) -> None:
    counting = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"
    with pytest.raises(
        DataError,
        match=r"^f:1: the chat template .* changes earlier turns .*\n.*\nset tokenize.chat_template to another ",
    ):
        prepare([[("user", "U"), ("assistant", "A")]], counting, train_on="last_answer")


@pytest.mark.parametrize("num_turns", [1, 3])
def test_spans_equal_the_generation_tags_of_a_template(num_turns: int, prepare, families) -> None:
    """transformers masks a template with generation tags by the tags, and not by prefixes as this stage does."""
    family = families["chatml"]
    row = [("system", "S"), *[("user", "q?"), ("assistant", "answer\n é")] * num_turns]
    tokens = prepare([row], TAGGED, family.directory)
    tokenizer = AutoTokenizer.from_pretrained(family.directory)
    messages = [{"role": role, "content": content} for role, content in row]
    tagged = tokenizer.apply_chat_template(
        messages, chat_template=TAGGED, return_dict=True, return_assistant_tokens_mask=True
    )
    assert list(tokens.rows.input_ids[0]) == tagged["input_ids"]
    assert [int(label != -100) for label in tokens.rows.labels[0]] == tagged["assistant_masks"]
    assert sum(tagged["assistant_masks"]) == num_turns * (len("answer\n é".encode()) + 1)


def test_a_template_without_the_tokenizers_bos_is_a_warning(prepare, families) -> None:
    family = families["mistral"]
    row = [("user", "Hi"), ("assistant", "Ho")]
    without = family.template.replace("{{- bos_token -}}\n", "")
    assert without != family.template
    warnings = prepare([row] * 4, without, family.directory).report.warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "8 rows begin without <s> (f:1, f:2, f:3, ...): the tokenizer writes it before a text"
    )


@pytest.mark.parametrize(("name", "row"), [("mistral", ("Hi", "Ho")), ("mistral", "text"), ("chatml", ("Hi", "Ho"))])
def test_no_warning_where_bos_is_written_or_the_tokenizer_has_none(name: str, row, prepare, families) -> None:
    family = families[name]
    template = family.template if name == "chatml" else None
    assert prepare([row], template, family.directory).report.warnings == []


def test_an_answer_needs_two_renderings(families, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to encoding, most of the time goes into rendering, so the whole conversation is rendered only once."""
    from tasks.tokenize import spans

    calls = []
    apply = spans.apply
    monkeypatch.setattr(spans, "apply", lambda *a, **kw: calls.append(json.dumps(a[0])) or apply(*a, **kw))
    family = families["chatml"]
    setup = family.setup()
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    for num_answers in (0, 1, 2, 3):
        calls.clear()
        answers = list(range(1, 2 * num_answers, 2)) or [1]
        spans.render(Conversation(turns[: answers[-1] + 1], []), family.template, setup, "f:1", answers)
        # the first time, two more renderings tell what the template writes after a last turn only
        assert len(calls) == (2 * num_answers or 4)


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SKIPS_SYSTEM = NO_SYSTEM.replace("{{ raise_exception('System role not supported') }}{% endif %}", "{% else %}").replace(
    "{% endfor %}", "{% endif %}{% endfor %}", 1
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (NO_SYSTEM, "refuses it (System role not supported)"),
        (SKIPS_SYSTEM, "does not render the content of a turn of role system"),
    ],
)
def test_a_refused_system_turn_names_the_setting_that_moves_it(template: str, reason: str, prepare, families) -> None:
    row = [("system", "Be brief."), ("user", "Q 1"), ("assistant", "A 1")]
    with pytest.raises(DataError) as caught:
        prepare([row], template, families["chatml"].directory)
    lines = str(caught.value).splitlines()
    assert reason in lines[0]
    assert "set data.tolerate.fold_system_turn: true, or set tokenize.chat_template to another template" in lines[-1]
    # where that would not help it is not named
    never = template.replace("{{ '<|im_start|>'", "{{ raise_exception('never') }}{{ '<|im_start|>'")
    with pytest.raises(DataError) as caught:
        prepare([row], never, families["chatml"].directory)
    assert "fold_system_turn" not in str(caught.value)
