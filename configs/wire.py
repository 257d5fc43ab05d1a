"""The typed values that stages pass to each other: counts, curves and scores. Plans are in wire_plan.py, measures in
measures.py.

Rows and models travel as Flyte artifacts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.artifacts import PushedArtifact
from configs.measures import Scores
from configs.wire_type import WireType

# the column `dataset` of held-out rows; rows of a further evaluation set hold that set's name
HELD_OUT = "held-out"


class FileRange(WireType):
    """The lines of a file that begin at a byte in [start, end); the whole file when `end` is None."""

    path: str = Field(description="Local path or address of the file.")
    name: str = Field(description="Name of the file in reports.")
    start: int = Field(0, description="First byte at which a line of the range may begin.")
    end: int | None = Field(None, description="Byte before which the last line begins; the file's end if not set.")
    first_row: int = Field(1, description="Number of the first line or record in the range, counted from 1.")
    sha256: str = Field(description="SHA-256 of the range's stored bytes.")


class Shard(WireType):
    """What one data pod reads: some files of one source, or a whole hub or embedded data set."""

    section: Literal["sources", "evaluation"] = Field(description="Section of the config's data with the source.")
    number: int = Field(description="Index of the source in its section.")
    revision: str = Field(description="Hub commit, or name of the embedded data set; empty for files.")
    ranges: list[FileRange] = Field([], description="Lines of files; none for a hub or embedded data set.")
    role: Literal["auto", "train", "test"] = Field(
        "auto", description="Role of its rows: that of the source, or the split that the names of its files say."
    )


class Part(WireType):
    """The `number`-th of `of` equal parts of the rows."""

    number: int = Field(description="Number of the part, counted from 0.")
    of: int = Field(description="Number of parts.")


class FailureCase(WireType):
    """Why one row was quarantined. `value` is the offending content: for Decks only, never for a log."""

    file: str
    check: str = Field(
        "format",
        description="The check that failed: `format`, `duplicate`, `leak`, `contamination`, one of data.checks, or "
        "`template`: the chat template refuses the row.",
    )
    row: int = Field(description="Line of a JSONL or text file, record of another file; counted from 1.")
    column: str
    reason: str
    value: str


class Sample(WireType):
    """One row as shown in a report."""

    row_id: str
    prompt: str
    completion: str


class SourceCount(WireType):
    """Numbers of rows of one source: `read` = `kept` + `quarantined` + `deduplicated`."""

    source: str
    format: str
    read: int
    kept: int
    quarantined: int
    deduplicated: int = 0
    weight: float = 1.0
    role: str = Field(
        "auto",
        description="`auto`, `train`, `test`, `train and test` if the names of the files say so, or `evaluation` for a "
        "further evaluation set.",
    )


class ColumnUse(WireType):
    """What became of a column of a source, or of a key of its turns."""

    source: str
    place: Literal["column", "turn"]
    name: str = Field(description="The name, or the column's number where the name is no plain word.")
    rows: int = Field(description="Rows that have a value for it.")
    of: int = Field(description="Rows of the source that could be read.")
    use: str = Field(
        description="`trained`, `prompt`, `decides what is trained`, `metadata, not trained`, `unknown: not read`, or "
        "`carries meaning, not read`."
    )


class CheckCount(WireType):
    """How many rows a check found, and its policy: `fail`, `quarantine` or `warn`; `mend` for `data.tolerate`."""

    check: str
    policy: str
    rows: int
    first_rows: list[str] = Field(description="Ids of the first of these rows.")


class Share(WireType):
    """The number of rows of one kind, such as a language or a label."""

    name: str
    rows: int


class Balance(WireType):
    """How the rows spread over languages, labels and answers. Answers are content: for Decks only, never for a log."""

    language_rows: int = Field(0, description="Rows whose language was detected: a sample of at most 5,000.")
    languages: list[Share] = Field([], description="ISO 639-1 codes, or `unknown` for short texts and code.")
    labels: list[Share] = Field([], description="Rows with a boolean label, by label.")
    completions: list[Share] = Field([], description="The most common answers, if few are distinct.")


class DataReport(WireType):
    """Counts and samples of all rows after the data stage."""

    sources: list[SourceCount]
    train_rows: int = Field(description="Training rows, after the sources were mixed by weight.")
    test_rows: int
    evaluation_rows: int = Field(0, description="Rows of the further evaluation sets, `data.evaluation`.")
    quarantined_rows: int
    deduplicated_rows: int = 0
    invalid_rows: int = Field(0, description="Quarantined rows that count towards `data.max_invalid_rows`.")
    max_invalid_rows: int = Field(
        0, description="`data.max_invalid_rows`; rows that the chat template refuses count towards it too."
    )
    checks: list[CheckCount] = Field([])
    columns: list[ColumnUse] = Field([], description="At most 50 columns and keys of turns of each source.")
    failures: list[FailureCase] = Field(description="The first 1,000 failure cases; the quarantine table has all.")
    failure_cases: int = Field(0, description="Number of all failure cases.")
    samples: list[Sample]
    balance: Balance = Balance()
    warnings: list[str]

    def counts_line(self) -> str:
        """Return one line that accounts for every row that was read."""
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
    """A stretch of a decoded row; `trained` tells whether the loss counts it."""

    text: str
    trained: bool


class TokenReport(WireType):
    """Lengths of the tokenized rows, and how many were dropped, truncated or split for their length."""

    objective: str = "sft"
    max_length: int = Field(description="Longest sequence allowed, in tokens.")
    template: str = Field(description="Source of the chat template, or `none`.")
    template_hash: str = Field(description="SHA-256 of the chat template and its arguments; empty without one.")
    template_arguments: str = Field("", description="Variables that the chat template was given, as a JSON object.")
    train_rows: int
    test_rows: int
    dropped_train_rows: int
    dropped_test_rows: int
    truncated_rows: int = Field(description="Rows of both sets that were cut to `max_length`, left or right.")
    split_rows: int = Field(description="Rows of both sets that were split at `max_length`.")
    split_pieces: int = Field(0, description="Sequences that the split rows became.")
    left_out_pieces: int = Field(0, description="Pieces of split rows left out because the loss counts none of them.")
    refused_rows: int = Field(
        0, description="Rows of both sets that the chat template refuses; they are in the quarantine table."
    )
    refused_cases: list[FailureCase] = Field([], description="The first 100 of them.")
    training_template_rows: int = Field(0, description="Rows of both sets rendered by TRL's variant of the template.")
    one_answer_each_rows: int = Field(0, description="Sequences of both sets that are one answer of a conversation.")
    without_reasoning_rows: int = Field(0, description="Rows of both sets whose reasoning the template leaves out.")
    train_tokens: int = Field(description="All tokens of the training sequences.")
    trained_tokens: int = Field(
        description="Tokens that the loss counts; for rloo and grpo, tokens of the expected answers instead."
    )
    packed_rows: int = Field(0, description="Rows after packing the training sequences; 0 without packing.")
    packing_fill: float = Field(0.0, description="train_tokens / (packed_rows x max_length); 0 without packing.")
    preference_rows: int = Field(0, description="Training rows with two answers to one prompt: two sequences each.")
    unwanted_rows: int = Field(0, description="Training rows whose answer is labelled unwanted.")
    end_token_ids: list[int] = Field(
        description="Trained tokens that end an answer, the most frequent first; generation stops at them."
    )
    eos_token: str = Field("", description="The saved tokenizer's eos_token.")
    replaced_eos_token: str = Field("", description="The model's own eos_token, if the saved tokenizer has another.")
    new_token_ids: list[int] = Field(
        [], description="Ids of tokenize.new_special_tokens, whose embeddings are trained."
    )
    tokenizer_hash: str = Field("", description="SHA-256 of the vocabulary with its ids, including control tokens.")
    lengths: list[int] = Field(description="Upper edges of the histogram's bins, in tokens.")
    length_counts: list[int] = Field(description="Training rows in each bin.")
    samples: list[list[Span]] = Field(description="The first tokens of some training rows, decoded.")
    rejected_samples: list[list[Span]] = Field(
        [], description="The same rows with their rejected answers; empty for a row without one."
    )
    warnings: list[str] = Field([], description="What to know about the kept rows; never their content.")


class CurvePoint(WireType):
    """One logged step. `loss` is the mean over the completion tokens since the last point, in nats."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


