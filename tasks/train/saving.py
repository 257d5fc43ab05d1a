"""Saves the trained model whole, however many processes it is sharded over, in files that load without them.

DeepSpeed, FSDP and tensor parallelism leave a shard of each tensor in each process, and what a library saves of such a
model can be empty. Here the tensors are gathered one by one, so that no GPU needs room for more than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from configs.schema import ModelConfig
from configs.schema.train import PROMPT_METHODS, TrainConfig
from tasks.models.load import checkpoint_dtype, weight_dtype
from tasks.train.kept_settings import KeptSettings
from tasks.train.merge import check_saved

_SHARD_SIZE = "5GB"


def save_whole(
    trainer: Trainer, config: TrainConfig, loading: ModelConfig, base: Path, kept: KeptSettings, output: Path
) -> None:
    """Write the trained model, or the adapter, with its tokenizer, to `output`. All ranks call this; rank 0 writes.

    A full model is written in the type in which the model in `base` was published, or in `model.dtype` if that is not
    auto; in files of at most 5 GB, with tied weights once. Trained weights come from the 32-bit copy that mixed
    precision keeps, if there is one. Its settings are `kept`, whatever training changed for itself.

    Raises:
        ArtifactError: what was written is not whole.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    is_writer = bool(trainer.args.should_save)
    dtype = None
    if config.method == "full":
        dtype = checkpoint_dtype(base) if loading.dtype == "auto" else weight_dtype(loading)
        if kept.generation is not None:
            model.generation_config = kept.generation
    tensors = whole_tensors(model, is_writer, trained_only=config.method != "full", dtype=dtype)
    if is_writer and config.method in PROMPT_METHODS:
        _hold_virtual_tokens(model, tensors)
    if is_writer or _waits_for_all(model):
        limit = {} if isinstance(model, PeftModel) else {"max_shard_size": _SHARD_SIZE}
        model.save_pretrained(output, state_dict=tensors, is_main_process=is_writer, **limit)
    if is_writer:
        trainer.processing_class.save_pretrained(output)  # type: ignore[union-attr]
        if dtype is not None:
            kept.write_config(output / "config.json", dtype)
        with _whole_models(trainer):
            check_saved(output, loading, base)


@contextmanager
def _whole_models(trainer: Trainer) -> Iterator[None]:
    """Within the block, load models whole: under ZeRO 3 transformers shards every new one over all processes."""
    sharding_config = getattr(trainer.args, "hf_deepspeed_config", None)
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if sharding_config is not None:
            set_hf_deepspeed_config(sharding_config)


def whole_tensors(
    model: PreTrainedModel | PeftModel, is_writer: bool, trained_only: bool, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Return the whole tensors of `model` by name, on the CPU; none if this is not the writer. All ranks call this.

    Floating-point tensors are cast to `dtype`, if given; trained ones are in 32 bits before, if the engine keeps such
    a copy. A weight tied to another is left out.
    """
    tied = _tied_names(model)
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in tied or (trained_only and not tensor.requires_grad):
            continue
        whole = _whole(tensor, is_writer)
        if whole is not None:
            tensors[name.replace("_orig_mod.", "")] = whole.to(dtype) if whole.is_floating_point() and dtype else whole
    return tensors


def _whole(tensor: torch.Tensor, is_writer: bool) -> torch.Tensor | None:
    """Return a copy on the CPU of a tensor, gathered from all processes, or None if this is not the writer."""
    full = _master_copy(tensor)
    if full is None and isinstance(tensor, DTensor):
        full = tensor.full_tensor()
    with _gathered(tensor):
        if not is_writer:
            return None
        return (tensor if full is None else full).detach().to("cpu", copy=True).contiguous()


def _master_copy(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return DeepSpeed's 32-bit copy of a trained 16-bit parameter, gathered; None if it keeps none."""
    if not tensor.requires_grad or tensor.dtype == torch.float32:
        return None
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor)
    return None


def _gathered(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Return a context in which a parameter that ZeRO 3 shards is whole."""
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor])


def _tied_names(model: PreTrainedModel | PeftModel) -> set[str]:
    """Return the names of weights that are the same parameter as another, whatever the base's files say."""
    if isinstance(model, PeftModel):
        # none of an adapter's own tensors is tied
        return set()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name
        for name, source in model.all_tied_weights_keys.items()
        if name in parameters and parameters[name] is parameters.get(source)
    }


def _hold_virtual_tokens(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put the gathered virtual tokens into the module: peft reads them there, and not from the tensors it is given."""
    adapter = model.active_adapter
    weight = tensors[f"prompt_encoder.{adapter}.embedding.weight"]
    model.prompt_encoder[adapter].embedding.weight = torch.nn.Parameter(weight)
    # peft then reads the weight; otherwise it calls the module, and DeepSpeed's hooks with it
    model.peft_config[adapter].inference_mode = True


def _waits_for_all(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether `save_pretrained` waits for all ranks, as it does for a model that transformers sharded."""
    return getattr(model.config, "distributed_config", None) is not None
