"""Every setting that a user may write, with its unit, its default and its bounds.

A run is one config file. The classes are frozen and forbid unknown keys, so a misspelt setting is an error. Validators
reject a config; they never rewrite a setting. Nothing here imports torch or flytekit, so `--help` and registration stay
fast.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.artifacts import QUANTIZATIONS, PushedArtifact, QuantizationMethod, described_quantizations, methods_of
from configs.effective.batches import MOST_EVALUATION_ROWS
from configs.effective.lengths import FEWEST_TOKENS, LONGEST_ANSWER, LONGEST_ROW
from configs.errors import either
from configs.objectives import SCORING, WHOLE_TEXT, Objective
from configs.schema.data import CheckConfig, CheckPolicy, ColumnMap, DataConfig, RowFormat, SourceConfig
from configs.schema.plan import PlanConfig
from configs.schema.section import Section
from configs.schema.train import PROMPT_METHODS, RewardFunctionConfig, TrainConfig

__all__ = [
    "CheckConfig",
    "CheckPolicy",
    "ColumnMap",
    "DataConfig",
    "RewardFunctionConfig",
    "RowFormat",
    "SourceConfig",
    "TrainConfig",
]


class ModelConfig(Section):
    """The base model."""

    name: str = Field(
        "",
        description="The base model: a hub id, a directory, the address of a folder (s3://bucket/model), or "
        "`embedded:english-to-sql` for the small model that the project makes itself.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit of a hub model; when not set, the default branch."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format in which weights are loaded; `auto` is bfloat16 on a GPU that computes in it, else "
        "float32.",
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="Attention kernel; `auto` is flash_attention_2 on a GPU where flash-attn is installed, else sdpa.",
    )
    allow_pickled_weights: bool = Field(
        False, description="Allow weights in `.bin` and `.pt` files. Loading such a file runs any code that it holds."
    )
    trust_remote_code: bool = Field(False, description="Allow the Python code in the model's repository to run.")


class TokenizeConfig(Section):
    """How rows become token ids and labels."""

    max_length: int | None = Field(
        None,
        ge=FEWEST_TOKENS,
        description=f"Longest sequence in tokens; when not set, the model's positions, at most {LONGEST_ROW}.",
    )
    over_length: Literal["auto", "error", "drop", "cut_left", "cut_right", "split"] = Field(
        "auto",
        description="What happens to rows longer than `max_length`: `error` stops the run; `drop` leaves them out, "
        "counted and reported; `cut_left` cuts the oldest tokens of the prompt or plain text, but not BOS; `cut_right` "
        "cuts the end; `split` makes consecutive pieces. `auto` drops rows with an answer and splits plain text.",
    )
    packing: Literal["none", "best_fit"] = Field(
        "none",
        description="`best_fit` joins several whole training rows into one sequence of at most `max_length` tokens; "
        "rows do not attend to one another. Held-out rows are never packed.",
    )
    train_on: Literal["all_answers", "last_answer"] = Field(
        "all_answers",
        description="Which assistant turns of a conversation are trained, each with its end token: all, or the last.",
    )
    chat_template: str | None = Field(
        None,
        description="Path or address of a file with a Jinja chat template; when not set, the model's own template, or "
        "a plain one for a base model.",
    )
    prompt_separator: str = Field(
        "\n", description="Text between prompt and completion where no chat template is used, as with a base model."
    )
    new_special_tokens: list[str] = Field(
        [], description="Tokens to add to the vocabulary, such as <|tool|>; their embeddings are trained and saved."
    )


def fault_of_tokenize(config: TokenizeConfig, objective: Objective) -> str | None:
    """Return why `config` is invalid or contradicts `objective`, with the fix, or None; reads no row and no model."""
    tokens = config.new_special_tokens
    for token in tokens:
        if not token.strip():
            return f"tokenize.new_special_tokens holds {token!r}; a token must have at least one visible character"
        if tokens.count(token) > 1:
            return f"tokenize.new_special_tokens names {token} twice; name each token once"
    if objective in WHOLE_TEXT:
        return None
    if config.packing != "none":
        return (
            f"tokenize.packing={config.packing} is for train.objective sft and cpt; {objective} needs each answer in a "
            "sequence with its own prompt only\nset tokenize.packing to none"
        )
    if config.over_length == "split":
        return (
            f"tokenize.over_length=split is for train.objective sft and cpt; with {objective} a piece of an answer "
            "would have no prompt\nset tokenize.over_length to auto, drop, cut_left or cut_right"
        )
    return None


class EvaluateConfig(Section):
    """Scores on the held-out rows."""

    generate_rows: int = Field(
        256,
        ge=0,
        description="Held-out rows answered by greedy generation, for exact match; the loss is measured on all of "
        "them.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest generated answer in tokens; when not set, that of the longest expected answer, at most "
        f"{LONGEST_ANSWER}.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass; when not set, the most that fit by the plan, at most "
        f"{MOST_EVALUATION_ROWS}.",
    )
    num_samples: int = Field(
        8, ge=0, description="Held-out rows that the report shows with the answers before and after training."
    )

    @property
    def rows_per_pass(self) -> int:
        """Rows per forward pass: `batch_size` as set by the user or by a plan, else 32."""
        return self.batch_size or MOST_EVALUATION_ROWS


class QuantizeConfig(Section):
    """Quantized copies of the tuned model."""

    methods: list[QuantizationMethod] = Field(
        ["8bit", "4bit"],
        description=f"Copies to make: {described_quantizations()}; [] makes none.",
    )
    calibration_rows: int = Field(
        128, ge=1, description="Training rows, spread over the whole set, by which `gptq` measures its rounding error."
    )

    @model_validator(mode="after")
    def _no_repeats(self) -> QuantizeConfig:
        for method in self.methods:
            if self.methods.count(method) > 1:
                raise ValueError(f"methods names {method} twice; name each method once")
        return self


class PushConfig(Section):
    """Publication on a hub. The token comes from a Flyte secret or the environment, never from a config."""

    repository: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hub repository, `owner/name`; when not set, nothing is pushed."
    )
    private: bool = Field(True, description="Make the repository private when it is created.")
    artifacts: list[PushedArtifact] = Field(
        ["model"],
        min_length=1,
        description="What to push; each artifact but `model` has its own repository, `<repository>-<artifact>`.",
    )
    only_if_better: bool = Field(
        True,
        description="Push only if the tuned model beats the model that training began with, in held-out loss, "
        "preferences or reward, as its objective measures. A reward model must beat chance.",
    )


class RunConfig(Section):
    """The whole config of a run, as a file or a form gives it."""

    def __getstate__(self) -> dict[Any, Any]:
        # flytekit caches the literal of an input by a hash of the pickled value (TypeEngine._LITERAL_CACHE); without
        # the time, a second run in the same session would get the files as they were at the first
        return {**super().__getstate__(), "pickled_at": time.monotonic_ns()}


class FineTuneConfig(RunConfig):
    """The whole config of a run. Only `data.sources` has no default; all workflows but `prepare_data` also need
    `model.name`."""

    name: str = Field(
        "fine-tune", pattern=r"^[\w-][\w.-]*$", description="Name of the run, of its report, and of its output folder."
    )
    model: ModelConfig = Field(ModelConfig(), description="The base model; only prepare_data works without one.")
    data: DataConfig = Field(description="Where rows come from, and how they are checked and split.")
    tokenize: TokenizeConfig = Field(TokenizeConfig(), description="Chat template, sequence length and masks.")
    train: TrainConfig = Field(TrainConfig(), description="Objective, method, schedule, and processes.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Scores on the held-out rows.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Quantized copies of the tuned model.")
    push_to_hub: PushConfig = Field(PushConfig(), description="Publication of the tuned model on a hub.")
    plan: PlanConfig = Field(PlanConfig(), description="Further GPU types, and what to do if the plan does not fit.")
    output_directory: str = Field("outputs", description="Local folder for report and metrics of a run on a laptop.")

    @model_validator(mode="after")
    def _quantized_copies_can_be_made(self) -> FineTuneConfig:
        for method in self.quantize.methods if self.train.objective in SCORING else []:
            if not QUANTIZATIONS[method].takes_reward_models:
                raise ValueError(
                    f"quantize.methods names {method}, which is for language models, but "
                    f"train.objective={self.train.objective} trains a reward model; "
                    f"choose {either(methods_of('bitsandbytes'))}"
                )
        return self

    @model_validator(mode="after")
    def _pushed_artifacts_are_made(self) -> FineTuneConfig:
        for artifact in self.push_to_hub.artifacts if self.push_to_hub.repository else []:
            if artifact in QUANTIZATIONS and artifact not in self.quantize.methods:
                raise ValueError(
                    f"push_to_hub.artifacts names {artifact}, which quantize.methods does not make; add it there, or "
                    "remove it here"
                )
            if artifact == "adapter" and self.train.method == "full":
                raise ValueError(
                    "push_to_hub.artifacts names adapter, which train.method=full does not make; push the model"
                )
            if artifact != "adapter" and self.train.method in PROMPT_METHODS:
                raise ValueError(
                    f"push_to_hub.artifacts names {artifact}, but train.method={self.train.method} does not change the "
                    "base model's weights; push the adapter"
                )
        return self

    @model_validator(mode="after")
    def _tokens_suit_the_training(self) -> FineTuneConfig:
        objective, method = self.train.objective, self.train.method
        fault = fault_of_tokenize(self.tokenize, objective)
        if fault is not None:
            raise ValueError(fault)
        if self.tokenize.packing != "none" and method in PROMPT_METHODS:
            raise ValueError(
                f"tokenize.packing={self.tokenize.packing} puts several rows into one sequence, but "
                f"train.method={method} puts one prompt before each sequence; set tokenize.packing to none"
            )
        if self.tokenize.new_special_tokens and method in PROMPT_METHODS:
            raise ValueError(
                f"tokenize.new_special_tokens adds embeddings, which train.method={method} does not train; set "
                "train.method to full or lora"
            )
        return self
