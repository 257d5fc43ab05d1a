"""The settings that `memory_plan.py` measures, their jobs for the plan, and the rows that they train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughput_shapes import Shape

from configs.schema.cluster import DEEPSPEED
from configs.schema.train import PROMPT_METHODS
from tasks.plan.hardware.this_machine import cpu_has_bfloat16
from tasks.plan.memory.jobs import EvaluationJob, TrainingJob
from tasks.plan.shapes.shape import ModelShape

SHAPE = Shape(256, 768, 8, 4, 2, 4096, False, 0, 2048, 1)
DEEPSPEED_FILES = Path(__file__).parent.parent / "configs" / "deepspeed"
NUM_ROWS = 64
VIRTUAL_TOKENS = 20  # the default of train.prompt.num_virtual_tokens
# tokens by which padded rows are shorter than the others
PADDING = 8


@dataclass(frozen=True)
class Cell:
    """One training to measure, with field names as in `TrainingJob`."""

    method: str = "full"
    sharding: str = "none"
    processes: int = 1
    length: int = 128
    micro_batch: int = 2
    accumulation: int = 1
    checkpointing: bool = False
    objective: str = "sft"
    bucket: int = 2_000_000
    """Elements of DeepSpeed's reduce bucket: the shipped 2 x 10^8 would outweigh all other memory of a small model."""
    has_padding: bool = False
    precision: str = "float32"
    """`train.efficiency.precision` on a CPU; on a GPU it is bfloat16."""
    dtype: str = "auto"
    """`model.dtype`: the type of the weights when loaded."""
    attention: str = "auto"
    """`model.attn_implementation`; `eager` keeps all scores."""

    def __str__(self) -> str:
        """Return the cell in one line of a table."""
        recomputed = "recomputed" if self.checkpointing else "padded" if self.has_padding else ""
        size = f"{self.micro_batch} x {self.length}"
        where = f"{self.sharding} /{self.processes}"
        types = "" if (self.precision, self.dtype) == ("float32", "auto") else f"{self.precision} over {self.dtype}"
        types += " eager" if self.attention == "eager" else ""
        line = f"{self.objective:<6} {self.method:<13} {where:<21} {size:>8} x{self.accumulation} {recomputed:<10}"
        return f"{line} {types}".rstrip() if types else line


@dataclass(frozen=True)
class EvaluationCell:
    """One evaluation to measure, with field names as in `EvaluationJob`. `new_tokens=0` is held-out loss."""

    batch_size: int = 8
    length: int = 128
    new_tokens: int = 0
    dtype: str = "auto"
    attention: str = "auto"

    def __str__(self) -> str:
        """Return the cell in one line of a table."""
        kind = f"generation of {self.new_tokens}" if self.new_tokens else "held-out loss"
        size = f"{self.batch_size} x {self.length}"
        types = [name for name in (self.dtype, self.attention) if name != "auto"]
        return f"{'evaluate':<8} {kind:<33} {size:>8} {' '.join(types):<13}"


def full_grid() -> list[Cell]:
    """Return cells of all methods, lengths, micro-batches, accumulations, objectives and shardings.

    Methods are measured with and without gradient checkpointing.
    """
    cells = [
        Cell(method, length=length, micro_batch=rows, accumulation=accumulation, checkpointing=recomputed)
        for method in ("full", "lora", "qlora")
        for length, rows in ((16, 1), (128, 2), (256, 4))
        for recomputed in (False, True)
        for accumulation in (1, 2)
    ]
    cells += [Cell(method, length=length) for method in ("lora_8bit", *PROMPT_METHODS) for length in (32, 256)]
    cells += [Cell(method, length=128, micro_batch=4, has_padding=True) for method in ("full", "lora")]
    for objective in ("dpo", "kto", "reward"):
        for method in ("full", "lora"):
            cells += [Cell(method, objective=objective, checkpointing=recomputed) for recomputed in (False, True)]
    for sharding in ("zero1", "zero2", "zero3", "none", "fsdp_full_shard", "fsdp_shard_grad_op"):
        cells += [
            Cell("full", sharding, 2, length=16, micro_batch=1, accumulation=2),
            Cell("full", sharding, 2, length=256, checkpointing=True),
        ]
    cells += [Cell("lora", sharding, 2, length=128) for sharding in ("none", "zero1", "zero2", "zero3")]
    return cells


