"""Memory that runs out, for real: a process that may allocate only so much, and its next try."""

from __future__ import annotations

import ctypes
import json
import re
import resource
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file
from support.forked import FORKING, ForkedProcess

from configs.effective.batches import fitting_micro_batch
from configs.effective.device import PLAIN_CPU, Device
from configs.errors import ConfigError, RetryError
from configs.schema import ModelConfig, TrainConfig
from tasks.train.checkpoint.store import CheckpointPlaces, Store, name_previous
from tasks.train.out_of_memory import NOTE_FILE, fit_micro_batch, noted_micro_batch, out_of_memory

ROWS, LENGTH = 16, 250
M_ARENA_MAX = -8


@pytest.mark.parametrize(
    ("batch", "most", "processes", "rows"),
    [(16, 8, 1, 8), (16, 8, 4, 4), (16, 8, 16, 1), (12, 8, 1, 6), (12, 8, 2, 6), (30, 8, 5, 6), (7, 4, 1, 1)],
)
def test_the_largest_micro_batch_that_divides(batch: int, most: int, processes: int, rows: int) -> None:
    assert fitting_micro_batch(TrainConfig(batch_size=batch, micro_batch_size=most), processes) == rows


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=16 does not divide among 3 processes\n.*multiple of 3"):
        fitting_micro_batch(TrainConfig(batch_size=16), 3)
    # KTO needs two rows in a pass
    with pytest.raises(ConfigError, match="multiple of 32"):
        fitting_micro_batch(TrainConfig(objective="kto", batch_size=16), 16)


