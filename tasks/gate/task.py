"""Flyte task: compare all models of a run on the same rows, and decide by the gate's rules what is published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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

if TYPE_CHECKING:
    from tasks.gate.compare import Rated


class Decided(NamedTuple):
    """The verdict, the table of all rows with the answers and measures of all models, and whether a person is asked.

    Nobody is asked where nothing is to be published, and on a laptop.
    """

    verdict: Verdict
    rows: StructuredDataset
    asks_approval: bool


class Compared(NamedTuple):
    """All models in the order of the config with their scores, the verdict on them, and the table of all rows."""

    names: list[str]
    evaluations: list[Evaluation]
    verdict: Verdict
    rows: StructuredDataset


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
def compare_with_first(
    config: FineTuneConfig,
    names: list[str],
    evaluations: list[Evaluation],
    rows: list[StructuredDataset],
    asked: list[str],
    asked_evaluations: list[Evaluation],
    asked_rows: list[StructuredDataset],
) -> Compared:
    """Return the verdict on each of some models that were not trained here, against the first; not cached either.

    `names` are models that were loaded, and `asked` those behind endpoints; the first is that of the config.
    """
    from tasks.gate.several import decide_each, in_order, models_of_pairs, settled

    models = in_order(config, _rated([*names, *asked], [*evaluations, *asked_evaluations], [*rows, *asked_rows]))
    config = settled(config, models)
    pairs, sentences, whole = {}, [], dict(models)
    for candidate, of_pair in models_of_pairs(models).items():
        pairs[candidate], found = _judged(config, of_pair, next(iter(models)), candidate)
        sentences += [f"{candidate}: {sentence}" for sentence in found]
        whole[candidate] = pairs[candidate][candidate]
    verdict, table = _show(decide_each(config, next(iter(models)), pairs), sentences, whole)
    return Compared(list(whole), [rated.evaluation for rated in whole.values()], verdict, table)


def _compare(
    config: FineTuneConfig,
    start: str,
    candidate: str,
    methods: list[QuantizationMethod],
    names: list[str],
    evaluations: list[Evaluation],
    tables: list[StructuredDataset],
) -> Decided:
    from tasks.gate import approval, decide
    from tasks.gate.compare import Run

    models, judgement = _judged(config, _rated(names, evaluations, tables), start, candidate)
    verdict = decide.decide(Run(config, models, start, candidate), methods)
    waiting = approval.to_be_approved(config, verdict)
    words = approval.approval_words(waiting, is_laptop_run())
    verdict, rows = _show(verdict, judgement, models, words)
    if words:
        print_line(f"approval: {words}")
    return Decided(verdict, rows, asks_approval=bool(waiting) and not is_laptop_run())


def _rated(
    names: Sequence[str], evaluations: Sequence[Evaluation], tables: Sequence[StructuredDataset]
) -> "dict[str, Rated]":
    from tasks.evidence.table import read_table
    from tasks.gate.compare import Rated

    return {
        name: Rated(evaluation, read_table(table_path(rows)))
        for name, evaluation, rows in zip(names, evaluations, tables, strict=True)
    }


def _judged(
    config: FineTuneConfig, models: "Mapping[str, Rated]", start: str, candidate: str
) -> "tuple[dict[str, Rated], list[str]]":
    from tasks.gate.judged import with_judgements

    cache = Path(config.output_directory) / ".judge-answers" if is_laptop_run() else scratch_directory("judge")
    return with_judgements(config.evaluate.judge, read_judge_key(), models, start, candidate, cache)


def _show(
    verdict: Verdict, judgement: Sequence[str], models: "Mapping[str, Rated]", note: str = ""
) -> tuple[Verdict, StructuredDataset]:
    """Show the verdict in a Deck and in the log; return it with what a judge found, and the table of all rows."""
    from tasks.decks import html
    from tasks.decks.evidence import render_evidence, render_verdict, verdict_text
    from tasks.gate.decide import write_joined

    verdict = verdict.model_copy(update={"sentences": [*verdict.sentences, *judgement]})
    path = scratch_directory("comparison") / "rows.parquet"
    write_joined(models, path)
    paragraph = html.paragraph(note, "note") if note else ""
    Deck("verdict", html.fragment(paragraph + render_verdict(verdict) + render_evidence(verdict)))
    print_text(f"verdict: {verdict_text(verdict)}")
    return verdict, store_table(path)
