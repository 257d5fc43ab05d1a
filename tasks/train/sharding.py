"""How the model is sharded over processes: from `train.sharding` to the arguments of transformers and accelerate.

none, fsdp_no_shard    a whole model in each process, gradients averaged (PyTorch's DDP)
zero1, zero2, zero3    DeepSpeed shards the optimizer; gradients too; parameters too
fsdp_shard_grad_op     PyTorch shards optimizer and gradients, and gathers parameters once for forward and backward pass
fsdp_full_shard        PyTorch shards parameters too, and gathers them layer by layer
fsdp_hybrid_shard      as fsdp_full_shard within a machine; each machine holds a whole copy
tensor_parallel        the matrices of each layer are sharded within a machine, whose processes all see the same rows
layers                 the layers are spread over the GPUs of one process

FSDP is its second version: transformers deprecates the first, and the second has no NO_SHARD. Each process reads the
whole model into host memory before it takes its shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, ParallelismConfig, PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoConfig, PreTrainedModel

from configs.addresses import last_part
from configs.combinations import fault_of_heads
from configs.effective import batches
from configs.effective import training as effective_training
from configs.effective.device import NOT_HERE
from configs.errors import ConfigError
from configs.printable import one_line
from configs.schema import ModelConfig
from configs.schema.cluster import DEEPSPEED, FSDP, Sharding
from configs.schema.train import TrainConfig
from configs.wire import Choice

DEEPSPEED_CONFIGS = Path(__file__).parent.parent.parent / "configs" / "deepspeed"


def world_size() -> int:
    """Return the number of training processes, as torch elastic set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def effective(config: TrainConfig, num_processes: int | None = None) -> Sharding:
    """Return the sharding in effect with `num_processes`, by default those of this run."""
    return effective_training.sharding(config, num_processes or world_size()).value


def data_parallel_size(config: TrainConfig) -> int:
    """Return how many processes of this run, or groups of them, work on different rows."""
    return batches.data_parallel_size(config, world_size())


def prepare_process(config: TrainConfig) -> None:
    """Prepare this process for a sharded model. Call this after making TrainingArguments, before loading the model."""
    if torch.cuda.is_available():
        return
    if config.sharding == "zero3":
        import deepspeed

        # parameters are sharded while the model is loaded, so the processes must be connected before
        deepspeed.init_distributed("gloo")
    if effective(config) in (*FSDP, "tensor_parallel"):
        # on CPUs accelerate silently ignores FSDP, and refuses tensor parallelism; PyTorch can do both
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def deepspeed_file(config: TrainConfig) -> Path:
    """Return the shipped DeepSpeed file for the ZeRO stage and what is offloaded to host memory."""
    offload = "" if config.deepspeed.offload == "none" else f"_offload_{config.deepspeed.offload}"
    return DEEPSPEED_CONFIGS / f"{config.sharding}{offload}.json"


