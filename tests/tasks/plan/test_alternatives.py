"""What is offered in the place of a config that does not fit: every offer, written into the config, does fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from configs.schema import FineTuneConfig
from configs.wire_plan import Alternative
from tasks.plan.alternatives import Search, changed
from tasks.plan.hardware.gpus import GPU_TYPES, find_gpu
from tasks.plan.shapes.shape import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, ModelShape
from tasks.plan.sizing import (
    Target,
    fits_evaluation,
    fits_training,
    gpu_target,
    training_job,
    training_memory,
    with_evaluation,
)
from tasks.plan.time.duration import RowFacts, expect

TYPES = list(GPU_TYPES.values())
A100 = "A100-80GB"


def config(max_length: int = 2048, evaluate: dict[str, int] | None = None, **train: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": max_length},
            "train": {"batch_size": 64, **train},
            "evaluate": evaluate or {"batch_size": 1, "generate_rows": 0},
        }
    )


MISFITS: dict[str, tuple[FineTuneConfig, ModelShape, str]] = {
    "7B in full on one": (config(method="full", micro_batch_size=1), LLAMA_2_7B, A100),
    "7B in full on 24 GB": (config(method="full", micro_batch_size=4), LLAMA_2_7B, "L4"),
    "13B, DDP on 8": (config(method="full", micro_batch_size=2, processes_per_node=8), LLAMA_2_13B, A100),
    "13B, LoRA, too many rows": (config(method="lora", micro_batch_size=64, max_length=4096), LLAMA_2_13B, A100),
    "7B, LoRA, no checkpointing": (
        config(method="lora", micro_batch_size=8, efficiency={"gradient_checkpointing": "off"}),
        LLAMA_2_7B,
        "A100-40GB",
    ),
    "13B, LoRA on 40 GB, long rows": (
        config(method="lora", micro_batch_size=4, max_length=4096),
        LLAMA_2_13B,
        "A100-40GB",
    ),
    "7B, LoRA, scored by too many rows": (
        config(method="lora", micro_batch_size=1, evaluate={"batch_size": 256}),
        LLAMA_2_7B,
        "A100-40GB",
    ),
    "7B, LoRA, trained and scored by too many": (
        config(method="lora", micro_batch_size=32, evaluate={"batch_size": 256}),
        LLAMA_2_7B,
        "A100-40GB",
    ),
}


@pytest.fixture(params=MISFITS, ids=str)
def search(request: pytest.FixtureRequest) -> Search:
    subject, shape, gpu = MISFITS[request.param]
    found = Search(subject, shape, gpu_target(GPU_TYPES[gpu]), TYPES)
    assert not (fits_training(subject, shape, found.target) and fits_evaluation(subject, shape, found.target))
    return found


def applied(search: Search, offer: Alternative) -> tuple[FineTuneConfig, Target]:
    """Return the config with an offer written into it, and where it would train."""
    changes = {line.partition(": ")[0]: yaml.safe_load(line.partition(": ")[2]) for line in offer.changes}
    again = changed(search.config, changes)
    assert again is not None, offer.changes
    named = again.train.cluster.gpu
    return again, gpu_target(find_gpu(named, GPU_TYPES)) if named else search.target


def test_every_offer_written_into_the_config_fits(search: Search) -> None:
    offers = search.nearest()
    assert 1 <= len(offers) <= 3
    for offer in offers:
        again, target = applied(search, offer)
        assert target.name == offer.gpu
        assert fits_training(again, search.shape, target), offer.changes
        assert fits_evaluation(again, search.shape, target), offer.changes
        assert offer.bytes_per_gpu <= target.memory_bytes


def test_offers_are_of_different_kinds_and_the_nearest_is_first(search: Search) -> None:
    offers = search.nearest()
    assert len({tuple(line.partition(": ")[0] for line in offer.changes) for offer in offers}) == len(offers)
    sizes = [len(offer.changes) for offer in offers]
    assert sizes == sorted(sizes)
    # none has a change that another does without
    sets = [set(offer.changes) for offer in offers]
    assert not any(one < other for one in sets for other in sets)


def kinds(name: str) -> list[list[str]]:
    subject, shape, gpu = MISFITS[name]
    return [offer.changes for offer in Search(subject, shape, gpu_target(GPU_TYPES[gpu]), TYPES).nearest()]


def test_too_many_rows_are_answered_by_fewer_first() -> None:
    first = kinds("13B, LoRA, too many rows")[0]
    assert len(first) == 1 and first[0].startswith("train.micro_batch_size: ")


def test_what_keeps_every_activation_is_told_to_compute_them_again() -> None:
    assert ['train.efficiency.gradient_checkpointing: "on"'] in kinds("7B, LoRA, no checkpointing")


def test_ddp_of_what_does_not_fit_is_told_to_divide() -> None:
    offers = [line for offer in kinds("13B, DDP on 8") for line in offer]
    assert "train.sharding: zero2" in offers


def test_a_second_change_is_worth_more_rows() -> None:
    first, *others = kinds("13B, LoRA, too many rows")
    rows = [int(line.rpartition(" ")[2]) for offer in others for line in offer if "micro_batch_size" in line]
    assert rows and min(rows) > int(first[0].rpartition(" ")[2])


def test_an_evaluation_of_too_many_rows_is_told_to_take_fewer() -> None:
    assert kinds("7B, LoRA, scored by too many rows")[0][0].startswith("evaluate.batch_size: ")
    both = kinds("7B, LoRA, trained and scored by too many")
    assert ["micro" in line for line in both[0]] == [True, False], both
    on_these = [offer for offer in both if "cluster.gpu" not in offer[0]]
    assert on_these and all("evaluate.batch_size: " in offer[-1] for offer in on_these)


def test_one_gpu_is_offered_an_adapter() -> None:
    assert ["train.method: lora"] in kinds("7B in full on one")


def test_processes_that_share_a_laptop_may_be_fewer() -> None:
    subject = config(method="lora", micro_batch_size=1, processes_per_node=4, max_length=128)
    small = replace(LLAMA_2_7B, layers=2)
    two = config(method="lora", micro_batch_size=1, processes_per_node=2, max_length=128)
    each = training_memory(training_job(two, small, Target("CPU", 1)), Target("CPU", 1)).total
    offers = Search(subject, small, Target("CPU", 2 * each), TYPES).nearest()
    assert ["train.processes_per_node: 2"] in [offer.changes for offer in offers]


def test_the_price_of_an_offer_is_that_of_its_own_plan(search: Search) -> None:
    """With the rows' own length: a lower limit above it makes them no cheaper."""
    facts = RowFacts(rows=6400, mean_tokens=100)
    offers = replace(search, facts=facts).nearest()
    assert offers
    for offer in offers:
        again, target = applied(search, offer)
        settled = with_evaluation(again, search.shape, target)
        assert offer.expectation == expect(settled, training_job(settled, search.shape, target), target.gpu, facts)
        assert offer.expectation.cost is not None


def test_a_cpu_is_offered_no_gpus() -> None:
    laptop = Target("CPU", 64e9)
    offers = Search(config(method="full", micro_batch_size=1), LLAMA_2_7B, laptop, TYPES).nearest()
    assert offers and all(offer.gpus == 0 and offer.gpu == "CPU" for offer in offers)


def test_what_no_change_makes_fit_has_no_offer() -> None:
    assert Search(config(method="qlora", micro_batch_size=1), LLAMA_2_70B, Target("CPU", 1e9), TYPES).nearest() == []


def test_a_change_that_the_schema_refuses_is_none() -> None:
    assert changed(config(method="qlora"), {"train.sharding": "zero3"}) is None
    assert changed(config(), {"train.processes_per_node": 7}) is None
