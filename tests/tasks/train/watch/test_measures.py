"""Measures of generated answers during training: they rise as a model learns, decide what is kept, change nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from pydantic import ValidationError
from safetensors.torch import load_file
from support.watched_runs import untied_model

from configs.errors import ConfigError
from configs.schema import EvaluateConfig, ModelConfig, TrainConfig
from configs.wire import Choice, CurvePoint, Series, TrainReport
from tasks.decks.training import render_training
from tasks.models.decoding import GreedyDecoder
from tasks.models.generation import generate_answers
from tasks.models.load import load_model, load_tokenizer
from tasks.plan.assumptions import of_measures
from tasks.train.checkpoint.store import CheckpointPlaces
from tasks.train.fit import FitInputs, fit
from tasks.train.inputs import answered_rows
from tasks.train.watch.diagnose import diagnose
from tasks.train.watch.held_out import evaluation_arguments
from tasks.train.watch.measures import own_rows, unchanged
from tasks.train.watch.observers import Observer

LEARNS = {"batch_size": 11, "micro_batch_size": 11, "learning_rate": 1e-2, "lr_scheduler": "constant"}


def series_called(name: str, report: TrainReport) -> Series:
    [found] = [series for series in report.series if series.name == name]
    return found


@pytest.fixture(scope="module")
def mixed(answers: Path, strange: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eleven rows, which can be learned, and eleven long texts without a prompt, whose loss only rises."""
    texts = pd.read_parquet(strange / "tokens.parquet")
    texts = texts.assign(prompt_length=0, prompt="", row_id=[f"strange:{number}" for number in range(len(texts))])
    directory = tmp_path_factory.mktemp("mixed")
    rows = pd.read_parquet(answers / "tokens.parquet").to_dict("records")
    pd.DataFrame(rows + texts.to_dict("records")).to_parquet(directory / "tokens.parquet")
    return directory


def test_exact_match_rises_and_decides_against_the_loss(
    train: Any, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = train(
        "out",
        inputs={"test_tokens": mixed},
        **LEARNS,
        max_steps=120,
        watch={"evaluations": 12, "early_stopping": 4, "measures": ["exact_match"], "best_by": "exact_match"},
    )
    match, loss = series_called("eval_exact_match", report), series_called("eval_loss", report)
    # six of the eleven answers are wanted; the texts without a prompt are in the loss alone
    assert all((6 * value) == pytest.approx(round(6 * value)) for value in match.values)
    assert match.values[0] == 0.0
    assert match.values[-1] == 1.0
    first_whole = match.steps[match.values.index(1.0)]
    assert report.best_step == first_whole, "of equal values the earliest is kept"
    assert loss.steps[loss.values.index(min(loss.values))] < first_whole, "the loss would keep other weights"
    # four further evaluations are no better, and end the run
    assert report.steps == match.steps[-1] == match.steps[match.values.index(1.0) + 4] < 120
    printed = capsys.readouterr().out
    assert "held-out exact_match no longer improves" in printed
    assert f"the weights of step {first_whole} are kept" in printed
    assert "exact_match 1.0000" in printed
    named = {choice.name: choice for choice in report.choices}
    assert named["held-out measures"].value == "exact_match, of the answers to 6 of 6 rows with a prompt"
    assert named["weights kept by"].value == "exact_match"
    deck = render_training(report)
    assert f"of step {first_whole}, highest held-out exact_match: 1.0000" in deck
    assert "in generated answers" in deck


def test_the_kept_weights_are_those_that_were_measured(train: Any, mixed: Path, tiny_model: Path) -> None:
    """Generate with the saved model anew: the answers are those that training saw at its best step."""
    report, model = train(
        "out",
        inputs={"test_tokens": mixed},
        **LEARNS,
        max_steps=40,
        watch={"evaluations": 8, "measures": ["exact_match"], "best_by": "exact_match"},
    )
    match = series_called("eval_exact_match", report)
    rows = pd.read_parquet(mixed / "tokens.parquet").iloc[:11:2].reset_index(drop=True)
    answers = generate_answers(
        load_model(ModelConfig(name="tiny"), model).eval(), load_tokenizer(model), rows, EvaluateConfig(), [1]
    )
    right = sum(answer.text == expected for answer, expected in zip(answers, rows.expected, strict=True))
    assert max(match.values) == pytest.approx(right / 6)
    assert right > 0, "nothing was learned, so nothing is shown"


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full"},
        {"method": "lora", "lora": {"rank": 4, "dropout": 0.2}, "efficiency": {"gradient_checkpointing": "on"}},
        {"method": "qlora", "efficiency": {"gradient_checkpointing": "on", "precision": "bfloat16"}},
        {"method": "prefix_tuning", "prompt": {"num_virtual_tokens": 4}},
        {"method": "prompt_tuning", "prompt": {"num_virtual_tokens": 4}},
        {"method": "lora", "lora": {"rank": 4, "dropout": 0.2}, "objective": "dpo"},
        {"method": "full", "objective": "kto", "kto": {"loss": "apo_zero_unpaired"}},
    ],
    ids=["full", "lora-checkpointed", "qlora", "prefix", "prompt", "dpo-lora", "kto"],
)
def test_measuring_changes_no_weight(train: Any, answers: Path, settings: dict[str, Any]) -> None:
    weights, reports = [], []
    for name, measures in (("with", ["exact_match", "chrf"]), ("without", [])):
        watch = {"evaluations": 2, "keep": "last", "measures": measures}
        report, output = train(name, inputs={"test_tokens": answers}, max_steps=4, watch=watch, **settings)
        [file] = output.glob("*.safetensors")
        weights.append(load_file(file))
        reports.append(report)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert reports[0].curve == reports[1].curve
    assert series_called("eval_loss", reports[0]) == series_called("eval_loss", reports[1])
    assert series_called("eval_chrf", reports[0]).steps == [2, 4]


