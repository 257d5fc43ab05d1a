"""Flyte task: put the reports of all stages together, as a Deck and as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flytekit import Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset
from pydantic import BaseModel

import tasks.runtime.laptop_run as laptop_run
from configs.addresses import shown_address
from configs.artifacts import PushedArtifact, scores_name
from configs.printable import one_line, print_line, printable
from configs.schema import FineTuneConfig, PushConfig
from configs.schema.align import AlignConfig
from configs.wire import DataReport, Evaluation, Published, TokenReport, TrainReport
from configs.wire_evidence import Verdict
from configs.wire_plan import Plan
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.files.run_record import public_settings
from tasks.runtime.artifacts import address_of, kept_file, local_path, table_path
from tasks.runtime.pods import DECK_FIELDS, SMALL, is_laptop_run, scratch_directory
from tasks.runtime.shown_errors import shows_errors


class FineTuneResult(BaseModel):
    """The results of a run. Printed: the table of scores, and the paths of report and metrics."""

    table: str
    model: FlyteDirectory
    quantized_models: list[FlyteDirectory]
    quarantine: StructuredDataset
    rows: StructuredDataset
    promote: bool
    published: list[Published]
    report: FlyteFile
    metrics: FlyteFile

    def __str__(self) -> str:
        paths = [file.remote_source or file.path for file in (self.report, self.metrics)]
        return printable(f"\n{self.table}\nreport:  {one_line(paths[0])}\nmetrics: {one_line(paths[1])}")

    def __repr__(self) -> str:
        # within another result, what follows must not touch the path
        return f"{self}\n"


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def write_report(
    config: FineTuneConfig,
    plan: Plan,
    data: DataReport,
    tokens: TokenReport,
    training: TrainReport,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
    rivals: list[str],
    rival_evaluations: list[Evaluation],
    verdict: Verdict,
    rows: StructuredDataset,
    model: FlyteDirectory,
    quantized_models: list[FlyteDirectory],
    quarantine: StructuredDataset,
    published: list[Published],
    adapter: FlyteDirectory,
    tokenizer: FlyteDirectory,
) -> FineTuneResult:
    """Write `report.html` and `metrics.json`; not cached, so that every run ends with its table."""
    from tasks.decks import html
    from tasks.decks.parity import parity_warning
    from tasks.decks.scores import text_table
    from tasks.decks.short import render_cached_note
    from tasks.report import export, write

    published = _publications(config.push_to_hub, published)
    names = [scores_name(method) for method in config.quantize.methods]
    others = dict(zip(rivals, rival_evaluations, strict=True))
    evaluations = {"base": base, **others, "tuned": tuned, **dict(zip(names, quantized, strict=True))}
    usage = _usage(config, local_path(tokenizer), model)
    results = write.RunResults(config, plan, data, tokens, training, evaluations, verdict, published, usage)
    print_line(f"report: {verdict.headline}")
    if warning := parity_warning(base, tuned):
        print_line(f"warning: {warning}")
    Deck("report", html.fragment(write.render_report(results) + render_cached_note()))
    directory = _directory(config, "fine_tune", "report")
    report, metrics = write.write_report(results, directory)
    if is_laptop_run():
        models = {"model": model, **dict(zip(names, quantized_models, strict=True))}
        if config.train.method != "full":
            models["adapter"] = adapter
        has_quarantine = export.export_quarantine(table_path(quarantine), directory)
        export.copy_table(table_path(rows), directory / "rows.parquet")
        scored = [(config, "", data, base, tuned, quantized, verdict)]
        directory = _end_laptop_run(config, plan, models, scored)
        if has_quarantine:
            print_line(f"quarantine: {directory / 'quarantine.jsonl'}")
    return FineTuneResult(
        table=text_table(evaluations),
        model=model,
        quantized_models=quantized_models,
        quarantine=quarantine,
        rows=rows,
        promote=verdict.of("tuned").promote,
        published=published,
        report=kept_file(directory / report.name),
        metrics=kept_file(directory / metrics.name),
    )


def _directory(config: FineTuneConfig | AlignConfig, workflow: str, name: str) -> Path:
    """Return where a report is written: a laptop's run has a folder, which is put into place when it ends."""
    return laptop_run.folder(config, workflow) if is_laptop_run() else scratch_directory(name)


