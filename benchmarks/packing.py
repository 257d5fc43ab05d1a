"""Packing: time, memory and fill against TRL's `pack_dataset`, and training tokens per second against padded batches.

Each measurement runs in a process of its own, which gives its peak memory; methods alternate, and medians are printed.
Peak memory includes pages of mapped files, which hold TRL's data sets.

Rows to pack have 20 to 500 tokens, uniformly distributed. Both sides read the same Parquet file; TRL packs as
`SFTTrainer` does (`trl`, in batches of 1000 rows) or all rows at once (`trl-whole`). Rows to train on are skewed like
chats: lengths are log-normal with a median of 80, at most 512. A small Llama is trained for one epoch; all batches have
about the same number of tokens without padding.

    python benchmarks/packing.py [--rows 100000] [--train-rows 1500] [--repeats 3]
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
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PACK_LENGTH = 2048
TRAIN_LENGTH = 512
PACKED_MICRO_BATCH = 8
VOCAB_SIZE = 1024
Numbers = dict[str, float]


def write_rows(path: Path, lengths: list[int]) -> None:
    """Write rows of random tokens as the tokenize stage does; the second half of each row is trained."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    numbers = pa.list_(pa.int32())
    schema = pa.schema([("row_id", pa.string()), ("input_ids", numbers), ("labels", numbers)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(lengths), 10_000):
            part = lengths[start : start + 10_000]
            ids = [generator.integers(2, VOCAB_SIZE, length, dtype=np.int32) for length in part]
            labels = [np.concatenate([np.full(len(row) // 2, -100, np.int32), row[len(row) // 2 :]]) for row in ids]
            names = [f"rows.jsonl:{start + number}" for number in range(len(part))]
            writer.write_table(pa.table([names, ids, labels], schema=schema))


def pack_ours(directory: Path) -> Numbers:
    """Pack with this project; return the number of packed rows and their fill."""
    from tasks.tokenize.packing import pack_tokens

    report = pack_tokens(directory / "pack.parquet", directory / "packed.parquet", PACK_LENGTH)
    return {"num_packed": report.num_packed, "fill": report.fill}


def pack_trl(directory: Path, batch_size: int | None = 1000) -> Numbers:
    """Pack with TRL; return the number of packed rows and their fill. `batch_size=None` packs all rows at once."""
    import datasets
    from trl import pack_dataset

    with tempfile.TemporaryDirectory(dir=directory) as cache:
        columns = ["input_ids", "labels"]
        rows = datasets.Dataset.from_parquet(str(directory / "pack.parquet"), columns=columns, cache_dir=cache)
        options = {"batch_size": batch_size, "cache_file_name": f"{cache}/packed.arrow"}
        packed = pack_dataset(rows, PACK_LENGTH, "bfd", options)
        tokens = sum(sum(lengths) for lengths in packed["seq_lengths"])
        return {"num_packed": len(packed), "fill": tokens / (len(packed) * PACK_LENGTH)}


def train(directory: Path, is_packed: bool, group_by_length: bool) -> Numbers:
    """Train one epoch; return its tokens per second and its number of steps."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.trainer_callback import PrinterCallback

    from configs.schema import ModelConfig, TrainConfig
    from tasks.models.quiet import quiet_libraries
    from tasks.tokenize.packing import pack_tokens
    from tasks.train.arguments import training_arguments
    from tasks.train.choices import choose, detect
    from tasks.train.inputs import TOKENS_FILE, FitInputs
    from tasks.train.trainer import make_trainer

    quiet_libraries()
    source, packed = directory / "train.parquet", directory / "packed" / TOKENS_FILE
    packed.parent.mkdir(exist_ok=True)
    report = pack_tokens(source, packed, TRAIN_LENGTH)
    rows_per_pack = report.num_sequences / report.num_packed
    micro_batch = PACKED_MICRO_BATCH if is_packed else round(PACKED_MICRO_BATCH * rows_per_pack)
    shape = {"batch_size": micro_batch, "micro_batch_size": micro_batch}
    config = TrainConfig(method="full", epochs=1.0, group_by_length=group_by_length, logging_steps=10_000, **shape)
    (directory / "padded").mkdir(exist_ok=True)
    (directory / "padded" / TOKENS_FILE).unlink(missing_ok=True)
    (directory / "padded" / TOKENS_FILE).symlink_to(source)
    tokens = directory / ("packed" if is_packed else "padded")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=TRAIN_LENGTH, **sizes))
    words = {"<pad>": 0, "<eos>": 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    with tempfile.TemporaryDirectory(dir=directory) as output:
        base = ModelConfig(name="benchmark")
        choices = choose(config, base, detect(), is_packed, "llama")
        num_rows = pq.read_metadata(tokens / TOKENS_FILE).num_rows
        arguments = training_arguments(config, choices, num_rows, Path(output) / "out", {})
        inputs = FitInputs(model=directory, train_tokens=tokens, tokenizer=directory, end_token_ids=[1])
        trainer = make_trainer(config, base, arguments, model, tokenizer, inputs, [], lambda: model)
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    num_tokens = pc.sum(pc.list_value_length(pq.read_table(source).column("input_ids"))).as_py()
    return {"tokens_per_second": num_tokens / seconds, "steps": trainer.state.global_step}


PACKERS: dict[str, Callable[[Path], Numbers]] = {
    "ours": pack_ours,
    "trl": pack_trl,
    "trl-whole": lambda directory: pack_trl(directory, None),
}
TRAINERS: dict[str, Callable[[Path], Numbers]] = {
    "packed": lambda directory: train(directory, True, False),
    "padded, grouped by length": lambda directory: train(directory, False, True),
    "padded, in random order": lambda directory: train(directory, False, False),
}


def measure(method: str, directory: Path) -> Numbers:
    """Run `method` in this process; return its numbers, seconds and peak GiB."""
    import datasets
    import trl  # noqa: F401  imports are not timed

    datasets.disable_progress_bars()
    started = time.perf_counter()
    numbers = (PACKERS | TRAINERS)[method](directory)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes on macOS, KiB on Linux
    return {**numbers, "seconds": seconds, "gib": peak / unit}


def medians(methods: list[str], directory: Path, repeats: int) -> dict[str, Numbers]:
    """Run each method `repeats` times in new processes, alternately; return the medians of its numbers."""
    results: dict[str, list[Numbers]] = {method: [] for method in methods}
    for _ in range(repeats):
        for method in methods:
            command = [sys.executable, __file__, "--measure", method, "--directory", str(directory)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[method].append(json.loads(output.splitlines()[-1]))
    return {
        method: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for method, runs in results.items()
    }


def compare_packing(directory: Path, repeats: int, num_rows: int, methods: list[str]) -> None:
    """Print a line for each packer."""
    import numpy as np

    write_rows(directory / "pack.parquet", np.random.default_rng(1).integers(20, 501, num_rows).tolist())
    results = medians(methods, directory, repeats)
    own = results["ours"]
    for method, found in results.items():
        print(
            f"pack   {num_rows:>9,} rows  {method:<10} {found['seconds']:>6.1f} s  peak {found['gib']:.2f} GiB  "
            f"{found['num_packed']:>8,.0f} packed rows  fill {found['fill']:.2%}  "
            f"ours: {found['seconds'] / own['seconds']:.2f} times as fast, "
            f"{own['num_packed'] / found['num_packed']:.4f} of the rows"
        )


def compare_training(directory: Path, repeats: int, num_rows: int) -> None:
    """Print a line for each way of batching."""
    import numpy as np

    lengths = np.exp(np.random.default_rng(1).normal(np.log(80), 0.8, num_rows)).astype(int).clip(8, TRAIN_LENGTH)
    write_rows(directory / "train.parquet", lengths.tolist())
    results = medians(list(TRAINERS), directory, repeats)
    packed = results["packed"]["tokens_per_second"]
    for method, found in results.items():
        print(
            f"train  {num_rows:>9,} rows  {method:<25} {found['tokens_per_second']:>7,.0f} tokens/s  "
            f"{found['steps']:.0f} steps  packed is {packed / found['tokens_per_second']:.2f} times as fast"
        )


def main() -> None:
    """Print a line for each method, with its ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows to pack, of 20 to 500 tokens; 0 for none")
    parser.add_argument("--packers", nargs="+", default=list(PACKERS), choices=list(PACKERS), help="must include ours")
    parser.add_argument("--train-rows", type=int, default=1500, help="rows to train on, of 8 to 512 tokens; 0 for none")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each method")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.directory)))
        return
    with tempfile.TemporaryDirectory() as directory:
        if arguments.rows:
            compare_packing(Path(directory), arguments.repeats, arguments.rows, arguments.packers)
        if arguments.train_rows:
            compare_training(Path(directory), arguments.repeats, arguments.train_rows)


if __name__ == "__main__":
    main()
