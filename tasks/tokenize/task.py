"""Flyte task: from rows to token ids and labels, once, for all nodes and retries."""

from typing import NamedTuple, Optional

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.schema import TokenizeConfig
from configs.versions import source_version
from configs.wire import TokenReport
from images.pods import CPU, local_path, read_table, scratch_directory
from images.specs import CPU_IMAGE, POD_ENVIRONMENT


class Tokens(NamedTuple):
    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=source_version("tasks/tokenize", "tasks/decks"), serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
)
def tokenize(
    config: TokenizeConfig,
    chat_template: Optional[str],
    tokenizer: FlyteDirectory,
    trust_remote_code: bool,
    train: StructuredDataset,
    test: StructuredDataset,
) -> Tokens:
    """Apply the template, mark what is trained, and enforce `max_length`; counts and marked samples in the Deck."""
    from tasks.decks import html
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize import prepare

    outputs = {name: scratch_directory(name) for name in ("train", "test", "tokenizer")}
    splits = {"train": read_table(train), "test": read_table(test)}
    report = prepare.prepare_tokens(config, chat_template, local_path(tokenizer), trust_remote_code, splits, outputs)
    Deck("tokens", html.fragment(render_tokens(report)))
    for line in prepare.summary_lines(report):
        print(line)
    return Tokens(
        train=FlyteDirectory(str(outputs["train"])),
        test=FlyteDirectory(str(outputs["test"])),
        tokenizer=FlyteDirectory(str(outputs["tokenizer"])),
        report=report,
    )
