"""What all tests share: the project's folder, a small model, small data, and `pyflyte` as a user runs it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import forked_programs

# set before torch is loaded: on two cores, two test processes with two threads each would slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
# DeepSpeed compiles for most of a minute where it finds nothing compiled: once for all tests, whatever home they have
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ROOT / ".pytest_cache" / "torch_extensions"))
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what an interrupted compilation left, for which the next would wait without end."""
    if not hasattr(session.config, "workerinput"):
        for lock in Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("*/lock"):
            lock.unlink()


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: over all of it one takes 0.4 s, and each training has two."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with 50 thousand random weights, 256 positions, a byte-level tokenizer and no chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of sixty prompt/completion rows with distinct questions."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def clean_environment() -> dict[str, str]:
    """Return this process's variables without what configures Flyte and the hub's client."""
    # with tests/ on it, tests/images would be taken for the package of that name
    hidden = ("HF_", "HUGGING", "FLYTE", "_FSEC", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(hidden)}


class PyFlyte:
    """Runs `pyflyte` in a process of its own, with a home and a cache of its own.

    With `is_forked` the process has the large libraries at once (tests/support/forked_programs.py).
    """

    def __init__(self, home: Path, is_forked: bool = False) -> None:
        self.home, self.is_forked = home, is_forked and forked_programs.IS_SUPPORTED

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        (self.home / "tmp").mkdir(parents=True, exist_ok=True)
        environment = clean_environment() | {"HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", **(env or {})}
        if self.is_forked:
            return forked_programs.run_script(["pyflyte", *arguments], ROOT, environment, timeout=540)
        return subprocess.run(
            [str(Path(sys.executable).parent / "pyflyte"), *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=540,
        )

    def fine_tune(self, config: dict | str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the workflow on a config: a mapping, or the path of a file."""
        if isinstance(config, dict):
            config = {"output_directory": str(self.home / "outputs"), **config}
            path = self.home / "config.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(config), encoding="utf-8")
            config = str(path)
        return self("run", "workflows/fine_tune.py", "fine_tune", "--config", config, env=env)


@pytest.fixture
def pyflyte(tmp_path: Path) -> PyFlyte:
    """A `pyflyte` whose local cache is empty, forked: for what it does and says."""
    return PyFlyte(tmp_path / "home", is_forked=True)


@pytest.fixture
def started_pyflyte(tmp_path: Path) -> PyFlyte:
    """A `pyflyte` whose local cache is empty, started as a user starts it: for what a start of its own may change."""
    return PyFlyte(tmp_path / "home")


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of the error that a user reads, without the output before it."""
    lines = result.stderr.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    return lines[starts[-1] :] if starts else []
