"""The plan and training, driven from the same configs: what the plan counts with is what training is started with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from support.plan_inputs import GPU_TYPES, LLAMA_3_8B
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from configs.effective.device import Device
from configs.errors import ConfigError
from configs.objectives import ONLINE, Objective
from configs.schema import EvaluateConfig, FineTuneConfig, ModelConfig
from configs.schema.cluster import Sharding
from configs.schema.train import Method, TrainConfig
from tasks.models import load as loading
from tasks.models.this_device import this_device
from tasks.plan.hardware import this_machine
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.sizing import evaluation_job, longest_rows, training_job
from tasks.plan.time.duration import RowFacts, training_steps
from tasks.tokenize.template import resolve_max_length
from tasks.train import methods, sharding
from tasks.train.arguments import optimizer_steps, training_arguments
from tasks.train.attempt import fit_micro_batch
from tasks.train.choices import Hardware, choose
from tasks.train.watch.held_out import kept_weights

TARGETS = [
    Target("CPU", 64e9, Device("cpu", "CPU", has_bfloat16=False)),
    Target("CPU", 64e9, Device("cpu", "CPU", has_bfloat16=True)),
    Target("CPU", 64e9, Device("cpu", "CPU", has_bfloat16=True, has_bitsandbytes=False)),
    gpu_target(GPU_TYPES["T4"]),
    gpu_target(GPU_TYPES["A100-80GB"]),
]
OBJECTIVES: tuple[Objective, ...] = ("sft", "cpt", "dpo", "kto", "reward", "rloo", "grpo")
METHODS: tuple[Method, ...] = ("full", "lora", "qlora", "lora_8bit", "prompt_tuning", "prefix_tuning")
# each way to shard, on one process, on two, and where it may be so on two machines of two
TOPOLOGIES: list[dict[str, Any]] = [
    {},
    {"processes_per_node": 2},
    {"processes_per_node": 2, "nodes": 2},
    {"nodes": 2},
    {"processes_per_node": 3, "nodes": "1:2"},
]
SHARDINGS: list[tuple[Sharding, dict[str, Any]]] = [
    ("none", {}),
    ("zero1", {}),
    ("zero2", {"deepspeed": {"offload": "optimizer"}}),
    ("zero3", {}),
    ("zero3", {"deepspeed": {"offload": "optimizer_and_parameters"}}),
    ("fsdp_full_shard", {}),
    ("fsdp_shard_grad_op", {}),
    ("fsdp_no_shard", {}),
    ("fsdp_hybrid_shard", {}),
    ("tensor_parallel", {}),
    ("layers", {"cluster": {"gpus_per_process": 2}}),
]
EFFICIENCY = [
    {"precision": precision, "gradient_checkpointing": checkpointing, "optimizer": optimizer}
    for precision, checkpointing, optimizer in product(
        ("auto", "bfloat16", "float32"),
        ("auto", "on", "off"),
        ("auto", "adamw", "adamw_8bit", "paged_adamw_8bit"),
    )
]
NAMES = {"adamw_bnb_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
NUM_ROWS = 100


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The number of training processes, without any."""
    run = SimpleNamespace(number=1)
    monkeypatch.setattr(sharding, "world_size", lambda: run.number)
    monkeypatch.setattr("tasks.train.watch.held_out.world_size", lambda: run.number)
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda _: run.number))
    yield run
    forget()


def forget() -> None:
    """Make accelerate and DeepSpeed as they are in a new process."""
    AcceleratorState._reset_state(True)
    unset_hf_deepspeed_config()
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_"))]:
        del os.environ[name]


def config_of(train: dict[str, Any], **model: Any) -> FineTuneConfig | None:
    """Return the config, or None where the schema refuses it."""
    sources = {"sources": [{"path": "rows.jsonl"}]}
    try:
        return FineTuneConfig.model_validate({"model": {"name": "a/b", **model}, "data": sources, "train": train})
    except ValidationError:
        return None


def plan_says(job: TrainingJob) -> dict[str, Any]:
    return {
        "bf16": job.precision == "bfloat16",
        "checkpointing": job.has_checkpointing,
        "optimizer": job.optimizer,
        "rows": job.micro_batch,
        "passes": job.accumulation,
        "sharding": job.sharding,
        "offload": job.offload,
        "reference": job.has_reference,
        "answers": (job.num_generations, job.max_new_tokens) if job.objective in ONLINE else None,
        "reduces_each_micro_batch": job.reduces_each_micro_batch if job.sharding.startswith("fsdp") else None,
        "bucket": job.reduce_bucket if job.sharding in ("zero1", "zero2") else None,
    }