def sharding_arguments(config: TrainConfig, deepspeed_json: str = "") -> dict[str, Any]:
    """Return transformers' arguments for sharding the model.

    `deepspeed_json` is the content of the user's own file, as `check_deepspeed` accepted it; it replaces the shipped
    one. FSDP's checkpoints are sharded like the model, and any number of processes can load them.
    """
    in_effect = effective(config)
    arguments: dict[str, Any] = {"ddp_timeout": config.cluster.collective_timeout_seconds}
    if in_effect in DEEPSPEED:
        arguments["deepspeed"] = json.loads(deepspeed_json) if deepspeed_json else str(deepspeed_file(config))
    if in_effect in FSDP:
        arguments |= {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "reshard_after_forward": in_effect != "fsdp_shard_grad_op",
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "state_dict_type": "SHARDED_STATE_DICT",
            },
            # gradients are reduced after each backward pass: whole ones would take the memory that sharding saves
            "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        }
    if in_effect == "fsdp_hybrid_shard":
        shards = config.processes_per_node
        sizes = {"dp_replicate_size": world_size() // shards, "dp_shard_size": shards}
        arguments["parallelism_config"] = ParallelismConfig(**sizes)
    return arguments


def loading_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that place layers or shard matrices while they are loaded."""
    in_effect = effective(config)
    if in_effect == "tensor_parallel":
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_size=config.processes_per_node)}
    return {"device_map": "balanced"} if in_effect == "layers" else {}


def check_divisible(config: TrainConfig, loading: ModelConfig, directory: Path, new_token_ids: list[int]) -> None:
    """Refuse a model in `directory`, or new tokens, that cannot be sharded as the config says.

    Raises:
        ConfigError: tensor parallelism of an unknown architecture, or of heads that do not divide evenly; new tokens
            whose embeddings would be sharded.
    """
    in_effect = effective(config)
    shards_embeddings = in_effect == "tensor_parallel" or (config.method != "full" and in_effect in (*FSDP, "zero3"))
    if new_token_ids and shards_embeddings:
        raise ConfigError(
            f"tokenize.new_special_tokens: train.sharding={in_effect} shards the embeddings, and "
            + (
                "no rows can be added to sharded ones"
                if config.method == "full"
                else "peft trains single rows of whole ones"
            )
            + "; use zero2"
            + (", fsdp_full_shard" if config.method == "full" else ", or train.method=full")
        )
    if in_effect != "tensor_parallel":
        return
    settings = AutoConfig.from_pretrained(directory, trust_remote_code=loading.trust_remote_code).get_text_config()
    if not getattr(settings, "base_model_tp_plan", None):
        raise ConfigError(
            "train.sharding=tensor_parallel: transformers has no plan to shard the layers of "
            f"{one_line(settings.model_type)}; "
            "use fsdp_full_shard or zero3"
        )
    fault = fault_of_heads(config.processes_per_node, settings.to_dict())
    if fault is not None:
        raise ConfigError(fault)


def configure_fsdp(trainer: Any, config: TrainConfig) -> None:
    """Tell FSDP, before training, which modules to gather at once, and to sum gradients in 32 bits, as DDP does."""
    if effective(config) not in FSDP:
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    if config.fsdp.wrap == "size":
        plugin.transformer_cls_names_to_wrap = parts_by_size(trainer.model, config.fsdp.min_parameters)
    if trainer.args.bf16:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )


def gathered_once(accelerator: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return `gather_for_metrics`, cut to the rows of one process, for processes that all have the same rows."""
    gather = accelerator.gather_for_metrics
    return lambda tensor: gather(tensor)[: len(tensor)]


def parts_by_size(model: PreTrainedModel, min_parameters: int) -> list[str]:
    """Return the classes of the modules with at least `min_parameters`, adapters included; see torch's
    `size_based_auto_wrap_policy`.

    Single layers are left out: accelerate selects modules by class, and layers of one class differ in size. So are
    modules that hold the embeddings or the output head, which accelerate keeps together, and lists, which have no
    forward pass to gather for.
    """
    ends = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    lists = (torch.nn.ModuleList, torch.nn.ModuleDict)

    def is_part(module: torch.nn.Module) -> bool:
        if module is model or isinstance(module, lists) or not any(True for _ in module.children()):
            return False
        if any(layer is end for layer in module.modules() for end in ends):
            return False
        return sum(parameter.numel() for parameter in module.parameters()) >= min_parameters

    return sorted({type(module).__name__ for module in model.modules() if is_part(module)})


def sharding_lines(config: TrainConfig, num_processes: int, num_gpus: int) -> list[Choice]:
    """Return the report's lines on how the model is sharded; `num_gpus` is how many GPUs one process sees."""
    in_effect, reason = effective_training.sharding(config, num_processes)
    if in_effect == "layers" and num_gpus < 2:
        reason = f"{NOT_HERE}{num_gpus} GPUs; the layers stay together"
    lines = [Choice(name="sharding", value=in_effect, reason=reason)]
    if in_effect in DEEPSPEED:
        own = config.deepspeed.config
        reason = "the user's own file" if own else ""
        lines.append(Choice(name="DeepSpeed file", value=last_part(own or deepspeed_file(config).name), reason=reason))
        held = {"optimizer": "optimizer", "optimizer_and_parameters": "optimizer and parameters"}
        lines.append(Choice(name="in host memory", value=held.get(config.deepspeed.offload, "off")))
    if in_effect in FSDP:
        size = f"of at least {config.fsdp.min_parameters:,} parameters"
        value = "layer by layer" if config.fsdp.wrap == "layer" else size
        lines.append(Choice(name="gathered at once", value=value))
    if in_effect == "fsdp_hybrid_shard":
        copies = num_processes // config.processes_per_node
        lines.append(Choice(name="mesh", value=f"{copies} copies x {config.processes_per_node} parts"))
    return lines


def batch_line(config: TrainConfig, num_processes: int) -> Choice:
    """Return the report's line on processes, rows per optimizer step, and rows per forward pass of all processes."""
    rows = config.micro_batch * batches.data_parallel_size(config, num_processes)
    machines = num_processes // config.processes_per_node
    on = f" on {machines} machines" if machines > 1 else ""
    rows_line = f"{config.batch_size} rows a step, {rows} at a time"
    return Choice(name="processes", value=f"{num_processes}{on}", reason=rows_line)
