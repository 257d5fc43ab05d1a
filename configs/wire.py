"""What stages hand to each other: counts, curves and scores. Plans are in wire_plan.py, the measures in measures.py.

Rows and models travel as Flyte artifacts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.artifacts import PushedArtifact
from configs.measures import Scores
from configs.wire_type import WireType

# the value of column `dataset` in held-out rows; rows of a further evaluation set have the set's name
HELD_OUT = "held-out"


class FileRange(WireType):
    """The lines of a file that begin at a byte in [start, end); the whole file when `end` is None."""

    path: str = Field(description="The file, here or at an address.")
    name: str = Field(description="How reports name the file.")
    start: int = Field(0, description="Byte from which on lines begin.")
    end: int | None = Field(None, description="Byte before which the last line begins; the file's end when not set.")
    first_row: int = Field(1, description="Number of the first line or record in the range, counted from 1.")
    sha256: str = Field(description="Of the stored bytes of the range.")


class Shard(WireType):
    """What one data pod reads: some of the files of one source, or a whole hub or embedded data set."""

    section: Literal["sources", "evaluation"] = Field(description="Where the source is in the config's data.")
    number: int = Field(description="Index of the source in its section.")
    revision: str = Field(description="Hub commit, or name of the embedded data set; empty for files.")
    ranges: list[FileRange] = Field([], description="Lines of files; none for a hub or embedded data set.")


class Part(WireType):
    """The `number`-th of `of` equal parts of the rows."""

    number: int = Field(description="From 0.")
    of: int = Field(description="How many parts there are.")


class FailureCase(WireType):
    """Why one row was set aside. `value` is the offending content, shown in Decks only, never in a log."""

    file: str
    check: str = Field(
        "format",
        description="The check that failed: `format`, `duplicate`, `leak`, `contamination`, or one of data.checks.",
    )
    row: int = Field(description="Line of a JSONL or text file; record of a JSON, CSV or Parquet file; from 1.")
    column: str
    reason: str
    value: str


class Sample(WireType):
    """One row as shown in a report."""

    row_id: str
    prompt: str
    completion: str


class SourceCount(WireType):
    """Rows of one source: `read` = `kept` + `quarantined` + `deduplicated`."""

    source: str
    format: str
    read: int
    kept: int
    quarantined: int
    deduplicated: int = 0
    weight: float = 1.0
    role: str = Field("auto", description="`auto`, `train`, `test`, or `evaluation` for a further evaluation set.")


class CheckCount(WireType):
    """How many rows a check found, and what became of them: fail, quarantine or warn."""

    check: str
    policy: str
    rows: int
    first_rows: list[str] = Field(description="Ids of some of them.")


class Share(WireType):
    """How many rows are of one kind, such as a language or a label."""

    name: str
    rows: int


class Balance(WireType):
    """What the rows are made of. Completions are content of rows: for Decks only, never for a log."""

    language_rows: int = Field(0, description="Rows whose language was looked at: a sample of at most 5,000.")
    languages: list[Share] = Field([], description="ISO 639-1 codes, or `unknown` for short texts and code.")
    labels: list[Share] = Field([], description="Rows with a boolean label, by label.")
    completions: list[Share] = Field([], description="The commonest answers, where there are few distinct ones.")


class DataReport(WireType):
    """Counts and samples of the rows."""

    sources: list[SourceCount]
    train_rows: int = Field(description="Training rows, after sources were mixed by weight.")
    test_rows: int
    evaluation_rows: int = Field(0, description="Rows of the further evaluation sets, `data.evaluation`.")
    quarantined_rows: int
    deduplicated_rows: int = 0
    checks: list[CheckCount] = Field([])
    failures: list[FailureCase] = Field(description="The first 1,000 failure cases; the quarantine table has all.")
    failure_cases: int = Field(0, description="How many there are in all.")
    samples: list[Sample]
    balance: Balance = Balance()
    warnings: list[str]

    def counts_line(self) -> str:
        """Return where every row that was read has gone, in one line."""
        read = sum(count.read for count in self.sources)
        kept = sum(count.kept for count in self.sources)
        evaluated = f", {self.evaluation_rows} for evaluation only" if self.evaluation_rows else ""
        mixed = any(count.weight != 1.0 for count in self.sources)
        return (
            f"data: {read} rows read = {kept} kept "
            f"({kept - self.test_rows - self.evaluation_rows} train, {self.test_rows} test{evaluated}) "
            f"+ {self.quarantined_rows} quarantined + {self.deduplicated_rows} deduplicated"
            + (f"; mixed by weight: {self.train_rows} training rows" if mixed else "")
        )


class Span(WireType):
    """A stretch of a decoded row that the loss counts, or does not."""

    text: str
    trained: bool


class TokenReport(WireType):
    """Lengths of the tokenized rows, and what was left out for its length."""

    objective: str = "sft"
    max_length: int = Field(description="Longest sequence allowed, in tokens.")
    template: str = Field(description="Where the chat template came from, or `none`.")
    template_hash: str = Field(description="SHA-256 of the chat template; empty without one.")
    train_rows: int
    test_rows: int
    dropped_train_rows: int
    dropped_test_rows: int
    truncated_rows: int = Field(description="Rows of both sets that were cut to `max_length`, left or right.")
    split_rows: int = Field(description="Rows of both sets that were split at `max_length`.")
    split_pieces: int = Field(0, description="Sequences that the split rows became.")
    left_out_pieces: int = Field(0, description="Further pieces of split rows, left out: the loss counts none of them.")
    train_tokens: int = Field(description="All tokens of the training sequences.")
    trained_tokens: int = Field(
        description="Tokens that the loss counts; for rloo and grpo those of the expected answers, which it does not."
    )
    packed_rows: int = Field(0, description="Rows that the training sequences were packed into; 0 without packing.")
    packing_fill: float = Field(0.0, description="train_tokens / (packed_rows x max_length); 0 without packing.")
    preference_rows: int = Field(0, description="Training rows that are pairs: two sequences each, of one prompt.")
    unwanted_rows: int = Field(0, description="Training rows whose answer is one that is not wanted.")
    end_token_ids: list[int] = Field(description="Trained tokens that end an answer; generation stops at them.")
    new_token_ids: list[int] = Field(
        [], description="Ids of tokenize.new_special_tokens, whose embeddings are trained."
    )
    tokenizer_hash: str = Field("", description="SHA-256 of the vocabulary with its ids, the control tokens included.")
    lengths: list[int] = Field(description="Upper edges of the histogram's bins, in tokens.")
    length_counts: list[int] = Field(description="Training rows in each bin.")
    samples: list[list[Span]] = Field(description="The first tokens of some training rows, decoded.")
    rejected_samples: list[list[Span]] = Field(
        [], description="The same rows with their rejected answers; an empty list for a row that has none."
    )
    warnings: list[str] = Field([], description="What is worth knowing about rows that were kept; never their content.")


class CurvePoint(WireType):
    """One logged step. `loss` is the mean over the completion tokens since the last point, in nats."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


