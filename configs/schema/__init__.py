"""Every setting a user may write, with its unit, its default, and its bounds.

One `FineTuneConfig` file drives every workflow. The classes are frozen and forbid unknown keys: a misspelt setting is
an error, never ignored. Validators reject; they never rewrite another setting. Nothing here imports torch or flytekit,
so that `--help` and registration stay fast.
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
        description="Hub id, directory, address of a folder (s3://bucket/model), or `embedded:english-to-sql` for the "
        "small model the project makes.",
    )
    revision: str | None = Field(None, description="Hub branch, tag or commit; the default branch when not set.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of the weights when loaded; `auto` is bfloat16 on a GPU that has it, else float32."
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="Attention kernel; `auto` is flash_attention_2 on a GPU where flash-attn is installed, else sdpa.",
    )
    allow_pickled_weights: bool = Field(
        False, description="Load `.bin`/`.pt` weights. Unpickling a file runs code that is in it."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that the model's repository ships.")


class TokenizeConfig(Section):
    """From rows to token ids and labels."""

    max_length: int | None = Field(
        None,
        ge=FEWEST_TOKENS,
        description=f"Longest sequence in tokens; when not set, the model's positions, at most {LONGEST_ROW}.",
    )
    over_length: Literal["auto", "error", "drop", "cut_left", "cut_right", "split"] = Field(
        "auto",
        description="Rows longer than `max_length`: stop the run, leave them out (counted and shown), cut the oldest "
        "tokens of the prompt or of a plain text but BOS, cut the end, or split them into consecutive pieces. `auto` "
        "drops rows that have an answer and splits plain text.",
    )
    packing: Literal["none", "best_fit"] = Field(
        "none",
        description="`best_fit` puts several whole training rows into one sequence of at most `max_length` tokens; "
        "none sees another. Held-out rows are never packed.",
    )
    train_on: Literal["all_answers", "last_answer"] = Field(
        "all_answers",
        description="Which answers of a conversation are trained: the assistant's turns, each with its end token, or "
        "the last of them only.",
    )
    chat_template: str | None = Field(
        None,
        description="File with a Jinja chat template, here or at an address; when not set, the model's own, or a plain "
        "one for base models.",
    )
    prompt_separator: str = Field(
        "\n", description="Put between prompt and completion where the model has no chat template of its own."
    )
    new_special_tokens: list[str] = Field(
        [], description="Tokens to add to the vocabulary, such as <|tool|>; their embeddings are trained and saved."
    )


def fault_of_tokenize(config: TokenizeConfig, objective: Objective) -> str | None:
    """Return why `config` does not go with `objective`, with the fix, or None; needs no row and no model."""
    tokens = config.new_special_tokens
    for token in tokens:
        if not token.strip():
            return f"tokenize.new_special_tokens holds {token!r}; a token must have a letter or a sign"
        if tokens.count(token) > 1:
            return f"tokenize.new_special_tokens names {token} twice; name each token once"
    if objective in WHOLE_TEXT:
        return None
    if config.packing != "none":
        return (
            f"tokenize.packing={config.packing} is for train.objective sft and cpt; {objective} needs each answer "
            "beside its own prompt alone\nset tokenize.packing to none"
        )
    if config.over_length == "split":
        return (
            f"tokenize.over_length=split is for train.objective sft and cpt; with {objective} a piece of an answer has "
            "lost its prompt\nset tokenize.over_length to auto, drop, cut_left or cut_right"
        )
    return None


class EvaluateConfig(Section):
    """Scores on the held-out rows."""

    generate_rows: int = Field(
        256, ge=0, description="Held-out rows answered by greedy generation, for exact match; loss uses all of them."
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description=f"Longest answer in tokens; when not set, the longest expected one, at most {LONGEST_ANSWER}.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass. When not set, the most that fit by the plan, at most "
        f"{MOST_EVALUATION_ROWS}.",
    )
    num_samples: int = Field(8, ge=0, description="Prompt / expected / before / after samples shown in the report.")

    @property
    def rows(self) -> int:
        """Rows per forward pass: as set, by the user or by a plan, else 32."""
        return self.batch_size or MOST_EVALUATION_ROWS


class QuantizeConfig(Section):
    """Smaller copies of the tuned model."""

    methods: list[QuantizationMethod] = Field(
        ["8bit", "4bit"],
        description=f"{described_quantizations()}; [] for none.",
    )
    calibration_rows: int = Field(
        128, ge=1, description="Training rows, spread over all of them, on which `gptq` measures its rounding."
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
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="`owner/name`; nothing is pushed when not set."
    )
    private: bool = Field(True, description="Make the repository private when it is created.")
    artifacts: list[PushedArtifact] = Field(
        ["model"], min_length=1, description="What to push; all but `model` go to `<repository>-<artifact>`."
    )
    only_if_better: bool = Field(
        True,
        description="Push only a model that is better than the one it began with: in held-out loss, preferences or "
        "reward, as its objective measures; a reward model, better than chance.",
    )


class RunConfig(Section):
    """The whole of a run, as a file or a form gives it."""

    def __getstate__(self) -> dict[Any, Any]:
        # flytekit keeps what it made of an input under a hash of the pickled value (TypeEngine._LITERAL_CACHE), and
        # would start a session's second run on files as they were at the first
        return {**super().__getstate__(), "pickled_at": time.monotonic_ns()}


class FineTuneConfig(RunConfig):
    """The whole of a run. Only `data.sources` and, for all but `prepare_data`, `model.name` have no default."""

    name: str = Field(
        "fine-tune", pattern=r"^[\w-][\w.-]*$", description="Names the run, its report, and its output folder."
    )
    model: ModelConfig = Field(ModelConfig(), description="The base model; only preparing data works without one.")
    data: DataConfig = Field(description="The rows.")
    tokenize: TokenizeConfig = Field(TokenizeConfig(), description="Template, lengths and masks.")
    train: TrainConfig = Field(TrainConfig(), description="Method, schedule and topology.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Held-out scores.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Quantized copies.")
    push_to_hub: PushConfig = Field(PushConfig(), description="Publication.")
    plan: PlanConfig = Field(PlanConfig(), description="GPU types of your own, and what is done where none fits.")
    output_directory: str = Field("outputs", description="Folder for report and metrics of a run on a laptop.")

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
                raise ValueError(f"push_to_hub.artifacts names {artifact}, which quantize.methods does not make")
            if artifact == "adapter" and self.train.method == "full":
                raise ValueError("push_to_hub.artifacts names adapter, which train.method=full does not make")
            if artifact != "adapter" and self.train.method in PROMPT_METHODS:
                raise ValueError(
                    f"push_to_hub.artifacts names {artifact}, but train.method={self.train.method} changes no weight "
                    "of the base; push the adapter"
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
                f"tokenize.packing={self.tokenize.packing} puts several rows into one sequence, and "
                f"train.method={method} one prompt before each; set packing to none"
            )
        if self.tokenize.new_special_tokens and method in PROMPT_METHODS:
            raise ValueError(
                f"tokenize.new_special_tokens need embeddings of their own, which train.method={method} does not "
                "train; use full or lora"
            )
        return self
