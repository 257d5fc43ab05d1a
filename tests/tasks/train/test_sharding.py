"""However the model is divided, by real processes, the loss, the gradient and the saved weights are those of DDP."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from support.forked_programs import start_function
from transformers import AutoModelForCausalLM

pytest.importorskip("deepspeed")
Record = dict[str, Any]

# Sums in another order differ by some 1e-7 of their size, and three steps of AdamW, each of 1e-3, blow that up to 6e-6
# in a weight whose gradient is near 0. A gradient that is not averaged is off by hundreds of times these tolerances.
LOSS, WEIGHT, NORM = 1e-5, 2e-5, 1e-4
# of both processes together: vocabulary 258 x 64, and two layers of four 64 x 64, three 64 x 128, and norms
PARAMETERS = 258 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64

FULL, LORA = {"method": "full"}, {"method": "lora"}
RECOMPUTED = {"efficiency": {"gradient_checkpointing": "on"}}
BFLOAT16 = {"efficiency": {"precision": "bfloat16", "gradient_checkpointing": "on"}}
BY_SIZE = {"fsdp": {"wrap": "size", "min_parameters": 20_000}}
# a rate at which the held-out loss is lowest after the first step
OVERFIT = {"objective": "dpo", "learning_rate": 0.02, "watch": {"evaluations": 3}}
BOTH_SEE = {"micro_batch_size": 2}  # rows of one pass are those of both processes
OWN_JSON = json.dumps(
    {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 5000, "allgather_bucket_size": 5000},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
    }
)
TWO: dict[str, Record] = {
    "none": FULL,
    "none-lora": LORA,
    "none-dpo": {"objective": "dpo"},
    "none-best": OVERFIT,
    "none-best-lora": {**OVERFIT, **LORA, "learning_rate": 0.3},
    "none-bfloat16": BFLOAT16,
    "none-qlora": {"method": "qlora"},
    "none-prompt": {"method": "prompt_tuning"},
    "not-averaged": {"averaged": False},
    "fsdp_no_shard": {"sharding": "fsdp_no_shard"},
    "fsdp_full_shard": {"sharding": "fsdp_full_shard"},
    "fsdp_full_shard-lora": {"sharding": "fsdp_full_shard", **LORA, **RECOMPUTED},
    "fsdp_full_shard-dpo": {"sharding": "fsdp_full_shard", "objective": "dpo"},
    "fsdp_full_shard-best": {"sharding": "fsdp_full_shard", **OVERFIT},
    "fsdp_full_shard-best-lora": {"sharding": "fsdp_full_shard", **OVERFIT, **LORA, **RECOMPUTED, "learning_rate": 0.3},
    "fsdp_full_shard-bfloat16": {"sharding": "fsdp_full_shard", **BFLOAT16},
    "fsdp_shard_grad_op": {"sharding": "fsdp_shard_grad_op", **RECOMPUTED},
    "fsdp_shard_grad_op-lora": {"sharding": "fsdp_shard_grad_op", **LORA},
    "fsdp-by-size": {"sharding": "fsdp_full_shard", **BY_SIZE},
    "fsdp-by-size-lora": {"sharding": "fsdp_full_shard", **LORA, **BY_SIZE},
    "tensor_parallel": {"sharding": "tensor_parallel", **BOTH_SEE},
    "tensor_parallel-dpo": {"sharding": "tensor_parallel", "objective": "dpo", **BOTH_SEE},
    "tensor_parallel-best": {"sharding": "tensor_parallel", **OVERFIT, **BOTH_SEE},
    "tensor_parallel-prompt": {"sharding": "tensor_parallel", "method": "prompt_tuning", **BOTH_SEE},
    "zero1": {"sharding": "zero1"},
    "zero1-lora": {"sharding": "zero1", **LORA},
    "zero2": {"sharding": "zero2"},
    "zero2-lora": {"sharding": "zero2", **LORA},
    "zero2-qlora": {"sharding": "zero2", "method": "qlora"},
    "zero2-own": {"sharding": "zero2", "deepspeed": {"config": "my.json"}, "deepspeed_json": OWN_JSON},
    "zero2-bfloat16": {"sharding": "zero2", **BFLOAT16},
    "zero3": {"sharding": "zero3"},
    "zero3-lora": {"sharding": "zero3", **LORA, **RECOMPUTED},
    "zero3-best": {"sharding": "zero3", **OVERFIT},
    "zero3-prompt": {"sharding": "zero3", "method": "prompt_tuning"},
    "zero3-bfloat16": {"sharding": "zero3", **BFLOAT16},
}
ON_TWO_MACHINES = {"sharding": "fsdp_hybrid_shard", "nodes": 2, "processes_per_node": 2}
FOUR: dict[str, Record] = {
    "none": FULL,
    "none-lora": LORA,
    "fsdp_hybrid_shard": ON_TWO_MACHINES,
    "fsdp_hybrid_shard-lora": {**ON_TWO_MACHINES, **LORA},
}
OFFLOADED: dict[str, Record] = {
    "zero2-offload": {"sharding": "zero2", "deepspeed": {"offload": "optimizer"}},
    "zero3-offload": {"sharding": "zero3", "deepspeed": {"offload": "optimizer_and_parameters"}},
    "zero3-offload-lora": {"sharding": "zero3", **LORA, "deepspeed": {"offload": "optimizer_and_parameters"}},
}


def launch(num_processes: int, cases: dict[str, Record], model: Path, tokens: Path, output: Path) -> Path:
    """Train the cases in processes that are started once for all of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment |= {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"LOCAL_WORLD_SIZE": str(num_processes)}
    processes = []
    for rank in range(num_processes):
        with (output / f"log-{rank}").open("w") as log:
            streams = (log.fileno(), log.fileno())
            arguments = [cases, *map(str, (model, tokens, output))]
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(start_function("support.sharded_runs:run_all", arguments, ROOT, own, streams))
    # one that has failed leaves the others waiting for it
    while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
        time.sleep(0.2)
    for rank, process in enumerate(processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.poll() in (0, None), (output / f"log-{rank}").read_text()[-4000:]
    assert [process.poll() for process in processes] == [0] * num_processes
    return output


@pytest.fixture(scope="module")
def two(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(2, TWO, tiny_model, answers, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(4, FOUR, tiny_model, answers, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def offloaded(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(2, OFFLOADED, tiny_model, answers, tmp_path_factory.mktemp("offloaded"))


def record(output: Path, name: str, rank: int = 0) -> Record:
    return json.loads((output / f"{name}.{rank}.json").read_text())


def weights(output: Path, name: str) -> dict[str, torch.Tensor]:
    files = sorted((output / name).glob("*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def like(name: str) -> str:
    """Return the case of DDP that trains the same."""
    kind = name.partition("-")[2].removeprefix("by-size").removeprefix("own").removeprefix("offload").strip("-")
    return f"none-{kind}" if kind else "none"


def assert_same(found: Path, wanted: Path, name: str, loss: float = LOSS, weight: float = WEIGHT) -> None:
    one, other = record(found, name), record(wanted, like(name))
    assert len(one["losses"]) == 3
    assert one["losses"] == pytest.approx(other["losses"], abs=loss)
    assert one["norms"] == pytest.approx(other["norms"], rel=10 * loss)
    assert one["held_out"] == pytest.approx(other["held_out"], abs=5 * loss)
    assert (one["parameters"], one["trainable"]) == (other["parameters"], other["trainable"])
    saved, expected = weights(found, name), weights(wanted, like(name))
    assert saved.keys() == expected.keys()
    for key, tensor in expected.items():
        assert saved[key].dtype == tensor.dtype
        torch.testing.assert_close(saved[key], tensor, atol=weight, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


SAME = [name for name in TWO if not name.startswith("no") and "-best" not in name and "bfloat16" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_a_divided_model_trains_and_is_saved_as_one_that_is_not(name: str, two: Path) -> None:
    assert_same(two, two, name)


@pytest.mark.slow
def test_gradients_that_are_not_averaged_would_be_seen(two: Path) -> None:
    one, other = record(two, "not-averaged"), record(two, "none")
    assert max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True)) > 100 * LOSS
    assert max(abs(a / b - 1) for a, b in zip(one["norms"], other["norms"], strict=True)) > 100 * NORM
    saved, expected = weights(two, "not-averaged"), weights(two, "none")
    assert max(float((saved[key] - expected[key]).abs().max()) for key in expected) > 50 * WEIGHT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_hybrid_shard", "fsdp_hybrid_shard-lora"])
def test_two_machines_of_two_processes_hold_a_copy_each(name: str, four: Path) -> None:
    assert_same(four, four, name)
    assert record(four, name)["choices"]["mesh"] == "2 copies x 2 parts"
    if name == "fsdp_hybrid_shard":
        held = [record(four, name, rank)["parameters_held"] for rank in range(4)]
        assert held[0] + held[1] == held[2] + held[3] == PARAMETERS


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLOADED)
def test_offloaded_states_and_parameters_change_nothing(name: str, offloaded: Path, two: Path) -> None:
    assert_same(offloaded, two, name)
    held = record(offloaded, name)["choices"]["in host memory"]
    assert held == ("optimizer" if name == "zero2-offload" else "optimizer and parameters")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard-bfloat16", "zero2-bfloat16", "zero3-bfloat16"])
def test_mixed_precision_saves_the_32_bit_weights(name: str, two: Path) -> None:
    # 8 bits of mantissa: steps differ in the third digit, and Adam's first ones by up to their size
    assert_same(two, two, name, loss=3e-3, weight=4e-3)
    saved = weights(two, name)["model.layers.0.mlp.up_proj.weight"]
    assert saved.dtype == torch.float32
    assert not torch.equal(saved, saved.bfloat16().float())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "best_step", "loss", "weight"),
    # the second of two steps of 0.3 in each weight, beside the last, which goes as far again
    [
        ("fsdp_full_shard-best", 1, LOSS, 1e-4),
        ("zero3-best", 1, LOSS, 1e-4),
        ("fsdp_full_shard-best-lora", 2, 1e-3, 1e-2),
    ],
)
def test_the_best_weights_are_loaded_back_into_a_divided_model(
    name: str, best_step: int, loss: float, weight: float, two: Path
) -> None:
    best = record(two, like(name))
    assert best["best_step"] == record(two, name)["best_step"] == best_step
    assert best["held_out"][best_step - 1] == min(best["held_out"]) < best["held_out"][-1]
    assert_same(two, two, name, loss, weight)
    assert not list((two / name).glob("checkpoint-*"))


@pytest.mark.slow
def test_held_out_rows_count_once_where_both_processes_see_them(two: Path) -> None:
    one, other = record(two, "tensor_parallel-best"), record(two, "none-best")
    assert one["held_out"] == pytest.approx(other["held_out"], abs=1e-4)
    assert one["best_step"] is None
    assert one["choices"]["weights kept"] == "last"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "states"),
    [
        ("none", 1.0, 1.0),
        ("fsdp_no_shard", 1.0, 1.0),
        ("zero1", 1.0, 0.5),
        ("zero2", 1.0, 0.5),
        ("zero2-own", 1.0, 0.5),
        ("zero3", 0.5, 0.5),
        ("fsdp_full_shard", 0.5, 0.5),
        ("fsdp_shard_grad_op", 0.5, 0.5),
        ("fsdp-by-size", 0.5, 0.5),
        # all matrices; the norms, 5 x 64 numbers, are whole
        ("tensor_parallel", (PARAMETERS + 5 * 64) / 2 / PARAMETERS, (PARAMETERS + 5 * 64) / 2 / PARAMETERS),
    ],
)
def test_each_process_holds_its_part_only(name: str, parameters: float, states: float, two: Path) -> None:
    seen = record(two, name)
    # DeepSpeed pads a part to a multiple of some numbers
    assert seen["parameters_held"] == pytest.approx(parameters * PARAMETERS, rel=2e-3)
    assert seen["states_held"] == pytest.approx(states * PARAMETERS, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard", "tensor_parallel", "zero3", "zero1"])
def test_a_saved_model_loads_by_itself_and_has_tied_weights_once(name: str, two: Path) -> None:
    assert "lm_head.weight" not in weights(two, name)
    model, found = AutoModelForCausalLM.from_pretrained(two / name, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(two / "none")
    asked = torch.tensor([[40, 41, 42, 43]])
    with torch.no_grad():
        torch.testing.assert_close(model(asked).logits, expected(asked).logits, atol=1e-4, rtol=0)
    assert "distributed_config" not in json.loads((two / name / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_full_shard-lora", "zero3-lora", "zero2-qlora", "tensor_parallel-prompt"])
def test_a_saved_adapter_fits_its_base(name: str, two: Path, tiny_model: Path) -> None:
    asked = torch.tensor([[40, 41, 42, 43]])
    logits = []
    for case in (name, like(name)):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        base = model(asked).logits.detach()
        adapted = peft.PeftModel.from_pretrained(model, two / case)
        logits.append(adapted(asked).logits.detach())
        assert not torch.allclose(logits[-1][:, -4:], base, atol=1e-4)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
