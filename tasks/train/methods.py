"""The methods of training: how each loads the base, which adapter it adds, and which configs it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.addresses import first_line
from configs.effective.lengths import FEWEST_TOKENS
from configs.effective.numbers import precision, trained_base_format
from configs.errors import ConfigError
from configs.objectives import ONLINE, SCORING
from configs.printable import one_line
from configs.schema import ModelConfig
from configs.schema.train import PROMPT_METHODS, QUANTIZED_METHODS, TrainConfig
from tasks.models.end_tokens import end_tokens, set_end_tokens
from tasks.models.linear_layers import REWARD_HEAD as _HEAD_NAME
from tasks.models.linear_layers import heads, quantized_weights
from tasks.models.load import DTYPES, device, load_model, load_reward_model
from tasks.models.lora_targets import (
    ALL_LINEAR,
    left_alone,
    linear_layers,
    merged_targets,
    router_paths,
    target_modules,
)
from tasks.models.this_device import this_device
from tasks.models.vocabulary import fit_vocabulary, token_layers
from tasks.train.sharding import check_divisible, loading_arguments


def trainable_model(
    config: TrainConfig,
    model_config: ModelConfig,
    directory: Path,
    new_token_ids: list[int],
    vocabulary_size: int,
    **kwargs: Any,
) -> PreTrainedModel:
    """Return the base in `directory` as `config.method` trains it, with a row for each token of the tokenizer.

    Full: all weights, in 32 bits when `model.dtype` is auto. qlora: NF4 with double quantization, Dettmers et al. 2023
    (https://arxiv.org/abs/2305.14314). lora_8bit: LLM.int8(), Dettmers et al. 2022 (https://arxiv.org/abs/2208.07339).
    The objective `reward` gets a model that scores, whose new head is a function of `config.seed`.

    `vocabulary_size` is the tokenizer's highest id + 1. The rows of those `new_token_ids` that the base's own tokenizer
    lacks start as the mean of the rows before them, in embeddings and output head. `kwargs` go to transformers.

    Raises:
        ConfigError: bitsandbytes is missing, or cannot quantize on this device; or the model, or new tokens, cannot be
            sharded as `config.sharding` says.
        ModelError: the model cannot be loaded, or has fewer embeddings than the tokenizer has tokens.
    """
    check_divisible(config, model_config, directory, new_token_ids)
    kwargs |= loading_arguments(config)
    dtype = DTYPES[trained_base_format(config, model_config, this_device())]
    if config.method in QUANTIZED_METHODS:
        check_bitsandbytes(config, device())
        kwargs["quantization_config"] = _quantization(config)
    if config.objective in SCORING:
        here = device()
        with torch.random.fork_rng([here.index] if here.type == "cuda" else []):
            torch.manual_seed(config.seed)
            model = load_reward_model(model_config, directory, dtype, new_head=True, **kwargs)
    else:
        model = load_model(model_config, directory, dtype, **kwargs)
    fit_vocabulary(model, model_config, directory, new_token_ids, vocabulary_size)
    if config.method != "full":
        # otherwise peft saves this machine's path with the adapter, and the whole embedding with new tokens
        model.name_or_path = ""
    return model


def _quantization(config: TrainConfig) -> BitsAndBytesConfig:
    if config.method == "lora_8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[precision(config, this_device()).value],
    )


def check_bitsandbytes(config: TrainConfig, target: torch.device) -> None:
    """Quantize a small matrix on `target` as `config.method` would, to find out at once whether bitsandbytes can.

    Raises:
        ConfigError: names the method, the device and the fix.
    """
    try:
        from bitsandbytes import functional
    except ImportError:
        raise ConfigError(
            f"train.method={config.method} needs bitsandbytes, which is not installed; install it, or use lora"
        ) from None
    try:
        weights = torch.ones(64, 64, device=target)
        if config.method == "qlora":
            functional.dequantize_4bit(*functional.quantize_4bit(weights, quant_type="nf4"))
        else:
            functional.int8_vectorwise_quant(weights.half())
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        raise ConfigError(
            f"train.method={config.method}: bitsandbytes cannot quantize on {target.type} here; use lora, or another "
            f"device\nit says: {first_line(error)}"
        ) from None


def adapter_config(config: TrainConfig, model: PreTrainedModel, new_token_ids: list[int]) -> peft.PeftConfig | None:
    """Return peft's config of the adapter for `model`, from `trainable_model`; None if all weights are trained.

    LoRA adds (alpha / r) B A to a weight W, or (alpha / sqrt(r)) B A with rsLoRA; DoRA makes it
    m (W + B A) / ||W + B A||, by column. Only the embeddings of `new_token_ids`, in the output head too, and a reward
    model's head are trained besides.

    Raises:
        ConfigError: new tokens with a method that trains no embeddings.
    """
    if config.method == "full":
        return None
    if config.method in PROMPT_METHODS:
        if new_token_ids:
            raise ConfigError(
                f"tokenize.new_special_tokens: train.method={config.method} trains no embedding of a real token\n"
                "use lora or full, or leave new_special_tokens out"
            )
        return _virtual_tokens(config, model)
    lora, is_reward = config.lora, config.objective in SCORING
    names = list(token_layers(model))
    if getattr(model.config, "tie_word_embeddings", False):
        # peft then trains the tied layer too
        names = names[:1]
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(model, lora.target_modules),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        task_type=_task_type(config),
        modules_to_save=[_HEAD_NAME] if is_reward else None,
        trainable_token_indices={name: sorted(new_token_ids) for name in names} if new_token_ids else None,
    )


def _task_type(config: TrainConfig) -> str:
    return "SEQ_CLS" if config.objective in SCORING else "CAUSAL_LM"


def _virtual_tokens(config: TrainConfig, model: PreTrainedModel) -> peft.PeftConfig:
    count, text = config.prompt.num_virtual_tokens, config.prompt.init_text
    if config.method == "prefix_tuning":
        return peft.PrefixTuningConfig(num_virtual_tokens=count, task_type=_task_type(config))
    # given embeddings, a model cannot tell padding, where a score must not be read
    assert config.objective not in SCORING, "the config refuses prompt tuning of a reward model"
    if text is None:
        return peft.PromptTuningConfig(
            num_virtual_tokens=count, task_type="CAUSAL_LM", prompt_tuning_init="SAMPLE_VOCAB"
        )
    return peft.PromptTuningConfig(
        num_virtual_tokens=count,
        task_type="CAUSAL_LM",
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=text,
        tokenizer_name_or_path=model.config._name_or_path,
    )


def check_method(config: TrainConfig, model: PreTrainedModel, longest_row: int = FEWEST_TOKENS) -> None:
    """Refuse what does not fit `model`, as `trainable_model` returned it; `longest_row` is in tokens.

    Raises:
        ConfigError: target modules that match no linear layer, or the output head; a rank above a layer's width;
            virtual tokens that leave no room for a row.
    """
    _check_answers(config, model, longest_row)
    if config.method in PROMPT_METHODS:
        _check_room(config, model, max(longest_row, FEWEST_TOKENS))
    elif config.method != "full":
        _check_targets(config, model)


def method_notes(config: TrainConfig, model: PreTrainedModel) -> list[str]:
    """Return lines for the log: how much of the base is quantized, and which layers the adapter leaves alone."""
    if config.method == "full" or config.method in PROMPT_METHODS:
        return []
    weights, notes = quantized_weights(model), []
    if config.method in QUANTIZED_METHODS:
        left = f"; not {weights.left_in_words}" if weights.others else ""
        notes.append(f"base: {weights.share:.1%} of the weights of linear layers are quantized{left}")
    alone = left_alone(model, config.lora.target_modules)
    return [*notes, alone] if alone else notes


def _check_answers(config: TrainConfig, model: PreTrainedModel, longest_row: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if config.objective in ONLINE and positions and longest_row > positions:
        asked = longest_row - config.policy.max_new_tokens
        raise ConfigError(
            f"train.policy.max_new_tokens={config.policy.max_new_tokens} after a prompt of {asked} tokens exceeds the "
            f"model's {positions} positions\nlower it to {max(1, positions - asked)}, or leave long prompts out with "
            "tokenize.max_length"
        )


def _check_room(config: TrainConfig, model: PreTrainedModel, longest_row: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    count = config.prompt.num_virtual_tokens
    if positions and count + longest_row > positions:
        raise ConfigError(
            f"train.prompt.num_virtual_tokens={count} leaves {max(0, positions - count)} of the model's {positions} "
            f"positions, and rows need {longest_row}\nlower it"
            + (", or tokenize.max_length" if longest_row > FEWEST_TOKENS else "")
        )


def _check_targets(config: TrainConfig, model: PreTrainedModel) -> None:
    targets, rank, routers = config.lora.target_modules, config.lora.rank, router_paths(model)
    head_names = [name for name, module in model.named_modules() if any(module is head for head in heads(model))]
    layer_widths = dict(linear_layers(model))
    names = {name.rsplit(".", 1)[-1] for name in layer_widths}
    # merged layers are no modules any more; peft takes all old names of a merged weight, or none
    merged = {old for olds in merged_targets(model).values() if set(targets).issuperset(olds) for old in olds}
    for target in targets:
        if any(_is_named(name, target) for name in head_names):
            raise ConfigError(
                f"train.lora.target_modules: {one_line(target)} is the output head, whose weight the losses read "
                "directly: an "
                "adapter on it would not be used\nleave it out"
            )
        if target != ALL_LINEAR and target not in merged and not any(_is_named(name, target) for name in layer_widths):
            raise ConfigError(
                f"train.lora.target_modules: {one_line(target)} matches no linear layer of the model; it has "
                + ", ".join(sorted(names))
            )
    for name, width in layer_widths.items():
        is_target = (ALL_LINEAR in targets and name not in routers) or any(_is_named(name, each) for each in targets)
        if rank > width and is_target:
            raise ConfigError(
                f"train.lora.rank={rank} exceeds the width of {one_line(name)}, {width}; lower it to {width} or less"
            )


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def stop_at_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: list[int]) -> None:
    """Make generation stop at the end tokens `trained` and the model's own, also when the saved model is loaded later.

    A reward model generates nothing; it reads its score at the last token that is not padding.
    """
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        set_end_tokens(model, end_tokens(model, tokenizer, trained), tokenizer.pad_token_id)


def keep_trained_in_float32(model: torch.nn.Module) -> None:
    """Convert all trained parameters to 32 bits: in bfloat16 an update below 1/256 of a number is lost.

    For adapters; call this after the trainer is made: TRL converts adapters on a quantized base to bfloat16, and peft
    leaves a reward model's head in the type of the base.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            # the head is in 32 bits, and the layers before it may be in 16
            module.register_forward_pre_hook(lambda wrapper, inputs: (inputs[0].to(wrapper.weight.dtype), *inputs[1:]))


def show_head_bias(model: torch.nn.Module) -> None:
    """Let TRL's losses read the bias of an output head whose new tokens peft trains: peft exposes only the weight.

    For adapters; call this after the trainer is made.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper):
            # not with setattr: nn.Module would register it as a second parameter
            object.__setattr__(module, "bias", getattr(module.original_module, "bias", None))
