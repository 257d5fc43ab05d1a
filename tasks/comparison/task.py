"""Flyte task: the report of an evaluation without training, as a Deck and as files."""

import shutil

from flytekit import Deck, task
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset
from pydantic import BaseModel

import tasks.runtime.laptop_run as laptop_run
from configs.printable import one_line, print_line, printable
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation
from configs.wire_evidence import Verdict
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import kept_file, table_path
from tasks.runtime.pods import DECK_FIELDS, SMALL, is_laptop_run, scratch_directory
from tasks.runtime.shown_errors import shows_errors


class EvaluationResult(BaseModel):
    """The results of an evaluation. Printed: the table of scores, and the paths of report and metrics."""

    table: str
    verdict: Verdict
    rows: StructuredDataset
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
def write_comparison(
    config: FineTuneConfig,
    data: DataReport,
    names: list[str],
    evaluations: list[Evaluation],
    verdict: Verdict,
    rows: StructuredDataset,
) -> EvaluationResult:
    """Write `report.html` and `metrics.json`; not cached, so that every run ends with its table."""
    from tasks.comparison import write
    from tasks.decks import html
    from tasks.decks.scores import text_table
    from tasks.decks.short import render_cached_note
    from tasks.files.run_record import public_settings

    found = write.Comparison(config, data, dict(zip(names, evaluations, strict=True)), verdict)
    print_line(f"report: {verdict.headline}")
    Deck("report", html.fragment(write.render_comparison(found) + render_cached_note()))
    directory = laptop_run.folder(config, "evaluate") if is_laptop_run() else scratch_directory("report")
    report, metrics = write.write_comparison(found, directory)
    if is_laptop_run():
        shutil.copyfile(table_path(rows), directory / "rows.parquet")
        directory = laptop_run.end({"config": public_settings(config)})
    return EvaluationResult(
        table=text_table(found.evaluations),
        verdict=verdict,
        rows=rows,
        report=kept_file(directory / report.name),
        metrics=kept_file(directory / metrics.name),
    )
