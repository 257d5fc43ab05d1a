"""Bytes that each sharding sends and keeps, counted in real training on CPU, against the prediction of `tasks/plan`.

A cell is a sharding on several gloo processes: a small Llama with random weights is trained by `fit`, as in the train
task, in float32. In the third optimizer step, every collective that PyTorch's dispatcher sees (DDP's included) is
counted with the bytes of its whole tensor, and converted to the bytes that one process sends around a ring: (N-1)/N of
the tensor for an all-gather or a reduce-scatter, twice that for an all-reduce. Scalars (losses, norms, counts) are left
out. At the optimizer's update, the bytes of parameters, gradients and optimizer states on rank 0 are summed.

The traffic of gloo itself is not measured: its algorithms differ from NCCL's, but the tensors are the same.

    python benchmarks/sharding.py [--shardings none zero2 fsdp_full_shard] [--processes 2 4] [--accumulation 1 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from throughput_shapes import CPU_SHAPES, write_model, write_tokens  # noqa: E402

from configs.schema.cluster import DEEPSPEED  # noqa: E402
from tasks.plan.memory.jobs import TrainingJob  # noqa: E402
from tasks.plan.memory.states import states_of  # noqa: E402
from tasks.plan.shapes.shape import ModelShape  # noqa: E402
from tasks.plan.time.communication import sent_bytes, step_collectives  # noqa: E402

SHAPE = CPU_SHAPES["medium"]
SHARDINGS = ["none", "zero1", "zero2", "zero3", "fsdp_full_shard", "fsdp_shard_grad_op", "tensor_parallel"]
MEASURED_STEP, MICRO_BATCH = 3, 2
MIN_TENSOR_BYTES = 4096  # smaller tensors are losses, norms and counts
KINDS = {"allreduce": "all_reduce", "allgather": "all_gather", "reduce_scatter": "reduce_scatter"}
Numbers = dict[str, float]


def watch_collectives(found: list[tuple[str, int]]) -> Any:
    """Return a dispatch mode that appends (kind, bytes of the whole tensor) of each collective to `found`."""
    import torch.distributed as dist
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            namespace, _, name = function._schema.name.partition("::")
            if namespace in ("c10d", "_c10d_functional"):
                is_functional = namespace == "_c10d_functional"
                plain = name.replace("all_reduce", "allreduce").replace("all_gather", "allgather").lstrip("_")
                kind = next((kind for start, kind in KINDS.items() if plain.startswith(start)), name)
                sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(args) if hasattr(leaf, "numel")]
                if sizes and not name.startswith("wait"):
                    # the larger of input and output is the whole tensor; functional collectives pass only the input
                    whole = max(sizes) * (dist.get_world_size() if is_functional and kind == "all_gather" else 1)
                    found.append((kind, whole))
            return function(*args, **(kwargs or {}))

    return Counting()


def storage_bytes(tensors: list[Any]) -> int:
    """Return the bytes of the tensors; a shared storage counts once, and a DTensor counts its local part."""
    found = {}
    for tensor in tensors:
        local = getattr(tensor, "_local_tensor", None)
        if local is not None:
            # on a CPU a shard may be a view of the whole tensor that it was loaded from
            found[local.data_ptr()] = local.numel() * local.element_size()
        elif tensor.numel():
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def resident_bytes(model: Any, optimizer: Any, engine: Any) -> Numbers:
    """Return the bytes of weights, gradients and optimizer states in this process at the optimizer's update."""
    import torch

    own = [getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters()]
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    gradients = [tensor.grad for tensor in (*model.parameters(), *updated) if tensor.grad is not None]
    if engine is not None:
        averaged = getattr(engine.optimizer, "averaged_gradients", None) or {}
        gradients += [tensor for group in averaged.values() for tensor in group or [] if torch.is_tensor(tensor)]
        if getattr(engine.optimizer, "grad_partitions_flat_buffer", None) is not None:
            gradients.append(engine.optimizer.grad_partitions_flat_buffer)
    weights = storage_bytes(own)
    # DeepSpeed's optimizer updates its own copy of the weights
    copies = storage_bytes([*own, *updated]) - weights
    return {
        "weights": weights,
        "gradients": storage_bytes(gradients),
        "optimizer": storage_bytes(states) + copies,
    }


