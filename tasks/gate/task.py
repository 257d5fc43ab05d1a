"""Flyte task: compare all models of a run on the same rows, and decide by the gate's rules what is published."""

from pathlib import Path
from typing import NamedTuple

from flytekit import Deck, task
from flytekit.types.structured import StructuredDataset

from configs.artifacts import QuantizationMethod, scores_name
from configs.printable import print_line, print_text
from configs.schema import FineTuneConfig
from configs.wire import Evaluation
from configs.wire_evidence import Verdict
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import store_table, table_path
from tasks.runtime.pods import CPU, DECK_FIELDS, is_laptop_run, scratch_directory
from tasks.runtime.secrets import JUDGE_KEY, read_judge_key
from tasks.runtime.shown_errors import shows_errors


class Decided(NamedTuple):
    """The verdict, the table of all rows with the answers and measures of all models, and whether a person is asked.

    Nobody is asked where nothing is to be published, and on a laptop.
    """

    verdict: Verdict
    rows: StructuredDataset
    asks_approval: bool


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    secret_requests=[JUDGE_KEY],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def compare_models(
    config: FineTuneConfig,
    start: str,
    start_evaluation: Evaluation,
    start_rows: StructuredDataset,
    tuned: Evaluation,
    tuned_rows: StructuredDataset,
    quantized: list[Evaluation],
    quantized_rows: list[StructuredDataset],
    base: list[Evaluation],
    base_rows: list[StructuredDataset],
    rivals: list[str],
    rival_evaluations: list[Evaluation],
    rival_rows: list[StructuredDataset],
) -> Decided:
    """Return the verdict on the tuned model and its copies; not cached, as the whole config decides.

    `start` is the name of the model that training began with, `base` or `sft`. `quantized` are the evaluations of the
    copies, in the order of `quantize.methods`; `base` has one item in an alignment, and none where training began
    with the base. `rivals` are the names of the other models, such as few_shot.
    """
    copies = [scores_name(method) for method in config.quantize.methods]
    names = [start, "tuned", *copies, *(["base"] * len(base)), *rivals]
    evaluations = [start_evaluation, tuned, *quantized, *base, *rival_evaluations]
    tables = [start_rows, tuned_rows, *quantized_rows, *base_rows, *rival_rows]
    return _compare(config, start, "tuned", config.quantize.methods, names, evaluations, tables)


def _compare(
    config: FineTuneConfig,
    start: str,
    candidate: str,
    methods: list[QuantizationMethod],
    names: list[str],
    evaluations: list[Evaluation],
    tables: list[StructuredDataset],
) -> Decided:
    from tasks.decks import html
    from tasks.decks.evidence import render_evidence, render_verdict, verdict_text
    from tasks.evidence.table import read_table
    from tasks.gate import approval, decide, judged
    from tasks.gate.compare import Rated, Run

    models = {
        name: Rated(evaluation, read_table(table_path(rows)))
        for name, evaluation, rows in zip(names, evaluations, tables, strict=True)
    }
    cache = Path(config.output_directory) / ".judge-answers" if is_laptop_run() else scratch_directory("judge")
    judge = config.evaluate.judge
    models, judgement = judged.with_judgements(judge, read_judge_key(), models, start, candidate, cache)
    verdict = decide.decide(Run(config, models, start, candidate), methods)
    verdict = verdict.model_copy(update={"sentences": [*verdict.sentences, *judgement]})
    path = scratch_directory("comparison") / "rows.parquet"
    decide.write_joined(models, path)
    waiting = approval.to_be_approved(config, verdict)
    words = approval.approval_words(waiting, is_laptop_run())
    note = html.paragraph(words, "note") if words else ""
    Deck("verdict", html.fragment(note + render_verdict(verdict) + render_evidence(verdict)))
    print_text(f"verdict: {verdict_text(verdict)}")
    if words:
        print_line(f"approval: {words}")
    return Decided(verdict, store_table(path), asks_approval=bool(waiting) and not is_laptop_run())
