"""The model that is scored, with everything that scoring it needs except rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.train import RewardFunctionConfig
from tasks.models.end_tokens import end_tokens
from tasks.models.linear_layers import quantized_share
from tasks.models.load import device, is_reward_model, load_model, load_reward_model, load_tokenizer, weights_size
from tasks.models.loading import counted_loading
from tasks.models.pace import doing, say
from tasks.models.placement import is_quantized_here, on_device
from tasks.models.quiet import quiet_libraries
from tasks.models.vocabulary import make_room
from tasks.rewards.functions import RewardFunction, reward_functions
from tasks.rewards.models import RewardModel, load_reward_models


@dataclass(frozen=True)
class Subject:
    """A loaded model. `functions` and `reward_models` judge its answers; a reward model has none of them.

    `quantized_share` is that of the saved model: None for one that was quantized while it was loaded, whose
    `is_as_saved` is false.
    """

    config: EvaluateConfig
    name: str
    model: PreTrainedModel
    is_reward_model: bool
    tokenizer: PreTrainedTokenizerBase
    end_token_ids: list[int]
    size_bytes: int
    quantized_share: float | None
    rewards: Sequence[RewardFunctionConfig]
    functions: Sequence[RewardFunction]
    reward_models: Sequence[RewardModel]
    is_as_saved: bool = True


def load_subject(
    config: EvaluateConfig,
    model_config: ModelConfig,
    model_directory: Path,
    tokenizer_directory: Path,
    end_token_ids: list[int],
    rewards: Sequence[RewardFunctionConfig] = (),
    reward_models: Sequence[Path] = (),
    gpus: int = 1,
) -> Subject:
    """Return the model in `model_directory`, loaded onto this device, or divided over several `gpus`.

    Answers end at one of `end_token_ids` or of the model's own end tokens, where a saved model stops too.

    Raises:
        ModelError: the model cannot be loaded, or a reward model has another vocabulary.
        ConfigError: a reward function cannot be used; there are fewer GPUs than `gpus`.
    """
    quiet_libraries()
    tokenizer = load_tokenizer(tokenizer_directory, model_config.trust_remote_code)
    is_reward = is_reward_model(model_directory)
    load = load_reward_model if is_reward else load_model
    with doing("loading the model"), counted_loading("load"):
        model = load(model_config, model_directory, load_in=config.load_in, gpus=gpus)
    make_room(model, model_config, model_directory, len(tokenizer))
    is_as_saved = not is_quantized_here(model_directory, config.load_in)
    share = quantized_share(model)
    if not is_as_saved:
        say(f"scored in {config.load_in}: {share or 0.0:.1%} of the weights of linear layers", "evaluate")
    return Subject(
        config,
        model_config.name,
        on_device(model, device()).eval(),
        is_reward,
        tokenizer,
        # the base is asked to stop where the tuned model is, and at its own end tokens
        end_token_ids if is_reward else end_tokens(model, tokenizer, end_token_ids),
        weights_size(model_directory),
        share if is_as_saved else None,
        rewards,
        reward_functions(rewards),
        [] if is_reward else load_reward_models(model_config, reward_models, tokenizer, gpus),
        is_as_saved,
    )
