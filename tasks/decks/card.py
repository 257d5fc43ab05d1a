"""The model card: base, objective, method, rows and scores. Equal inputs give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from configs.addresses import last_part, shown_text
from configs.artifacts import QUANTIZATIONS, PushedArtifact, QuantizationMethod, repository_of, scores_name
from configs.embedded.names import EMBEDDED_MODEL
from configs.linear_weights import share_sentence
from configs.measures import Scores, formatted, measure_of, shown_measures
from configs.objectives import OBJECTIVES, SCORING
from configs.printable import yaml_text
from configs.schema import FineTuneConfig
from configs.settings_texts import PLACES, map_texts, shown_setting, texts
from configs.wire import DataReport, Evaluation
from tasks.decks.markdown import code, fenced
from tasks.files.model_files import is_hub_id

# how a hub describes what was made from a base; all other artifacts are quantized copies
_RELATIONS = {"model": "finetune", "adapter": "adapter"}
_ADAPTERS = {
    "lora": "The LoRA adapter alone",
    "qlora": "The LoRA adapter alone, trained over a 4-bit base (QLoRA)",
    "lora_8bit": "The LoRA adapter alone, trained over an 8-bit base",
    "prompt_tuning": "The virtual tokens that prompt tuning trained, and no weight of the base",
    "prefix_tuning": "The keys and values of virtual tokens that prefix tuning trained, and no weight of the base",
}


def public_config(config: FineTuneConfig) -> str:
    """Return the resolved config as YAML; of addresses and paths the last part, and without what may be a secret."""
    values = map_texts(config.model_dump(mode="json"), _public_setting)
    return yaml_text(values)


def public_base(config: FineTuneConfig, revision: str) -> str:
    """Return how files that go up name the base: its id on the hub, or its folder's last part and its files' hash."""
    if is_hub_id(config.model.name):
        return config.model.name
    return f"{last_part(config.model.name)}@{revision[:12]}".removesuffix("@")


def private_paths(config: FineTuneConfig) -> list[str]:
    """Return the folders and files of this machine that a config names, and where the run works."""
    named = [value for name, value in texts(config.model_dump(mode="json")) if _is_of_a_place(name, value)]
    paths = [str(Path(name).expanduser().absolute()) for name in named if "://" not in name and ":" not in name[:12]]
    return [*paths, str(Path.cwd()), str(Path.home())]


def _public_setting(name: str, value: str) -> str:
    return last_part(value) if _is_of_a_place(name, value) else shown_setting(name, value)


def _is_of_a_place(name: str, value: str) -> bool:
    """Return whether a setting's value names a file or folder, and not the id of a model on a hub."""
    return name in PLACES and not (name == "model.name" and is_hub_id(value))


def all_scores(
    methods: Sequence[QuantizationMethod], base: Evaluation, tuned: Evaluation, quantized: Sequence[Evaluation]
) -> dict[str, Scores]:
    """Return the scores of a card by name: base and tuned, also on further sets, and the copies made by `methods`."""
    scores = {"base": base.scores, "tuned": tuned.scores}
    scores |= {scores_name(method): copy.scores for method, copy in zip(methods, quantized, strict=True)}
    for name, evaluation in (("base", base), ("tuned", tuned)):
        scores |= {f"{name}, on {code(other.name)}": other.scores for other in evaluation.others}
    return scores


def model_card(
    config: FineTuneConfig,
    artifact: PushedArtifact,
    data: DataReport,
    scores: Mapping[str, Scores],
    license_: Mapping[str, Any] | None = None,
    base_revision: str = "",
    usage: str = "",
    parity: str = "",
    evidence: str = "",
) -> str:
    """Return the card of `artifact` as Markdown with metadata.

    `scores` holds `base`, `tuned` and `quantized_*`; the metadata carry those of this artifact. `license_` is what the
    base model's card says of its licence, `base_revision` its commit or the hash of its files, `usage` Markdown on how
    to ask the model, `parity` a sentence on how far it is from the weights as training held them, and
    `evidence` the section on the gate's verdict.
    """
    own = scores[scores_name(artifact)]
    title = card_title(config, artifact)
    base = config.model.name if is_hub_id(config.model.name) else None
    metadata = ModelCardData(
        base_model=base,
        base_model_relation=_RELATIONS.get(artifact, "quantized") if base else None,
        library_name="peft" if artifact == "adapter" else "transformers",
        pipeline_tag=_pipeline(config),
        datasets=[source.hub for source in config.data.sources if source.hub] or None,
        tags=["fine-tuned", config.train.objective, config.train.method],
        model_name=title,
        eval_results=_eval_results(own, _pipeline(config)),
        **(license_ or {}),
    )
    sources = ", ".join(
        f"{code(count.source)} ({count.kept:,} rows)" for count in data.sources if count.role != "evaluation"
    )
    shown_base = config.model.name if base else last_part(config.model.name)
    return f"""---
{yaml_text(metadata.to_dict())}---

# {title}

{_what_it_is(config, artifact)}{share_sentence(own.quantized_share)}

- Base model: {_base_line(shown_base, base_revision, bool(base))}
- Objective: {config.train.objective}, {OBJECTIVES[config.train.objective].title}
- Method: {config.train.method}
- Data: {sources}; {data.train_rows:,} rows to train on, {data.test_rows:,} held out,
  {data.quarantined_rows:,} quarantined, {data.deduplicated_rows:,} removed as duplicates
{_template_line(config)}{_usage_section(usage)}
## Held-out scores

{_score_table(scores)}

{_what_was_scored(own)}{_scored_in(config)}
{_parity_section(parity)}{evidence}
## Configuration

{fenced(public_config(config).removesuffix(chr(10)), "yaml")}
"""


