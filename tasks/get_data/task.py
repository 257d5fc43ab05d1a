"""Flyte tasks: scan the shards of the data, then merge them: compare, split and count their rows.

Several shards are scanned in parallel, by a map of `scan_shard`. The pod that merges scans a single shard itself.
"""

from typing import Annotated, NamedTuple

from flytekit import Cache, Deck, kwtypes, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

import tasks.runtime.laptop_run as laptop_run
from configs.printable import one_line, print_line
from configs.schema import DataConfig
from configs.versions import source_version
from configs.wire import DataReport, Shard
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import local_path, store_folder, store_table
from tasks.runtime.pods import CPU, DECK_FIELDS, is_laptop_run, scratch_directory
from tasks.runtime.secrets import HUB_TOKEN, read_hub_token
from tasks.runtime.shown_errors import shows_errors

RowTable = Annotated[
    StructuredDataset,
    kwtypes(
        row_id=str,
        kind=str,
        prompt=str,
        completion=str,
        messages=str,
        rejected=str,
        label=str,
        tools=str,
        answer=str,
        rejected_answer=str,
        dataset=str,
        group=str,
    ),
]
QuarantineTable = Annotated[StructuredDataset, kwtypes(file=str, check=str, row=int, column=str, reason=str, value=str)]

_VERSION = source_version("tasks/get_data", "tasks/rows", "tasks/decks", "configs/embedded", "configs/objectives.py")


class Rows(NamedTuple):
    train: RowTable
    test: RowTable
    quarantine: QuarantineTable
    report: DataReport


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
@shows_errors
def scan_shard(config: DataConfig, contamination: list[str], shard: Shard) -> FlyteDirectory:
    """Read one shard, recognise the format of its rows, validate them, and check their content."""
    from tasks.get_data import scan

    directory = scratch_directory("shard")
    scan.scan_shard(config, shard, contamination, read_hub_token(), directory)
    return store_folder(directory, "shard")


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def get_data(config: DataConfig, contamination: list[str], shards: list[Shard], scanned: list[FlyteDirectory]) -> Rows:
    """Remove invalid and repeated rows of all shards, and split off a held-out test set; the Deck shows the counts.

    Reads `shards` itself, and `scanned` from the pods that read the others: one of the two is empty.
    """
    from tasks.decks import html
    from tasks.decks.data import render_data, render_failures
    from tasks.get_data import merge, scan
    from tasks.rows.invalid import InvalidRowsError

    output = scratch_directory("rows")
    folders = [local_path(folder) for folder in scanned]
    for shard in shards:
        folders.append(scratch_directory("shard"))
        scan.scan_shard(config, shard, contamination, read_hub_token(), folders[-1])
    try:
        report = merge.merge_shards(config, folders, output)
    except InvalidRowsError as error:
        failures = render_failures(error.failures)
        Deck("data", html.fragment(failures))
        Deck.publish()
        if is_laptop_run():
            # what is in a scratch directory goes with the run
            page = (laptop_run.unfinished_folder() or scratch_directory("get_data")) / "failures.html"
            page.write_text(html.document("Failure cases", failures), encoding="utf-8")
            raise InvalidRowsError(f"{error}\nall failure cases: {one_line(page)}", error.failures) from None
        raise
    Deck("data", html.fragment(render_data(report)))
    for line in merge.summary_lines(report):
        print_line(line)
    train, test, quarantine = (store_table(output / f"{name}.parquet") for name in ("train", "test", "quarantine"))
    return Rows(train=train, test=test, quarantine=quarantine, report=report)
