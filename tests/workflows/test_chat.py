"""`make chat`: a model answers in the terminal, with its base beside it, and errors are one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from workflows.chat import main


@pytest.fixture
def run_folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A run's folder with a model that has a chat template, and the record that names its base."""
    model = tmp_path / "outputs" / "mine" / "model"
    shutil.copytree(tiny_model, model)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{{ mark }}assistant: "
    (model / "chat_template.jinja").write_text(template)
    config = {"model": {"name": str(tiny_model)}, "tokenize": {"template_arguments": '{"mark": "#"}'}}
    (model.parent / "run.json").write_text(json.dumps({"config": config}))
    return model.parent


def chat(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments, "--new-tokens", "4"], input=typed)


def test_a_question_is_answered_as_the_model_generates(run_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run_folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "model")
    ids = tokenizer("user: Hi\n#assistant: ", return_tensors="pt")["input_ids"]
    output = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    expected = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    result = chat(str(run_folder / "model"), "--prompt", "Hi")
    assert result.exit_code == 0 and result.stdout.strip() == expected.strip()


def test_the_base_answers_beside_it_and_lines_are_questions(run_folder: Path) -> None:
    result = chat(str(run_folder / "model"), "--base", "1", typed="Hi\n\nAgain\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("base: ") == result.stdout.count("tuned: ") == 2


def test_a_model_that_cannot_be_loaded_is_one_error(tmp_path: Path) -> None:
    result = chat(str(tmp_path / "none"), "--prompt", "Hi")
    assert result.exit_code == 1
    first, fix = result.output.strip().splitlines()
    assert first == f"Error: there is no folder {tmp_path / 'none'}" and "outputs/demo/model" in fix


def test_a_model_without_a_known_base_says_how_to_name_one(tiny_model: Path) -> None:
    result = chat(str(tiny_model), "--base", "1", "--prompt", "Hi")
    assert result.exit_code == 1 and "BASE=owner/name" in result.output.splitlines()[-1]
