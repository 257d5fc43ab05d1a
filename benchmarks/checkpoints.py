"""Time to save a checkpoint: ours, with checksums and an upload, against transformers' own of the same state.

    python benchmarks/checkpoints.py [--parameters-million 50] [--repeats 5]

Both are written alternately in one run, to the same disk. Prints medians in seconds and MB/s, and their ratio.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "2")


def make_inputs(directory: Path, parameters_million: int) -> dict[str, Any]:
    """Write a Llama of about `parameters_million` parameters, a byte tokenizer and a few rows.

    Returns the arguments of `FitInputs` for them.
    """
    import pandas as pd
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)
    width = 512
    # a layer has 4 width^2 parameters of attention and 9 width^2 of the MLP
    layers = max(1, round(parameters_million * 1e6 / (13 * width**2)))
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    rows = [
        {
            "row_id": f"rows:{number}",
            "input_ids": [2 + number, 5, 6, 1],
            "labels": [-100, 5, 6, 1],
            "prompt_length": 1,
            "prompt": "",
            "expected": "",
            "dataset": "held-out",
        }
        for number in range(16)
    ]
    pd.DataFrame(rows).to_parquet(directory / "tokens.parquet")
    return {"model": directory, "train_tokens": directory, "tokenizer": directory, "end_token_ids": [1]}


def main() -> None:
    """Train a few steps, save both checkpoints after each step, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters-million", type=int, default=50, help="size of the model (default: 50)")
    parser.add_argument("--repeats", type=int, default=5, help="checkpoints of each kind (default: 5)")
    arguments = parser.parse_args()
    from transformers import Trainer

    from configs.schema import ModelConfig, TrainConfig
    from tasks.train.checkpoint.saver import Saver
    from tasks.train.checkpoint.store import CheckpointPlaces
    from tasks.train.fit import FitInputs, fit

    ours: list[float] = []
    theirs: list[float] = []
    sizes: list[int] = []
    save = Saver.save

    def save_both(self: Saver, trainer: Any) -> bool:
        began = time.perf_counter()
        saved = save(self, trainer)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        Trainer._save_checkpoint(trainer, trainer.model, None)
        theirs.append(time.perf_counter() - began)
        folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        shutil.rmtree(folder)
        return saved

    Saver.save = save_both  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "model").mkdir()
        inputs = make_inputs(directory / "model", arguments.parameters_million)
        config = TrainConfig(
            method="full",
            batch_size=2,
            micro_batch_size=2,
            max_steps=arguments.repeats + 2,
            checkpoint={"every_steps": 1},
            watch={"evaluations": 0},
        )
        places = CheckpointPlaces(str(directory / "checkpoints"))
        fit(config, ModelConfig(name="benchmark"), FitInputs(**inputs), directory / "output", places)
    # the first checkpoint of each warms up the disk's cache
    our_seconds, their_seconds = statistics.median(ours[1:]), statistics.median(theirs[1:])
    megabytes = statistics.median(sizes) / 1e6
    print(f"\nstate: {megabytes:,.0f} MB, {len(ours) - 1} of each")
    print(f"{'':36}{'seconds':>9}{'MB/s':>8}{'ratio':>7}")
    print(f"{'transformers, one folder':36}{their_seconds:9.2f}{megabytes / their_seconds:8.0f}{1.0:7.2f}")
    print(
        f"{'ours: + checksums, upload, manifest':36}{our_seconds:9.2f}{megabytes / our_seconds:8.0f}"
        f"{our_seconds / their_seconds:7.2f}"
    )


if __name__ == "__main__":
    main()
