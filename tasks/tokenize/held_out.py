"""The tokens of the held-out rows alone, by the tokenizer and the chat template of another model.

A model that was not trained here is asked as it is asked elsewhere: with its own template. So its rows are tokenized
anew, and nothing is trained on them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.effective.lengths import positions_of
from configs.errors import DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire_few_shot import HeldOutReport
from tasks.tokenize import checks
from tasks.tokenize.counts import SplitCounts, add_batch
from tasks.tokenize.few_shot import longest_sequence
from tasks.tokenize.files import TOKENS_FILE, TokenWriter, read_rows, token_table
from tasks.tokenize.pair_template import pair_template
from tasks.tokenize.prepare import make_setup
from tasks.tokenize.template import load_tokenizer, text_config
from tasks.tokenize.tokens import tokenize_rows
from tasks.tokenize.vocabulary import write_model_config


def held_out_tokens(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    test: Path,
    output: Path,
    saved_tokenizer: Path,
    prefers_own: bool = False,
) -> HeldOutReport:
    """Write `tokens.parquet`, with `TOKEN_SCHEMA`, of all rows of the Parquet file `test` to `output`.

    `chat_template` is the template to use; with `prefers_own`, only where the tokenizer has none. A sequence may have
    4 x `tokenize.max_length` tokens, as another tokenizer writes more of them, but no more than the model has
    positions; a longer one is left out and counted, and so is a row that the template refuses. The tokenizer is saved
    to `saved_tokenizer`.

    Raises:
        ConfigError: a setting contradicts the objective.
        ModelError: the tokenizer cannot be used.
        DataError: no row is left.
    """
    checks.check_settings(config, objective)
    has_messages = checks.check_kinds({"test": test}, objective)
    own = config.model_copy(update={"new_special_tokens": [], "over_length": "drop"})
    if prefers_own and load_tokenizer(tokenizer_directory, trust_remote_code).chat_template is not None:
        chat_template = None
    setup = make_setup(own, objective, chat_template, tokenizer_directory, trust_remote_code, has_messages)
    setup = replace(
        setup, max_length=longest_sequence(positions_of(text_config(tokenizer_directory)), setup.max_length)
    )
    counts, has_prompts, num_refused, first_refusal = SplitCounts(), False, 0, ""
    with TokenWriter(output / TOKENS_FILE) as writer:
        for rows in read_rows(test, 0, 1):
            has_prompts = has_prompts or any(row.kind != "text" for row in rows)
            batch = tokenize_rows(rows, setup)
            num_refused += len(batch.refused)
            first_refusal = first_refusal or next((refusal.reason for refusal in batch.refused), "")
            table = token_table(batch.records)
            writer.write(table)
            add_batch(counts, batch, table, setup)
    if not counts.num_sequences:
        why = f"the chat template refuses them ({first_refusal})" if num_refused else "all are too long"
        raise DataError(f"no held-out row is left for another model's tokenizer: {why}")
    if setup.template.source == "none" and has_prompts:
        setup.tokenizer.chat_template = pair_template(setup.tokenizer, config.prompt_separator)
    setup.tokenizer.save_pretrained(saved_tokenizer)
    write_model_config(tokenizer_directory, saved_tokenizer, [])
    return HeldOutReport(
        rows=counts.num_sequences,
        too_long_rows=counts.dropped,
        refused_rows=num_refused,
        refusal=first_refusal,
        template=setup.template.source,
        end_token_ids=counts.stop_token_ids,
    )