class EndsAt(Observer):
    """Ends the run with an error after a step, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_resumed_run_keeps_its_values_and_its_best_step(
    train: Any, inputs: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    settings = {
        **LEARNS,
        "method": "full",
        "max_steps": 30,
        "watch": {"evaluations": 6, "measures": ["token_f1"], "best_by": "token_f1"},
        "checkpoint": {"every_steps": 2},
    }
    undisturbed, _ = train("whole", inputs={"test_tokens": inputs["test_tokens"]}, **settings)
    config, loading = TrainConfig(**settings), ModelConfig(name="tiny")
    first, second = (str(tmp_path / f"checkpoints-{number}") for number in (1, 2))
    with pytest.raises(KeyboardInterrupt):
        fit(config, loading, FitInputs(**inputs, observers=[EndsAt(17)]), tmp_path / "a", CheckpointPlaces(first))
    resumed = fit(config, loading, FitInputs(**inputs), tmp_path / "b", CheckpointPlaces(second, first))
    values = series_called("eval_token_f1", resumed)
    assert values.steps == [5, 10, 15, 20, 25, 30]
    assert values == series_called("eval_token_f1", undisturbed)
    assert resumed.best_step == undisturbed.best_step == values.steps[values.values.index(max(values.values))]


def test_policies_are_measured_with_their_own_length_of_answers(train: Any, answers: Path) -> None:
    policy = {"num_generations": 2, "max_new_tokens": 6, "rewards": [{"kind": "exact_match"}]}
    watch = {"evaluations": 1, "keep": "last", "measures": ["chrf"]}
    report, _ = train("out", inputs={"test_tokens": answers}, objective="grpo", policy=policy, max_steps=1, watch=watch)
    assert series_called("eval_chrf", report).steps == [1]
    assert series_called("eval_reward", report).steps == [1]


def test_random_numbers_and_modes_are_as_they_were() -> None:
    model = untied_model().train()
    model.model.layers[0].eval()
    model.config.use_cache = False
    before = [module.training for module in model.modules()]
    drawn = []
    for draws_within in (True, False):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        with unchanged(model):
            assert not any(module.training for module in model.modules())
            assert model.config.use_cache
            if draws_within:
                random.random(), np.random.random(), torch.rand(3)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))
        assert [module.training for module in model.modules()] == before
        assert model.config.use_cache is False
    assert drawn[0] == drawn[1]


def test_answers_keep_their_keys_and_values_within_training() -> None:
    """Training switches the cache off and recomputes activations; each new token must yet be one column."""
    model = untied_model().train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    with unchanged(model):
        [answered] = GreedyDecoder(model, [], 0).answers([[5, 6, 7]], [4], [[0]])
    assert len(answered[0]) == 4
    # one token to see which cache the model has, the prompt, and then token by token
    assert widths == [1, 3, 1, 1, 1]
    assert model.is_gradient_checkpointing and all(module.training for module in model.modules())
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_error_within_leaves_the_model_in_training() -> None:
    model = untied_model().train()
    with pytest.raises(KeyError), unchanged(model):
        raise KeyError
    assert all(module.training for module in model.modules())


def test_only_wanted_answers_to_prompts_are_measured(mixed: Path) -> None:
    # every second of the eleven rows is unwanted, and the eleven after them have no prompt
    assert answered_rows(mixed / "tokens.parquet") == [0, 2, 4, 6, 8, 10]


def test_processes_share_whole_batches_of_similar_length() -> None:
    rows = pd.DataFrame({"prompt_length": [5, 1, 4, 2, 3]})
    parts = [list(own_rows(rows, 2, rank, 2).index) for rank in (0, 1)]
    # in order of length: rows 1 3 | 4 2 | 0
    assert parts == [[1, 3, 0], [4, 2]]
    assert list(own_rows(rows, 2, 0, 1).index) == [1, 3, 4, 2, 0]
    assert own_rows(rows, 2, 3, 4).empty


def test_rows_are_evenly_spread_and_denominators_are_shown(train: Any, answers: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(answers / "tokens.parquet")
    # "14" alone of the eleven expected answers has a number; it is the seventh
    rows.assign(is_wanted=True).to_parquet(tmp_path / "tokens.parquet")
    watch = {"evaluations": 1, "keep": "last", "measures": ["exact_match", "numeric_answer"]}
    # rows 0 2 4 6 8 of the eleven
    report, _ = train("five", inputs={"test_tokens": tmp_path}, max_steps=1, watch={**watch, "measured_rows": 5})
    [line] = [choice for choice in report.choices if choice.name == "held-out measures"]
    assert line == Choice(
        name="held-out measures",
        value="exact_match, numeric_answer, of the answers to 5 of 11 rows with a prompt",
        reason="evenly spread; numeric_answer counts 1 of them",
    )
    # rows 0 2 5 8
    with pytest.raises(ConfigError, match=r"(?s)numeric_answer needs .* raise train.watch.measured_rows"):
        train("four", inputs={"test_tokens": tmp_path}, max_steps=1, watch={**watch, "measured_rows": 4})


def test_a_measure_that_fits_no_row_is_one_error(train: Any, answers: Path) -> None:
    watch = {"evaluations": 1, "measures": ["tool_calls"]}
    with pytest.raises(ConfigError) as refused:
        train("out", inputs={"test_tokens": answers}, max_steps=1, watch=watch)
    assert str(refused.value) == (
        "train.watch.measures: tool_calls needs expected answers with a tool call in one of the forms of "
        "docs/evaluation.md; of 6 held-out rows that are measured 0 fit\ntake it out of train.watch.measures; "
        "use normalized_match and token_f1 for short texts, rouge_l and chrf for long ones"
    )


@pytest.mark.parametrize("function", ["fails", "missing"])
def test_a_function_that_fails_ends_the_run_before_its_first_step(
    function: str, train: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ROOT / "measured_by_a_test.py"
    module.write_text("def fails(prompts, answers, expected):\n    raise RuntimeError('no')\n", encoding="utf-8")
    measure = {"name": "function", "function": f"measured_by_a_test:{function}"}
    try:
        with pytest.raises(ConfigError, match=r"^train\.watch\.measures: function="):
            train("out", inputs={"test_tokens": answers}, max_steps=1, watch={"evaluations": 1, "measures": [measure]})
    finally:
        module.unlink()
    assert "step 1" not in capsys.readouterr().out


def test_held_out_rows_without_prompts_are_one_error(train: Any, texts: Path) -> None:
    watch = {"evaluations": 1, "measures": ["exact_match"]}
    with pytest.raises(ConfigError, match=r"train\.watch\.measures: none of 11 held-out rows has a prompt"):
        train("out", inputs={"test_tokens": texts}, max_steps=1, watch=watch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "cpt"}, "train.watch.measures .*objective=cpt.* no prompts"),
        ({"objective": "reward"}, "train.watch.measures .*objective=reward.* no answers"),
        *(
            ({"sharding": sharding, "processes_per_node": 2, "method": "full"}, f"train.sharding={sharding}.*zero2")
            for sharding in ("zero3", "fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard", "tensor_parallel")
        ),
        ({"watch": {"measures": [{"name": "exact_match", "title": "loss"}]}}, "title=loss .* trainer's own"),
        ({"watch": {"measures": ["exact_match"], "best_by": "exact"}}, "best_by=exact is no measure"),
        ({"watch": {"measures": ["exact_match", "exact_match"]}}, "more than once"),
    ],
)
def test_runs_that_cannot_be_measured_are_refused(settings: dict[str, Any], message: str) -> None:
    watch = {"watch": {"measures": ["exact_match"]}}
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**{**watch, **settings})


@pytest.mark.parametrize("sharding", ["none", "zero1", "zero2", "fsdp_no_shard"])
def test_whole_weights_can_be_measured(sharding: Any) -> None:
    TrainConfig(sharding=sharding, watch={"measures": ["exact_match"]})


def test_the_direction_is_that_of_the_measure() -> None:
    def arguments(measure: Any, **settings: Any) -> dict[str, Any]:
        watch = {"measures": [measure], "best_by": measure if isinstance(measure, str) else measure["name"]}
        return evaluation_arguments(TrainConfig(watch=watch, **settings), 10, has_held_out=True)

    function = {"name": "function", "function": "tasks.rewards.numbers:last_number_matches"}
    assert arguments("chrf")["metric_for_best_model"] == "eval_chrf"
    assert arguments("chrf")["greater_is_better"] is True
    assert arguments(function)["greater_is_better"] is True
    assert arguments({**function, "lower_is_better": True})["greater_is_better"] is False
    assert arguments("chrf", objective="grpo", batch_size=8)["metric_for_best_model"] == "eval_chrf"
    without = evaluation_arguments(TrainConfig(watch={"measures": ["chrf"]}), 10, has_held_out=True)
    assert (without["metric_for_best_model"], without["greater_is_better"]) == ("eval_loss", False)


def test_the_finding_of_overfitting_names_the_weights_that_are_kept() -> None:
    config = TrainConfig(watch={"measures": ["exact_match"], "best_by": "exact_match"}, max_steps=3)
    curve = [CurvePoint(step=step, loss=loss, learning_rate=1e-3, grad_norm=1.0) for step, loss in ((1, 2.0), (3, 0.1))]
    series = [
        Series(name="eval_loss", steps=[1, 2, 3], values=[1.0, 1.2, 2.0]),
        Series(name="eval_exact_match", steps=[1, 2, 3], values=[0.1, 0.5, 0.5]),
    ]
    [finding] = diagnose("sft", config, curve, series, num_rows=8)
    assert "lowest at step 1 (1.000)" in finding
    assert "The weights of step 2 were kept" in finding


def test_the_deck_has_a_chart_of_each_measure_and_of_no_other_series(train: Any, answers: Path, tmp_path: Path) -> None:
    watch = {"evaluations": 2, "keep": "last", "measures": ["accuracy", {"name": "chrf", "title": "likeness"}]}
    rows = pd.read_parquet(answers / "tokens.parquet").assign(expected="yes")
    rows.to_parquet(tmp_path / "tokens.parquet")
    charts = {}
    for name, settings in (("with", watch), ("without", {**watch, "measures": []})):
        report, _ = train(name, inputs={"test_tokens": tmp_path}, objective="dpo", max_steps=2, watch=settings)
        page = render_training(report)
        assert page.count("in generated answers") == (2 if name == "with" else 0)
        charts[name] = page.count("<svg")
    assert charts["with"] == charts["without"] + 2


def test_accuracy_of_answers_is_not_taken_for_accuracy_of_preferences() -> None:
    config = TrainConfig(objective="kto", watch={"measures": ["accuracy"]}, max_steps=30)
    curve = [CurvePoint(step=step, loss=1 / step, learning_rate=1e-5, grad_norm=1.0) for step in range(1, 31)]
    series = [Series(name="eval_accuracy", steps=[10, 20, 30], values=[0.0, 0.1, 0.2])]
    assert not any("Not learned" in finding for finding in diagnose("kto", config, curve, series, num_rows=8))


def test_the_plan_says_what_answering_takes_that_it_does_not_estimate() -> None:
    assert of_measures(TrainConfig()) == []
    [line] = of_measures(TrainConfig(watch={"measures": ["chrf"], "measured_rows": 20, "evaluations": 3}))
    assert line == (
        "the time and memory to answer 20 held-out rows at each of 3 evaluations (train.watch.measures) are not "
        "estimated"
    )


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from configs.schema import ModelConfig, TrainConfig
from tasks.train.fit import FitInputs, fit
cases, tokens, output = sys.argv[1:]
tokens, output = Path(tokens), Path(output)
for name, settings in json.loads(cases).items():
    model = Path(settings.pop("model"))
    inputs = FitInputs(model=model, train_tokens=tokens, test_tokens=tokens, tokenizer=model, end_token_ids=[1])
    report = fit(TrainConfig(**settings), ModelConfig(name="tiny"), inputs, output / name)
    (output / f"{name}.{os.environ['RANK']}.json").write_text(report.model_dump_json())
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(train: Any, answers: Path, tmp_path: Path) -> None:
    """Of a model that stands still, values are equal; of one that learns, both processes decide by the same values."""
    _, model = train("taught", inputs={"test_tokens": answers}, **LEARNS, max_steps=30)
    watch = {"evaluations": 2, "keep": "last", "measures": ["exact_match", "token_f1", "chrf"]}
    still = {"method": "full", "batch_size": 12, "micro_batch_size": 2, "max_steps": 2, "learning_rate": 1e-30}
    expected, _ = train("one", inputs={"test_tokens": answers, "model": model}, **still, watch=watch)
    deciding = {"evaluations": 6, "early_stopping": 2, "measures": ["token_f1"], "best_by": "token_f1"}
    learns = {**still, **LEARNS, "batch_size": 12, "micro_batch_size": 2, "max_steps": 60}
    two = {"processes_per_node": 2, "model": str(model)}
    cases = {
        # DeepSpeed last: a process that has used it cannot go back
        "ddp": {**still, **two, "watch": watch},
        "learns": {**learns, **two, "watch": deciding},
        "zero2": {**still, **two, "watch": watch, "sharding": "zero2"},
        "zero2-learns": {**learns, **two, "watch": deciding, "sharding": "zero2"},
    }
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(
        [*command, json.dumps(cases), str(answers), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    reports = {
        name: [TrainReport.model_validate_json((tmp_path / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]
        for name in cases
    }
    for name in ("ddp", "zero2"):
        for measure in ("eval_exact_match", "eval_token_f1", "eval_chrf"):
            for report in reports[name]:
                assert series_called(measure, report) == series_called(measure, expected)
    assert 0 < series_called("eval_chrf", expected).values[0] < 1, "a value of its own, which few answers have"
    for name in ("learns", "zero2-learns"):
        first, second = (series_called("eval_token_f1", report) for report in reports[name])
        assert first == second
        best = first.steps[first.values.index(max(first.values))]
        assert [report.best_step for report in reports[name]] == [best, best]
        assert reports[name][0].steps == reports[name][1].steps
