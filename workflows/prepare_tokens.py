"""From the places of rows to token ids: the part that every training has in common, side by side over shards."""

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


class PreparedTokens(NamedTuple):
    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport
    data: DataReport
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
    parts: list[Part],
    tokenizer: FlyteDirectory,
) -> PreparedTokens:
    """Read, check and split rows, and tokenize them for `objective`: what every training has in common.

    Args:
        data: Where the rows are and how they are checked.
        tokenize: Template, lengths, masks and packing.
        objective: What the training learns from: pairs, chats, text, preferences or prompts.
        trust_remote_code: Whether a tokenizer may bring code of its own.
        chat_template: The template's text; the tokenizer's own when not set.
        contamination: Evaluation sets, resolved, whose questions must not be trained on.
        shards: Parts of the files that are read side by side.
        parts: Parts of the rows that are tokenized side by side.
        tokenizer: The tokenizer's files.
    """
    scan = partial(scan_shard, config=data, contamination=contamination)
    rows = get_data(config=data, shards=map_task(scan)(shard=shards))
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
        parts=map_task(tokenize_rows)(part=parts),
    )
    return PreparedTokens(
        train=tokens.train,
        test=tokens.test,
        tokenizer=tokens.tokenizer,
        report=tokens.report,
        data=rows.report,
        quarantine=rows.quarantine,
    )
