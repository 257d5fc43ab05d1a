"""The model card: what was trained from what, on which rows, with which scores. Equal inputs give equal bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configs.schema import FineTuneConfig, PushedArtifact
from configs.wire import DataReport, Scores

_NAMES = {
    "model": "The fine-tuned model in full precision.",
    "adapter": "The LoRA adapter alone; load it over the base model with peft.",
    "8bit": "The fine-tuned model quantized to 8 bits (LLM.int8(), bitsandbytes).",
    "4bit": "The fine-tuned model quantized to 4 bits (NF4, bitsandbytes).",
}


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
    own = scores[f"quantized_{artifact}" if artifact in ("8bit", "4bit") else "tuned"]
    repository = repository_of(config, artifact)
    base = config.model.name if _is_hub_id(config.model.name) else None
    metadata = ModelCardData(
        base_model=base,
        library_name="peft" if artifact == "adapter" else "transformers",
        pipeline_tag="text-generation",
        datasets=[source.hub for source in config.data.sources if source.hub] or None,
        tags=["fine-tuned", config.train.method],
        model_name=repository.split("/")[1],
        eval_results=_eval_results(own),
    )
    rows = "\n".join(
        f"| {name} | {s.eval_loss:.4f} | {s.perplexity:.4g} | {_percent(s.exact_match)} | {_percent(s.rouge_l)} |"
        for name, s in scores.items()
    )
    sources = ", ".join(
        f"`{count.source}` ({count.kept:,} rows)" for count in data.sources if count.role != "evaluation"
    )
    shown_base = config.model.name if base else posixpath.basename(config.model.name.rstrip("/"))
    content = f"""---
{metadata.to_yaml()}
---

# {repository.split("/")[1]}

{_NAMES[artifact]}

- Base model: `{shown_base}`
- Method: {config.train.method}
- Data: {sources}; {data.train_rows:,} rows trained on, {data.test_rows:,} held out,
  {data.quarantined_rows:,} quarantined, {data.deduplicated_rows:,} removed as duplicates

## Held-out scores

| model | loss | perplexity | exact match | ROUGE-L |
|---|---|---|---|---|
{rows}

Loss and perplexity are over {own.loss_tokens:,} completion tokens of {own.loss_rows:,} held-out rows; exact match and
ROUGE-L over greedy answers to {own.generated_rows:,} of them. All models answered the same rows.

## Configuration

```yaml
{public_config(config)}```
"""
    return str(ModelCard(content))


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


def _eval_results(scores: Scores) -> list[EvalResult]:
    values = {
        "loss": scores.eval_loss,
        "perplexity": scores.perplexity,
        "exact_match": scores.exact_match,
        "rouge": scores.rouge_l,
    }
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in values.items()
        if value is not None
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