class Series(WireType):
    """A quantity over optimizer steps, by TRL's name, such as `eval_loss`, `rewards/margins` or `kl`."""

    name: str
    steps: list[int]
    values: list[float]


class Choice(WireType):
    """One effective setting of training; `reason` says why it was chosen if the config left it open."""

    name: str
    value: str
    reason: str = ""


class TrainReport(WireType):
    """What one training did: its settings, curves, findings, size and time."""

    objective: str = "sft"
    method: str
    curve: list[CurvePoint]
    series: list[Series] = Field([], description="The other quantities that were logged.")
    choices: list[Choice] = Field([], description="Effective precision, attention, kernels, optimizer and so on.")
    findings: list[str] = Field([], description="What the curves show, in plain words, and what to try next.")
    best_step: int | None = Field(None, description="Step whose weights were kept for the lowest held-out loss.")
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
        None, description="Peak of PyTorch's allocator on rank 0's GPU; None on a CPU."
    )


class Prediction(WireType):
    """A model's answer to one held-out row."""

    row_id: str
    prompt: str
    expected: str = Field(description="What the answer is compared with, without reasoning.")
    answer: str = Field(description="Without the reasoning that the model wrote before it.")
    reasoning: str = ""
    is_right: bool | None = Field(None, description="By the first measure that is 0 or 1; else by exact match.")


class SetScores(WireType):
    """Scores of one model on a further evaluation set, such as rows of another distribution."""

    name: str
    scores: Scores


class Parity(WireType):
    """How far a saved model's predictions on a few held-out rows are from those of the weights as training held them.

    Losses are means over the counted tokens of these rows, in nats; divergences are KL(training's, the model's) of a
    prediction, in nats.
    """

    rows: list[int] = Field(description="Numbers of the rows, among those of `Evaluation.kept_losses`.")
    tokens: int
    held_loss: float = Field(description="Loss of the weights as training held them.")
    own_loss: float = Field(description="Loss of the saved model.")
    mean_divergence: float
    high_divergence: float = Field(description="The 99th percentile of the divergences.")
    same_choice: float = Field(description="Share of the predictions with the same likeliest token.")


class Evaluation(WireType):
    """Scores on the held-out rows, the answers behind them, and scores on each set of `data.evaluation`.

    `parity` is that of a trained model, in full precision or quantized, whose training kept its predictions.
    `model_digest` is the digest of the scored model's files (tasks/files/digests.py).
    """

    scores: Scores
    predictions: list[Prediction]
    others: list[SetScores] = Field([])
    parity: Parity | None = None
    model_digest: str = ""
    kept_losses: list[float] = Field(
        [], description="Summed loss, in nats, of the rows on which saved models are compared with trained weights."
    )
    measures_note: str = Field("", description="Which measures of answers were chosen, and why; empty if configured.")


class Published(WireType):
    """The outcome of publishing one artifact: its commit, or a note that says why there is none."""

    artifact: PushedArtifact
    repository: str
    commit_url: str | None
    note: str
