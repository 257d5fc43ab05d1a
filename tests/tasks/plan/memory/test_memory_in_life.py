"""Planned memory against the measured peak of real training steps and evaluations on a CPU: within 10 %."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT
from support.forked import run_in_ranks

sys.path.insert(0, str(ROOT / "benchmarks"))

from memory_cells import SHAPE, Cell, EvaluationCell
from memory_plan import predicted, run_worker
from throughput_shapes import write_model

from tasks.plan.memory.moments import EMBEDDING, FIRST_LAYER, LAST_LAYER, LOSS, STEP

pytestmark = pytest.mark.slow

ALLOWED = 0.10

# with the moment of the peak: for every moment there is a cell that has its peak there
CELLS = [
    (Cell(length=16, micro_batch=1), EMBEDDING),
    (Cell(length=16, accumulation=2), LOSS),
    (Cell(length=192, checkpointing=True), LOSS),
    (Cell("lora"), LOSS),
    (Cell("qlora", length=256, checkpointing=True), LOSS),
    (Cell("lora_8bit"), LOSS),
    (Cell("prompt_tuning"), LOSS),
    (Cell("prefix_tuning"), LOSS),
    (Cell(micro_batch=4, has_padding=True), LOSS),
    (Cell(objective="dpo"), LOSS),
    (Cell("lora", objective="kto", checkpointing=True), LOSS),
    (Cell(objective="reward"), LAST_LAYER),
    (Cell(objective="reward", checkpointing=True), FIRST_LAYER),
    # in bfloat16 where this CPU has it, under autocast and over weights of so many bits
    (Cell(precision="bfloat16"), LOSS),
    (Cell("lora", precision="bfloat16", checkpointing=True), LOSS),
    (Cell(dtype="bfloat16"), LOSS),
    (Cell("lora", dtype="bfloat16"), LOSS),
    (Cell(length=256, attention="eager"), LOSS),
]

EVALUATIONS = [
    EvaluationCell(32, 128),
    EvaluationCell(16, 256, 16),
    EvaluationCell(32, 128, dtype="bfloat16"),
    EvaluationCell(8, 512, 8, "bfloat16", "eager"),
]

DIVIDED = [
    (Cell(sharding="zero1", processes=2, length=16, accumulation=2), STEP),
    (Cell(sharding="zero2", processes=2), LOSS),
    (Cell(sharding="zero3", processes=2), LOSS),
    (Cell(sharding="fsdp_full_shard", processes=2, checkpointing=True), LOSS),
    (Cell(sharding="fsdp_full_shard", processes=2, checkpointing=True, precision="bfloat16"), LOSS),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    write_model(folder / "model", SHAPE)
    return folder


def peaks(cells: list[Cell | EvaluationCell], processes: int, directory: Path) -> list[int]:
    """Return the peaks of cells that new processes have measured one after the other, in bytes."""
    result = directory / "measured.txt"
    result.unlink(missing_ok=True)
    run_in_ranks(processes, directory, 500, run_worker, cells, directory, result)
    return [int(line) for line in result.read_text(encoding="utf-8").split()]


@pytest.fixture(scope="module")
def measured(directory: Path) -> dict[str, int]:
    """The peak bytes of each cell of one process, measured in a new process that holds no other test's tensors."""
    cells = [*(cell for cell, _ in CELLS), *EVALUATIONS]
    return dict(zip(map(str, cells), peaks(cells, 1, directory), strict=True))


@pytest.mark.parametrize(("cell", "moment"), CELLS, ids=[str(cell) for cell, _ in CELLS])
def test_a_training_step_takes_what_the_plan_says(cell: Cell, moment: str, measured: dict[str, int]) -> None:
    plan = predicted(cell)
    assert plan.moment == moment
    assert plan.total / measured[str(cell)] == pytest.approx(1, abs=ALLOWED)


@pytest.mark.parametrize("cell", EVALUATIONS, ids=str)
def test_an_evaluation_takes_what_the_plan_says(cell: EvaluationCell, measured: dict[str, int]) -> None:
    assert predicted(cell).total / measured[str(cell)] == pytest.approx(1, abs=ALLOWED)


@pytest.mark.parametrize(("cell", "moment"), DIVIDED, ids=[str(cell) for cell, _ in DIVIDED])
def test_a_step_of_two_processes_takes_what_the_plan_says(cell: Cell, moment: str, directory: Path) -> None:
    plan = predicted(cell)
    assert plan.moment == moment
    # DeepSpeed's engine outlives its training: each has processes of its own
    (measured,) = peaks([cell], 2, directory)
    assert plan.total / measured == pytest.approx(1, abs=ALLOWED)
