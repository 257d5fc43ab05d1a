"""The small inputs of tests/data/cases, read and tokenized as a run does it, and the vendors' formats written by hand.

Each file has rows as users' data has them: twelve, one for each city, but for `pyws.jsonl` and `dataset_folder`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from support.loading import LoadedData, load_data
from support.token_rows import canonical_rows
from support.vendor_templates import toy_tokenizer, vendor_setup

from configs.errors import DataError
from configs.objectives import Objective
from configs.schema import DataConfig, TokenizeConfig
from tasks.tokenize.checks import check_tokens, warnings
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.counts import SplitCounts, add_batch
from tasks.tokenize.files import token_table
from tasks.tokenize.over_length import Record
from tasks.tokenize.refused import InvalidRows, count_refused
from tasks.tokenize.rows import Setup
from tasks.tokenize.template import choose_template
from tasks.tokenize.tokens import TokenBatch, tokenize_rows

FOLDER = Path(__file__).parents[1] / "data" / "cases"
CITIES = ("Paris", "Rome", "Oslo", "Bern", "Lima", "Kyiv", "Cairo", "Delhi", "Quito", "Accra", "Dakar", "Minsk")
TEMPLATES = ("llama3_1", "qwen2_5", "qwen3", "gemma3", "phi3_5", "gptoss", "deepseekv3", "plain")
"""Seven vendors' templates by TRL's names, and the project's own for base models."""


class Format(NamedTuple):
    """How a template writes the turns of a conversation.

    A system turn is written before the first user turn, or at its begin where `system` is empty. «» enclose what is
    trained. `last` is the last answer where it differs from `trained`, and `end` follows it.
    """

    begin: str
    system: str
    default_system: str
    user: str
    trained: str
    untrained: str
    last: str = ""
    end: str = ""


_LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n"
FORMATS = {
    "llama3_1": Format(
        "<bos><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n",
        "{}<|eot_id|>",
        "",
        _LLAMA.format("user") + "{}<|eot_id|>",
        _LLAMA.format("assistant") + "«{}<|eot_id|>»",
        _LLAMA.format("assistant") + "{}<|eot_id|>",
    ),
    "qwen2_5": Format(
        "",
        "<|im_start|>system\n{}<|im_end|>\n",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n«{}<|im_end|>»\n",
        "<|im_start|>assistant\n{}<|im_end|>\n",
    ),
    "qwen3": Format(
        "",
        "<|im_start|>system\n{}<|im_end|>\n",
        "",
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n«{}<|im_end|>»\n",
        "<|im_start|>assistant\n{}<|im_end|>\n",
    ),
    "gemma3": Format(
        "<bos>",
        "",
        "",
        "<start_of_turn>user\n{}<end_of_turn>\n",
        "<start_of_turn>model\n«{}<end_of_turn>»\n",
        "<start_of_turn>model\n{}<end_of_turn>\n",
    ),
    "phi3_5": Format(
        "",
        "<|system|>\n{}<|end|>\n",
        "",
        "<|user|>\n{}<|end|>\n",
        "<|assistant|>\n«{}<|end|>»\n",
        "<|assistant|>\n{}<|end|>\n",
        end="<eos>",
    ),
    # without its own system turn, which has the day's date
    "gptoss": Format(
        "",
        "<|start|>developer<|message|># Instructions\n\n{}\n\n<|end|>",
        "",
        "<|start|>user<|message|>{}<|end|>",
        "<|start|>assistant«<|channel|>final<|message|>{}<|end|>»",
        "<|start|>assistant<|channel|>final<|message|>{}<|end|>",
        last="<|start|>assistant«<|channel|>final<|message|>{}<|return|>»",
    ),
    "deepseekv3": Format(
        "<bos>",
        "{}",
        "",
        "<｜User｜>{}",
        "<｜Assistant｜>«{}<｜end▁of▁sentence｜>»",
        "<｜Assistant｜>{}<｜end▁of▁sentence｜>",
    ),
    "plain": Format("<bos>", "System: {}\n", "", "User: {}\n", "Assistant:« {}<eos>»\n", "Assistant: {}<eos>\n"),
}


class Turn(NamedTuple):
    """A question, its answer, and whether the answer is trained."""

    question: str
    answer: str
    is_trained: bool = True