def small_grid() -> list[Cell]:
    """Return a few cells with one process each."""
    return [Cell(length=16), Cell("lora", checkpointing=True), Cell(objective="reward")]


def evaluation_grid() -> list[EvaluationCell]:
    """Return cells of held-out loss and of generation."""
    return [
        EvaluationCell(4, 64),
        EvaluationCell(8, 256),
        EvaluationCell(32, 256),
        EvaluationCell(8, 64, 64),
        EvaluationCell(32, 256, 32),
    ]


def shape_of(shape: Shape = SHAPE) -> ModelShape:
    """Return the benchmark's model as the plan's `ModelShape`."""
    return ModelShape(
        "benchmark",
        shape.hidden,
        shape.layers,
        shape.heads,
        shape.key_value_heads,
        shape.intermediate,
        shape.vocab,
        shape.tied,
    )


def job_of(cell: Cell | EvaluationCell, on_gpu: bool = False) -> Any:
    """Return a cell as the plan's `TrainingJob` or `EvaluationJob`."""
    if isinstance(cell, EvaluationCell):
        return EvaluationJob(
            shape_of(),
            cell.batch_size,
            cell.length,
            cell.new_tokens,
            precision=cell.dtype if cell.dtype != "auto" else "bfloat16" if on_gpu else "float32",  # type: ignore[arg-type]
            prompt_length=cell.length,
            has_scores=cell.attention == "eager",
        )
    is_cast = on_gpu or (cell.precision == "bfloat16" and cpu_has_bfloat16())
    return TrainingJob(
        shape_of(),
        sharding=cell.sharding,  # type: ignore[arg-type]
        method=cell.method,  # type: ignore[arg-type]
        objective=cell.objective,  # type: ignore[arg-type]
        precision="bfloat16" if is_cast else "float32",
        weights=_base_format(cell, on_gpu),
        micro_batch=cell.micro_batch,
        length=cell.length + (VIRTUAL_TOKENS if cell.method in PROMPT_METHODS else 0),
        accumulation=cell.accumulation,
        has_checkpointing=cell.checkpointing,
        num_gpus=cell.processes,
        has_reference=cell.objective in ("dpo", "kto"),
        has_padding=cell.has_padding,
        has_scores=cell.attention == "eager",
        reduce_bucket=cell.bucket,
        device="cuda" if on_gpu else "cpu",
    )


def _base_format(cell: Cell, on_gpu: bool) -> Any:
    """Return the format in which training loads the base: in 32 bits where all weights are trained, by default."""
    if cell.dtype != "auto":
        return cell.dtype
    return "bfloat16" if on_gpu and cell.method != "full" else "float32"


def deepspeed_file(cell: Cell) -> str:
    """Return the shipped DeepSpeed file with the cell's bucket; empty for shardings without DeepSpeed."""
    if cell.sharding not in DEEPSPEED:
        return ""
    settings = json.loads((DEEPSPEED_FILES / f"{cell.sharding}.json").read_text(encoding="utf-8"))
    if cell.sharding != "zero3":
        settings["zero_optimization"]["reduce_bucket_size"] = cell.bucket
    return json.dumps(settings)


def write_rows(directory: Path, cell: Cell, shape: Shape = SHAPE) -> Path:
    """Write rows for the cell's objective, as the tokenize stage does; return their folder.

    All rows have the cell's length; with padding, every second row is shorter.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = directory / f"{cell.objective}-{cell.length}-{cell.has_padding}"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lengths = [cell.length - (PADDING * (number % 2) if cell.has_padding else 0) for number in range(NUM_ROWS)]
    ids = [generator.integers(2, shape.vocab, length).tolist() for length in lengths]
    prompt_length = cell.length // 2
    columns: dict[str, Any] = {
        "row_id": [f"rows.jsonl:{number}" for number in range(NUM_ROWS)],
        "input_ids": ids,
        "labels": ids,
        "prompt_length": [prompt_length] * NUM_ROWS,
        "rejected_ids": [row[prompt_length:][::-1] for row in ids],
        "is_wanted": [number % 2 == 0 for number in range(NUM_ROWS)],
    }
    extra_columns = {"dpo": ["rejected_ids"], "kto": ["is_wanted"], "reward": ["rejected_ids"]}
    names = ["row_id", "input_ids", "labels", "prompt_length", *extra_columns.get(cell.objective, [])]
    pq.write_table(pa.table({name: columns[name] for name in names}), folder / "tokens.parquet")
    return folder