# of a training: its config, the name of its model's folder or empty for the last one's, its rows, the scores of its
# base, of its model and of its quantized copies, and the gate's verdict on the last one's
_Scored = tuple[FineTuneConfig, str, DataReport, Evaluation, Evaluation, list[Evaluation], Verdict | None]


def _end_laptop_run(
    config: FineTuneConfig | AlignConfig, plan: Plan, models: Mapping[str, FlyteDirectory], scored: Sequence[_Scored]
) -> Path:
    """Put the models into the folder of a laptop's run and the folder into its place; return the place, and say it."""
    laptop_run.keep_models(models)
    _write_readmes(plan, scored)
    name = config.model.name
    facts = {"base_model": {"name": shown_address(name), "revision": plan.model_revision}, "data": plan.data_revisions}
    place = laptop_run.end({**facts, "config": public_settings(config)})
    print_line(f"models: {place}/{{{','.join(models)}}}")
    return place


def _write_readmes(plan: Plan, scored: Sequence[_Scored]) -> None:
    """Write into the folder of each model how it is used, and what its scores are."""
    from tasks.decks.readme import artifact_readme

    made = laptop_run.made_models()
    for config, folder_name, data, base, tuned, quantized, verdict in scored:
        artifacts: dict[str, PushedArtifact] = {folder_name or "model": "model"}
        if not folder_name:
            artifacts |= {"adapter": "adapter", **{scores_name(method): method for method in config.quantize.methods}}
        for name, artifact in artifacts.items():
            if name not in made:
                continue
            folder, place = made[name]
            text = artifact_readme(
                config,
                artifact,
                folder,
                str(place),
                data,
                base,
                tuned,
                quantized,
                verdict,
                plan.model_revision,
                is_here=True,
            )
            (folder / "README.md").write_text(text, encoding="utf-8")


def _usage(config: FineTuneConfig, tokenizer: Path, model: FlyteDirectory) -> str:
    """Return Markdown on how the tuned model is asked; it loads from the run's folder, or from a cluster's store."""
    from tasks.decks.readme import usage_of
    from tasks.models.usage import render_usage

    laptop_run.keep_models({"model": model})
    place = str(laptop_run.made_models().get("model", (None, address_of(model)))[1])
    return render_usage(usage_of(config, "model", place, is_here=is_laptop_run()), tokenizer)


def _publications(config: PushConfig, published: list[Published]) -> list[Published]:
    """Return what became of each artifact; no pod has told where nothing is to be pushed."""
    if config.repository is not None:
        return published
    note = "not pushed: push_to_hub.repository is not set"
    print_line(note)
    return [Published(artifact=name, repository="", commit_url=None, note=note) for name in config.artifacts]