def training_says(config: FineTuneConfig, target: Target, num_processes: int, output: Path) -> dict[str, Any]:
    """Return the same of the arguments that TRL's trainer is made with."""
    num_gpus = config.train.cluster.gpus_per_process if target.is_gpu else 0
    hardware = Hardware(target.device, num_processes, num_gpus)
    # the micro-batch that fits the processes there are, as an attempt begins with it
    train, _ = fit_micro_batch(config.train, sharding.data_parallel_size(config.train), None)
    choices = choose(train, config.model, hardware, is_packed=False, model_type="llama")
    arguments: Any = training_arguments(train, choices, NUM_ROWS, output, {"eval_strategy": "no"})
    optimizer = NAMES.get(arguments.optim.value, "adamw")
    found = {
        "bf16": arguments.bf16,
        "checkpointing": arguments.activation_checkpointing,
        "optimizer": optimizer,
        "rows": arguments.per_device_train_batch_size,
        "passes": arguments.gradient_accumulation_steps,
        "reference": bool(arguments.beta) if train.objective in ("dpo", "kto", *ONLINE) else False,
        "answers": (arguments.num_generations, arguments.max_completion_length) if train.objective in ONLINE else None,
        **sharding_of(train, arguments),
    }
    forget()
    return found


def sharding_of(train: TrainConfig, arguments: Any) -> dict[str, Any]:
    """Return the way of sharding, as transformers, accelerate and `from_pretrained` are told it."""
    found: dict[str, Any] = {"sharding": "none", "offload": "none", "reduces_each_micro_batch": None, "bucket": None}
    layout = sharding.loading_arguments(train)
    if "distributed_config" in layout:
        found["sharding"] = "tensor_parallel"
    if "device_map" in layout:
        found["sharding"] = "layers"
    if arguments.deepspeed:
        zero = json.loads(Path(arguments.deepspeed).read_text(encoding="utf-8"))["zero_optimization"]
        found["sharding"] = f"zero{zero['stage']}"
        has_optimizer, has_parameters = "offload_optimizer" in zero, "offload_param" in zero
        found["offload"] = "optimizer_and_parameters" if has_parameters else "optimizer" if has_optimizer else "none"
        found["bucket"] = zero["reduce_bucket_size"] if zero["stage"] < 3 else None
    if arguments.fsdp:
        word = "fsdp_full_shard" if arguments.fsdp_config["reshard_after_forward"] else "fsdp_shard_grad_op"
        found["sharding"] = "fsdp_hybrid_shard" if arguments.parallelism_config is not None else word
        found["reduces_each_micro_batch"] = arguments.accelerator_config.gradient_accumulation_kwargs["sync_each_batch"]
    return found


def assert_same(config: FineTuneConfig, target: Target, processes: SimpleNamespace, output: Path) -> bool:
    """Compare field by field; return False where nothing runs, as the batch does not divide."""
    train = config.train
    processes.number = train.fewest_nodes * train.processes_per_node
    job = training_job(config, LLAMA_3_8B, target)
    try:
        training = training_says(config, target, processes.number, output)
    except ConfigError:
        return False
    plan = plan_says(job)
    if train.fewest_nodes < train.most_nodes:
        # of a range the plan takes the most rows of any number of machines
        assert training.pop("rows") <= plan.pop("rows")
    assert plan == training, (target, train.model_dump(exclude_defaults=True))
    return True


@pytest.mark.parametrize("method", METHODS)
def test_efficiency_on_every_device(method: Method, processes: SimpleNamespace, tmp_path: Path) -> None:
    for target, efficiency in product(TARGETS, EFFICIENCY):
        config = config_of({"method": method, "efficiency": efficiency})
        assert config is not None
        assert assert_same(config, target, processes, tmp_path)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_methods_and_shardings(objective: Objective, processes: SimpleNamespace, tmp_path: Path) -> None:
    compared: set[tuple[str, str]] = set()
    for number, (method, (word, more), topology) in enumerate(product(METHODS, SHARDINGS, TOPOLOGIES)):
        # each with another device, and with another wish for precision, checkpointing and optimizer
        target = TARGETS[number % len(TARGETS)]
        settings = {"objective": objective, "method": method, "sharding": word, "batch_size": 24, **topology, **more}
        config = config_of({**settings, "efficiency": EFFICIENCY[number % len(EFFICIENCY)]})
        if config is not None and assert_same(config, target, processes, tmp_path):
            compared.add((method, word))
    assert {method for method, _ in compared} >= {"full", "lora", "qlora", "lora_8bit", "prefix_tuning"}
    wanted = {word for word, _ in SHARDINGS} - ({"tensor_parallel"} if objective in ONLINE else set())
    assert {word for _, word in compared} == wanted


