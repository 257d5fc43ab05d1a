"""Models and rows for `train_throughput.py`: Llamas with random weights, rows of random tokens, and their FLOPs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

MEDIAN_TOKENS = 484 / 3.5
LENGTH_DEVIATION = 0.387
PROMPT_SHARE = 0.45
LORA_RANK = 16
# dense bfloat16 FLOP/s from the vendors' data sheets, by a part of the device's name
PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


class Shape(NamedTuple):
    """A Llama, the tokens of one epoch, and the longest sequence, which is also the length of packed rows on a GPU."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocab: int
    tied: bool
    tokens: int
    max_length: int
    micro_batch: int


CPU_SHAPES = {
    "small": Shape(128, 384, 4, 4, 4, 2048, True, 80_000, 512, 8),
    "medium": Shape(256, 768, 6, 4, 4, 4096, True, 24_000, 512, 4),
}
GPU_SHAPES = {
    "1B": Shape(2048, 8192, 16, 32, 8, 128_256, True, 400_000, 4096, 4),
    "3B": Shape(3072, 8192, 28, 24, 8, 128_256, True, 250_000, 4096, 2),
    "8B": Shape(4096, 14_336, 32, 32, 8, 128_256, False, 150_000, 4096, 1),
}
SHAPES = CPU_SHAPES | GPU_SHAPES


def row_lengths(shape: Shape, kind: str, scale: float) -> list[int]:
    """Return the length of each row in tokens; `equal` rows have the number and total tokens of the `varied` ones."""
    import numpy as np

    total, generator = shape.tokens * scale, np.random.default_rng(0)
    mean = MEDIAN_TOKENS * math.exp(LENGTH_DEVIATION**2 / 2)
    drawn = np.exp(generator.normal(math.log(MEDIAN_TOKENS), LENGTH_DEVIATION, round(total / mean)))
    varied = drawn.round().astype(int).clip(8, shape.max_length)
    if kind == "varied":
        return varied.tolist()
    whole, rest = divmod(int(varied.sum()), len(varied))
    return [whole + 1] * rest + [whole] * (len(varied) - rest)


def num_prompt_tokens(length: int) -> int:
    """Return the number of tokens without a label in a row of `length` tokens."""
    return round(PROMPT_SHARE * length)


def write_tokens(directory: Path, shape: Shape, kind: str, scale: float) -> None:
    """Write rows to `<kind>/tokens.parquet` as the tokenize stage does, and packed rows to `<kind>-packed`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.tokenize.packing import pack_tokens

    generator = np.random.default_rng(1)
    lengths = row_lengths(shape, kind, scale)
    ids = [generator.integers(2, shape.vocab, length, dtype=np.int32) for length in lengths]
    labels = [np.where(np.arange(len(row)) < num_prompt_tokens(len(row)), -100, row).astype(np.int32) for row in ids]
    numbers = pa.list_(pa.int32())
    schema = pa.schema([("row_id", pa.string()), ("input_ids", numbers), ("labels", numbers)])
    names = [f"rows.jsonl:{number}" for number in range(len(ids))]
    for folder in (directory / kind, directory / f"{kind}-packed"):
        folder.mkdir(parents=True)
    pq.write_table(pa.table([names, ids, labels], schema=schema), directory / kind / "tokens.parquet")
    pack_tokens(directory / kind / "tokens.parquet", directory / f"{kind}-packed" / "tokens.parquet", shape.max_length)


def write_model(directory: Path, shape: Shape) -> None:
    """Write a Llama with random weights, in bfloat16 on a GPU, and a tokenizer that nothing uses."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    with torch.device("cuda" if on_gpu else "cpu"):
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)


def needed_flops(shape: Shape, method: str, lengths: list[int]) -> float:
    """Return the FLOPs of one epoch; train_throughput.py describes what counts."""
    head_size = shape.hidden // shape.heads
    sizes = [(shape.hidden, shape.hidden)] * 2  # queries, output
    sizes += [(shape.hidden, shape.key_value_heads * head_size)] * 2
    sizes += [(shape.hidden, shape.intermediate)] * 3
    weights = shape.layers * sum(rows * columns for rows, columns in sizes)
    adapter = shape.layers * LORA_RANK * sum(rows + columns for rows, columns in sizes)
    head = shape.hidden * shape.vocab
    tokens, trained = sum(lengths), sum(length - num_prompt_tokens(length) for length in lengths)
    attention = 6 * shape.layers * shape.hidden * sum(length**2 for length in lengths)
    if method == "full":
        return 6 * weights * tokens + 6 * head * trained + attention
    return (4 * weights + 6 * adapter) * tokens + 4 * head * trained + attention


def peak_flops(on_gpu: bool) -> float:
    """Return the device's peak FLOP/s: from its data sheet, or measured as the best of 20 large matrix products."""
    import torch

    if on_gpu:
        name = torch.cuda.get_device_name()
        known = [peak for part, peak in PEAK_FLOPS.items() if part in name]
        if known:
            return known[0]
    size = 8192 if on_gpu else 1024
    kind = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    left, right = (torch.randn(size, size, device="cuda" if on_gpu else "cpu", dtype=kind) for _ in range(2))
    clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    times = []
    for _ in range(20):
        started = clock()
        left @ right
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - started)
    return 2 * size**3 / min(times)
