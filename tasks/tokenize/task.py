"""Flyte tasks: tokenize the rows in parallel parts, and join the parts. All nodes and attempts of training read the
result, so no row is tokenized twice."""

from typing import NamedTuple, Optional

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.versions import source_version
from configs.wire import Part, TokenReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.pods import CPU, DECK_FIELDS, SMALL, local_path, scratch_directory, table_path
from tasks.runtime.shown_errors import shows_errors

_VERSION = source_version("tasks/tokenize", "tasks/decks", "configs/effective", "configs/objectives.py")


class Tokens(NamedTuple):
    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
)
@shows_errors
def tokenize_part(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: Optional[str],
    tokenizer: FlyteDirectory,
    trust_remote_code: bool,
    train: StructuredDataset,
    test: StructuredDataset,
    part: Part,
) -> FlyteDirectory:
    """Render one part of the rows with the chat template, mask the tokens not trained, and enforce `max_length`."""
    from tasks.tokenize import prepare

    output = scratch_directory("part")
    splits = {"train": table_path(train), "test": table_path(test)}
    prepare.tokenize_part(
        config, objective, chat_template, local_path(tokenizer), trust_remote_code, splits, part.number, part.of, output
    )
    return FlyteDirectory(str(output))


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def tokenize(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: Optional[str],
    tokenizer: FlyteDirectory,
    trust_remote_code: bool,
    parts: list[FlyteDirectory],
) -> Tokens:
    """Check the tokens of all parts, join and pack them. The Deck shows counts, and samples with the trained tokens."""
    from tasks.decks import html
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize import prepare

    outputs = {name: scratch_directory(name) for name in ("train", "test", "tokenizer")}
    part_folders = [local_path(part) for part in parts]
    report = prepare.join_parts(
        config, objective, chat_template, local_path(tokenizer), trust_remote_code, part_folders, outputs
    )
    Deck("tokens", html.fragment(render_tokens(report)))
    for line in prepare.summary_lines(report):
        print(line)
    return Tokens(
        train=FlyteDirectory(str(outputs["train"])),
        test=FlyteDirectory(str(outputs["test"])),
        tokenizer=FlyteDirectory(str(outputs["tokenizer"])),
        report=report,
    )


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def check_same_tokenizer(first: TokenReport, others: list[TokenReport], last: TokenReport) -> TokenReport:
    """Return the last phase's report, after a check that all phases of the run share tokenizer and chat template."""
    from tasks.decks import html
    from tasks.tokenize import checks

    checks.check_same_tokenizer([first, *others, last])
    Deck("tokens", html.fragment(html.paragraph("All phases share the tokenizer and the chat template.", "good")))
    return last
