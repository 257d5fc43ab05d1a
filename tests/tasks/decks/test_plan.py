"""A plan as people read it: numbers in the units that are named, and nothing that a reader must guess."""

from __future__ import annotations

import re

import pytest

from configs.wire import TrainReport
from configs.wire_plan import Alternative, Check, Expectation, GpuFit, Machines, MemoryUse, ModelFacts, PhasePlan, Plan
from tasks.decks.plan import memory_rows, plan_text, planned_row, render_plan, render_planned, time_and_cost

GB = 10**9
EVIL = "<script>alert(1)</script>"
TRAINING = MemoryUse(
    moment="training",
    fullest="the backward pass",
    weights=16 * GB,
    gradients=1 * GB,
    optimizer=2 * GB,
    activations=4 * GB,
    logits=0,
    buffers=50 * 10**6,
    fragmentation=1 * GB,
    context=1 * GB,
)
KNOWN = Expectation(step_seconds=2.0, steps=1800, hours=1.0, tokens_per_second=5000.0, price_per_hour=8.0, cost=8.0)


def stage(fits: bool = True, expectation: Expectation = KNOWN) -> PhasePlan:
    return PhasePlan(
        name="train",
        objective="sft",
        method="lora",
        trainable_parameters=5_000_000,
        batch_size=16,
        micro_batch_size=4,
        accumulation=2,
        max_length=2048,
        memory=[TRAINING, TRAINING.model_copy(update={"moment": "evaluation", "activations": 0})],
        machines=Machines(
            nodes=1,
            gpus=2,
            gpu="L4",
            memory_bytes=24 * GB,
            processes=2,
            cpus=16,
            memory_gib=56,
            shared_memory_gib=4,
            disk_gib=60,
        ),
        expectation=expectation,
        fits=fits,
        alternatives=[]
        if fits
        else [
            Alternative(
                changes=["train.method: qlora"],
                keeps_result=False,
                bytes_per_gpu=9 * GB,
                gpu="L4",
                gpus=2,
                expectation=KNOWN.model_copy(update={"cost": None}),
            )
        ],
        gpus=[
            GpuFit(
                gpu="T4",
                memory_bytes=15 * GB,
                needed_bytes=25 * GB,
                fits=False,
                micro_batch_size=None,
                hours=None,
                cost=None,
            )
        ],
    )


def plan(*stages: PhasePlan, checks: list[Check] | None = None) -> Plan:
    return Plan(
        model_revision="r",
        chat_template=None,
        warnings=[],
        model=ModelFacts(
            name=EVIL,
            family="llama",
            license="mit",
            parameters=1_000_000_000,
            active_parameters=250_000_000,
            experts=8,
            is_tied=True,
            positions=2048,
            source="its config.json",
        ),
        checks=checks or [],
        stages=list(stages),
        assumptions=["rows are long"],
    )


def test_the_text_has_every_number_in_its_unit() -> None:
    text = plan_text(plan(stage()), "mine")
    for words in (
        "1,000,000,000 parameters (250,000,000 of them for a token, 8 experts), tied embeddings",
        "sft, lora: 5,000,000 parameters (0.5 %)",
        "16 rows of up to 2,048 tokens: micro-batch of 4 x 2 forward passes x 2 processes",
        "1 machine with 2 x L4, 16 cores, 56 GiB memory, 4 GiB /dev/shm, 60 GiB disk each",
        "about 1.0 hours, $8.00 for training steps alone: 1,800 steps, 2 s per step, 5,000 tokens/s",
        "train fits: training takes 25.1 GB per GPU, on L4 of 24 GB",
        "- rows are long",
    ):
        assert words in text, text
    # parts, what is spare, the sum, and what there is
    assert "training    16.00    1.00       2.00       4.00         0.00    0.050    2.00   25.05  24.00" in text


def test_the_deck_has_a_column_for_each_moment_and_a_row_for_each_part() -> None:
    rows = memory_rows(stage())
    assert rows[0] == ["weights", "16.00", "16.00"]
    assert rows[3] == ["activations", "4.00", "0.00"]
    # of training 16 + 1 + 2 + 4 + 0 + 0.05 + 1 + 1
    assert rows[8:] == [["total", "25.05", "21.05"], ["available", "24.00", "24.00"]]


def test_a_misfit_shows_what_would_fit() -> None:
    text = plan_text(plan(stage(fits=False)), "mine")
    assert "train does not fit: " in text
    assert re.search(r"train.method: qlora +9.00 +2 x L4 +no +2 +\$4.44 for 1,000 steps", text)
    page = render_plan(plan(stage(fits=False)), "mine")
    assert "What would fit" in page and "train.method: qlora" in page


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        (
            {"steps": None, "hours": None, "cost": None},
            "2 s per step, 5,000 tokens/s, $8.00 an hour; the number of steps ",
        ),
        ({"step_seconds": None, "hours": None, "cost": None}, "about 1,800 steps; not estimated"),
        ({"step_seconds": None, "steps": None, "hours": None, "cost": None}, "not estimated"),
        ({"cost": None}, "about 1.0 hours for training steps alone: 1,800 steps"),
        ({"hours": 0.5, "cost": 4.0}, "about 30 minutes, $4.00 for training steps alone: "),
        ({"hours": 0.001, "cost": 0.001}, "about a minute or less, under $0.01 for training steps alone: "),
    ],
)
def test_what_is_not_known_is_not_made_up(expectation: dict[str, None], words: str) -> None:
    assert time_and_cost(KNOWN.model_copy(update=expectation)).startswith(words)


def test_nothing_of_a_plan_becomes_markup() -> None:
    failed = Check(name="model files", result="failed", found=EVIL, fix=EVIL)
    page = render_plan(plan(stage(), checks=[failed]), EVIL)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4


def report(**others: object) -> TrainReport:
    facts = {"method": "lora", "curve": [], "epochs": 1.0, "parameters": 1, "trainable_parameters": 1, "world_size": 1}
    more = {"batch_size": 16, "learning_rate": 0.1, "device": "cuda", "precision": "bfloat16"}
    return TrainReport(**facts, **more, steps=1000, seconds=2500.0, **others)


def test_what_was_planned_stands_beside_what_it_took() -> None:
    measured = planned_row(stage(), report(peak_memory_bytes=22 * GB))
    # of 25 GB two are allowances, which the allocator does not hold
    assert measured == ["train", "1,800", "1,000", "2", "2.5", "23.05", "22.00"]
    assert planned_row(stage(), report())[-1] == "not measured"
    assert "Planned, and what it took" in render_planned(plan(stage()), [report()])
    assert render_planned(plan(), [report()]) == ""