def written(template: str, system: str, *turns: Turn) -> str:
    """Return the text of a conversation as `template` writes it, with each trained span between « and »."""
    form = FORMATS[template]
    text = form.begin
    if form.system and (system or form.default_system or template == "llama3_1"):
        text += form.system.format(system or form.default_system)
    for number, turn in enumerate(turns):
        folded = f"{system}\n\n" if system and not form.system and not number else ""
        text += form.user.format(folded + turn.question)
        last = form.last if number == len(turns) - 1 else ""
        text += ((last or form.trained) if turn.is_trained else form.untrained).format(turn.answer)
    return text + form.end


@cache
def load_case(name: str, tolerate: str = "") -> LoadedData:
    """Return the tables that the data stage makes of a case; `tolerate` is a setting of `data.tolerate`."""
    settings: dict[str, Any] = {"tolerate": {tolerate: True}} if tolerate else {}
    return load_data(DataConfig(sources=[{"path": str(FOLDER / name)}], **settings))


def load_with(name: str, path: Path, *rows: dict[str, Any]) -> LoadedData:
    """Return the tables of a case with further rows, from row 13; the file is written to the folder `path`."""
    file = path / name
    file.write_text((FOLDER / name).read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    return load_data(DataConfig(sources=[{"path": str(file)}]))


@cache
def setup_of(template: str, objective: Objective = "sft") -> Setup:
    if template != "plain":
        return vendor_setup(template, objective)
    tokenizer = toy_tokenizer("")
    tokenizer.chat_template = None
    chosen = choose_template(tokenizer, None, has_messages=True)
    return Setup(tokenizer, find_control_tokens(tokenizer), chosen, TokenizeConfig(), 2**20, objective)


class Tokens:
    """The tokens of a case's rows, or of one of its tables, in the order of the file."""

    def __init__(self, data: LoadedData | pd.DataFrame, template: str, objective: Objective = "sft"):
        self.setup = setup_of(template, objective)
        frame = pd.concat([data.train, data.test]) if isinstance(data, LoadedData) else data
        numbers = frame.row_id.str.rpartition(":")[2].astype(int)
        rows = canonical_rows(frame.assign(number=numbers).sort_values("number"))
        self.batch: TokenBatch = tokenize_rows(rows, self.setup)
        self.records: list[Record] = self.batch.records

    def texts(self) -> list[str]:
        """Return each record's text with the trained spans between « and »; of gpt-oss without its first turn."""
        texts = [self._marked(record) for record in self.records]
        return [text.partition("<|end|>")[2] for text in texts] if self.setup.template.name == "gptoss" else texts

    def trained(self) -> list[list[str]]:
        """Return the trained spans of each record."""
        return [[part.partition("»")[0] for part in text.split("«")[1:]] for text in self.texts()]

    def prompts(self) -> list[str]:
        return [self.setup.tokenizer.decode(record.input_ids[: record.prompt_length]) for record in self.records]

    def rejected(self) -> list[str]:
        return [self.setup.tokenizer.decode(record.rejected_ids) for record in self.records]

    def warnings(self) -> list[str]:
        return warnings({"train": self._counts()}, count_refused(self.batch.refused), self.setup)

    def refusal(self) -> str:
        """Return the message with which the stage stops; empty where it goes on."""
        try:
            check_tokens({"train": self._counts()}, count_refused(self.batch.refused), InvalidRows(), self.setup)
        except DataError as error:
            return str(error)
        return ""

    def _counts(self) -> SplitCounts:
        counts = SplitCounts()
        add_batch(counts, self.batch, token_table(self.records), self.setup)
        return counts

    def _marked(self, record: Record) -> str:
        text, was_trained = "", False
        ids: list[int] = []
        for token, label in zip(record.input_ids, record.labels, strict=True):
            assert label in (-100, token)
            if (label != -100) != was_trained:
                text += self.setup.tokenizer.decode(ids) + ("»" if was_trained else "«")
                ids, was_trained = [], not was_trained
            ids.append(token)
        return text + self.setup.tokenizer.decode(ids) + ("»" if was_trained else "")


def names_no_content(message: str) -> bool:
    """Return whether `message` holds none of the words that the rows of all cases are made of."""
    return not any(word in message for word in (*CITIES, "Weather", "thanks", "pirate", "SECRET"))
