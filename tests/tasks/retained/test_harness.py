"""lm-evaluation-harness on a real small model: its numbers are ours, and what it cannot do is one error."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, clean_environment
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import ConfigError
from configs.schema.measures import HarnessTaskConfig
from tasks.evaluate.likelihood import token_log_probabilities
from tasks.measures.measured import score
from tasks.retained.harness import EMBEDDED_TASK, HarnessResult, check_tasks, run_tasks


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(tiny_model)


def own_task(folder: Path, rows: list[dict], **changes: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    path = folder / "own.yaml"
    path.write_text(json.dumps(task))
    return path


ROWS = [
    {"question": "What is 3 plus 4?", "choices": ["7", "8 9", "11"], "answer": 0},
    {"question": "What is 5 plus 5?", "choices": ["2 3", "10", "4"], "answer": 1},
    {"question": "What is 2 plus 2?", "choices": ["1", "3", "4 4 4"], "answer": 2},
]


def test_its_choices_are_those_of_our_own_log_probabilities(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    [result] = run_tasks([HarnessTaskConfig(task=str(own_task(tmp_path, ROWS)))], model, tokenizer, 2)
    expected = []
    for row in ROWS:
        prompt = tokenizer(row["question"]).input_ids
        whole = [tokenizer(f"{row['question']} {choice}").input_ids for choice in row["choices"]]
        counted = [np.arange(len(ids)) >= len(prompt) for ids in whole]
        sums = [own.sum() for own in token_log_probabilities(model, whole, counted, tokenizer.pad_token_id, 2)]
        expected.append(int(np.argmax(sums)))
    assert result.answers == [row["choices"][best] for row, best in zip(ROWS, expected, strict=True)]
    right = [float(best == row["answer"]) for row, best in zip(ROWS, expected, strict=True)]
    assert result.values.values.tolist() == right and result.metric == "acc,none"
    assert score(result.values.sums.sum(axis=0), "mean") == pytest.approx(sum(right) / 3)
    assert result.expected == ["7", "10", "4 4 4"] and result.row_ids == ["own:0", "own:1", "own:2"]
    assert result.prompts == [row["question"] for row in ROWS]


def test_a_loglikelihood_is_the_sum_of_our_own(loaded: tuple[Any, Any]) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = loaded
    pairs = [("What is 3 plus 4?", " 7"), ("What is 12 plus 1?", " 13 13"), ("What is", " 5 plus 6?")]
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    whole = [tokenizer(prompt + end).input_ids for prompt, end in pairs]
    counted = [
        np.arange(len(ids)) >= len(tokenizer(prompt).input_ids) for ids, (prompt, _) in zip(whole, pairs, strict=True)
    ]
    own = token_log_probabilities(model, whole, counted, tokenizer.pad_token_id, 2)
    theirs = [value for value, _ in wrapped.loglikelihood(requests)]
    np.testing.assert_allclose(theirs, [values.sum() for values in own], rtol=1e-4)


def test_the_embedded_task_has_fifty_sums_and_needs_no_network(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    path = Path(__file__).parents[3] / "tasks" / "retained" / "harness" / "arithmetic.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 50 and len({row["question"] for row in rows}) == 50
    assert all(len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4 for row in rows)
    [result] = run_tasks([HarnessTaskConfig(task=EMBEDDED_TASK, limit=5)], *loaded, 8)
    assert len(result.values.values) == 5 and result.task == EMBEDDED_TASK
    assert result.expected == [row["choices"][row["answer"]] for row in rows[:5]]


def test_few_shot_puts_examples_before_each_prompt(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    path = own_task(tmp_path, ROWS)
    [result] = run_tasks([HarnessTaskConfig(task=str(path), few_shot=1, limit=2)], *loaded, 2)
    assert all(prompt.count("What is") == 2 for prompt in result.prompts)
    path = own_task(tmp_path, ROWS, num_fewshot=0)
    with pytest.raises(ConfigError, match="fixes its prompts to no examples"):
        run_tasks([HarnessTaskConfig(task=str(path), few_shot=1)], *loaded, 2)


def test_a_task_that_generates_has_its_answers(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    changes = {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "doc_to_choice": None,
        "doc_to_target": "{{choices[answer]}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    [result] = run_tasks([HarnessTaskConfig(task=str(own_task(tmp_path, ROWS, **changes)))], *loaded, 2)
    assert result.metric == "exact_match,none" and result.expected == ["7", "10", "4 4 4"]
    own = [float(a == b) for a, b in zip(result.answers, result.expected, strict=True)]
    assert result.values.values.tolist() == own


def test_only_shares_that_rise_are_main_metrics(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "own_code.py").write_text(
        "def with_share(doc, results):\n    return {**without_share(doc, results), 'share': 0.25}\n"
        "def without_share(doc, results):\n    return {'edits': 0.5, 'points': 40.0}\n"
    )

    def run(function: str, **metrics: bool) -> HarnessResult:
        named = [{"metric": key, "aggregation": "mean", "higher_is_better": up} for key, up in metrics.items()]
        path = own_task(tmp_path, ROWS, metric_list=named)
        lines = [f"{key}: {json.dumps(value)}" for key, value in json.loads(path.read_text()).items()]
        path.write_text("\n".join([*lines, f"process_results: !function own_code.{function}"]))
        [result] = run_tasks([HarnessTaskConfig(task=str(path))], *loaded, 2)
        return result

    # `edits` is lower for better answers, and `points` no share: 2 points of it say nothing
    found = run("with_share", edits=False, points=True, share=True)
    assert found.metric == "share,none" and found.values.values.tolist() == [0.25] * 3
    with pytest.raises(ConfigError, match="has no metric") as caught:
        run("without_share", edits=False, points=True)
    assert "edits, points" in str(caught.value)


def test_what_cannot_run_is_one_error(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    def message(path: Path, run: bool = True) -> str:
        with pytest.raises(ConfigError) as caught:
            run_tasks([HarnessTaskConfig(task=str(path))], *loaded, 2) if run else check_tasks(
                [HarnessTaskConfig(task=str(path))]
            )
        assert len(str(caught.value).splitlines()) <= 3 and "evaluate.retained.harness[0].task=" in str(caught.value)
        return str(caught.value)

    assert "runs code that the model writes" in message(own_task(tmp_path, ROWS, unsafe_code=True))
    assert "cannot be loaded" in message(own_task(tmp_path, ROWS, dataset_kwargs={"data_files": {"test": "no.jsonl"}}))
    assert "cannot be loaded" in message(own_task(tmp_path, ROWS, metric_list=[{"metric": "nothing"}]))
    assert "cannot be loaded" in message(own_task(tmp_path, ROWS, doc_to_target="{{nothing}}"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: [")
    assert "cannot be read" in message(broken, run=False)
    broken.write_text("name: x")
    assert "describes no task" in message(broken, run=False)
    assert "cannot be read" in message(tmp_path / "none.yaml", run=False)


def test_the_check_runs_no_code_and_the_run_does(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    path = own_task(tmp_path, ROWS)
    (tmp_path / "own_code.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def text(doc):\n    return doc['question']\n"
    )
    path.write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in json.loads(path.read_text()).items()))
    path.write_text(path.read_text().replace('doc_to_text: "{{question}}"', "doc_to_text: !function own_code.text"))
    check_tasks([HarnessTaskConfig(task=str(path))])
    assert not (tmp_path / "ran").exists()
    [result] = run_tasks([HarnessTaskConfig(task=str(path))], *loaded, 2)
    assert (tmp_path / "ran").exists() and result.prompts[0] == "What is 3 plus 4?"


@pytest.mark.slow
def test_a_hub_that_never_answers_is_one_error(tiny_model: Path, tmp_path: Path) -> None:
    path = own_task(tmp_path, ROWS, dataset_path="someone/sums", dataset_kwargs={})
    script = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from configs.schema.measures import HarnessTaskConfig\nfrom tasks.retained.harness import run_tasks\n"
        "folder, task = sys.argv[1:]\nmodel = AutoModelForCausalLM.from_pretrained(folder)\n"
        "run_tasks([HarnessTaskConfig(task=task)], model, AutoTokenizer.from_pretrained(folder), 2)"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **clean_environment(),
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "WAITING_SECONDS": "0.5",
        }
        command = [sys.executable, "-c", script, str(tiny_model), str(path)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    *_, first, fix = result.stderr.strip().splitlines()
    assert result.returncode == 1 and "ConfigError: evaluate.retained.harness[0].task=" in first
    assert "own.yaml cannot be loaded, since the hub cannot be reached" in first and fix.endswith("or remove the task")


@pytest.mark.slow
def test_names_are_checked_without_a_network() -> None:
    check_tasks([HarnessTaskConfig(task="hellaswag"), HarnessTaskConfig(task=EMBEDDED_TASK)])
    with pytest.raises(ConfigError, match="is no task of lm-evaluation-harness"):
        check_tasks([HarnessTaskConfig(task="no_such_task_anywhere")])
    with pytest.raises(ConfigError, match="named twice"):
        check_tasks([HarnessTaskConfig(task=EMBEDDED_TASK), HarnessTaskConfig(task=EMBEDDED_TASK)])


def test_without_the_package_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    check_tasks([])
    with pytest.raises(ConfigError, match=r"pip install 'flyte-fine-tune\[harness\]'"):
        check_tasks([HarnessTaskConfig(task=EMBEDDED_TASK)])
