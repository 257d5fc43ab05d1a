"""Flyte task: load, check and split the rows."""

from typing import Annotated, NamedTuple

from flytekit import Cache, Deck, kwtypes, task
from flytekit.types.structured import StructuredDataset

from configs.schema import DataConfig
from configs.versions import source_version
from configs.wire import DataReport
from images.pods import CPU, is_laptop_run, scratch_directory
from images.secrets import HUB_TOKEN, read_hub_token
from images.specs import CPU_IMAGE, POD_ENVIRONMENT

RowTable = Annotated[
    StructuredDataset,
    kwtypes(row_id=str, kind=str, prompt=str, completion=str, messages=str, rejected=str, label=str),
]
QuarantineTable = Annotated[StructuredDataset, kwtypes(file=str, check=str, row=int, column=str, reason=str, value=str)]


class Rows(NamedTuple):
    train: RowTable
    test: RowTable
    quarantine: QuarantineTable
    report: DataReport


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=source_version("tasks/get_data", "tasks/decks", "configs/embedded"), serialize=True),
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
)
def get_data(config: DataConfig, revisions: list[str]) -> Rows:
    """Load the rows of all sources, validate each, set the invalid ones aside, and split off a held-out test set."""
    from tasks.decks import html
    from tasks.decks.data import render_data, render_failures
    from tasks.get_data import load

    try:
        data = load.load_data(config, revisions, read_hub_token())
    except load.InvalidRowsError as error:
        failures = render_failures(error.failures)
        Deck("data", html.fragment(failures))
        Deck.publish()
        if is_laptop_run():
            page = scratch_directory("get_data") / "failures.html"
            page.write_text(html.document("Failure cases", failures), encoding="utf-8")
            raise load.InvalidRowsError(f"{error}\nall failure cases: {page}", error.failures) from None
        raise
    Deck("data", html.fragment(render_data(data.report)))
    for line in load.summary_lines(data.report):
        print(line)
    return Rows(
        train=StructuredDataset(dataframe=data.train),
        test=StructuredDataset(dataframe=data.test),
        quarantine=StructuredDataset(dataframe=data.quarantine),
        report=data.report,
    )
