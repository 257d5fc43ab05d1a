"""Peak memory of real training steps and evaluations, against the prediction of `tasks/plan`.

A cell is one setting: a small Llama with random weights is trained by `fit`, as in the train task, or scored as in the
evaluate task. Its rows have the planned length.

On a CPU, PyTorch's profiler records every block that PyTorch's allocator hands out and takes back, with the bytes in
use in all threads. The storages of tensors that existed before (the weights, and DeepSpeed's copies of them) are added.
The sum is all memory of tensors: weights, gradients, optimizer states, activations, temporaries of autograd and of
kernels, buckets and gathered parameters, including those made in C++. On a GPU `torch.cuda.max_memory_allocated` counts
the same and is read instead. Not counted are the rest of the process's resident size (the libraries' code, Python,
freed blocks that the C library keeps) and the workspace of matrix kernels, which PyTorch does not allocate.

The peak is that of the second optimizer step, when the optimizer has its states. Several processes are started by
`torch.distributed.run` with gloo (on GPUs, NCCL); the peak is that of rank 0. The last line has the worst ratio.

    python benchmarks/memory_plan.py [--grid full|small] [--only zero3 dpo]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from memory_cells import (  # noqa: E402
    SHAPE,
    Cell,
    EvaluationCell,
    deepspeed_file,
    evaluation_grid,
    full_grid,
    job_of,
    small_grid,
    write_rows,
)
from throughput_shapes import write_model  # noqa: E402

from tasks.plan.memory.evaluation import ANSWERS, PROMPTS, evaluation_moments  # noqa: E402
from tasks.plan.memory.peak import MemoryPlan, estimate_memory  # noqa: E402

MEASURED_STEP = 2
ITEMS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")


def live_tensor_bytes() -> int:
    """Return the bytes of all tensors that Python knows; a shared storage counts once."""
    import torch

    gc.collect()
    found: dict[int, int] = {}
    for candidate in gc.get_objects():
        try:
            if isinstance(candidate, torch.Tensor) and candidate.device.type == "cpu":
                storage = getattr(candidate, "_local_tensor", candidate).untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        except (ReferenceError, NotImplementedError, RuntimeError):
            # dead weak references, and tensors without storage
            continue
    found.pop(0, None)
    return sum(found.values())


def count_every_thread() -> None:
    """Make PyTorch's allocator count in all threads: gloo's threads free what they sent, unseen by the profiler."""
    import torch

    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True


class Meter:
    """Counts bytes of tensors from `start` to `stop`; `peak` is the maximum since `mark`."""

    def start(self) -> None:
        """Begin counting."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            return
        count_every_thread()
        self._before = live_tensor_bytes()
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()

    def mark(self) -> None:
        """Forget the peak so far."""
        import torch

        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._marked_ns = time.time_ns()

    def stop(self) -> None:
        """End counting and set `peak`, in bytes."""
        import torch

        if self._on_gpu:
            self.peak = torch.cuda.max_memory_allocated()
            return
        self._profile.__exit__(None, None, None)
        events = allocations(self._profile)
        first = events[0].extra_fields.total_allocated - events[0].extra_fields.alloc_size
        self.peak = self._before + max(
            event.extra_fields.total_allocated - first for event in events if event.start_time_ns >= self._marked_ns
        )


def allocations(profiler: Any) -> list[Any]:
    """Return the allocator's events, oldest first."""
    from torch._C._profiler import _EventType

    def walk(nodes: list[Any]) -> Iterator[Any]:
        for node in nodes:
            yield node
            yield from walk(node.children)

    roots = profiler.profiler.kineto_results.experimental_event_tree()
    events = [event for event in walk(roots) if event.tag == _EventType.Allocation]
    return sorted(events, key=lambda event: event.start_time_ns)


def watching(meter: Meter) -> Any:
    """Return an observer that lets `meter` measure step `MEASURED_STEP`."""
    from tasks.train.watch.observers import Observer

    class Watch(Observer):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.start()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == MEASURED_STEP - 1:
                meter.mark()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == MEASURED_STEP:
                meter.stop()

    return Watch()


def measure_training(cell: Cell, directory: Path) -> int:
    """Train two steps in this process; return the peak memory of the second, in bytes."""
    import torch

    from configs.schema import ModelConfig, TrainConfig
    from tasks.train.fit import FitInputs, fit

    model, meter = directory / "model", Meter()
    config = TrainConfig(
        method=cell.method,
        objective=cell.objective,
        sharding=cell.sharding,
        max_steps=MEASURED_STEP,
        batch_size=cell.micro_batch * cell.processes * cell.accumulation,
        micro_batch_size=cell.micro_batch,
        processes_per_node=cell.processes,
        group_by_length=False,
        kto={"loss": "kto" if cell.micro_batch > 1 else "apo_zero_unpaired"},
        efficiency={
            "gradient_checkpointing": "on" if cell.checkpointing else "off",
            "precision": "bfloat16" if torch.cuda.is_available() else cell.precision,
            "kernels": "off",
        },
        watch={"evaluations": 0},
        logging_steps=100,
    )
    # each rank has its own copy: one would read what another is writing
    own = directory / f"rank-{os.environ.get('RANK', '0')}"
    own.mkdir(exist_ok=True)
    rows = write_rows(own, cell)
    inputs = FitInputs(
        model, rows, model, end_token_ids=[1], deepspeed_json=deepspeed_file(cell), observers=[watching(meter)]
    )
    loading = ModelConfig(name="random weights", dtype=cell.dtype, attn_implementation=cell.attention)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=directory) as output:
        fit(config, loading, inputs, Path(output) / "out")
    return meter.peak


