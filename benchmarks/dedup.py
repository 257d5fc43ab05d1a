"""Near duplicates: rows per second and peak memory of `near_clusters` and of a datasketch loop on the same rows.

Each measurement runs in a process of its own, which gives its peak memory. A row has about 1 kB of words, drawn with a
probability proportional to 1 / rank; one row of ten is a copy of an earlier one with one word changed. datasketch (MIT)
is not a dependency of the project (`pip install datasketch`); its loop queries and inserts row by row and verifies
nothing.

    python benchmarks/dedup.py [--rows 10000 100000] [--datasketch-rows 100000]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

THRESHOLD = 0.8
NUM_PERM = 128
WORDS_PER_ROW = 150
COPIES = 0.1


def generated_rows(count: int) -> tuple[list[str], int]:
    """Return (`count` rows, number of edited copies among them), the same at each call."""
    generator = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(generator.choices(alphabet, k=generator.randint(2, 10))) for _ in range(50_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    rows: list[str] = []
    copies = 0
    for number in range(count):
        if rows and generator.random() < COPIES:
            words = rows[generator.randrange(number)].split()
            words[generator.randrange(len(words))] = f"changed{number}"
            copies += 1
        else:
            words = generator.choices(vocabulary, cum_weights=weights, k=WORDS_PER_ROW)
        rows.append(" ".join(words))
    return rows, copies


def ours(rows: list[str]) -> int:
    """Return the number of rows with an earlier near duplicate."""
    import numpy as np

    from tasks.get_data.dedup import near_clusters, signatures

    signed = signatures(rows, len(rows), NUM_PERM)
    return int((near_clusters(signed, lambda position: rows[position], THRESHOLD) != np.arange(len(rows))).sum())


def datasketch(rows: list[str]) -> int:
    """Return the number of rows with an earlier candidate, by the loop in datasketch's documentation."""
    from datasketch import MinHash, MinHashLSH

    from tasks.get_data.dedup import normalized, shingles

    index = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM)
    found = 0
    for number, row in enumerate(rows):
        signature = MinHash(num_perm=NUM_PERM)
        signature.update_batch([shingle.encode() for shingle in shingles(normalized(row))])
        found += bool(index.query(signature))
        index.insert(number, signature)
    return found


def measure(method: str, count: int) -> dict[str, float]:
    """Run `method` in this process; return seconds, gib (peak), rows_gib (peak before it), found and copies."""
    rows, copies = generated_rows(count)
    methods = {"ours": ours, "datasketch": datasketch}
    methods[method](rows[:10])  # imports are not timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = methods[method](rows)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes on macOS, KiB on Linux
    return {"seconds": seconds, "gib": peak / unit, "rows_gib": before / unit, "found": found, "copies": copies}


def measure_in_child(method: str, count: int) -> dict[str, float]:
    """Run `measure` in a child process, print its line, and return its numbers."""
    command = [sys.executable, __file__, "--measure", method, "--rows", str(count)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(
        f"{count:>9,} rows  {method:<10}  {count / result['seconds']:>8,.0f} rows/s  {result['seconds']:>7.1f} s  "
        f"peak {result['gib']:.2f} GiB (of it {result['rows_gib']:.2f} before)  "
        f"{result['found']:,} found, {result['copies']:,} planted",
        flush=True,
    )
    return result


def main() -> None:
    """Print one line per size and method, and the ratio of their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes, in rows of about 1 kB")
    parser.add_argument("--datasketch-rows", type=int, default=100_000, help="the largest size that datasketch gets")
    parser.add_argument("--measure", choices=["ours", "datasketch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.rows[0])))
        return
    has_datasketch = importlib.util.find_spec("datasketch") is not None
    if not has_datasketch:
        print("datasketch is not installed, so there is no comparison; pip install datasketch")
    for count in arguments.rows:
        own = measure_in_child("ours", count)
        if has_datasketch and count <= arguments.datasketch_rows:
            theirs = measure_in_child("datasketch", count)
            print(f"{count:>9,} rows  ratio       {theirs['seconds'] / own['seconds']:.1f} times as fast as datasketch")


if __name__ == "__main__":
    main()
