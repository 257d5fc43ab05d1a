"""Fixtures: rows, and template families whose tokenizers have one token per byte and the family's special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from support.token_rows import Row, canonical, canonical_rows

from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire import TokenReport
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.prepare import join_parts, tokenize_part
from tasks.tokenize.rows import Setup
from tasks.tokenize.template import Template
from tasks.tokenize.tokens import TokenBatch, tokenize_rows

# of each family: the token that begins a text, or None, the token that ends a turn, and the tokens that enclose roles
SPECIAL_TOKENS: dict[str, list[str | None]] = {
    "chatml": [None, "<|im_end|>", "<|im_start|>"],
    "llama-3": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "mistral": ["<s>", "</s>"],
}


class Prepared:
    """The tokens that a run makes of rows, read back from the files; the same rows are in both splits."""

    def __init__(
        self,
        model: Path,
        tmp_path: Path,
        rows: list[Row],
        template: str | None,
        config: TokenizeConfig,
        objective: Objective,
    ):
        from transformers import AutoTokenizer

        outputs = {name: tmp_path / name for name in ("train", "test", "tokenizer")}
        part, source = tmp_path / "part", tmp_path / "rows.parquet"
        for path in (part, *outputs.values()):
            path.mkdir(exist_ok=True)
        canonical(rows).to_parquet(source)
        arguments = (config, objective, template, model, False)
        tokenize_part(*arguments, dict.fromkeys(("train", "test"), source), 0, 1, part)
        self.report: TokenReport = join_parts(*arguments, [part], outputs)
        self.rows = pd.read_parquet(outputs["train"] / "tokens.parquet")
        self.tokenizer = AutoTokenizer.from_pretrained(outputs["tokenizer"])
        self.tokenizer_directory = outputs["tokenizer"]

    def text(self, row: int) -> str:
        return self.tokenizer.decode(self.rows.input_ids[row])

    def trained(self, row: int) -> str:
        """Return the trained tokens, decoded, with _ in the place of each masked token."""
        return "".join("_" if t == -100 else self.tokenizer.decode([t]) for t in self.rows.labels[row])

    def marked(self, row: int) -> str:
        """Return the text with each trained span between « and »."""
        return marked(self.rows.input_ids[row], self.rows.labels[row], self.tokenizer)

    def prompt(self, row: int) -> str:
        return self.tokenizer.decode(self.rows.input_ids[row][: self.rows.prompt_length[row]])


def marked(input_ids: list[int], labels: list[int], tokenizer) -> str:
    """Return the decoded tokens with each trained span between « and »."""
    spans: list[tuple[bool, list[int]]] = []
    for token, label in zip(input_ids, labels, strict=True):
        assert label in (-100, token)
        if not spans or spans[-1][0] != (label != -100):
            spans.append((label != -100, []))
        spans[-1][1].append(token)
    return "".join(f"«{tokenizer.decode(ids)}»" if trained else tokenizer.decode(ids) for trained, ids in spans)


class TokenTable(TokenBatch):
    """A batch of tokens, with its records as a table."""

    @property
    def rows(self) -> pd.DataFrame:
        return pd.DataFrame([vars(record) for record in self.records])


@dataclass(frozen=True)
class Family:
    """A template family: its Jinja source, and the folder of a tokenizer with its special tokens."""

    name: str
    template: str
    directory: Path
    tokenizer: object

    def tokenize(self, *rows: Row, **settings: object) -> TokenTable:
        """Return the tokens of the rows without writing a file."""
        frame = canonical(list(rows))
        return TokenTable(**vars(tokenize_rows(canonical_rows(frame), self.setup(**settings))))

    def setup(self, objective: Objective = "sft", **settings: object) -> Setup:
        config = TokenizeConfig(**settings)
        control = find_control_tokens(self.tokenizer)
        return Setup(
            self.tokenizer, control, Template("config", True, ""), config, config.max_length or 4096, objective
        )


@pytest.fixture
def prepare(tiny_model: Path, tmp_path: Path) -> Callable[..., Prepared]:
    def run(
        rows: list[Row],
        template: str | None = None,
        model: Path | None = None,
        objective: Objective = "sft",
        **settings: object,
    ) -> Prepared:
        return Prepared(model or tiny_model, tmp_path, rows, template, TokenizeConfig(**settings), objective)

    return run


@pytest.fixture(scope="session")
def families(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return {
        name: _family(name, tiny_model, tmp_path_factory.mktemp(name), *tokens)
        for name, tokens in SPECIAL_TOKENS.items()
    }


def _family(name: str, model: Path, directory: Path, bos: str | None, eos: str, *others: str) -> Family:
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    template = (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in (bos, eos, *others) if text])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    tokenizer.eos_token = eos
    if bos:
        # like the tokenizers of Llama and Mistral, which put BOS before each text
        tokenizer.bos_token = bos
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}), encoding="utf-8")
    reloaded = AutoTokenizer.from_pretrained(directory)
    assert tokenizer("a")["input_ids"] == reloaded("a")["input_ids"]
    reloaded.chat_template = template
    return Family(name, template, directory, reloaded)


@pytest.fixture(scope="session", params=list(SPECIAL_TOKENS))
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]