def measure_evaluation(cell: EvaluationCell, directory: Path) -> int:
    """Score rows or generate answers in this process; return the peak memory in bytes."""
    import numpy as np
    import pandas as pd

    from configs.schema import EvaluateConfig, ModelConfig
    from tasks.evaluate.likelihood import token_log_probabilities
    from tasks.models.generation import generate_answers
    from tasks.models.load import device, load_model, load_tokenizer

    folder = directory / "model"
    loading = ModelConfig(name="random weights", dtype=cell.dtype, attn_implementation=cell.attention)  # type: ignore[arg-type]
    model: Any = load_model(loading, folder).to(device()).eval()  # type: ignore[arg-type]
    rows = np.random.default_rng(0).integers(2, SHAPE.vocab, (cell.batch_size, cell.length)).tolist()
    meter = Meter()
    meter.start()
    meter.mark()
    if cell.new_tokens:
        prompts = pd.DataFrame({"input_ids": rows, "prompt_length": cell.length, "prompt": "", "expected": ""})
        config = EvaluateConfig(batch_size=cell.batch_size, max_new_tokens=cell.new_tokens)
        generate_answers(model, load_tokenizer(folder), prompts, config, [1])
    else:
        counted = [np.ones(cell.length, dtype=bool)] * cell.batch_size
        token_log_probabilities(model, rows, counted, 0, cell.batch_size)
    meter.stop()
    return meter.peak


def run_worker(cells: list[Cell | EvaluationCell], directory: Path, result: Path) -> None:
    """Measure the cells one after another; rank 0 appends a line for each to `result`."""
    for cell in cells:
        measured = measure_training(cell, directory) if isinstance(cell, Cell) else measure_evaluation(cell, directory)
        if os.environ.get("RANK", "0") == "0":
            with result.open("a", encoding="utf-8") as file:
                file.write(f"{measured}\n")


def in_new_processes(cells: list[Cell | EvaluationCell], processes: int, directory: Path) -> Iterator[int]:
    """Measure the cells in `processes` new processes; yield their peaks in bytes."""
    result = directory / "measured.txt"
    result.unlink(missing_ok=True)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    encoded = json.dumps([[type(cell).__name__, asdict(cell)] for cell in cells])
    command += [__file__, "--worker", encoded, str(result), "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=len(cells) * 300)
    if done.returncode:
        raise RuntimeError(f"{cells[0]} and {len(cells) - 1} more cells failed:\n{done.stderr[-4000:]}")
    yield from map(int, result.read_text(encoding="utf-8").split())


def predicted(cell: Cell | EvaluationCell, on_gpu: bool = False) -> MemoryPlan:
    """Return the plan's memory for a cell; for an evaluation, of held-out loss alone or of generation alone."""
    job = job_of(cell, on_gpu)
    if isinstance(cell, Cell):
        return estimate_memory(job)
    plans = [MemoryPlan(**vars(moment)) for moment in evaluation_moments(job)]
    measured_plans = [plan for plan in plans if (plan.moment in (PROMPTS, ANSWERS)) == bool(cell.new_tokens)]
    return max(measured_plans, key=lambda plan: plan.total)


def line_of(cell: Cell | EvaluationCell, measured: int, plan: MemoryPlan) -> str:
    """Return a line of the table: predicted and measured MB, their ratio, the moment of the peak, and items in MB."""
    items = "  ".join(f"{name} {getattr(plan, name) / 1e6:.1f}" for name in ITEMS if getattr(plan, name) > 5e4)
    sizes = f"{plan.total / 1e6:8.1f} {measured / 1e6:8.1f}  {plan.total / measured:.3f}"
    return f"{cell} {sizes}  {plan.moment}: {items}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", choices=["full", "small"], default="full")
    parser.add_argument("--only", nargs="*", default=[], help="measure only cells whose line has one of these words")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kinds: dict[str, Callable[..., Any]] = {"Cell": Cell, "EvaluationCell": EvaluationCell}
    if options.worker:
        cells = [kinds[kind](**settings) for kind, settings in json.loads(options.worker[0])]
        run_worker(cells, options.directory, Path(options.worker[1]))
        return
    import torch

    grid: list[Cell | EvaluationCell] = [*(full_grid() if options.grid == "full" else small_grid())]
    grid += evaluation_grid() if options.grid == "full" else evaluation_grid()[:1]
    chosen = [cell for cell in grid if not options.only or any(word in str(cell).split() for word in options.only)]
    single = [cell for cell in chosen if getattr(cell, "processes", 1) == 1]
    # DeepSpeed's engine outlives its training, so each sharded cell gets new processes
    groups = [(single, 1)] if single else []
    groups += [([cell], cell.processes) for cell in chosen if isinstance(cell, Cell) and cell.processes > 1]
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", SHAPE)
        print(f"{'':<63} predicted measured MB  ratio", flush=True)
        for cells, processes in groups:
            for cell, measured in zip(cells, in_new_processes(cells, processes, Path(folder)), strict=True):
                plan = predicted(cell, torch.cuda.is_available())
                ratios.append(plan.total / measured)
                print(line_of(cell, measured, plan), flush=True)
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    print(f"{len(ratios)} cells, worst ratio {worst:.3f}")


if __name__ == "__main__":
    main()
