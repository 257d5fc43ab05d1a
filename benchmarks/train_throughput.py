"""Training throughput against plain TRL: tokens per second, model FLOPs utilization and peak memory of each cell.

A cell is a method on a model shape. Each run is a process of its own. Runs of ours and TRL's alternate, and each repeat
swaps which is first. Medians are printed; a ratio is the median of the ratios of the repeats.
TRL runs as its documentation shows, `SFTTrainer` with a `LoraConfig` and, on a GPU, `packing=True`, on the same token
ids and labels. It gets the precision, type of the weights, gradient checkpointing, attention and batch size that ours
chose, which are faster than TRL's defaults on a CPU. Both train two epochs, and the second is timed: it includes making
batches, but not loading the model. On a CPU with one thread, seconds are the process's CPU time, which other work of
the machine affects least.

Model FLOPs are those that the method needs. For each token and each weight of a linear layer they are 2 in the forward
pass, 2 in the backward pass for the gradient of the input, and 2 for the gradient of the weight if it is trained: 6 N
for full training, 4 N for an adapter and 6 for the adapter's own weights. The output head counts only for tokens with a
label. Causal attention within each example counts 12 x layers x hidden x length / 2 per token. Embedding look-ups,
norms, recomputed activations and padding do not count. Utilization divides them by the device's peak: for known GPUs
the data sheet's dense bfloat16, else the speed of a large matrix product in the type of the computation. Peak memory is
the process's resident set on a CPU, and PyTorch's allocations on a GPU.

Lengths of varying rows are log-normal, fitted to GSM8K (https://github.com/openai/grade-school-math, MIT): question and
answer of its 7,473 training rows together have a median of 484 characters and a standard deviation of the logarithm of
0.387; the question is 45 % of them, and 3.5 characters make a token. `varied / equal` is our time per token on these
rows, divided by that on as many rows of equal length with the same total.

    python benchmarks/train_throughput.py [--repeats 3] [--shapes small medium] [--methods full lora] [--scale 1.0]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from throughput_shapes import (  # noqa: E402
    CPU_SHAPES,
    GPU_SHAPES,
    LORA_RANK,
    SHAPES,
    Shape,
    needed_flops,
    peak_flops,
    row_lengths,
    write_model,
    write_tokens,
)

Numbers = dict[str, float]
# weights, gradients and both moments in float32 exceed a GPU of 141 GB
TOO_LARGE = {("full", "8B")}


def time_second_epoch() -> Numbers:
    """Return a record into which every trainer of this process writes the `seconds` of its second epoch."""
    import torch
    from transformers import TrainerCallback, trainer

    record: Numbers = {}
    is_one_thread = not torch.cuda.is_available() and torch.get_num_threads() == 1
    clock = time.process_time if is_one_thread else time.perf_counter

    class SecondEpoch(TrainerCallback):
        _epochs = 0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._epochs += 1
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._started = clock()

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if self._epochs == 2:
                record["seconds"] = clock() - self._started

    trainer.DEFAULT_CALLBACKS.append(SecondEpoch)
    return record


def train_config(method: str, shape: Shape) -> Any:
    """Return the config that a user would write: the defaults with a batch size."""
    from configs.schema import TrainConfig

    batch = {"batch_size": shape.micro_batch * 2, "micro_batch_size": shape.micro_batch}
    return TrainConfig(method=method, epochs=2.0, lora={"rank": LORA_RANK, "alpha": 32}, **batch)


def train_ours(directory: Path, method: str, shape: Shape, rows: str, output: Path) -> None:
    """Train as the train task does."""
    from configs.schema import ModelConfig
    from tasks.train.fit import FitInputs, fit

    model = directory / "model"
    inputs = FitInputs(model=model, train_tokens=directory / rows, tokenizer=model, end_token_ids=[1])
    fit(train_config(method, shape), ModelConfig(name="random weights"), inputs, output)


def train_trl(directory: Path, method: str, shape: Shape, rows: str, output: Path) -> None:
    """Train as TRL's documentation shows, with our choices of precision, checkpointing and attention."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from configs.schema import ModelConfig
    from tasks.models.quiet import quiet_libraries
    from tasks.train.choices import choose, detect

    quiet_libraries()
    config, is_packed = train_config(method, shape), rows.endswith("-packed")
    choices = choose(config, ModelConfig(), detect(), is_packed, "llama")
    in_16_bits = choices.bf16 and method != "full"
    loading: dict[str, Any] = {"dtype": "bfloat16" if in_16_bits else "float32"}
    loading["attn_implementation"] = choices.attn_implementation
    if method == "qlora":
        four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        compute = torch.bfloat16 if choices.bf16 else torch.float32
        loading["quantization_config"] = BitsAndBytesConfig(**four_bits, bnb_4bit_compute_dtype=compute)
    source = directory / rows.removesuffix("-packed") / "tokens.parquet"
    arguments = SFTConfig(
        output_dir=str(output),
        num_train_epochs=2.0,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.batch_size // config.micro_batch,
        max_length=shape.max_length,
        packing=is_packed,
        bf16=choices.bf16,
        activation_checkpointing=choices.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        model_init_kwargs=loading,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(r=LORA_RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=str(directory / "model"),
        args=arguments,
        train_dataset=datasets.Dataset.from_parquet(
            str(source), columns=["input_ids", "labels"], cache_dir=str(output.parent / "cache")
        ),
        peft_config=None if method == "full" else lora,
    )
    trainer.train()


def measure(side: str, method: str, shape_name: str, rows: str, directory: Path) -> Numbers:
    """Train in this process; return the seconds of the second epoch and the peak GiB."""
    import torch

    record = time_second_epoch()
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        train = train_ours if side == "ours" else train_trl
        train(directory, method, SHAPES[shape_name], rows, Path(scratch) / "out")
    if torch.cuda.is_available():
        return {**record, "gib": torch.cuda.max_memory_allocated() / 2**30}
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes on macOS, KiB on Linux
    return {**record, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def run(*arguments: str) -> Any:
    """Run this file in another process; return the JSON of the last line that it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(arguments)}")
    return json.loads(done.stdout.splitlines()[-1])


def alternate(runs: list[tuple[str, ...]], directory: Path, repeats: int) -> list[list[Numbers]]:
    """Run each of `runs` (side, method, shape, rows) `repeats` times alternately; return its numbers per repeat."""
    found: list[list[Numbers]] = [[] for _ in runs]
    for repeat in range(repeats):
        order = range(len(runs)) if repeat % 2 == 0 else reversed(range(len(runs)))
        for number in order:
            found[number].append(run("--measure", *runs[number], "--directory", str(directory)))
    return found


def median(numbers: list[Numbers], name: str) -> float:
    """Return the median of the number called `name` over the repeats."""
    return statistics.median(repeat[name] for repeat in numbers)


def ratio(above: list[Numbers], below: list[Numbers]) -> float:
    """Return the median over the repeats of the ratio of seconds, above / below."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(above, below, strict=True))


def compare(options: argparse.Namespace, directory: Path, shape_name: str, peak: float, suffix: str) -> None:
    """Print the lines of one shape. On a GPU `suffix` selects packed rows, and TRL runs on varying rows only."""
    shape = SHAPES[shape_name]
    for method in options.methods:
        if (method, shape_name) in TOO_LARGE:
            print(f"{shape_name:<7} {method:<6} does not fit one GPU, and is left out")
            continue
        sides = [("ours", "varied"), ("trl", "varied"), ("ours", "equal"), *([] if suffix else [("trl", "equal")])]
        runs = [(side, method, shape_name, kind + suffix) for side, kind in sides]
        found = dict(zip(sides, alternate(runs, directory, options.repeats), strict=True))
        for (side, kind), numbers in found.items():
            lengths = row_lengths(shape, kind, options.scale)
            seconds = median(numbers, "seconds")
            beside = f"  ours / TRL {ratio(numbers, found['ours', kind]):.3f}" if side == "trl" else ""
            print(
                f"{shape_name:<7} {method:<6} {kind + suffix:<14} {side:<5} {sum(lengths) / seconds:>9,.0f} tokens/s  "
                f"MFU {needed_flops(shape, method, lengths) / seconds / peak:>6.1%}  "
                f"peak {median(numbers, 'gib'):>6.2f} GiB{beside}",
                flush=True,
            )
        slowdown = ratio(found["ours", "varied"], found["ours", "equal"])
        print(f"{shape_name:<7} {method:<6} ours, varied / equal: {slowdown:.3f} of the time per token", flush=True)


def main() -> None:
    """Print a line for each cell, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), help="by default those for the device")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=["full", "lora", "qlora"],
        help="by default all on a GPU, full and lora on a CPU",
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes for each side of each cell")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of rows")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, directory=options.directory)))
        return
    if options.make:
        import torch

        on_gpu = torch.cuda.is_available()
        if options.make == "device":
            name = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
            print(json.dumps({"on_gpu": on_gpu, "name": name, "peak": peak_flops(on_gpu)}))
            return
        write_model(options.directory / "model", SHAPES[options.make])
        for kind in ("varied", "equal"):
            write_tokens(options.directory, SHAPES[options.make], kind, options.scale)
        print("null")
        return
    # in a process of its own: memory that this process holds on the GPU would be missing for the others
    device = run("--make", "device")
    on_gpu, peak = device["on_gpu"], device["peak"]
    options.methods = options.methods or (["full", "lora", "qlora"] if on_gpu else ["full", "lora"])
    print(f"{device['name']}: peak {peak / 1e12:,.3f} TFLOP/s; {options.repeats} repeats")
    suffix = "-packed" if on_gpu else ""
    for shape_name in options.shapes or (GPU_SHAPES if on_gpu else CPU_SHAPES):
        with tempfile.TemporaryDirectory() as directory:
            run("--make", shape_name, "--directory", directory, "--scale", str(options.scale))
            compare(options, Path(directory), shape_name, peak, suffix)


if __name__ == "__main__":
    main()