def train_and_count(sharding: str, accumulation: int, directory: Path) -> Numbers:
    """Train in this process, one of several; return the bytes that the measured step sent and kept, and its calls."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from transformers import TrainerCallback, trainer

    from configs.schema import ModelConfig, TrainConfig
    from tasks.train.fit import FitInputs, fit

    processes = int(os.environ["WORLD_SIZE"])
    collectives: list[tuple[str, int]] = []
    found: Numbers = {}
    seen: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.update(model=kwargs["model"], is_measured=state.global_step == MEASURED_STEP - 1)
            if seen["is_measured"]:
                seen["mode"] = watch_collectives(collectives)
                seen["mode"].__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if seen.pop("is_measured", False):
                seen.pop("mode").__exit__(None, None, None)

    def before_update(optimizer: Any, args: Any, kwargs: Any) -> None:
        if seen.get("is_measured") and isinstance(optimizer, torch.optim.AdamW) and not found:
            engine = seen["trainer"].deepspeed if "trainer" in seen else None
            found.update(resident_bytes(seen["model"], optimizer, engine))

    register_optimizer_step_pre_hook(before_update)
    trainer.DEFAULT_CALLBACKS.append(Watch)
    initialise = trainer.Trainer.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        seen["trainer"] = self
        initialise(self, *args, **kwargs)

    trainer.Trainer.__init__ = remember
    replicas = 1 if sharding == "tensor_parallel" else processes
    config = TrainConfig(
        method="full",
        sharding=sharding,
        max_steps=MEASURED_STEP,
        batch_size=MICRO_BATCH * replicas * accumulation,
        micro_batch_size=MICRO_BATCH,
        processes_per_node=processes,
        group_by_length=False,
        efficiency={"gradient_checkpointing": "off"},
        watch={"evaluations": 0},
        logging_steps=100,
    )
    model = directory / "model"
    inputs = FitInputs(model=model, train_tokens=directory / "equal", tokenizer=model, end_token_ids=[1])
    fit(config, ModelConfig(name="random weights"), inputs, directory / f"out-{sharding}-{processes}-{accumulation}")
    counted = [(kind, size) for kind, size in collectives if size >= MIN_TENSOR_BYTES and kind in KINDS.values()]
    found["sent"] = sum(sent_bytes(kind, size, processes) for kind, size in counted)  # type: ignore[arg-type]
    for kind in sorted({kind for kind, _ in counted}):
        found[f"{kind} calls"] = sum(counted_kind == kind for counted_kind, _ in counted)
    return found


def predicted(sharding: str, processes: int, accumulation: int, length: int) -> Numbers:
    """Return the plan's prediction for a cell."""
    shape = ModelShape(
        "benchmark",
        SHAPE.hidden,
        SHAPE.layers,
        SHAPE.heads,
        SHAPE.key_value_heads,
        SHAPE.intermediate,
        SHAPE.vocab,
        SHAPE.tied,
    )
    job = TrainingJob(
        shape,
        sharding,  # type: ignore[arg-type]
        precision="float32",
        micro_batch=MICRO_BATCH,
        length=length,
        accumulation=accumulation,
        has_checkpointing=False,
        num_gpus=processes,
    )
    memory = states_of(job)
    sent = sum(collective.sent_bytes for collective in step_collectives(job))
    gradients = memory.gradients
    if sharding in DEEPSPEED:
        # at the update, gradients of other GPUs' shards are freed, and there is a copy of the own shard's
        gradients = 2 * 4 * shape.parameters / processes
    return {
        "weights": memory.weights,
        "gradients": gradients,
        "optimizer": memory.optimizer,
        "sent": sent,
    }


def measure(sharding: str, processes: int, accumulation: int, directory: Path) -> Numbers:
    """Train a cell in new processes; return rank 0's numbers."""
    result = directory / f"{sharding}-{processes}-{accumulation}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    worker = [__file__, "--worker", sharding, str(accumulation), str(result), "--directory", str(directory)]
    done = subprocess.run([*command, *worker], capture_output=True, text=True, timeout=400)
    if done.returncode:
        raise RuntimeError(f"{sharding} on {processes} processes failed:\n{done.stderr[-4000:]}")
    return json.loads(result.read_text(encoding="utf-8"))


def main() -> None:
    """Print a line for each cell: counted MB, and counted / predicted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shardings", nargs="+", default=SHARDINGS, choices=SHARDINGS)
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--accumulation", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sharding, accumulation, result = options.worker
        found = train_and_count(sharding, int(accumulation), options.directory)
        if os.environ["RANK"] == "0":
            Path(result).write_text(json.dumps(found), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_model(directory / "model", SHAPE)
        write_tokens(directory, SHAPE, "equal", 0.5)
        import pyarrow.parquet as pq

        length = max(map(len, pq.read_table(directory / "equal" / "tokens.parquet")["input_ids"].to_pylist()))
        for sharding in options.shardings:
            for processes in options.processes:
                for accumulation in options.accumulation:
                    counted = measure(sharding, processes, accumulation, directory)
                    predicted_bytes = predicted(sharding, processes, accumulation, length)
                    cells = [
                        f"{name} {counted[name] / 1e6:8.2f} MB x{counted[name] / value if value else 1:.3f}"
                        for name, value in predicted_bytes.items()
                    ]
                    calls = ", ".join(f"{n} {name}" for name, n in counted.items() if name.endswith("calls"))
                    print(f"{sharding:<19} {processes} x{accumulation}  {'  '.join(cells)}  {calls}", flush=True)


if __name__ == "__main__":
    main()
