"""Supervised fine-tuning, one code path for one process and for many: TRL's trainer over token ids and labels."""

from __future__ import annotations

import time
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from configs.errors import ArtifactError, ConfigError
from configs.schema import ModelConfig, TrainConfig
from configs.wire import CurvePoint, TrainReport
from tasks.models.load import checkpoint_dtype, has_bfloat16, load_model, load_tokenizer
from tasks.models.quiet import quiet_libraries
from tasks.train.arguments import learning_rate, training_arguments, world_size
from tasks.train.batches import ExamplesAreApart, PaddedCollator, packed_collator
from tasks.train.progress import Progress


def fit(
    config: TrainConfig,
    model_config: ModelConfig,
    model_directory: Path,
    tokens_directory: Path,
    tokenizer_directory: Path,
    end_token_ids: list[int],
    output: Path,
) -> TrainReport:
    """Train and, on rank 0, write the model or the adapter, with its tokenizer, to `output`. All ranks call this.

    The loss of a step is the mean over the completion tokens of the whole batch, over all processes and
    accumulation passes, so that it does not depend on how the batch was divided.

    Rows with `position_ids` are packed: each example of a row is trained as if it were alone.

    Raises:
        ConfigError: target modules that match nothing, a batch that does not divide, or a model that cannot train on
            packed rows.
        DivergedError: the loss is not a number.
        ArtifactError: what was saved is empty.
    """
    started = time.monotonic()
    quiet_libraries()
    datasets.disable_progress_bars()
    tokens_file = tokens_directory / "tokens.parquet"
    arguments = training_arguments(config, pq.read_metadata(tokens_file).num_rows, output)
    if config.sharding == "zero3" and not torch.cuda.is_available():
        import deepspeed

        # parameters are divided while the model is loaded, which needs the processes to be connected
        deepspeed.init_distributed("gloo")
    tokenizer = load_tokenizer(tokenizer_directory, model_config.trust_remote_code)
    model = _trainable_model(config, model_config, model_directory)
    if config.method != "full":
        check_targets(config, _linear_layers(model))
    _set_end_tokens(model, end_token_ids, tokenizer.pad_token_id)
    trainer = make_trainer(config, arguments, model, tokenizer, tokens_file)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if config.method == "full" and config.sharding == "none" and model_config.dtype == "auto":
        # trained in 32 bits, published in the type of the base; DeepSpeed gathers in its own
        trainer.model.to(checkpoint_dtype(model_directory))
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        check_saved(output)
        # transformers' record of its own arguments: a pickle, and it names paths of this machine
        (output / "training_args.bin").unlink(missing_ok=True)
    return _report(trainer, config, time.monotonic() - started)


def make_trainer(
    config: TrainConfig,
    arguments: SFTConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens_file: Path,
) -> SFTTrainer:
    """Return TRL's trainer of `model` on the rows of `tokens_file`, packed or not.

    Raises:
        ConfigError: the rows are packed, and the model takes no position ids.
    """
    is_packed = "position_ids" in pq.read_schema(tokens_file).names
    packed = packed_collator(model, tokenizer.pad_token_id) if is_packed else None
    output = Path(arguments.output_dir)
    rows = datasets.Dataset.from_parquet(
        str(tokens_file),
        columns=["input_ids", "labels", "position_ids"] if is_packed else ["input_ids", "labels"],
        cache_dir=str(output.parent / f"{output.name}-cache"),
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        data_collator=packed or PaddedCollator(tokenizer.pad_token_id),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if config.method == "full" else _adapter_config(config),
        callbacks=[Progress(), *([ExamplesAreApart(packed)] if packed else [])],
    )


def _trainable_model(config: TrainConfig, model_config: ModelConfig, directory: Path) -> PreTrainedModel:
    quantization = None
    dtype = None
    if config.method == "full" and model_config.dtype == "auto":
        # small updates vanish in 16-bit weights; mixed precision keeps a 32-bit copy
        dtype = torch.float32
    if config.method == "qlora":
        compute = torch.bfloat16 if has_bfloat16() else torch.float32
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
        return load_model(model_config, directory, quantization_config=quantization)
    return load_model(model_config, directory, dtype)


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the layers an adapter can be put on; GPT-2's `Conv1D` is a linear layer too."""
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    return [name for name in layers if model.get_submodule(name) is not model.get_output_embeddings()]


def _set_end_tokens(model: PreTrainedModel, end_token_ids: list[int], pad_token_id: int) -> None:
    """Make generation stop where the training rows stop, also for whoever loads the model later."""
    model.generation_config.eos_token_id = end_token_ids if len(end_token_ids) > 1 else end_token_ids[0]
    model.generation_config.pad_token_id = pad_token_id
    model.config.pad_token_id = pad_token_id


def _adapter_config(config: TrainConfig) -> LoraConfig:
    targets = config.lora.target_modules
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else list(targets),
        task_type="CAUSAL_LM",
    )


def check_targets(config: TrainConfig, module_names: list[str]) -> None:
    """Refuse target modules that match none of the model's linear layers, `module_names`.

    Raises:
        ConfigError: names the target and some modules that exist.
    """
    for target in config.lora.target_modules:
        if target != "all-linear" and not any(n == target or n.endswith(f".{target}") for n in module_names):
            raise ConfigError(
                f"train.lora.target_modules: {target} matches no linear layer of the model; it has "
                + ", ".join(sorted({name.rsplit(".", 1)[-1] for name in module_names}))
            )


def check_saved(directory: Path) -> None:
    """Refuse a saved model or adapter without tensors, or with an empty one (as sharded saving can leave behind).

    Raises:
        ArtifactError: names the file and the tensor.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"training saved no weights to {directory}; run again, and report this")
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            empty = [name for name in names if 0 in file.get_slice(name).get_shape()]
        if not names or empty:
            raise ArtifactError(f"training saved an empty {empty[0] if empty else 'file'} to {path.name}; report this")


def _report(trainer: SFTTrainer, config: TrainConfig, seconds: float) -> TrainReport:
    points = [entry for entry in trainer.state.log_history if "loss" in entry]
    parameters = [
        # under ZeRO 3 a parameter's own size is that of its local part
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in trainer.model.parameters()
    ]
    return TrainReport(
        method=config.method,
        curve=[
            CurvePoint(
                step=entry["step"],
                loss=entry["loss"],
                learning_rate=entry.get("learning_rate", 0.0),
                grad_norm=float(entry.get("grad_norm") or 0.0),
            )
            for entry in points
        ],
        steps=trainer.state.global_step,
        epochs=trainer.state.epoch or 0.0,
        seconds=seconds,
        parameters=sum(size for size, _ in parameters),
        trainable_parameters=sum(size for size, trained in parameters if trained),
        world_size=world_size(),
        batch_size=config.batch_size,
        learning_rate=learning_rate(config),
        device=trainer.args.device.type,
        precision="bfloat16" if trainer.args.bf16 else "float32",
    )


def merge_adapter(model_config: ModelConfig, base: Path, adapter: Path, output: Path) -> None:
    """Write the base with the adapter added to its weights, W + (alpha / r) B A, in the base's own precision."""
    quiet_libraries()
    # "auto" is the type of the checkpoint: an adapter is merged into what was published, not into a quantized copy
    model = load_model(model_config, base, dtype="auto")  # type: ignore[arg-type]
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    tokenizer = load_tokenizer(adapter, model_config.trust_remote_code)
    generation = adapter / "generation_config.json"
    merged.config.pad_token_id = tokenizer.pad_token_id
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if generation.exists():
        (output / generation.name).write_bytes(generation.read_bytes())
    check_saved(output)
