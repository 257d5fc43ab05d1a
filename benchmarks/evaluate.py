"""Answers of the evaluation against a plain transformers pipeline: rows per second, on the same rows in the same run.

The pipeline runs as its documentation shows, one row at a time by default, and with `batch_size=8`. Each measurement is
a process of its own; the sides alternate, and each repeat swaps which is first. Medians are printed; a ratio is the
median of the ratios of the repeats. Loading the model is not timed, and reading the prompts is. All sides compute in
float32 and must give the same answers; rows whose answers differ are counted.

Lengths are mixed. Prompts have a median of about 60 tokens, with a deviation of the logarithm of 0.7. Answers end at
any of 2.5 % of the vocabulary, chosen at random, which makes some short and some as long as allowed. `examples` puts
the same 200 words before each prompt, as few-shot prompting does. The model is a small Llama with random weights, or
that in the folder `--model`.

On a CPU with one thread, which is the default, seconds are the process's CPU time, which other work of the machine
affects least.

    python benchmarks/evaluate.py [--rows 96] [--new-tokens 96] [--repeats 3] [--model FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

VOCABULARY = 4096
END_SHARE = 0.025
NUM_EXAMPLE_WORDS = 200
SENTENCES = (
    "The sea was calm that day.",
    "Two trains left the station at the same time.",
    "Bread needs flour, water, salt and time.",
    "An old clock stood in the corner of the room.",
    "My neighbour keeps bees behind the house.",
)
QUESTIONS = ("Now I will tell you about the sea, which", "The best way to bake bread is", "In the year 1850 a man")
SIDES = {"ours": None, "pipeline, batch_size=1": 1, "pipeline, batch_size=8": 8}
KINDS = ("plain", "examples")


def write_model(directory: Path) -> None:
    """Write a Llama of 33 million random weights whose answers vary, and a tokenizer of words w0, w1, ..."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    sizes["num_key_value_heads"] = 2
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=2048, initializer_range=0.2, **sizes)
    LlamaForCausalLM(config).save_pretrained(directory)
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)


def make_prompts(is_real: bool, kind: str, num_rows: int) -> list[str]:
    """Return prompts of mixed lengths: of sentences for a real model, else of random words."""
    import numpy as np

    generator = np.random.default_rng(0)

    def words(number: int) -> str:
        if not is_real:
            return " ".join(f"w{word}" for word in generator.integers(2, VOCABULARY, number))
        chosen = generator.choice(SENTENCES, -(-number // 10))
        return " ".join(f"{sentence} ({generator.integers(1000)})" for sentence in chosen)

    start = words(NUM_EXAMPLE_WORDS) + " " if kind == "examples" else ""
    lengths = np.exp(generator.normal(np.log(60), 0.7, num_rows)).astype(int).clip(2, 400)
    ends = [f" {generator.choice(QUESTIONS)}" if is_real else "" for _ in lengths]
    return [start + words(length) + end for length, end in zip(lengths, ends, strict=True)]


def end_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens at which answers end: some of the vocabulary, chosen at random, and the end token."""
    import numpy as np

    size = len(tokenizer)
    chosen = np.random.default_rng(0).choice(size, int(size * END_SHARE), replace=False).tolist()
    return sorted({tokenizer.eos_token_id, *chosen})


def answer_ours(model: Any, tokenizer: Any, prompts: list[str], ends: list[int], new_tokens: int) -> list[str]:
    """Answer as the evaluate task does."""
    import pandas as pd

    from configs.schema import EvaluateConfig
    from tasks.models.generation import generate_answers

    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    rows = pd.DataFrame({"input_ids": ids, "prompt": prompts, "expected": ""})
    rows["prompt_length"] = rows.input_ids.map(len)
    answers = generate_answers(model, tokenizer, rows, EvaluateConfig(max_new_tokens=new_tokens), ends)
    return [tokenizer.decode(answer.ids, skip_special_tokens=True).strip() for answer in answers]


def answer_pipeline(
    model: Any, tokenizer: Any, prompts: list[str], ends: list[int], new_tokens: int, batch_size: int
) -> list[str]:
    """Answer as the documentation of transformers' pipelines shows."""
    from transformers import GenerationConfig, pipeline

    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    found = pipe(prompts, batch_size=batch_size, return_full_text=False, generation_config=config)
    return [one[0]["generated_text"].strip() for one in found]


def measure(side: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Answer the rows in this process; return the seconds and the answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tasks.models.quiet import quiet_libraries

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(options.directory, dtype=torch.float32).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(options.directory, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = make_prompts(options.model is not None, kind, options.rows)
    ends, batch_size = end_tokens(tokenizer), SIDES[side]

    def answer(asked: list[str], new_tokens: int) -> list[str]:
        if batch_size is None:
            return answer_ours(model, tokenizer, asked, ends, new_tokens)
        return answer_pipeline(model, tokenizer, asked, ends, new_tokens, batch_size)

    answer(prompts[:2], 2)  # the first pass sets up kernels
    # what other work on the machine affects least
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    answers = answer(prompts, options.new_tokens)
    return {"seconds": clock() - started, "answers": answers}


def run(side: str, kind: str, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure in another process."""
    arguments = ["--measure", side, kind, "--directory", str(directory), "--rows", str(options.rows)]
    arguments += ["--new-tokens", str(options.new_tokens), *(["--model", str(options.model)] if options.model else [])]
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(arguments)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(kind: str, options: argparse.Namespace, directory: Path) -> None:
    """Print a line for each side."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(options.repeats):
        for side in list(SIDES) if repeat % 2 == 0 else list(reversed(SIDES)):
            found[side].append(run(side, kind, options, directory))
    ours = found["ours"]
    for side, repeats in found.items():
        rate = statistics.median(options.rows / repeat["seconds"] for repeat in repeats)
        pairs = list(zip(repeats, ours, strict=True))
        ratio = statistics.median(repeat["seconds"] / own["seconds"] for repeat, own in pairs)
        differ = sum(a != b for repeat, own in pairs for a, b in zip(repeat["answers"], own["answers"], strict=True))
        beside = "" if side == "ours" else f"  ours is {ratio:.2f} times as fast, {differ} answers differ"
        print(f"{kind:<9} {side:<23} {rate:>7.2f} rows/s{beside}", flush=True)


def main() -> None:
    """Print a line for each side on each kind of rows, with the ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=96, help="rows to answer")
    parser.add_argument("--new-tokens", type=int, default=96, help="tokens of the longest answer")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each side")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of rows")
    parser.add_argument("--model", type=Path, help="folder of a real model; by default a small one is made")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        side, kind = options.measure
        print(json.dumps(measure(side, kind, options)))
        return
    with tempfile.TemporaryDirectory() as directory:
        if options.model is None:
            write_model(Path(directory))
        print(f"{options.rows} rows, answers of at most {options.new_tokens} tokens; {options.repeats} repeats")
        for kind in options.kinds:
            compare(kind, options, options.model or Path(directory))


if __name__ == "__main__":
    main()
