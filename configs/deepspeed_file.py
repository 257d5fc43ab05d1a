"""Checks a user's own DeepSpeed file against the config before anything starts, so that no setting has two values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from configs.effective.batches import data_parallel_size
from configs.errors import ConfigError
from configs.foreign_json import JsonFault, parse_object
from configs.printable import one_line
from configs.schema.train import TrainConfig


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AUTO = "auto"
# the top-level keys that DeepSpeed 0.19 reads: it silently ignores any other, such as a misspelt one
TOP_LEVEL_KEYS = _words(
    """
    activation_checkpointing aio amp autotuning bf16 bfloat16 checkpoint comet comms_logger communication_data_type
    compile compression_training csv_monitor curriculum_learning data_efficiency data_types dataloader_drop_last
    disable_allgather disable_python_gc dump_state eigenvalue elasticity expert_parallel flops_profiler fp16
    gradient_accumulation_steps gradient_allreduce_op gradient_clipping gradient_predivide_factor hybrid_engine
    log_level memory_breakdown nebula optimizer pipeline prescale_gradients
    progressive_layer_drop scheduler seq_parallel_communication_data_type sparse_gradients steps_per_print
    tensor_parallel tensorboard timers torch_autocast train_batch_size train_micro_batch_size_per_gpu
    use_data_before_expert_parallelism vocabulary_size wall_clock_breakdown wandb weight_quantization
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
    """
)
# the fields of deepspeed.runtime.zero.config.DeepSpeedZeroConfig and their aliases
ZERO_KEYS = _words(
    """
    allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm contiguous_gradients cpu_offload
    cpu_offload_param cpu_offload_use_pin_memory elastic_checkpoint enable_sanity_checks
    gather_16bit_weights_on_model_save ignore_unused_parameters leaf_module legacy_stage1 load_from_fp32_weights
    log_trace_cache_warnings max_live_parameters max_reuse_distance memory_efficient_linear
    model_persistence_threshold module_granularity_threshold offload_optimizer offload_param overlap_comm
    override_module_apply param_persistence_threshold parameter_alignment pipeline_loading_checkpoint
    prefetch_bucket_size reduce_bucket_size reduce_scatter round_robin_gradients save_muon_momentum_buffer_in_memory
    stage stage3_allgather_sequential stage3_gather_16bit_weights_on_model_save
    stage3_gather_fp16_weights_on_model_save stage3_max_live_parameters stage3_max_reuse_distance
    stage3_model_persistence_threshold stage3_module_granularity_threshold stage3_param_persistence_threshold
    stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size use_all_reduce_for_fetch_params
    use_multi_rank_bucket_allreduce zenflow zero_hpz_partition_size zero_quantized_gradients
    zero_quantized_nontrainable_weights zero_quantized_weights
    """
)
# sections that must be absent or disabled, and why
_REFUSED_SECTIONS = {
    "scheduler": "the learning rate follows train.lr_scheduler and train.warmup_fraction; remove it",
    "tensor_parallel": "train.sharding=tensor_parallel shards the layers without DeepSpeed; remove it",
    "elasticity": "it would choose another batch size than train.batch_size; remove it",
    "amp": "it computes in float16, and training uses bfloat16 or float32; remove it",
}
_PRECISIONS = {True: "bfloat16", False: "float32"}
_ADAMW_DEFAULTS: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8}


def check_deepspeed(text: str, config: TrainConfig, path: str) -> dict[str, Any]:
    """Return the settings in `text`, the content of the file `path` that `train.deepspeed.config` names.

    A value may be absent, or `auto`, which the trainer fills in; any other value must equal the config's.

    Raises:
        ConfigError: the text is not a JSON object, has an unknown key, or a value contradicts the config; names the
            file, the key and both values.
    """
    where = f"train.deepspeed.config={one_line(path)}"
    settings = _parsed(text, where)
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError(f"{where}: zero_optimization is not an object of settings; write it as {{...}}")
    _check_keys(settings, TOP_LEVEL_KEYS, "", where)
    _check_keys(zero, ZERO_KEYS, "zero_optimization.", where)
    _check_stage(zero, config, where)
    for key, why in _REFUSED_SECTIONS.items():
        if _is_on(settings.get(key)):
            raise ConfigError(f"{where}: {key} is not supported: {why}")
    if _is_on(settings.get("fp16"), by_default=False):
        raise ConfigError(
            f'{where}: fp16.enabled is on, and training uses bfloat16 or float32; set it to false, and bf16 to "auto"'
        )
    for key, found, setting, expected in _compared_values(settings, zero, config):
        if not _is_same(found, expected):
            if expected is None:
                conflict = f", but {setting} leaves it open"
            else:
                value = _PRECISIONS[expected] if isinstance(expected, bool) else _value_text(expected)
                conflict = f" contradicts {setting}={value}"
            raise ConfigError(f'{where}: {key}={_value_text(found)}{conflict}; set it to "auto", or change {setting}')
    _check_offload(zero, config, where)
    return settings


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return parse_object(text, is_strict=True)
    except JsonFault as fault:
        raise ConfigError(f"{where} {fault}; write DeepSpeed's settings as one JSON object, {{...}}") from None


def _check_keys(settings: dict[str, Any], known: frozenset[str], prefix: str, where: str) -> None:
    for key in settings:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else "; remove it"
            raise ConfigError(f"{where}: {prefix}{one_line(key)} is not a DeepSpeed setting{hint}")


def _check_stage(zero: dict[str, Any], config: TrainConfig, where: str) -> None:
    stage = int(config.sharding.removeprefix("zero"))
    found = zero.get("stage")
    if found != stage or isinstance(found, bool):
        raise ConfigError(
            f"{where}: zero_optimization.stage={_value_text(found)} contradicts train.sharding={config.sharding}; "
            f"set it to {stage}" + (f", or train.sharding to zero{found}" if found in (1, 2, 3) else "")
        )
    names = ("stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save")
    if stage == 3 and not any(zero.get(name) is True for name in names):
        raise ConfigError(
            f"{where}: zero_optimization.{names[0]} is not true, and checkpoints would have no weights that load "
            "without DeepSpeed; set it to true"
        )


def _compared_values(
    settings: dict[str, Any], zero: dict[str, Any], config: TrainConfig
) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield (key in the file, its value, name in the config, its value) for every setting that both have.

    The config's value is None if it depends on the device or the number of machines, which are not known yet.
    """
    precision = config.efficiency.precision
    machines = config.most_nodes if config.fewest_nodes == config.most_nodes else None
    processes = (machines or 0) * config.processes_per_node
    rows = config.micro_batch * data_parallel_size(config, processes) or None
    accumulation = None if rows is None or config.batch_size % rows else config.batch_size // rows
    bf16 = settings.get("bf16", settings.get("bfloat16", {}))
    is_bfloat16 = {"bfloat16": True, "float32": False}.get(precision)
    yield "bf16.enabled", _value(bf16, "enabled"), "train.efficiency.precision", is_bfloat16
    yield "train_batch_size", settings.get("train_batch_size"), "train.batch_size", config.batch_size
    key = "train_micro_batch_size_per_gpu"
    yield key, settings.get(key), "train.micro_batch_size", config.micro_batch
    key = "gradient_accumulation_steps"
    yield key, settings.get(key), "batch_size / (micro_batch_size x processes)", accumulation
    yield "gradient_clipping", settings.get("gradient_clipping"), "train.max_grad_norm", config.max_grad_norm
    yield from _compared_optimizer_values(settings.get("optimizer"), config)