class Series(WireType):
    """A quantity over optimizer steps, such as `eval_loss`, `rewards/margins` or `kl`, under TRL's name for it."""

    name: str
    steps: list[int]
    values: list[float]


class Choice(WireType):
    """One effective choice of how training ran, and why it is what it is where the config left it open."""

    name: str
    value: str
    reason: str = ""


class TrainReport(WireType):
    """What training did."""

    objective: str = "sft"
    method: str
    curve: list[CurvePoint]
    series: list[Series] = Field([], description="What else was logged over the steps.")
    choices: list[Choice] = Field([], description="Precision, attention, kernels, optimizer, and the like.")
    findings: list[str] = Field([], description="What the curves say, in plain words, and what to try next.")
    best_step: int | None = Field(None, description="Step whose weights were kept for their held-out loss.")
    steps: int
    epochs: float
    seconds: float
    parameters: int
    trainable_parameters: int
    world_size: int
    batch_size: int
    learning_rate: float
    device: str
    precision: str
    peak_memory_bytes: int | None = Field(
        None, description="Most that PyTorch's allocator held on rank 0's GPU; None on a CPU."
    )


class StageReport(WireType):
    """What one of several trainings did with its rows."""

    name: str
    data: DataReport
    tokens: TokenReport
    training: list[TrainReport] = Field([], description="One, or none before it has run.")


class Prediction(WireType):
    """One held-out row answered by a model."""

    row_id: str
    prompt: str
    expected: str
    answer: str


class SetScores(WireType):
    """Scores of one model on a further evaluation set, such as one of another distribution."""

    name: str
    scores: Scores


class Evaluation(WireType):
    """Scores on the held-out rows, the answers behind them, and scores on each set of `data.evaluation`."""

    scores: Scores
    predictions: list[Prediction]
    others: list[SetScores] = Field([])


class Published(WireType):
    """What became of one artifact: its commit, or why there is none."""

    artifact: PushedArtifact
    repository: str
    commit_url: str | None
    note: str
