"""The README of an artifact: its card with what its own folder says, for a hub or for a folder of a laptop run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.addresses import shown_address
from configs.artifacts import PushedArtifact
from configs.embedded.names import EMBEDDED_MODEL
from configs.objectives import SCORING
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation
from configs.wire_evidence import Verdict
from tasks.decks import card, html
from tasks.decks.card_evidence import evidence_section
from tasks.decks.parity import parity_line
from tasks.files.model_files import is_hub_id
from tasks.models.record import RECORD_FILE
from tasks.models.usage import LOCAL_BASE, Usage, render_usage


def artifact_readme(
    config: FineTuneConfig,
    artifact: PushedArtifact,
    directory: Path,
    place: str,
    data: DataReport,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
    verdict: Verdict | None,
    base_revision: str,
    is_here: bool = False,
) -> str:
    """Return the README of the artifact in `directory`, which its users load from `place`.

    `verdict` is the gate's; None for a model that it did not judge. One that stays on the machine of its run
    (`is_here`) may name the folder of the base.
    """
    usage = usage_of(config, artifact, place, is_here)
    copies: dict[str, Evaluation] = dict(zip(config.quantize.methods, quantized, strict=True))
    own = copies.get(artifact, tuned)
    return card.model_card(
        config,
        artifact,
        data,
        card.all_scores(config.quantize.methods, base, tuned, quantized),
        recorded(directory).get("license", {}),
        base_revision,
        render_usage(usage, directory),
        "" if artifact == "adapter" else parity_line(base, own),
        evidence_section(config, artifact, verdict),
    )


def usage_of(config: FineTuneConfig, artifact: PushedArtifact, place: str, is_here: bool = False) -> Usage:
    """Return how an artifact at `place` is used; the base of an adapter is its id on the hub, or a path to fill in."""
    name = config.model.name
    return Usage(
        artifact=artifact,
        place=place,
        base=shown_address(name) if is_hub_id(name) or (is_here and name != EMBEDDED_MODEL) else LOCAL_BASE,
        template_arguments=config.tokenize.template_arguments,
        trust_remote_code=config.model.trust_remote_code,
        is_reward_model=config.train.objective in SCORING,
    )


def recorded(directory: Path) -> dict[str, Any]:
    """Return the record of the training that is kept in an artifact's folder; empty where there is none."""
    path = directory / RECORD_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def render_usage_section(usage: str) -> str:
    """Return the section on how the tuned model is asked, as its README has it; empty for an empty text."""
    return html.heading("Use the model") + html.preformatted(usage) if usage else ""
