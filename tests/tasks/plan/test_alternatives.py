"""Alternatives to a config that does not fit: every offer, written into the config, fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_3_70B

from configs.schema import FineTuneConfig
from configs.wire_plan import Alternative
from tasks.plan.alternatives import Search, _adapter, _evaluation_in_4_bits, changed
from tasks.plan.hardware.gpus import find_gpu
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import fits_evaluation, fits_training, training_job, training_memory, with_evaluation
from tasks.plan.time.duration import RowFacts, estimate_duration

TYPES = list(GPU_TYPES.values())
A100 = "A100-80GB"


def config(max_length: int = 2048, evaluate: dict[str, Any] | None = None, **train: Any) -> FineTuneConfig:
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
    "70B, LoRA, scored by one": (
        config(method="lora", micro_batch_size=1, processes_per_node=8, sharding="fsdp_full_shard", evaluate={}),
        LLAMA_3_70B,
        A100,
    ),
    "70B, QLoRA, scored by one": (config(method="qlora", micro_batch_size=1, evaluate={}), LLAMA_3_70B, A100),
    "70B, LoRA, trained and scored by one": (
        config(method="lora", micro_batch_size=1, evaluate={}),
        LLAMA_3_70B,
        A100,
    ),
    "70B in full, scored by one": (
        config(method="full", micro_batch_size=1, nodes=4, processes_per_node=8, sharding="zero3", evaluate={}),
        LLAMA_3_70B,
        A100,
    ),
    "70B, QLoRA, scored by two": (
        config(method="qlora", micro_batch_size=1, max_length=512, evaluate={"gpus": 2, "batch_size": 1}),
        LLAMA_3_70B,
        "L40S",
    ),
}


@pytest.fixture(params=MISFITS, ids=str)
def search(request: pytest.FixtureRequest) -> Search:
    subject, shape, gpu = MISFITS[request.param]
    found = Search(subject, shape, gpu_target(GPU_TYPES[gpu]), TYPES)
    assert not (fits_training(subject, shape, found.target) and fits_evaluation(subject, shape, found.target))
    return found


def applied(search: Search, offer: Alternative) -> tuple[FineTuneConfig, Target]:
    """Return the config with an offer written into it, and the target on which it would train."""
    changes = {line.partition(": ")[0]: yaml.safe_load(line.partition(": ")[2]) for line in offer.changes}
    offered = changed(search.config, changes)
    assert offered is not None, offer.changes
    gpu = offered.train.cluster.gpu
    return offered, gpu_target(find_gpu(gpu, GPU_TYPES)) if gpu else search.target


def test_every_offer_written_into_the_config_fits(search: Search) -> None:
    offers = search.nearest()
    assert 1 <= len(offers) <= 3
    for offer in offers:
        offered, target = applied(search, offer)
        assert target.name == offer.gpu
        assert fits_training(offered, search.shape, target), offer.changes
        assert fits_evaluation(offered, search.shape, target), offer.changes
        assert offer.bytes_per_gpu <= target.memory_bytes


def test_offers_are_of_different_kinds_and_the_nearest_is_first(search: Search) -> None:
    offers = search.nearest()
    assert len({tuple(line.partition(": ")[0] for line in offer.changes) for offer in offers}) == len(offers)
    sizes = [len(offer.changes) for offer in offers]
    assert sizes == sorted(sizes)
    # no offer has all the changes of another and more
    sets = [set(offer.changes) for offer in offers]
    assert not any(one < other for one in sets for other in sets)


def offered_changes(name: str) -> list[list[str]]:
    subject, shape, gpu = MISFITS[name]
    return [offer.changes for offer in Search(subject, shape, gpu_target(GPU_TYPES[gpu]), TYPES).nearest()]


def test_a_smaller_micro_batch_is_offered_first_for_too_many_rows() -> None:
    first = offered_changes("13B, LoRA, too many rows")[0]
    assert len(first) == 1 and first[0].startswith("train.micro_batch_size: ")


def test_gradient_checkpointing_is_offered_where_it_is_off() -> None:
    assert ['train.efficiency.gradient_checkpointing: "on"'] in offered_changes("7B, LoRA, no checkpointing")


def test_sharding_is_offered_for_ddp_that_does_not_fit() -> None:
    offers = [line for offer in offered_changes("13B, DDP on 8") for line in offer]
    assert "train.sharding: zero2" in offers


def test_an_offer_with_a_second_change_has_more_rows() -> None:
    first, *others = offered_changes("13B, LoRA, too many rows")
    micro_batches = [int(line.rpartition(" ")[2]) for offer in others for line in offer if "micro_batch_size" in line]
    assert micro_batches and min(micro_batches) > int(first[0].rpartition(" ")[2])


def test_a_smaller_batch_is_offered_for_an_evaluation_of_too_many_rows() -> None:
    assert offered_changes("7B, LoRA, scored by too many rows")[0][0].startswith("evaluate.batch_size: ")
    both = offered_changes("7B, LoRA, trained and scored by too many")
    assert ["micro" in line for line in both[0]] == [True, False], both
    on_these = [offer for offer in both if "cluster.gpu" not in offer[0]]
    assert on_these and all("evaluate.batch_size: " in offer[-1] for offer in on_these)


@pytest.mark.parametrize(
    "name", ["70B, LoRA, scored by one", "70B, QLoRA, scored by one", "70B in full, scored by one"]
)
def test_a_model_that_one_gpu_cannot_score_may_be_divided_or_in_4_bits(name: str) -> None:
    assert offered_changes(name) == [["evaluate.gpus: 2"], ["evaluate.load_in: 4bit"]]


def test_a_change_of_training_comes_with_the_gpus_that_score() -> None:
    offers = offered_changes("70B, LoRA, trained and scored by one")
    assert len(offers) == 3 and all(offer[-1] == "evaluate.gpus: 2" for offer in offers)


def test_more_gpus_are_offered_to_a_model_that_is_divided_already() -> None:
    # 141 GB of weights over 48 GB each; in 4 bits one of two has 20 GB
    offers = offered_changes("70B, QLoRA, scored by two")
    assert ["evaluate.gpus: 4"] in offers and ["evaluate.load_in: 4bit"] in offers


def test_no_gpus_are_offered_beyond_those_of_a_machine() -> None:
    machine_of_two = replace(GPU_TYPES["L40S"], gpus_per_node=2)
    subject = config(method="qlora", micro_batch_size=1, max_length=512, evaluate={"gpus": 2, "batch_size": 1})
    offers = Search(subject, LLAMA_3_70B, gpu_target(machine_of_two), [machine_of_two]).nearest()
    assert offers and not any("evaluate.gpus" in line for offer in offers for line in offer.changes)


def test_copies_in_8_bits_are_left_out_where_they_would_not_fit() -> None:
    subject = config(method="qlora", micro_batch_size=1, max_length=512, evaluate={})
    gpu = replace(GPU_TYPES["L40S"], gpus_per_node=1, memory_bytes=60e9)
    [offer] = [
        offer for offer in Search(subject, LLAMA_3_70B, gpu_target(gpu), [gpu]).nearest() if len(offer.changes) == 2
    ]
    # 71 GB in 8 bits, and 40 in 4
    assert offer.changes == ["evaluate.load_in: 4bit", "quantize.methods: ['4bit']"]


def test_scores_in_4_bits_are_offered_only_where_enough_is_quantized() -> None:
    subject = config(method="lora", micro_batch_size=1, evaluate={"batch_size": 1})
    mostly_experts = replace(LLAMA_3_70B, unquantized=(("MixtralExperts", 10**12),))
    search = Search(subject, mostly_experts, gpu_target(GPU_TYPES[A100]), TYPES)
    assert list(_evaluation_in_4_bits(search)) == []


def test_an_adapter_is_offered_for_one_gpu() -> None:
    assert ["train.method: lora"] in offered_changes("7B in full on one")


def test_fewer_processes_are_offered_on_a_laptop() -> None:
    subject = config(method="lora", micro_batch_size=1, processes_per_node=4, max_length=128)
    small = replace(LLAMA_2_7B, layers=2)
    two = config(method="lora", micro_batch_size=1, processes_per_node=2, max_length=128)
    bytes_per_process = training_memory(training_job(two, small, Target("CPU", 1)), Target("CPU", 1)).total
    offers = Search(subject, small, Target("CPU", 2 * bytes_per_process), TYPES).nearest()
    assert ["train.processes_per_node: 2"] in [offer.changes for offer in offers]


def test_the_price_of_an_offer_is_that_of_its_own_plan(search: Search) -> None:
    """The mean length of the rows decides the price: a lower limit that is still above it makes no row cheaper."""
    facts = RowFacts(rows=6400, mean_tokens=100)
    offers = replace(search, facts=facts).nearest()
    assert offers
    for offer in offers:
        offered, target = applied(search, offer)
        settled = with_evaluation(offered, search.shape, target)
        assert offer.expectation == estimate_duration(
            settled, training_job(settled, search.shape, target), target.gpu, facts
        )
        assert offer.expectation.cost is not None


def test_a_cpu_is_offered_no_gpus() -> None:
    laptop = Target("CPU", 64e9)
    offers = Search(config(method="full", micro_batch_size=1), LLAMA_2_7B, laptop, TYPES).nearest()
    assert offers and all(offer.gpus == 0 and offer.gpu == "CPU" for offer in offers)


def test_a_config_that_no_change_makes_fit_has_no_offer() -> None:
    assert Search(config(method="qlora", micro_batch_size=1), LLAMA_2_70B, Target("CPU", 1e9), TYPES).nearest() == []


def test_a_change_that_the_schema_refuses_gives_no_config() -> None:
    assert changed(config(method="qlora"), {"train.sharding": "zero3"}) is None
    assert changed(config(), {"train.processes_per_node": 7}) is None


def test_a_quantized_base_is_offered_only_where_it_can_be_quantized() -> None:
    # the weights of 13B take 26 GB in 16 bits, and 8 GB in 4
    lora = config(method="lora", micro_batch_size=1)
    mostly_experts = replace(LLAMA_2_13B, unquantized=(("MixtralExperts", 10**12),))
    for shape, is_offered in ((LLAMA_2_13B, True), (mostly_experts, False)):
        search = Search(lora, shape, gpu_target(find_gpu("L4", GPU_TYPES)), TYPES)
        assert [dict(offer.changes) for offer in _adapter(search)] == [{"train.method": "qlora"}] * is_offered