def _compared_optimizer_values(optimizer: Any, config: TrainConfig) -> Iterator[tuple[str, Any, str, Any]]:
    if optimizer is None:
        return
    kind = config.efficiency.optimizer
    expected = "AdamW" if kind in ("auto", "adamw") else kind
    yield "optimizer.type", _value(optimizer, "type") or "nothing", "train.efficiency.optimizer", expected
    parameters = _value(optimizer, "params") or {}
    yield "optimizer.params.lr", _value(parameters, "lr"), "train.learning_rate", config.learning_rate
    decay = _value(parameters, "weight_decay")
    yield "optimizer.params.weight_decay", decay, "train.weight_decay", config.weight_decay
    for name, value in _ADAMW_DEFAULTS.items():
        yield f"optimizer.params.{name}", _value(parameters, name), f"AdamW's {name} here", value


def _check_offload(zero: dict[str, Any], config: TrainConfig, where: str) -> None:
    offload = config.deepspeed.offload
    for part, is_offloaded in (
        ("offload_optimizer", offload != "none"),
        ("offload_param", offload == "optimizer_and_parameters"),
    ):
        device = _value(zero.get(part), "device") or "none"
        if device != ("cpu" if is_offloaded else "none"):
            fix = 'give it {"device": "cpu"}' if is_offloaded else "remove it"
            raise ConfigError(
                f"{where}: zero_optimization.{part}.device={one_line(device)} contradicts "
                f"train.deepspeed.offload={offload}; "
                f"{fix}, or change train.deepspeed.offload"
            )
    for old in ("cpu_offload", "cpu_offload_param"):
        if zero.get(old):
            raise ConfigError(f"{where}: zero_optimization.{old} is deprecated; use train.deepspeed.offload alone")


def _is_on(section: Any, by_default: bool = True) -> bool:
    """Return whether a section is present and enabled; `auto` counts as off, because the trainer enables none."""
    if not section:
        return False
    enabled = _value(section, "enabled")
    return by_default if enabled is None else enabled is True


def _value(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, dict) else None


def _is_same(found: Any, expected: Any) -> bool:
    if found is None or found == _AUTO:
        return True
    if isinstance(found, bool) != isinstance(expected, bool):
        return False
    if isinstance(found, str) and isinstance(expected, str):
        return found.lower() == expected.lower()
    return bool(found == expected)


def _value_text(value: Any) -> str:
    if value is None:
        return "nothing"
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