class AlignResult(BaseModel):
    """The results of an alignment. Printed: the scores of base, SFT and aligned model, and the paths."""

    table: str
    model: FlyteDirectory
    sft_model: FlyteDirectory
    reward_models: list[FlyteDirectory]
    quantized_models: list[FlyteDirectory]
    rows: StructuredDataset
    promote: bool
    published: list[Published]
    report: FlyteFile
    metrics: FlyteFile

    def __str__(self) -> str:
        paths = [file.remote_source or file.path for file in (self.report, self.metrics)]
        return printable(f"\n{self.table}\nreport:  {one_line(paths[0])}\nmetrics: {one_line(paths[1])}")


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def write_alignment_report(
    config: AlignConfig,
    plan: Plan,
    sft_data: DataReport,
    sft_tokens: TokenReport,
    reward_data: list[DataReport],
    reward_tokens: list[TokenReport],
    policy_data: DataReport,
    policy_tokens: TokenReport,
    training: list[TrainReport],
    base: Evaluation,
    rivals: list[str],
    rival_evaluations: list[Evaluation],
    sft_evaluation: Evaluation,
    reward_evaluations: list[Evaluation],
    tuned: Evaluation,
    quantized: list[Evaluation],
    verdict: Verdict,
    rows: StructuredDataset,
    model: FlyteDirectory,
    sft_model: FlyteDirectory,
    reward_models: list[FlyteDirectory],
    quantized_models: list[FlyteDirectory],
    published: list[Published],
    adapter: FlyteDirectory,
    tokenizer: FlyteDirectory,
) -> AlignResult:
    """Write `report.html` and `metrics.json` of all phases, whose `training` reports are in their order.

    Not cached, so that every run ends with its table.
    """
    from tasks.decks import html
    from tasks.decks.parity import parity_warning
    from tasks.decks.scores import text_table
    from tasks.decks.short import render_cached_note
    from tasks.report import align, export

    published = _publications(config.push_to_hub, published)
    names = [scores_name(method) for method in config.quantize.methods]
    evaluations = {"base": base, **dict(zip(rivals, rival_evaluations, strict=True)), "sft": sft_evaluation}
    evaluations |= {"tuned": tuned, **dict(zip(names, quantized, strict=True))}
    data, tokens = [sft_data, *reward_data, policy_data], [sft_tokens, *reward_tokens, policy_tokens]
    phases = [
        align.PhaseReport(name, rows, counts, trained)
        for name, rows, counts, trained in zip(config.phases(), data, tokens, training, strict=True)
    ]
    policy = config.phase("policy")
    usage = _usage(policy, local_path(tokenizer), model)
    results = align.AlignmentResults(config, plan, phases, evaluations, reward_evaluations, verdict, published, usage)
    print_line(f"report: {verdict.headline}")
    if warning := parity_warning(sft_evaluation, tuned):
        print_line(f"warning: {warning}")
    Deck("report", html.fragment(align.render_alignment(results) + render_cached_note()))
    directory = _directory(config, "align", "report")
    report, metrics = align.write_alignment(results, directory)
    if is_laptop_run():
        models = {"model": model, "sft": sft_model, **dict(zip(names, quantized_models, strict=True))}
        if reward_models:
            models["reward_model"] = reward_models[0]
        if config.policy.train.method != "full":
            models["adapter"] = adapter
        scored: list[_Scored] = [
            (policy, "", policy_data, sft_evaluation, tuned, quantized, verdict),
            (config.phase("sft"), "sft", sft_data, base, sft_evaluation, [], None),
        ]
        if reward_models:
            scored.append(
                (config.phase("reward"), "reward_model", reward_data[0], base, reward_evaluations[0], [], None)
            )
        export.copy_table(table_path(rows), directory / "rows.parquet")
        directory = _end_laptop_run(config, plan, models, scored)
    return AlignResult(
        table=text_table(evaluations),
        model=model,
        sft_model=sft_model,
        reward_models=reward_models,
        quantized_models=quantized_models,
        rows=rows,
        promote=verdict.of("tuned").promote,
        published=published,
        report=kept_file(directory / report.name),
        metrics=kept_file(directory / metrics.name),
    )


class PreparedData(BaseModel):
    """Checked and split rows. Printed: the line of counts, and the report's path."""

    counts: str
    train: StructuredDataset
    test: StructuredDataset
    quarantine: StructuredDataset
    report: FlyteFile

    def __str__(self) -> str:
        return f"\nreport: {one_line(self.report.remote_source or self.report.path)}\n{one_line(self.counts)}"


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def write_data_report(
    config: FineTuneConfig,
    data: DataReport,
    train: StructuredDataset,
    test: StructuredDataset,
    quarantine: StructuredDataset,
) -> PreparedData:
    """Write `data.html`; on a laptop also `train.jsonl`, `test.jsonl` and the quarantine."""
    from tasks.decks import html
    from tasks.decks.data import render_data
    from tasks.report import export

    body = render_data(data)
    Deck("data", html.fragment(body))
    directory = _directory(config, "prepare_data", "data")
    report = directory / "data.html"
    report.write_text(html.document(f"Data: {config.name}", body), encoding="utf-8")
    if is_laptop_run():
        for name, table in (("train", train), ("test", test)):
            export.export_rows(table_path(table), directory / f"{name}.jsonl")
        has_quarantine = export.export_quarantine(table_path(quarantine), directory)
        directory = laptop_run.end({"config": public_settings(config)})
        print_line(f"rows: {directory}/{{train.jsonl,test.jsonl}}")
        if has_quarantine:
            print_line(f"quarantine: {directory / 'quarantine.jsonl'}")
    return PreparedData(
        counts=data.counts_line(),
        train=train,
        test=test,
        quarantine=quarantine,
        report=kept_file(directory / report.name),
    )