def test_the_first_time_is_noted_and_tried_again_with_half(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    config = TrainConfig(batch_size=32, micro_batch_size=8)
    error = out_of_memory(config, 2, None, store)
    assert isinstance(error, RetryError)
    assert str(error) == (
        "out of memory with train.micro_batch_size=8; trying again with 4 and twice the accumulation, the same batch"
    )
    assert json.loads((tmp_path / NOTE_FILE).read_text()) == {"micro_batch_size": 8}
    assert noted_micro_batch([Store(str(tmp_path / "this try")), store]) == 8
    smaller, [line] = fit_micro_batch(config, 2, 8)
    assert (smaller.micro_batch_size, smaller.batch_size) == (4, 32)
    assert (line.name, line.value) == ("micro-batch", "4")
    assert line.reason == "out of memory with 8; the batch of 32 rows is the same"


def test_a_note_does_not_raise_what_the_user_has_lowered() -> None:
    config = TrainConfig(batch_size=32, micro_batch_size=2)
    assert fit_micro_batch(config, 1, 8) == (config, [])


@pytest.mark.parametrize(("rows", "noted", "words"), [(4, 8, r"=4, after 8\n"), (1, None, r"=1\n")])
def test_the_second_time_says_what_to_do(rows: int, noted: int | None, words: str, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=32, micro_batch_size=rows)
    error = out_of_memory(config, 1, noted, Store(str(tmp_path)))
    assert isinstance(error, ConfigError)
    assert re.search(f"train.micro_batch_size{words}", str(error))
    for idea in ("gradient_checkpointing=on", "train.method=lora or qlora", "train.sharding=zero3", "max_length"):
        assert idea in str(error)
    assert not (tmp_path / NOTE_FILE).exists()


@pytest.mark.parametrize(
    ("settings", "device", "is_offered"),
    [
        ({}, PLAIN_CPU, True),
        ({"efficiency": {"gradient_checkpointing": "on"}}, PLAIN_CPU, False),
        # it is on already
        ({}, Device("gpu", "A100", has_bfloat16=True), False),
        ({"efficiency": {"gradient_checkpointing": "off"}}, Device("gpu", "A100", has_bfloat16=True), True),
        # and cannot be on
        ({"method": "prefix_tuning"}, PLAIN_CPU, False),
    ],
)
def test_checkpointing_is_offered_where_it_would_change_something(
    settings: dict[str, Any], device: Device, is_offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.train.out_of_memory.this_device", lambda: device)
    error = out_of_memory(TrainConfig(batch_size=1, micro_batch_size=1, **settings), 1, None, None)
    assert ("train.efficiency.gradient_checkpointing=on" in str(error)) == is_offered


def wide_model(tiny_model: Path, directory: Path) -> Path:
    """Return a model whose activations take far more memory than its weights: 3 times 16,384 values a position."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, num_hidden_layers=1, intermediate_size=16384)
    LlamaForCausalLM(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    return directory


def long_rows(directory: Path) -> Path:
    directory.mkdir()
    rows = [
        {"row_id": f"rows:{n}", "input_ids": [2 + (n * 7 + place * 3) % 200 for place in range(LENGTH)], "prompt": ""}
        for n in range(ROWS)
    ]
    table = pd.DataFrame([{**row, "labels": row["input_ids"]} for row in rows])
    table.assign(prompt_length=0, expected="", dataset="held-out").to_parquet(directory / "tokens.parquet")
    return directory


def one_try(model: Path, tokens: Path, home: Path, number: int, rows: int, limit_bytes: int | None, pipe: Any) -> None:
    """Train in a process that may grow by `limit_bytes`; send its peak growth and what came of it."""
    from tasks.train import fit as fit_module
    from tasks.train.attempt import fit_once

    def now(name: str) -> int:
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    # each arena of the C library reserves 64 MiB of addresses, now for one thread and now for another
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    load = fit_module.make_trainer
    started = now("VmSize")

    def limited(*arguments: Any, **names: Any) -> Any:
        nonlocal started
        trainer = load(*arguments, **names)
        started = now("VmSize")
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (started + limit_bytes, started + limit_bytes))
        return trainer

    fit_module.make_trainer = limited
    config = TrainConfig(
        method="full",
        batch_size=ROWS,
        micro_batch_size=rows,
        max_steps=2,
        learning_rate=1e-3,
        efficiency={"gradient_checkpointing": "off"},
    )
    inputs = fit_module.FitInputs(model=model, train_tokens=tokens, tokenizer=model, end_token_ids=[1])
    previous = str(home / f"checkpoints-{number - 1}") if number else None
    places = CheckpointPlaces(str(home / f"checkpoints-{number}"), previous)
    # as the launcher does before it starts a process
    name_previous(places)
    try:
        report = fit_once(config, ModelConfig(name="wide"), inputs, home / f"model-{number}", places)
    except (ConfigError, RetryError) as error:
        pipe.send((type(error).__name__, str(error)))
    else:
        pipe.send((now("VmPeak") - started, [(line.name, line.value) for line in report.choices]))


@pytest.mark.slow
def test_a_run_that_ran_out_of_memory_ends_as_if_it_had_not(tiny_model: Path, tmp_path: Path) -> None:
    model, tokens = wide_model(tiny_model, tmp_path / "wide"), long_rows(tmp_path / "tokens")

    def run(home: str, number: int, rows: int, limit_bytes: int | None = None) -> tuple[Any, Any]:
        (tmp_path / home).mkdir(exist_ok=True)
        ours, theirs = FORKING.Pipe()
        process = ForkedProcess(
            target=one_try, args=(model, tokens, tmp_path / home, number, rows, limit_bytes, theirs)
        )
        process.start()
        # only the process holds it now: its end, whatever it is, is heard
        theirs.close()
        assert ours.poll(240)
        answer = ours.recv()
        process.join()
        return answer

    peak_of_8, _ = run("undisturbed", 0, 8)
    # 4 rows fewer: 4 x 250 x 16,384 float32 values 3 times are 188 MiB, half of which is missing
    limit = peak_of_8 - 94 * 2**20
    kind, message = run("limited", 0, 8, limit)
    assert kind == "RetryError" and "trying again with 4 and twice the accumulation" in message
    peak_of_4, choices = run("limited", 1, 8, limit)
    assert ("micro-batch", "4") in choices
    assert peak_of_8 - peak_of_4 > 188 * 2**20
    expected = load_file(tmp_path / "undisturbed" / "model-0" / "model.safetensors")
    found = load_file(tmp_path / "limited" / "model-1" / "model.safetensors")
    begun = load_file(model / "model.safetensors")
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5
    assert max(float((begun[name] - expected[name]).abs().max()) for name in expected) > 1e-3
    # too little for 4 rows as well
    kind, message = run("limited", 2, 8, peak_of_4 - 60 * 2**20)
    assert kind == "ConfigError" and "train.micro_batch_size=4, after 8" in message