@pytest.mark.parametrize("batch_size", [1, 6, 12, 16, 60])
def test_batches(batch_size: int, processes: SimpleNamespace, tmp_path: Path) -> None:
    compared = 0
    for topology, objective, rows in product(TOPOLOGIES, ("sft", "kto", "grpo"), (None, 1, 2, 4, 12)):
        train = {**topology, "objective": objective, "batch_size": batch_size, "micro_batch_size": rows}
        config = config_of(train)
        if config is not None and config.train.divides_batch(config.train.micro_batch):
            compared += assert_same(config, TARGETS[0], processes, tmp_path)
    assert compared


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.name} {target.device.has_bfloat16}")
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_the_base_is_loaded_in_the_format_that_is_counted(
    dtype: Any, target: Target, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "this_device", lambda: target.device)
    monkeypatch.setattr(methods, "this_device", lambda: target.device)
    model_config = ModelConfig(name="tiny", dtype=dtype)
    for method, objective in (("full", "sft"), ("lora", "sft"), ("prompt_tuning", "sft"), ("full", "reward")):
        config = config_of({"method": method, "objective": objective}, dtype=dtype)
        assert config is not None
        vocabulary = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        model = methods.trainable_model(config.train, model_config, tiny_model, [], vocabulary)
        job = training_job(config, LLAMA_3_8B, target)
        assert model.dtype == loading.DTYPES[str(job.weights)]
        assert job.base_bits == torch.finfo(model.dtype).bits
    evaluated = loading.load_model(model_config, tiny_model)
    assert evaluated.dtype == loading.DTYPES[evaluation_job(config, LLAMA_3_8B, target).precision]


@pytest.mark.parametrize("wish", ["auto", "eager", "sdpa", "flash_attention_2"])
def test_scores_are_counted_where_attention_keeps_them(wish: str) -> None:
    config = config_of({}, attn_implementation=wish)
    assert config is not None
    for target in TARGETS:
        choices = choose(config.train, config.model, Hardware(target.device), is_packed=False, model_type="llama")
        counted = training_job(config, LLAMA_3_8B, target), evaluation_job(config, LLAMA_3_8B, target)
        assert [job.has_scores for job in counted] == [choices.attn_implementation == "eager"] * 2
        assert counted[0].has_scores == (wish == "eager")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.name} {target.device.has_bfloat16}")
def test_quantized_weights_compute_in_the_precision_of_the_rest(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(methods, "this_device", lambda: target.device)
    for wish in ("auto", "bfloat16", "float32"):
        train = TrainConfig(method="qlora", efficiency={"precision": wish})
        choices = choose(train, ModelConfig(), Hardware(target.device), False, "llama")
        compute = methods._quantization(train).bnb_4bit_compute_dtype
        assert compute == (torch.bfloat16 if choices.bf16 else torch.float32), wish


def test_this_machine_is_the_device_that_torch_sees() -> None:
    """Where there is no GPU the plan reads /proc/cpuinfo, and training asks PyTorch."""
    device = this_device()
    planned = this_machine.this_machine(list(GPU_TYPES.values())).device
    assert (planned.kind, planned.has_bitsandbytes) == (device.kind, device.has_bitsandbytes)
    assert planned.has_bfloat16 == device.has_bfloat16


@pytest.mark.parametrize(
    ("flags", "has_bfloat16"),
    [
        ("fpu avx2 avx512f", False),
        ("fpu avx512f avx512_bf16", True),
        ("fpu amx_bf16 amx_tile", True),
        # AMD's and Intel's other instructions for 16 bits are not those
        ("fpu avx512_fp16 avx_vnni", False),
        ("", False),
    ],
)
def test_a_cpu_is_known_by_its_flags(
    flags: str, has_bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"processor\t: 0\nmodel name\t: some CPU\nflags\t\t: {flags}\nbugs\t\t: none\n\n"
    monkeypatch.setattr(this_machine, "_CPU_FLAGS", tmp_path / "cpuinfo")
    assert not this_machine.cpu_has_bfloat16()
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert this_machine.cpu_has_bfloat16() == has_bfloat16
    # PyTorch asks for the same two
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in flags)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx_tile" in flags)
    assert this_device().has_bfloat16 == has_bfloat16


@pytest.mark.parametrize("capability", [(6, 1), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)])
def test_a_gpu_is_known_by_its_compute_capability(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=capability[0]))
    gpu = SimpleNamespace(name="some GPU", memory_bytes=1, compute_capability=capability)
    monkeypatch.setattr(this_machine, "local_gpus", lambda: [gpu])
    assert this_machine.this_machine([]).device.has_bfloat16 == this_device().has_bfloat16 == (capability >= (8, 0))


