"""The plan of one phase: memory of published sizes, settings that are filled in, GPUs that presets run on."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B, LLAMA_3_70B

from configs.errors import ConfigError
from configs.load import PRESETS, load_config
from configs.schema import FineTuneConfig
from configs.wire_plan import PhasePlan, Plan
from tasks.decks.plan import facts
from tasks.plan.assumptions import assumptions, row_facts_of
from tasks.plan.checks.first_rows import FirstRows
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.phases import Training, misfit_message, plan_phase
from tasks.plan.shapes.architectures import known_shape, shape_of
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import training_job, training_memory
from tasks.plan.time.duration import RowFacts

LLAMA_65B = ModelShape("Llama-65B", 8192, 80, 64, 64, 22016, 32000)


def config(max_length: int = 512, **train: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": max_length},
            "evaluate": {"batch_size": 1},
            "train": {"batch_size": 16, "micro_batch_size": 1, **train},
        }
    )


def test_full_fine_tuning_of_7b_with_adam_does_not_fit_in_80_gb() -> None:
    plan, _ = plan_phase(Training("train", config(method="full", cluster={"gpu": "A100-80GB"}), LLAMA_2_7B, None))
    use = plan.memory[0]
    # 16 bytes for each of 6,738,415,616 parameters, without activations and buffers
    assert use.weights + use.gradients + use.optimizer == 16 * 6_738_415_616
    assert not plan.fits
    needs, offers, advice = misfit_message(plan).splitlines()
    assert needs.startswith("train: training needs 1") and "A100-80GB has 80 GB" in needs
    assert offers.count(" | ") == 2 and "train.method: lora" in offers
    assert "plan.if_too_large=warn" in advice


def test_lora_of_rank_8_takes_about_14_gb_and_fits_in_24() -> None:
    subject = config(method="lora", lora={"rank": 8}, cluster={"gpu": "nvidia-a10g"})
    plan, _ = plan_phase(Training("train", subject, LLAMA_2_7B, None))
    use = plan.memory[0]
    assert plan.trainable_parameters == 19_988_480
    assert (use.weights + use.gradients + use.optimizer) / 1e9 == pytest.approx(14, abs=0.3)
    assert plan.fits


def test_qlora_of_65b_trains_in_48_gb() -> None:
    target = replace(gpu_target(GPU_TYPES["L40S"]), memory_bytes=48e9)
    use = training_memory(training_job(config(method="qlora"), LLAMA_65B, target), target)
    assert use.total <= 48e9


def blank_plan(phase: PhasePlan) -> Plan:
    return Plan(model_revision="", chat_template=None, warnings=[], stages=[phase])


def test_open_settings_are_filled_in_and_fixed_ones_stay() -> None:
    subject = config(method="lora", micro_batch_size=None, cluster={"disk_gib": 77, "gpu": "H200"})
    plan, settled = plan_phase(Training("train", subject, LLAMA_2_7B, None))
    assert settled.train.micro_batch_size == plan.micro_batch_size == 8
    assert plan.accumulation == 2
    cluster = settled.train.cluster
    assert (cluster.disk_gib, cluster.memory_gib_per_process) == (77, plan.machines.memory_gib)
    # nothing else changes
    assert settled.model_copy(update={"train": subject.train}) == subject


def test_the_batch_size_of_the_evaluation_is_filled_in_too() -> None:
    subject = config(max_length=4096, method="lora", cluster={"gpu": "A100-40GB"})
    for given, rows in ((None, 8), (2, 2)):
        evaluate = subject.evaluate.model_copy(update={"batch_size": given})
        plan, settled = plan_phase(
            Training("train", subject.model_copy(update={"evaluate": evaluate}), LLAMA_2_7B, None)
        )
        assert (plan.fits, plan.evaluation_rows, settled.evaluate.batch_size) == (True, rows, rows)
    # with twice the rows it would not fit
    more = subject.model_copy(update={"evaluate": subject.evaluate.model_copy(update={"batch_size": 16})})
    plan, _ = plan_phase(Training("train", more, LLAMA_2_7B, None))
    assert not plan.fits and plan.alternatives[0].changes == ["evaluate.batch_size: 8"]


def test_a_model_that_no_gpu_can_score_says_so() -> None:
    big = ModelShape("big", 16384, 126, 128, 8, 53248, 128256)
    plan, _ = plan_phase(Training("train", config(method="qlora", cluster={"gpu": "H200"}), big, None))
    assert "take a smaller model" in misfit_message(plan).splitlines()[1]
    tried = misfit_message(plan, only_warns=True).splitlines()
    assert len(tried) == 2 and "if_too_large" not in tried[1]


def scored(method: str, evaluate: dict[str, Any], gpu: str = "A100-80GB", **train: Any) -> PhasePlan:
    subject = config(method=method, cluster={"gpu": gpu}, **train)
    content = {**subject.model_dump(mode="json"), "evaluate": evaluate}
    plan, _ = plan_phase(Training("train", FineTuneConfig.model_validate(content), LLAMA_3_70B, None))
    return plan


SHARDED: dict[str, Any] = {"processes_per_node": 8, "sharding": "fsdp_full_shard"}


@pytest.mark.parametrize(
    ("method", "train"),
    [("lora", SHARDED), ("qlora", {}), ("full", {**SHARDED, "nodes": 4, "batch_size": 32})],
)
def test_a_model_of_70b_is_scored_over_several_gpus_or_in_4_bits(method: str, train: dict[str, Any]) -> None:
    refused = scored(method, {}, **train)
    needs, offers, _ = misfit_message(refused).splitlines()
    assert not refused.fits
    assert (
        "evaluation needs 150 GB per GPU (weights 141," in needs
        and "the whole model on one GPU, 1 x 512 tokens" in needs
    )
    assert offers == "it would fit with evaluate.gpus: 2 | evaluate.load_in: 4bit"
    # 40 layers of 1.71 GB with an embedding of 2.1; all 80 with both ends, in 8 bits as a copy has them; 22 of 0.857
    # with the head, after 16, 21 and 21
    for evaluate, weights, words in (
        ({"gpus": 2}, 70.6, "the model divided over 2 GPUs"),
        ({"load_in": "4bit"}, 72.7, "the whole model in 4 bits on one GPU"),
        ({"load_in": "4bit", "gpus": 4}, 20.95, "the model in 4 bits divided over 4 GPUs"),
    ):
        plan = scored(method, evaluate, **train)
        assert plan.fits and plan.evaluation_gpus == evaluate.get("gpus", 1)
        assert plan.memory[1].weights / 1e9 == pytest.approx(weights, abs=0.1)
        assert words in dict(facts(blank_plan(plan), plan))["evaluation"]


def test_the_plan_says_how_many_gpus_a_pod_of_the_evaluation_asks_for() -> None:
    plan = scored("qlora", {"gpus": 4})
    lines = assumptions({"train": config()}, [plan], LLAMA_3_70B, None, [])
    assert "the evaluation runs on A100-80GB too; its pod asks for 4 GPUs of any type" in lines


def test_a_cpu_scores_the_whole_model_whatever_the_gpus() -> None:
    content = {**config().model_dump(mode="json"), "evaluate": {"gpus": 4, "batch_size": 1}}
    subject = FineTuneConfig.model_validate(content)
    plan, settled = plan_phase(Training("train", subject, LLAMA_2_7B, Target("CPU", 64e9)))
    assert plan.evaluation_gpus == 1 and settled.evaluate.gpus == 4
    # 32 bits on a CPU
    assert plan.memory[1].weights == 4 * 6_738_415_616


def test_a_plan_for_this_machine_has_no_table_of_gpu_types() -> None:
    plan, _ = plan_phase(Training("train", config(), LLAMA_2_7B, Target("CPU", 64e9)))
    assert plan.gpus == [] and plan.machines.gpus == 0
    assert plan.expectation.hours is None
    there, _ = plan_phase(Training("train", config(), LLAMA_2_7B, None))
    assert {candidate.gpu for candidate in there.gpus} == set(GPU_TYPES)


def test_a_misfit_of_several_processes_states_the_memory_of_all() -> None:
    plan, _ = plan_phase(
        Training("train", config(method="full", processes_per_node=2), LLAMA_2_7B, Target("CPU", 64e9))
    )
    assert re.match(r"train: training needs \d+ GB per process, \d+ GB in 2 processes \(", misfit_message(plan))


def test_adapter_targets_that_no_layer_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="no_such_proj"):
        plan_phase(Training("train", config(lora={"target_modules": ["no_such_proj"]}), LLAMA_2_7B, None))


RUNS_ON = dict(re.findall(r"^\| `([\w.-]+)` \|.*\| one (\d+) GB GPU \|$", (ROOT / "README.md").read_text(), re.M))


@pytest.mark.parametrize("preset", RUNS_ON)
def test_a_preset_fits_the_gpu_that_the_readme_names(preset: str) -> None:
    subject = load_config(PRESETS / f"{preset}.yaml")
    known = known_shape(subject.model.name)
    assert known is not None
    shape = shape_of(known.settings, known.name)
    plan, _ = plan_phase(Training("train", subject, shape, None))
    assert plan.fits
    sizes = {24: 23.6e9, 40: 40e9, 80: 80e9}
    large_enough = [candidate for candidate in plan.gpus if candidate.memory_bytes >= sizes[int(RUNS_ON[preset])]]
    assert large_enough and all(candidate.fits for candidate in large_enough), preset


def test_the_readme_names_presets_of_one_gpu() -> None:
    assert len(RUNS_ON) == 3


def rows_of(where: str, rows: float | None, characters: float | None) -> FirstRows:
    return FirstRows(where, "file", "prompt_completion", {}, 20, frozenset({"pair"}), characters, rows)


def row_facts(sources: list[dict[str, Any]], *first_rows: FirstRows) -> RowFacts:
    content = {"model": {"name": "a/b"}, "data": {"sources": sources, "test_fraction": 0.25}}
    return row_facts_of(FineTuneConfig.model_validate(content), first_rows)


def test_training_rows_are_estimated_from_the_first_rows_of_each_source() -> None:
    one, two = {"path": "one.jsonl"}, {"path": "two.jsonl", "weight": 2.0}
    found = row_facts([one, two], rows_of("data.sources[0]", 100, 400), rows_of("data.sources[1]", 50, 800))
    # 100 + 2 x 50, of which a quarter is held out; (100 x 400 + 100 x 800) / 200 characters, 4 a token
    assert (found.rows, found.mean_tokens) == (150, 150)
    assert "about 150 training rows of 150 tokens" in found.how


def test_given_test_rows_are_not_trained_on_and_nothing_else_is_held_out() -> None:
    sources = [{"path": "one.jsonl"}, {"path": "two.jsonl", "role": "test"}]
    assert row_facts(sources, rows_of("data.sources[0]", 100, 400), rows_of("data.sources[1]", 50, 800)).rows == 100


@pytest.mark.parametrize("rows", [None, 0])
def test_rows_that_cannot_be_counted_are_not_estimated(rows: float | None) -> None:
    found = row_facts([{"path": "one.parquet"}], rows_of("data.sources[0]", rows, 10))
    assert (found.rows, found.mean_tokens) == (None, None)
    assert row_facts([{"path": "one.jsonl"}]).rows is None


def test_rows_that_are_all_bad_have_no_length() -> None:
    found = row_facts([{"path": "one.jsonl"}], rows_of("data.sources[0]", 80, None))
    assert (found.rows, found.mean_tokens) == (60, None)
    assert found.how == "about 60 training rows, assumed to have the longest length"
