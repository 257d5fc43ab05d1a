"""The data stage: rows per second and peak memory of each step, and of `datasets` on the same rows.

Each step runs in a process of its own, which gives its peak memory; imports are not timed. A row is a prompt and a
completion, together about 1 kB of made-up words, drawn with a probability proportional to 1 / rank. Of 100 rows, two
repeat an earlier row with other case and white space, and two repeat one with three words changed. `datasets`
(Apache-2.0) reads the same file and only tokenizes it: with the same tokenizer, batched, in one process. On a busy
machine, CPU seconds are more reliable than wall time.

    python benchmarks/data.py [--rows 10000 100000 1000000] [--steps scan merge tokenize] [--work DIR]

Steps run in the order of `STEPS`; each reads the output of earlier ones from the work folder. With `--work`, rows and
tokenizer are kept for the next run.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs.schema import DataConfig, SourceConfig, TokenizeConfig  # noqa: E402

COPIES = 0.02
EDITED_COPIES = 0.02
EDITED_WORDS = 3
NUM_WORDS = 8_000
WORDS_PER_ROW = (110, 250)
PROMPT_SHARE = 0.4
# later rows may repeat one row in 20: not all rows fit in memory
COPIED_ONE_OF = 20
CHUNK_ROWS = 5_000
TOKENIZER_VOCABULARY = 8_000
TOKENIZER_ROWS = 10_000


def vocabulary() -> list[str]:
    """Return 8,000 distinct made-up words; earlier words tend to be shorter, like frequent words."""
    generator = random.Random(0)
    syllables = [onset + vowel for onset in [*"bdfghjklmnprstvwz", "ch", "st", "tr"] for vowel in "aeiou"]
    words: dict[str, float] = {}
    while len(words) < NUM_WORDS:
        word = "".join(generator.choices(syllables, k=generator.randint(1, 4)))
        words.setdefault(word, len(word) + generator.gauss(0, 2))
    return sorted(words, key=lambda word: (words[word], word))


def generated_rows(count: int) -> Iterator[tuple[str, str]]:
    """Yield `count` pairs (prompt, completion): every call yields the same ones, and a larger count only adds pairs."""
    import numpy as np

    words = vocabulary()
    num_words = len(words)
    # every word plain, with a comma and with a full stop
    forms = np.array([*words, *(f"{word}," for word in words), *(f"{word}." for word in words)], dtype=object)
    weights = 1 / np.arange(1, num_words + 1)
    # a table of 2^18 entries with each word as often as its weight says, at least once: a draw is one look-up
    repeats = np.maximum(1, np.round(weights / weights.sum() * 2**18)).astype(np.int64)
    table = np.repeat(np.arange(num_words), repeats)
    endings = np.array([0] * 16 + [num_words, 2 * num_words])
    generator = np.random.default_rng(0)
    kept: list[list[str]] = []
    made = 0
    while made < count:
        lengths = generator.integers(*WORDS_PER_ROW, CHUNK_ROWS)
        drawn = table[generator.integers(0, len(table), lengths.sum())]
        text = forms[drawn + endings[generator.integers(0, len(endings), len(drawn))]].tolist()
        kinds = generator.random(CHUNK_ROWS)
        picks = generator.random((CHUNK_ROWS, 2 + EDITED_WORDS))
        start = 0
        for number in range(min(CHUNK_ROWS, count - made)):
            row = text[start : start + lengths[number]]
            start += lengths[number]
            if kept and kinds[number] < COPIES + EDITED_COPIES:
                which, new, *places = picks[number].tolist()
                earlier = kept[int(which * len(kept))]
                is_copy = kinds[number] < COPIES
                yield _copied(earlier) if is_copy else _pair(_edited(earlier, places, words[int(new * num_words)]))
                continue
            if number % COPIED_ONE_OF == 0:
                kept.append(row)
            yield _pair(row)
        made += CHUNK_ROWS


def _pair(words: list[str]) -> tuple[str, str]:
    prompt_words = int(len(words) * PROMPT_SHARE)
    return " ".join(words[:prompt_words]), " ".join(words[prompt_words:])


def _copied(words: list[str]) -> tuple[str, str]:
    prompt, completion = _pair(words)
    return f" {prompt.upper()}", completion.replace(". ", ".  ").capitalize()


def _edited(words: list[str], places: Iterable[float], replacement: str) -> list[str]:
    words = list(words)
    for place in places:
        words[int(place * len(words))] = replacement
    return words


def generate(jsonl: Path, work: Path) -> None:
    """Write as many rows as the name of the work folder says."""
    with open(jsonl, "w", encoding="utf-8", newline="\n", buffering=2**20) as file:
        for prompt, completion in generated_rows(int(work.name)):
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def train_tokenizer(jsonl: Path, work: Path) -> None:
    """Train a byte-level BPE of 8,000 tokens on the first 10,000 rows, once for all sizes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with open(jsonl, encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, TOKENIZER_ROWS)]
    bpe.train_from_iterator((f"{row['prompt']}\n{row['completion']}" for row in rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    fast.save_pretrained(str(tokenizer_directory(work)))


def tokenizer_directory(work: Path) -> Path:
    """Return the folder of the tokenizer that all sizes share."""
    return work.parent / "tokenizer"


def datasets_load(jsonl: Path, work: Path) -> None:
    """Read the file into the Arrow cache of `datasets`."""
    from datasets import load_dataset

    shutil.rmtree(work / "datasets", ignore_errors=True)
    load_dataset("json", data_files=str(jsonl), split="train", cache_dir=str(work / "datasets"))


def datasets_map(jsonl: Path, work: Path) -> None:
    """Tokenize prompt and completion with `datasets` from its Arrow cache: no template, no masks, no checks."""
    from datasets import load_dataset
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tokenizer_directory(work)))
    rows = load_dataset("json", data_files=str(jsonl), split="train", cache_dir=str(work / "datasets"))

    def tokenized(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        pairs = zip(batch["prompt"], batch["completion"], strict=True)
        texts = [f"{prompt}\n{completion}" for prompt, completion in pairs]
        return dict(tokenizer(texts))

    rows.map(tokenized, batched=True, remove_columns=rows.column_names, load_from_cache_file=False)


def _config(jsonl: Path) -> DataConfig:
    return DataConfig(sources=[SourceConfig(path=str(jsonl))], deduplicate="near")


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def scan(jsonl: Path, work: Path) -> None:
    """Hash and read the file, validate rows, check their content, and compute fingerprints and signatures."""
    from tasks.get_data.scan import scan_shard
    from tasks.plan.resolve.data import resolve_data

    [shard] = resolve_data(_config(jsonl), None).shards
    scan_shard(_config(jsonl), shard, [], None, _emptied(work / "shard"))


def merge(jsonl: Path, work: Path) -> None:
    """Find exact and near duplicates, split, and write the tables."""
    from tasks.get_data.merge import merge_shards

    print(merge_shards(_config(jsonl), [work / "shard"], _emptied(work / "tables")).counts_line(), file=sys.stderr)


def tokenize(jsonl: Path, work: Path) -> None:
    """Encode prompts and completions separately, mask, check, and write the tokens of both splits."""
    from tasks.tokenize.prepare import join_parts, tokenize_part

    model = tokenizer_directory(work)
    (model / "config.json").write_text('{"max_position_embeddings": 2048}')
    outputs = {name: _emptied(work / f"tokens-{name}") for name in ("train", "test", "tokenizer")}
    splits = {name: work / "tables" / f"{name}.parquet" for name in ("train", "test")}
    part = _emptied(work / "part")
    tokenize_part(TokenizeConfig(), "sft", None, model, False, splits, 0, 1, part)
    join_parts(TokenizeConfig(), "sft", None, model, False, [part], outputs)


class Step(NamedTuple):
    """A function of (JSONL file, work folder), and the modules to import before the clock starts."""

    run: Callable[[Path, Path], None]
    imports: tuple[str, ...] = ()


STEPS = {
    "generate": Step(generate, ("numpy",)),
    "train_tokenizer": Step(train_tokenizer, ("tokenizers", "transformers")),
    "scan": Step(scan, ("tasks.get_data.scan", "tasks.plan.resolve.data")),
    "merge": Step(merge, ("tasks.get_data.merge",)),
    "tokenize": Step(tokenize, ("tasks.tokenize.prepare",)),
    "datasets_load": Step(datasets_load, ("datasets",)),
    "datasets_map": Step(datasets_map, ("datasets", "transformers")),
}
STAGE_STEPS = ("scan", "merge", "tokenize")
DATASETS_STEPS = ("datasets_load", "datasets_map")


class Figures(NamedTuple):
    """Wall and CPU seconds of a step, child processes included; peak memory of its process and of its largest child."""

    seconds: float
    cpu_seconds: float
    gib: float
    child_gib: float


def measure(name: str, work: Path) -> Figures:
    """Run a step on `rows.jsonl` of `work` in this process; return its figures."""
    step = STEPS[name]
    for module in step.imports:
        importlib.import_module(module)
    started, before = time.perf_counter(), sum(os.times()[:4])
    step.run(work / "rows.jsonl", work)
    seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - before
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes on macOS, KiB on Linux
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return Figures(seconds, cpu_seconds, *(resource.getrusage(who).ru_maxrss / unit for who in processes))


def measure_in_child(name: str, work: Path) -> Figures | None:
    """Run `measure` in a child process, print a line of the table and return the figures; None if it fails."""
    count = int(work.name)
    run = subprocess.run(
        [sys.executable, __file__, "--step", name, "--work", str(work)],
        env=os.environ | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        print(f"{count:>10,}  {name:<16}  failed: {(run.stderr.strip() or 'no message').splitlines()[-1]}", flush=True)
        return None
    figures = Figures(*json.loads(run.stdout.splitlines()[-1]))
    megabytes = (work / "rows.jsonl").stat().st_size / 1e6
    print(
        f"{count:>10,}  {name:<16}{figures.seconds:>9.2f}{figures.cpu_seconds:>9.2f}{count / figures.seconds:>12,.0f}"
        f"{megabytes / figures.seconds:>9.1f}{figures.gib:>10.2f}{figures.child_gib:>11.2f}",
        flush=True,
    )
    return figures


def measure_size(work: Path, names: list[str]) -> dict[str, Figures]:
    """Measure the steps `names` in the order of `STEPS`; make rows and tokenizer first if they are missing."""
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in STEPS:
        missing = (name == "generate" and not (work / "rows.jsonl").exists()) or (
            name == "train_tokenizer" and not tokenizer_directory(work).exists()
        )
        if missing or name in names:
            figures = measure_in_child(name, work)
            if figures is not None:
                found[name] = figures
    return found


def print_ratios(found: dict[int, dict[str, Figures]]) -> None:
    """Print how the time per row grows with the number of rows, and how the stage compares to `datasets`."""
    small, large = min(found), max(found)
    if small < large:
        print(f"\ntime per row at {large:,} rows / at {small:,} rows, wall and CPU; 1.0 is linear")
        for name in STEPS:
            if name in found[small] and name in found[large] and name != "train_tokenizer":
                (seconds, cpu), (small_seconds, small_cpu) = found[large][name][:2], found[small][name][:2]
                growth = large / small
                print(f"{'':>12}{name:<16}{seconds / small_seconds / growth:>9.2f}{cpu / small_cpu / growth:>9.2f}")
    for count, figures in found.items():
        if set(STAGE_STEPS + DATASETS_STEPS) <= set(figures):
            ours, theirs = (sum(figures[name].seconds for name in names) for names in (STAGE_STEPS, DATASETS_STEPS))
            print(f"\n{count:>10,}  {' + '.join(STAGE_STEPS)} / {' + '.join(DATASETS_STEPS)}: {ours / theirs:.2f}")


def main() -> None:
    """Print one line per size and step, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes, in rows")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=[*STAGE_STEPS, *DATASETS_STEPS])
    parser.add_argument("--work", type=Path, help="folder to keep rows and tokenizer in; otherwise a temporary one")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure(arguments.step, arguments.work)))
        return
    print(f"{os.cpu_count()} CPUs, TOKENIZERS_PARALLELISM {os.environ.get('TOKENIZERS_PARALLELISM', 'unset')}")
    print("      rows  step              seconds    CPU s      rows/s     MB/s  peak GiB  child GiB")
    with tempfile.TemporaryDirectory() as scratch:
        base = arguments.work or Path(scratch)
        print_ratios({count: measure_size(base / str(count), arguments.steps) for count in arguments.rows})


if __name__ == "__main__":
    main()
