"""Flyte tasks: tokenize the rows, join the parts in which they were tokenized in parallel, and add examples to prompts.

All nodes and attempts of training read the result, so no row is tokenized twice. With a single part, the pod that joins
tokenizes the rows itself.
"""

from typing import NamedTuple, Optional

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.objectives import Objective
from configs.printable import print_line
from configs.schema import TokenizeConfig
from configs.versions import source_version
from configs.wire import Part, TokenReport
from configs.wire_few_shot import FewShotReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import local_path, store_folder, store_table, table_path
from tasks.runtime.pods import CPU, DECK_FIELDS, SMALL, scratch_directory
from tasks.runtime.shown_errors import shows_errors

_VERSION = source_version(
    "tasks/tokenize",
    "tasks/rows",
    "tasks/files/grouped_tables.py",
    "tasks/decks",
    "tasks/models/answer_text.py",
    "configs/effective",
    "configs/objectives.py",
    "configs/wire_few_shot.py",
)


class Tokens(NamedTuple):
    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    quarantine: StructuredDataset
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
    return store_folder(output, "part")


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
    train: StructuredDataset,
    test: StructuredDataset,
    parts: list[FlyteDirectory],
    quarantine: StructuredDataset,
    invalid_rows: int,
    max_invalid_rows: int,
) -> Tokens:
    """Check the tokens of all parts, join and pack them. The Deck shows counts, and samples with the trained tokens.

    Without `parts`, tokenizes all rows of `train` and `test` first. The rows that the template refuses follow those of
    `quarantine`; with its `invalid_rows` they may be at most `max_invalid_rows`.
    """
    from tasks.decks import html
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize import prepare

    outputs = {name: scratch_directory(name) for name in ("train", "test", "tokenizer", "quarantine")}
    settings = (config, objective, chat_template, local_path(tokenizer), trust_remote_code)
    folders = [local_path(part) for part in parts]
    if not folders:
        folders = [scratch_directory("part")]
        splits = {"train": table_path(train), "test": table_path(test)}
        prepare.tokenize_part(*settings, splits, 0, 1, folders[0])
    report = prepare.join_parts(*settings, folders, outputs, prepare.InvalidRows(invalid_rows, max_invalid_rows))
    prepare.add_to_quarantine(table_path(quarantine), folders, outputs["quarantine"])
    Deck("tokens", html.fragment(render_tokens(report)))
    for line in prepare.summary_lines(report):
        print_line(line)
    return Tokens(
        train=store_folder(outputs["train"], "train-tokens"),
        test=store_folder(outputs["test"], "test-tokens"),
        tokenizer=store_folder(outputs["tokenizer"], "tokenizer"),
        quarantine=store_table(outputs["quarantine"] / "quarantine.parquet"),
        report=report,
    )


class FewShotTokens(NamedTuple):
    """The held-out rows with examples before each, as tokens, and what the examples cost."""

    tokens: FlyteDirectory
    report: FewShotReport


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
)
@shows_errors
def few_shot_tokens(
    config: TokenizeConfig,
    objective: Objective,
    shots: int,
    chat_template: Optional[str],
    tokenizer: FlyteDirectory,
    trust_remote_code: bool,
    train: StructuredDataset,
    test: StructuredDataset,
) -> FewShotTokens:
    """Tokenize the held-out rows with `shots` training rows as examples before each: the baseline of prompting.

    `tokenizer` is the one that `tokenize` saved, and `train` and `test` are the rows that it read.
    """
    from tasks.tokenize import few_shot

    output = scratch_directory("few-shot")
    report = few_shot.few_shot_tokens(
        config,
        objective,
        shots,
        chat_template,
        local_path(tokenizer),
        trust_remote_code,
        table_path(train),
        table_path(test),
        output,
    )
    print_line(report.summary_line())
    for warning in report.warnings:
        print_line(f"warning: {warning}")
    return FewShotTokens(tokens=store_folder(output, "few-shot-tokens"), report=report)


class HeldOutTokens(NamedTuple):
    """The held-out rows as tokens of another model's tokenizer, that tokenizer, and the tokens that end answers."""

    tokens: FlyteDirectory
    tokenizer: FlyteDirectory
    end_token_ids: list[int]


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
)
@shows_errors
def held_out_tokens(
    title: str,
    config: TokenizeConfig,
    objective: Objective,
    chat_template: Optional[str],
    prefers_own: bool,
    tokenizer: FlyteDirectory,
    trust_remote_code: bool,
    test: StructuredDataset,
) -> HeldOutTokens:
    """Tokenize the held-out rows with the tokenizer of the model `title`.

    `chat_template` is the template to use, and with `prefers_own` only where the tokenizer has none; without it, the
    tokenizer's own is used.
    """
    from tasks.tokenize import held_out

    output, saved = scratch_directory("held-out"), scratch_directory("tokenizer")
    report = held_out.held_out_tokens(
        config,
        objective,
        chat_template,
        local_path(tokenizer),
        trust_remote_code,
        table_path(test),
        output,
        saved,
        prefers_own,
    )
    print_line(f"{title}: {report.summary_line()}")
    return HeldOutTokens(
        tokens=store_folder(output, "held-out-tokens"),
        tokenizer=store_folder(saved, "tokenizer"),
        end_token_ids=report.end_token_ids,
    )


def require_same_tokenizer(reports: list[TokenReport]) -> None:
    """Check that all phases of a run, in their order, share tokenizer and chat template.

    Raises:
        ConfigError: they do not.
    """
    from tasks.tokenize import checks

    checks.check_same_tokenizer(reports)


class CheckedTokens(NamedTuple):
    """The reports of the first and last phase, once the reports of all phases are known to fit together."""

    sft: TokenReport
    policy: TokenReport


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def check_same_tokenizer(sft: TokenReport, reward: list[TokenReport], policy: TokenReport) -> CheckedTokens:
    """Return the reports of SFT and policy, after a check that all phases share tokenizer and chat template."""
    from tasks.decks import html

    require_same_tokenizer([sft, *reward, policy])
    Deck("tokens", html.fragment(html.paragraph("All phases share the tokenizer and the chat template.", "good")))
    return CheckedTokens(sft=sft, policy=policy)