@pytest.mark.parametrize("objective", ["sft", "rloo", "grpo"])
@pytest.mark.parametrize("num_rows", [16, 17, 83, 1000])
@pytest.mark.parametrize("settings", [{}, {"epochs": 2.5}, {"max_steps": 3}, {"policy": {"num_iterations": 2}}])
def test_as_many_steps_are_planned_as_are_made(objective: str, num_rows: int, settings: dict[str, Any]) -> None:
    config = config_of({"objective": objective, **settings})
    assert config is not None
    assert training_steps(config, RowFacts(rows=num_rows)) == optimizer_steps(config.train, num_rows)


@pytest.mark.parametrize("max_length", [None, 300])
@pytest.mark.parametrize("settings", [{}, {"max_position_embeddings": 512}, {"n_positions": 1024}])
def test_rows_are_as_long_as_the_tokenize_stage_leaves_them(max_length: int | None, settings: dict[str, int]) -> None:
    config = config_of({})
    assert config is not None
    config = config.model_copy(update={"tokenize": config.tokenize.model_copy(update={"max_length": max_length})})
    shape = replace(LLAMA_3_8B, positions=next(iter(settings.values()), None))
    assert longest_rows(config, shape) == resolve_max_length(settings, max_length)


def test_answers_are_as_long_as_the_evaluation_generates_them(tiny_model: Path) -> None:
    """Only the default is compared: the longest expected answer may be shorter."""
    config = config_of({})
    assert config is not None
    asked: list[int] = []

    class Model:
        active_peft_config = None
        device = torch.device("cpu")
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=None))

        def forward(self, input_ids: torch.Tensor) -> None:
            raise AssertionError("answers are generated by `generate`")

        def generate(self, input_ids: torch.Tensor, generation_config: Any, **_: Any) -> SimpleNamespace:
            asked.append(generation_config.max_new_tokens)
            return SimpleNamespace(sequences=torch.cat([input_ids, input_ids], 1), past_key_values=None)

    import pandas as pd

    from tasks.models.generation import generate_answers

    rows = pd.DataFrame({"input_ids": [[2] * 1000], "prompt_length": [1], "prompt": "", "expected": ""})
    model: Any = Model()
    generate_answers(model, loading.load_tokenizer(tiny_model), rows, EvaluateConfig(), [1])
    assert asked == [evaluation_job(config, LLAMA_3_8B, TARGETS[0]).new_tokens] == [512]


def test_pieces_of_general_text_are_as_long_as_the_plan_counts() -> None:
    from tasks.evaluate import retained
    from tasks.plan.sizing import GENERAL_TEXT_TOKENS

    assert retained._PIECE_TOKENS == GENERAL_TEXT_TOKENS


@pytest.mark.parametrize("word", [word for word, _ in SHARDINGS])
def test_best_weights_are_on_the_disk_where_training_keeps_them(word: Sharding, processes: SimpleNamespace) -> None:
    from tasks.plan.hardware.disk import checkpoint_bytes, kept_checkpoint_bytes
    from tasks.train.watch.held_out import evaluation_arguments

    for topology in TOPOLOGIES[:4]:
        config = config_of({"sharding": word, "method": "full", **topology})
        if config is None:
            continue
        train = config.train
        processes.number = train.fewest_nodes * train.processes_per_node
        device = TARGETS[-1].device
        copies = train.checkpoint.keep + 1
        state = checkpoint_bytes(10**9, 0, train, device)
        best = kept_checkpoint_bytes(10**9, 0, train, device) / copies - state
        arguments = evaluation_arguments(train, 100, True)
        assert (best > 0) == (kept_weights(train, True).value == "best") == ("save_only_model" in arguments)
        if best:
            # DeepSpeed saves the weights of the best step in a file of their own too, on this GPU in 16 bits
            own_file = 2 * 10**9 if word.startswith("zero") else 0
            assert best == (4 * 10**9 if arguments["save_only_model"] else state + own_file)
