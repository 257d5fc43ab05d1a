"""Read, check and tokenize rows, in parallel over shards: what every training needs first."""

from functools import partial
from typing import NamedTuple, Optional

from flytekit import map_task, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.objectives import Objective
from configs.schema import DataConfig, TokenizeConfig
from configs.wire import DataReport, Part, Shard, TokenReport
from tasks.get_data.task import get_data, scan_shard
from tasks.tokenize.task import tokenize as join_tokens
from tasks.tokenize.task import tokenize_part
from workflows.forms import DEMO, open_form_with


class PreparedTokens(NamedTuple):
    """Training and held-out rows as token ids, the tokenizer with new tokens, and what was counted on the way.

    `train_rows` and `test_rows` are the rows before tokenizing. `quarantine` holds the rows that were set aside by the
    checks of the data, then by the chat template.
    """

    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport
    data: DataReport
    train_rows: StructuredDataset
    test_rows: StructuredDataset
    quarantine: StructuredDataset


@workflow
def prepare_tokens(
    data: DataConfig,
    tokenize: TokenizeConfig,
    objective: Objective,
    trust_remote_code: bool,
    chat_template: Optional[str],
    contamination: list[str],
    shards: list[Shard],
    mapped_shards: list[Shard],
    mapped_parts: list[Part],
    tokenizer: FlyteDirectory,
) -> PreparedTokens:
    """Rows to tokens: what every training needs first.

    Reads, checks, deduplicates and splits the rows, and tokenizes them for `objective`. A pod each for rows and tokens,
    or with `data.shards` several in parallel.

    Args:
        data: Where the rows are and how they are checked.
        tokenize: Template, lengths, masks and packing.
        objective: The objective of the training, which decides what of a row it learns from.
        trust_remote_code: Whether code from the tokenizer's repository may run.
        chat_template: The chat template's text; the tokenizer's own template when not set.
        contamination: Revisions of the evaluation sets whose texts must not be trained on.
        shards: The part of the files that the pod of the rows reads itself; empty if pods read in parallel.
        mapped_shards: Parts of the files, each read by a pod of its own.
        mapped_parts: Parts of the rows, each tokenized by a pod of its own; empty for a single part.
        tokenizer: The tokenizer's files.
    """
    scan = partial(scan_shard, config=data, contamination=contamination)
    scanned = map_task(scan)(shard=mapped_shards).with_overrides(node_name="scan-shards")
    rows = get_data(config=data, contamination=contamination, shards=shards, scanned=scanned).with_overrides(
        node_name="rows"
    )
    tokenize_rows = partial(
        tokenize_part,
        config=tokenize,
        objective=objective,
        chat_template=chat_template,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        train=rows.train,
        test=rows.test,
    )
    tokens = join_tokens(
        config=tokenize,
        objective=objective,
        chat_template=chat_template,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        train=rows.train,
        test=rows.test,
        parts=map_task(tokenize_rows)(part=mapped_parts).with_overrides(node_name="tokenize-parts"),
        quarantine=rows.quarantine,
        # numbers, not a part of the report: a cluster orders the keys of a part anew, and the cache would miss
        invalid_rows=rows.report.invalid_rows,
        max_invalid_rows=rows.report.max_invalid_rows,
    ).with_overrides(node_name="tokens")
    return PreparedTokens(
        train=tokens.train,
        test=tokens.test,
        tokenizer=tokens.tokenizer,
        report=tokens.report,
        data=rows.report,
        train_rows=rows.train,
        test_rows=rows.test,
        quarantine=tokens.quarantine,
    )


# rows, shards and tokenizer come from earlier steps, and have no default
open_form_with(
    prepare_tokens, data=DEMO.data, tokenize=DEMO.tokenize, objective=DEMO.train.objective, trust_remote_code=False
)