def card_title(config: FineTuneConfig, artifact: PushedArtifact) -> str:
    """Return the name of an artifact: that of its repository, or of the run where it goes to none."""
    return repository_of(config.push_to_hub.repository or f"local/{config.name}", artifact).split("/")[1]


def _base_line(shown: str, revision: str, is_on_hub: bool) -> str:
    if shown == EMBEDDED_MODEL:
        return f"{code(shown)}, which each run makes itself"
    if not revision:
        return code(shown)
    if is_on_hub:
        return f"{code(shown)}, revision {code(revision)}"
    return f"{code(shown)}, which is on no hub; the hash of its files is {code(revision)}"


def _parity_section(parity: str) -> str:
    return f"\nSaved as trained: {parity}.\n" if parity else ""


def _usage_section(usage: str) -> str:
    return f"\n## Use\n\n{usage}\n" if usage else ""


def _pipeline(config: FineTuneConfig) -> str:
    return "text-classification" if config.train.objective in SCORING else "text-generation"


def _template_line(config: FineTuneConfig) -> str:
    """Return the item on the chat template's arguments, with a line break; empty without any."""
    text = config.tokenize.template_arguments.strip()
    given = code(shown_text(json.dumps(json.loads(text), ensure_ascii=False))) if text else ""
    return (
        f"- Chat template: given {given} in training and evaluation; pass the same to `apply_chat_template`\n"
        if given
        else ""
    )


def _what_it_is(config: FineTuneConfig, artifact: PushedArtifact) -> str:
    is_reward = config.train.objective in SCORING
    if artifact == "adapter":
        head = ", with the head that yields the score" if is_reward else ""
        return f"{_ADAPTERS[config.train.method]}{head}; load it over the base model with peft."
    precision = QUANTIZATIONS[artifact].on_card if artifact in QUANTIZATIONS else "in full precision"
    score = " It yields one score for a prompt with an answer: the higher, the more wanted." if is_reward else ""
    return f"The {'reward' if is_reward else 'fine-tuned'} model {precision}.{score}"


def _score_table(scores: Mapping[str, Scores]) -> str:
    """Return a Markdown table of the measures that are always shown or that some model has."""
    columns = shown_measures(scores.values())
    lines = [["model", *(measure_of(name, scores.values()).title for name in columns)], ["---"] * (len(columns) + 1)]
    # a map arrives in any order, and a second attempt must write the same bytes
    for name in sorted(scores, key=lambda name: (name.startswith("quantized_"), name)):
        lines.append([name, *(formatted(column, scores[name]) for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scored_in(config: FineTuneConfig) -> str:
    """Return that the models were scored with fewer bits than their files have; copies are scored as they are."""
    if config.evaluate.load_in == "as_saved":
        return ""
    return " Base and tuned model were scored with their weights in 4 bits (NF4); their files have more."


def _what_was_scored(own: Scores) -> str:
    sentences = []
    if not own.is_of_reward_model:
        counted = [
            f"{measure_of(measured.key, [own]).title} over {measured.rows:,}"
            for measured in own.answers
            if measured.key in shown_measures([own])
        ]
        if own.eval_loss is not None:
            sentences.append(
                f"Loss and perplexity are over {own.loss_tokens:,} completion tokens of {own.loss_rows:,} held-out "
                "rows."
            )
        if counted:
            sentences.append(f"Of {own.generated_rows:,} greedy answers: {', '.join(counted)}.")
    if own.preference_margin is not None:
        unit = "score" if own.is_of_reward_model else "log-likelihood in nats"
        sentences.append(f"Preferences compare the {unit} of wanted and unwanted answers.")
    return " ".join([*sentences, "All models were scored on the same rows."])


def _eval_results(scores: Scores, task: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=measure_of(name, [scores]).hub_name or name,
            metric_value=round(value, 6),
        )
        for name in shown_measures([scores])
        if (value := scores.value(name)) is not None
    ]
