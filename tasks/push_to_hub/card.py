"""The model card: what was trained from what, on which rows, with which scores. Equal inputs give equal bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configs.schema import QUANTIZED_ARTIFACTS, FineTuneConfig, PushedArtifact
from configs.wire import DataReport, Scores

_PRECISIONS = {
    "model": "in full precision",
    "8bit": "quantized to 8 bits (LLM.int8(), bitsandbytes)",
    "4bit": "quantized to 4 bits (NF4, bitsandbytes)",
    "gptq": "quantized to 4 bits (GPTQ, calibrated on training rows)",
}
_ADAPTERS = {
    "lora": "The LoRA adapter alone",
    "qlora": "The LoRA adapter alone, trained over a 4-bit base (QLoRA)",
    "lora_8bit": "The LoRA adapter alone, trained over an 8-bit base",
    "prompt_tuning": "The virtual tokens that prompt tuning trained, and no weight of the base",
    "prefix_tuning": "The keys and values of virtual tokens that prefix tuning trained, and no weight of the base",
}
_OBJECTIVES = {
    "sft": "supervised fine-tuning",
    "cpt": "continued pre-training",
    "dpo": "direct preference optimization",
    "kto": "Kahneman-Tversky optimization",
    "reward": "reward model (Bradley-Terry)",
    "rloo": "reinforcement learning (RLOO)",
    "grpo": "reinforcement learning (GRPO)",
}
# the measure, its name in tables, its name in metadata, its format
_ALWAYS_SHOWN = [
    ("eval_loss", "loss", "loss", "{:.4f}"),
    ("perplexity", "perplexity", "perplexity", "{:.4g}"),
    ("exact_match", "exact match", "exact_match", "{:.1%}"),
    ("rouge_l", "ROUGE-L", "rouge", "{:.1%}"),
]
_SHOWN_WHERE_KNOWN = [
    ("preference_accuracy", "preference accuracy", "preference_accuracy", "{:.1%}"),
    ("preference_margin", "preference margin", "preference_margin", "{:.4f}"),
    ("mean_reward", "mean reward", "mean_reward", "{:.4f}"),
]


def public_config(config: FineTuneConfig) -> str:
    """Return the resolved config as YAML, with local paths cut to their last part: folders are nobody's business."""
    values = config.model_dump(mode="json")
    if "/" in values["model"]["name"] and not _is_hub_id(values["model"]["name"]):
        values["model"]["name"] = posixpath.basename(values["model"]["name"].rstrip("/"))
    for source in [
        source for section in ("sources", "evaluation", "contamination") for source in values["data"][section]
    ]:
        paths = source["path"]
        if paths is not None:
            source["path"] = _last_part(paths) if isinstance(paths, str) else [_last_part(path) for path in paths]
    values["output_directory"] = posixpath.basename(values["output_directory"].rstrip("/"))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def model_card(config: FineTuneConfig, artifact: PushedArtifact, data: DataReport, scores: Mapping[str, Scores]) -> str:
    """Return the card of `artifact` as Markdown with metadata.

    `scores` holds `base`, `tuned` and `quantized_*`; the metadata carry those of this artifact.
    """
    own = scores[f"quantized_{artifact}" if artifact in QUANTIZED_ARTIFACTS else "tuned"]
    repository = repository_of(config, artifact)
    base = config.model.name if _is_hub_id(config.model.name) else None
    metadata = ModelCardData(
        base_model=base,
        library_name="peft" if artifact == "adapter" else "transformers",
        pipeline_tag=_pipeline(config),
        datasets=[source.hub for source in config.data.sources if source.hub] or None,
        tags=["fine-tuned", config.train.objective, config.train.method],
        model_name=repository.split("/")[1],
        eval_results=_eval_results(own, _pipeline(config)),
    )
    sources = ", ".join(
        f"`{count.source}` ({count.kept:,} rows)" for count in data.sources if count.role != "evaluation"
    )
    shown_base = config.model.name if base else posixpath.basename(config.model.name.rstrip("/"))
    content = f"""---
{metadata.to_yaml()}
---

# {repository.split("/")[1]}

{_what_it_is(config, artifact)}

- Base model: `{shown_base}`
- Objective: {config.train.objective}, {_OBJECTIVES[config.train.objective]}
- Method: {config.train.method}
- Data: {sources}; {data.train_rows:,} rows to train on, {data.test_rows:,} held out,
  {data.quarantined_rows:,} quarantined, {data.deduplicated_rows:,} removed as duplicates

## Held-out scores

{_score_table(scores)}

{_what_was_scored(own)}

## Configuration

```yaml
{public_config(config)}```
"""
    return str(ModelCard(content))


def _pipeline(config: FineTuneConfig) -> str:
    return "text-classification" if config.train.objective == "reward" else "text-generation"


def _what_it_is(config: FineTuneConfig, artifact: PushedArtifact) -> str:
    is_reward = config.train.objective == "reward"
    if artifact == "adapter":
        head = ", with the head that yields the score" if is_reward else ""
        return f"{_ADAPTERS[config.train.method]}{head}; load it over the base model with peft."
    score = " It yields one score for a prompt with an answer: the higher, the more wanted." if is_reward else ""
    return f"The {'reward' if is_reward else 'fine-tuned'} model {_PRECISIONS[artifact]}.{score}"


def _score_table(scores: Mapping[str, Scores]) -> str:
    """Return a Markdown table; preferences and rewards only where some model has them."""
    known = [each for each in _SHOWN_WHERE_KNOWN if any(getattr(s, each[0]) is not None for s in scores.values())]
    columns = _ALWAYS_SHOWN + known
    lines = [["model", *(title for _, title, _, _ in columns)], ["---"] * (len(columns) + 1)]
    # a map has any order when it comes over the wire, and another try must write the same bytes
    for name in sorted(scores, key=lambda name: (name.startswith("quantized_"), name)):
        own = scores[name]
        values = [(getattr(own, field), text) for field, _, _, text in columns]
        lines.append([name, *("-" if value is None else text.format(value) for value, text in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _what_was_scored(own: Scores) -> str:
    sentences = []
    if own.eval_loss is not None:
        sentences.append(
            f"Loss and perplexity are over {own.loss_tokens:,} completion tokens of {own.loss_rows:,} held-out rows; "
            f"exact match and\nROUGE-L over greedy answers to {own.generated_rows:,} of them."
        )
    if own.preference_margin is not None:
        unit = "score" if own.eval_loss is None else "log-likelihood in nats"
        sentences.append(f"Preferences compare the {unit} of wanted and unwanted answers.")
    return " ".join([*sentences, "All models were scored on the same rows."])


def repository_of(config: FineTuneConfig, artifact: PushedArtifact) -> str:
    """Return the repository an artifact goes to: the configured one, with `-<artifact>` for all but the model."""
    assert config.push_to_hub.repository is not None
    return config.push_to_hub.repository + ("" if artifact == "model" else f"-{artifact}")


def _last_part(path: str) -> str:
    """Return a file's name, without its folder and without the query of an address, which may hold a key."""
    name = posixpath.basename(path.rstrip("/"))
    return name.partition("?")[0] if "://" in path else name


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _eval_results(scores: Scores, task: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for field, _, metric, _ in _ALWAYS_SHOWN + _SHOWN_WHERE_KNOWN
        if (value := getattr(scores, field)) is not None
    ]
