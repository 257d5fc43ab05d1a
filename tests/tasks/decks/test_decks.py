"""Decks and the report: every value from data is escaped, every page stands alone, every count is shown."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from support.scored import changed as changed_scores
from support.scored import scores

from configs.schema import EvaluateConfig, FineTuneConfig
from configs.wire import (
    CurvePoint,
    DataReport,
    Evaluation,
    FailureCase,
    Prediction,
    Published,
    Sample,
    SetScores,
    SourceCount,
    Span,
    TokenReport,
    TrainReport,
)
from configs.wire_evidence import ArtifactVerdict, Verdict
from configs.wire_plan import Plan
from tasks.decks.progress import render_evaluation
from tasks.decks.scores import text_table
from tasks.decks.tokens import render_tokens
from tasks.report.rows import held_out_warning
from tasks.report.write import RunResults, metrics, render_report, write_report

EVIL = "<script>alert('x')</script><img src=http://evil/>\" onload=\"y()"


def evaluation(loss: float, answer: str, match: float | None = 0.5) -> Evaluation:
    own = scores(
        eval_loss=loss,
        perplexity=2.0,
        exact_match=match,
        loss_rows=4,
        loss_tokens=20,
        generated_rows=1,
        size_bytes=3 * 2**20,
    )
    return Evaluation(scores=own, predictions=[Prediction(row_id=EVIL, prompt=EVIL, expected=EVIL, answer=answer)])


@pytest.fixture
def results() -> RunResults:
    """A run in which every text that a user or a model could write is hostile."""
    config = FineTuneConfig.model_validate(
        {
            "model": {"name": EVIL},
            "data": {"sources": [{"path": EVIL}]},
            "tokenize": {"prompt_separator": EVIL},
            "push_to_hub": {"repository": "me/x"},
        }
    )
    data = DataReport(
        sources=[SourceCount(source=EVIL, format="text", read=9, kept=7, quarantined=2)],
        train_rows=6,
        test_rows=1,
        quarantined_rows=2,
        failures=[FailureCase(file=EVIL, row=3, column=EVIL, reason=EVIL, value=EVIL)] * 2,
        samples=[Sample(row_id=EVIL, prompt=EVIL, completion=EVIL)],
        warnings=[EVIL],
    )
    tokens = TokenReport(
        max_length=64,
        template=EVIL,
        template_hash="ab",
        train_rows=5,
        test_rows=1,
        dropped_train_rows=1,
        dropped_test_rows=2,
        truncated_rows=4,
        split_rows=0,
        refused_rows=3,
        refused_cases=[FailureCase(file=EVIL, check="template", row=5, column="(row)", reason=EVIL, value=EVIL)],
        train_tokens=100,
        trained_tokens=40,
        end_token_ids=[1],
        lengths=[16, 32],
        length_counts=[2, 3],
        samples=[[Span(text=EVIL, trained=False), Span(text=EVIL, trained=True)]],
    )
    training = TrainReport(
        method="lora",
        curve=[CurvePoint(step=n, loss=3.0 - n, learning_rate=0.1, grad_norm=1.0) for n in (1, 2)],
        steps=2,
        epochs=1.0,
        seconds=3.0,
        parameters=10,
        trainable_parameters=5,
        world_size=1,
        batch_size=8,
        learning_rate=0.1,
        device=EVIL,
        precision="float32",
    )
    plan = Plan(model_revision="r", chat_template=None, warnings=[EVIL])
    published = [Published(artifact="model", repository="me/x", commit_url=None, note=EVIL)]
    evaluations = {"base": evaluation(2.0, EVIL), "tuned": evaluation(1.0, EVIL, 1.0)}
    judged = ArtifactVerdict(model="tuned", promote=True, outcomes=[])
    verdict = Verdict(headline=EVIL, sentences=[EVIL], artifacts=[judged])
    return RunResults(config, plan, data, tokens, training, evaluations, verdict, published)


def test_no_value_from_data_becomes_markup(results: RunResults) -> None:
    page = render_report(results)
    assert "<script" not in page and "<img" not in page
    assert not re.findall(r"<[^>]*onload", page)
    # shown nevertheless, in each place where a row's content goes
    assert html.unescape(re.sub(r"<[^>]+>", "", page)).count(EVIL) >= 15


def test_the_page_loads_nothing_and_runs_nothing(results: RunResults, tmp_path: Path) -> None:
    page = write_report(results, tmp_path)[0].read_text("utf-8")
    assert not re.findall(r"<(?:script|link|iframe|object|embed|img)\b", page)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.findall(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_every_count_of_what_was_left_out_is_shown_and_in_the_metrics(results: RunResults) -> None:
    numbers = metrics(results)
    assert (numbers["quarantined_rows"], numbers["dropped_rows"], numbers["truncated_rows"]) == (5, 3, 4)
    assert numbers["refused_rows"] == 3
    assert (numbers["train_rows"], numbers["test_rows"]) == (6, 1)
    assert (numbers["train_sequences"], numbers["test_sequences"]) == (5, 1)
    assert numbers["quantized_8bit"] is None
    text = re.sub(r"<[^>]+>", " ", render_report(results))
    for words in (
        r"2 quarantined",
        r"training rows dropped as too long\s+1\b",
        r"held-out rows dropped as too long\s+2\b",
        r"rows refused by the chat template, in the quarantine table\s+3\b",
        r"refused by the chat template, in the quarantine table\s+and 2 more, in the quarantine table",
        r"9 rows read = 4 kept \+ 5 quarantined \(3 of them by the chat template\) \+ 0 deduplicated; ",
        r"of the kept rows, 3 left out as too long\.",
    ):
        assert re.search(words, text), words


def test_the_metrics_file_is_plain_json(results: RunResults, tmp_path: Path) -> None:
    numbers = json.loads(write_report(results, tmp_path)[1].read_text())
    assert numbers["base"]["eval_loss"] == 2.0 and numbers["tuned"]["exact_match"] == 1.0


@pytest.mark.parametrize("num_samples", [0, 1, 4, 50])
def test_samples_are_as_many_as_configured_and_wrong_ones_come_first(num_samples: int, results: RunResults) -> None:
    rows = [
        Prediction(row_id=str(n), prompt="p", expected="e", answer="e" if n < 5 else "no", is_right=n < 5)
        for n in range(8)
    ]
    base, tuned = (Evaluation(scores=evaluation(loss, "").scores, predictions=rows) for loss in (2.0, 1.0))
    config = results.config.model_copy(update={"evaluate": EvaluateConfig(num_samples=num_samples)})
    changed = {**vars(results), "config": config, "evaluations": {"base": base, "tuned": tuned}}
    page = render_report(RunResults(**changed))
    samples = page[: page.index("<h2>Training")]
    assert samples.count('class="card') == min(num_samples, 8)
    assert samples.count("k-wrong") == {0: 0, 1: 1, 4: 3, 50: 3}[num_samples]


def test_the_reasoning_of_an_answer_is_shown_before_it_and_is_no_part_of_it() -> None:
    own = evaluation(1.0, "").scores
    rows = [
        Prediction(row_id="1", prompt="p", expected="4", answer="4", reasoning="<b>Two and two."),
        Prediction(row_id="2", prompt="p", expected="4", answer="4"),
    ]
    page = render_evaluation("tuned", Evaluation(scores=own, predictions=rows), 2)
    assert page.count("<b>reasoning</b><span>&lt;b&gt;Two and two.</span>") == page.count("<b>reasoning</b>") == 1
    assert page.count('<div class="good"><b>answer</b><span>4</span>') == 2


def test_an_answer_has_the_colour_of_right_or_wrong(results: RunResults) -> None:
    def answers(*texts: str) -> list[Prediction]:
        return [
            Prediction(row_id=str(n), prompt="p", expected="e", answer=text, is_right=text == "e")
            for n, text in enumerate(texts)
        ]

    own = evaluation(1.0, "").scores
    base = Evaluation(scores=own, predictions=answers("e", "no", "e", "no"))
    tuned = Evaluation(scores=own, predictions=answers("e", "e", "worse", "still no"))
    page = render_report(RunResults(**{**vars(results), "evaluations": {"base": base, "tuned": tuned}}))
    shown = re.findall(r'<div class="(\w*)"><b>after, \w+</b><span>(.*?)</span>', page)
    texts = sorted((colour, re.sub("<del>.*?</del>|<[^>]*>", "", text)) for colour, text in shown)
    assert texts == [("bad", "still no"), ("bad", "worse"), ("good", "e"), ("good", "e")]


def charts_of(results: RunResults, base: dict, tuned: dict) -> set[str]:
    changed = {
        name: evaluation(2.0, "").model_copy(update={"scores": changed_scores(evaluation(2.0, "").scores, **values)})
        for name, values in (("base", base), ("tuned", tuned))
    }
    page = render_report(RunResults(**{**vars(results), "evaluations": changed}))
    return set(re.findall(r'id="(eval-loss|exact-match|preference-accuracy|preference-margin|mean-reward)-', page))


def test_there_are_bars_of_each_score_that_all_models_have_below_0_too(results: RunResults) -> None:
    always = {"eval-loss", "exact-match"}
    assert charts_of(results, {}, {"preference_margin": 1.0}) == always
    margins = charts_of(results, {"preference_margin": -1.5}, {"preference_margin": 0.0})
    assert margins == always | {"preference-margin"}
    rewards = charts_of(results, {"mean_reward": -1.5}, {"mean_reward": -0.5})
    assert rewards == always | {"mean-reward"}
    assert charts_of(results, {}, {"eval_loss": float("nan")}) == {"exact-match"}
    base = {"preference_accuracy": 0.5, "preference_margin": 1.0}
    reward_model = {**base, "eval_loss": None, "exact_match": None, "is_of_reward_model": True}
    assert charts_of(results, base, reward_model) == {"preference-accuracy"}


@pytest.mark.parametrize(
    ("sequences", "dropped", "words", "css"),
    [
        (14, 88, "14 training sequences (88 rows left out as too long: raise tokenize.max_length).", "warn"),
        (9, 1, "9 training sequences (1 row left out as too long: raise tokenize.max_length).", "note"),
        (1000, 0, "1,000 training sequences.", "note"),
    ],
)
def test_the_header_counts_what_trained_and_warns_where_much_was_left_out(
    sequences: int, dropped: int, words: str, css: str, results: RunResults
) -> None:
    tokens = results.tokens.model_copy(update={"train_rows": sequences, "dropped_train_rows": dropped})
    page = render_report(RunResults(**{**vars(results), "tokens": tokens}))
    assert re.search(rf'<p class="{css}">[^\n]*?, sft, lora, {re.escape(words)}</p>', page)


@pytest.mark.parametrize(("objective", "number"), [("sft", 2), ("sft", 20), ("dpo", 19), ("grpo", 1), ("rloo", 30)])
def test_scores_of_few_held_out_rows_are_called_a_rough_guess(objective: str, number: int) -> None:
    rows = {"test_rows": number, "objective": objective}
    scored = evaluation(1.0, "")
    if objective in ("grpo", "rloo"):
        rows["test_rows"] = 100
        scored = scored.model_copy(update={"scores": scored.scores.model_copy(update={"generated_rows": number})})
    words = f"Only {number} held-out row{'s' if number > 1 else ''}: the scores are a rough guess"
    found = held_out_warning(objective, TokenReport.model_construct(**rows), scored)
    assert found == ("" if number >= 20 else f'<p class="warn">{words}</p>')


def test_rows_of_further_evaluation_sets_are_no_held_out_rows() -> None:
    scored = evaluation(1.0, "").model_copy(update={"others": [SetScores(name="b", scores=evaluation(1, "").scores)]})
    assert "Only 4 held-out rows" in held_out_warning("sft", TokenReport.model_construct(test_rows=40), scored)


@pytest.mark.parametrize(("objective", "is_trained"), [("sft", True), ("rloo", False), ("grpo", False)])
def test_expected_answers_are_not_called_trained_where_a_reward_trains(
    objective: str, is_trained: bool, results: RunResults
) -> None:
    page = render_tokens(results.tokens.model_copy(update={"objective": objective}))
    assert ("trained spans in green" in page) is is_trained
    assert ("of them in expected answers, shown and not trained" in page) is not is_trained


def test_the_report_begins_with_the_verdict(results: RunResults) -> None:
    verdict = results.verdict.model_copy(update={"headline": "Worse than it."})
    page = render_report(RunResults(**{**vars(results), "verdict": verdict}))
    assert page.index('<p class="box bad">Worse than it.</p>') < page.index("<h2>")


def test_the_table_is_aligned_and_has_a_dash_for_what_has_no_meaning() -> None:
    table = text_table({"base": evaluation(2.0, "", None), "tuned": evaluation(1.0, "", 1.0)})
    header, base, tuned = table.splitlines()
    assert len(header) == len(base) == len(tuned)
    assert base.split() == ["base", "2.0000", "2", "-", "3.0", "MiB"]
    assert tuned.split() == ["tuned", "1.0000", "2", "100.0%", "3.0", "MiB"]


def test_further_evaluation_sets_have_a_table_of_their_own_and_a_loss_that_rose_is_a_warning(
    results: RunResults, tmp_path: Path
) -> None:
    def with_others(loss: float, *others: float) -> Evaluation:
        sets = [SetScores(name=EVIL if n else "books", scores=evaluation(o, "").scores) for n, o in enumerate(others)]
        return evaluation(loss, "").model_copy(update={"others": sets})

    evaluations = {"base": with_others(2.0, 1.0, 3.0), "tuned": with_others(1.0, 1.5, 2.5)}
    first, second = text_table(evaluations).split("\n\n")
    assert len(first.splitlines()) == 3
    assert [line.split()[-5:] for line in second.splitlines()[1:3]] == [
        ["base", "1.0000", "2", "50.0%", "4"],
        ["tuned", "1.5000", "2", "50.0%", "4"],
    ]
    assert second.splitlines()[-1] == "warning: on books the loss went up from 1.000 to 1.500"
    changed = RunResults(**{**vars(results), "evaluations": evaluations})
    page = render_report(changed)
    assert "<h3>Scores on further evaluation sets</h3>" in page and EVIL not in page
    numbers = json.loads(write_report(changed, tmp_path)[1].read_text())
    assert numbers["tuned"]["others"]["books"]["eval_loss"] == 1.5


def test_a_set_that_one_of_the_models_lacks_is_shown_of_the_other() -> None:
    """The base completes no training rows, and a reward model is not scored on general text."""

    def with_sets(*names: str) -> Evaluation:
        sets = [SetScores(name=name, scores=evaluation(1.0, "").scores) for name in names]
        return evaluation(2.0, "").model_copy(update={"others": sets})

    table = text_table({"base": with_sets("general text", "books"), "tuned": with_sets("books", "training rows")})
    assert [line.split("  1.0000")[0].split() for line in table.split("\n\n")[1].splitlines()[1:]] == [
        ["general", "text", "base"],
        ["books", "base"],
        ["books", "tuned"],
        ["training", "rows", "tuned"],
    ]


def test_preferences_and_rewards_have_columns_where_some_model_has_them(results: RunResults, tmp_path: Path) -> None:
    base, tuned = evaluation(2.0, "", None), evaluation(1.0, "", None)
    assert text_table({"base": base, "tuned": tuned}).splitlines()[0].split() == [
        "model", "eval_loss", "perplexity", "exact_match", "size",
    ]  # fmt: skip
    scored = {"preference_accuracy": 0.75, "preference_margin": -1.5, "mean_reward": -0.25}
    tuned = tuned.model_copy(update={"scores": tuned.scores.model_copy(update=scored)})
    header, first, second = text_table({"base": base, "tuned": tuned}).splitlines()
    assert header.split()[4:] == ["preference_accuracy", "preference_margin", "mean_reward", "size"]
    assert first.split()[4:] == ["-", "-", "-", "3.0", "MiB"]
    assert second.split()[4:] == ["75.0%", "-1.5000", "-0.2500", "3.0", "MiB"]
    assert len(header) == len(first) == len(second)
    changed = RunResults(**{**vars(results), "evaluations": {"base": base, "tuned": tuned}})
    assert "<td>-1.5000</td>" in render_report(changed)
    assert json.loads(write_report(changed, tmp_path)[1].read_text())["tuned"]["preference_margin"] == -1.5


def test_a_reward_model_is_shown_without_loss_and_without_answers(results: RunResults, tmp_path: Path) -> None:
    none = {"eval_loss": None, "perplexity": None, "exact_match": None, "loss_rows": 0, "generated_rows": 0}
    none["is_of_reward_model"] = True
    preferred = {"preference_accuracy": 0.5, "preference_margin": 3.0}
    base, tuned = (
        evaluation(2.0, "answer").model_copy(
            update={
                "scores": changed_scores(evaluation(2.0, "").scores, **{**preferred, **changed}),
                "predictions": predictions,
                "others": [SetScores(name="books", scores=changed_scores(evaluation(2.0, "").scores, **changed))],
            }
        )
        for changed, predictions in (({}, evaluation(2.0, "").predictions), ({**none, "preference_accuracy": 0.9}, []))
    )
    train = results.config.train.model_copy(update={"objective": "reward"})
    config = results.config.model_copy(update={"train": train})
    changed = RunResults(**{**vars(results), "config": config, "evaluations": {"base": base, "tuned": tuned}})
    page, _ = write_report(changed, tmp_path)
    text = re.sub(r"<[^>]+>", " ", page.read_text())
    assert "wrong ones first" not in text[: text.index("Resolved configuration")]
    table, others = text_table({"base": base, "tuned": tuned}).split("\n\n")
    assert table.splitlines()[2].split() == ["tuned", "-", "-", "-", "90.0%", "3.0000", "3.0", "MiB"]
    assert others.splitlines()[2].split() == ["books", "tuned", "-", "-", "-", "90.0%", "-"]
    assert "warning" not in others


def test_scores_of_models_in_fewer_bits_say_so() -> None:
    from configs.schema import EvaluateConfig
    from tasks.decks.scores import scored_in_bits

    assert scored_in_bits(EvaluateConfig()) == ""
    assert "4 bits (NF4) for scoring, as evaluate.load_in says" in scored_in_bits(EvaluateConfig(load_in="4bit"))
