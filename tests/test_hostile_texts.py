"""Names, keys, answers and messages made to deceive: no output has a hidden character, a live tag or a false line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from support.loading import load_data
from support.scored import scores

from configs.errors import DataError, FineTuneError
from configs.load import read_mapping
from configs.printable import print_line, yaml_text
from configs.schema import DataConfig, FineTuneConfig
from configs.wire import DataReport, Evaluation, Prediction, SetScores, SourceCount
from tasks.decks import html
from tasks.decks.card import all_scores, model_card
from tasks.decks.data import render_data
from tasks.decks.error import render_error
from tasks.decks.markdown import code, fenced
from tasks.decks.plan import aligned
from tasks.decks.progress import render_evaluation
from tasks.decks.scores import text_table
from tasks.files.front_matter import split_card
from tasks.files.places import find_files
from tasks.get_data.merge import summary_lines
from tasks.models.usage import LOCAL_BASE, Usage, vllm_snippet
from tasks.push_to_hub.card_file import BEGIN, END, joined_card
from tasks.rows.readers import read_rows
from tasks.runtime.refusals import refusal_message
from tasks.runtime.shown_errors import shown_error
from tasks.runtime.worker_faults import earliest_fault, run_worker

NAMES = [
    "cleared\x1b[2J\x1b[31m.jsonl",
    "rows\nError: all is well; train: step 9 of 9.jsonl",
    "rows\r\x85\u2028overwritten.jsonl",
    "cod\u202eslnoj.jsonl",
    "=cmd|' C calc'!A0.jsonl",
    "-2+3\tx.jsonl",
    "a|b`c``d```e<script>alert(1)<img src=x onerror=alert(1)>.jsonl",
    "![x](javascript:alert(1)) [y](http:evil) www.evil.com <me@evil.com> <!-- fine-tuned model: end -->.jsonl",
    "zero\u200bwidth\ufeff\u2066hidden\u2069\U000e0041.jsonl",
]
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]"
)
SCORES = scores(
    eval_loss=1.0,
    perplexity=2.7,
    exact_match=0.5,
    loss_rows=4,
    loss_tokens=20,
    generated_rows=1,
    size_bytes=3,
)
WHOLE = "".join(NAMES)
BROKEN = "no JSON \x1b[2J \u202e"


def assert_harmless(text: str) -> None:
    found = HIDDEN.search(text)
    assert found is None, f"{found and found[0]!r} in {text[max(0, found.start() - 60) : found.end() + 20]!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with such names; each has 21 rows, two of them invalid."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(NAMES):
        rows: list[dict[str, Any]] = [
            {"prompt": f"question {number} {row} \x1b[2J", "completion": f"=answer {number} {row}\u202e"}
            for row in range(19)
        ]
        rows.append({"prompt": f"no completion {number}", "key\x1b\n\u202e": 1})
        lines = [*map(json.dumps, rows), BROKEN]
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def test_names_of_files_are_one_line_where_they_are_found(folder: Path) -> None:
    files = find_files(str(folder))
    assert sorted(Path(file.path).name for file in files) == sorted(NAMES)
    for file in files:
        assert file.name.isprintable()
    assert r"cod\u202eslnoj.jsonl" in [file.name for file in files]


@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_a_file_has_no_line_of_its_name(name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"prompt": "\xff"}\n')
    errors = []
    for broken in (path, tmp_path / f"missing-{name}"):
        with pytest.raises(DataError) as raised:
            [list(read_rows(file)) for file in find_files(str(broken))]
        errors.append(raised.value)
    for error in errors:
        assert_harmless(str(error))
        assert_harmless(str(error.exit_code))
        assert len(str(error).splitlines()) <= 2
        assert not re.search("^Error: all is well", str(error), re.MULTILINE)


def test_the_data_stage_shows_nothing_that_deceives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = DataConfig(sources=[{"path": str(folder)}], max_invalid_rows=100, deduplicate="none")
    report = load_data(sources).report
    for line in summary_lines(report):
        print_line(line)
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert not re.search("^(Error|train):", shown, re.MULTILINE)
    page = html.document("data", render_data(report))
    assert_harmless(page)
    assert "<script" not in page
    # a spreadsheet would compute what is copied from the page
    assert not re.search(r"<td>\s*[=@]", page)
    assert "<td>'=cmd" in page
    with pytest.raises(DataError) as raised:
        load_data(sources.model_copy(update={"max_invalid_rows": 0}))
    assert_harmless(str(raised.value))
    assert len(str(raised.value).splitlines()) == 2


def test_the_quarantine_keeps_the_true_text(folder: Path) -> None:
    rows = load_data(DataConfig(sources=[{"path": str(folder)}], max_invalid_rows=100)).quarantine
    assert list(rows.value).count(BROKEN) == len(NAMES)


def run_config() -> FineTuneConfig:
    hostile = "a|b`c``d```e<script>alert(1)</script>\u202e\ufeff"
    return FineTuneConfig.model_validate(
        {
            "model": {"name": f"/models/{hostile}"},
            "data": {"sources": [{"path": f"/rows/{hostile}.jsonl"}]},
            "tokenize": {"prompt_separator": f"\n```\n{WHOLE}\n{END}\n", "template_arguments": {"x": WHOLE}},
        }
    )


def card() -> str:
    sources = [SourceCount(source=name, format="text", read=9, kept=7, quarantined=2) for name in NAMES]
    sets = [SetScores(name=name, scores=SCORES) for name in NAMES]
    one = Evaluation(scores=SCORES, predictions=[], others=sets)
    counts = {"train_rows": 6, "test_rows": 1, "quarantined_rows": 2}
    report = DataReport(sources=sources, failures=[], samples=[], warnings=[], **counts)
    licence = {"license": "other", "license_name": f"x\n---\n{WHOLE}", "license_link": "https://x/\u202e"}
    return model_card(run_config(), "model", report, all_scores([], one, one, []), licence)


def test_nothing_of_a_card_is_live() -> None:
    text = card()
    assert_harmless(text)
    metadata, body = split_card(text)
    assert metadata["license_name"] == f"x\n---\n{WHOLE}"
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = parser.render(body)
    assert not re.search(r"<(script|img|a|svg|iframe|me@)\b", page)
    assert not re.search(r"<!--", page)
    # what a renderer that links addresses by itself may read: all but code
    plain = re.sub(r"<code.*?</code>", "", page, flags=re.DOTALL)
    assert not re.search(r"www\.|https?:|@|javascript", plain)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    # the head, base and tuned, and each on every further set
    assert len(rows) == 3 + 2 * len(NAMES)
    assert len({len(re.findall("<t[hd]", row)) for row in rows}) == 1
    # the config is one block, and nothing follows it
    assert page.count("<pre>") == 1
    assert page.rstrip().endswith("</code></pre>")
    block = re.search(r"(?s)(`{3,})yaml\n(.*)\n\1", body)
    assert block is not None
    assert yaml.safe_load(block[2])["tokenize"]["prompt_separator"] == f"\n```\n{WHOLE}\n{END}\n"


def test_a_card_does_not_end_before_its_end() -> None:
    first = joined_card(card(), "# Mine\n", {})
    body = split_card(first)[1]
    assert body.count(BEGIN) == body.count(END) == 1
    assert joined_card(card(), first, {}) == first
    assert_harmless(first)


@pytest.mark.parametrize("text", ["", " ", "a", "`", "``", "a`b", " a ", "`a``", "a|b", "\n", "\\|", "<b>"])
def test_code_shows_the_text_itself(text: str) -> None:
    page = MarkdownIt("commonmark").render(f"x{code(text)}y")
    shown = text.replace("|", r"\x7c").replace("\n", r"\n").replace("<", "&lt;").replace(">", "&gt;")
    # of a text without any character but blanks, all are kept
    assert page == f"<p>x<code>{shown or '  '}</code>y</p>\n" if text.strip() else "<code>" in page


def test_a_fence_is_longer_than_those_in_it() -> None:
    page = MarkdownIt("commonmark").render(fenced("a\n````\n<b>\n```\n", "sh"))
    assert page == '<pre><code class="language-sh">a\n````\n&lt;b&gt;\n```\n\n</code></pre>\n'


def test_pages_and_tables_show_answers_without_harm() -> None:
    predictions = [Prediction(row_id=name, prompt=name, expected=name, answer=f"{name}\nsecond line") for name in NAMES]
    evaluation = Evaluation(
        scores=SCORES, predictions=predictions, others=[SetScores(name=name, scores=SCORES) for name in NAMES]
    )
    pages = [
        render_evaluation(WHOLE, evaluation, 99),
        render_error(WHOLE, WHOLE),
        html.stacked(WHOLE, [(name, 1.0) for name in NAMES], 2.0),
        html.marked([(WHOLE, True), (WHOLE, False)]) + html.heading(WHOLE) + html.paragraph(WHOLE),
        html.document(WHOLE, html.preformatted(WHOLE) + html.table([NAMES], NAMES)),
    ]
    for page in pages:
        assert_harmless(page)
        assert "<script" not in page
    assert "second line</span>" in pages[0]
    terminal = text_table({"base": evaluation, "tuned": evaluation}) + aligned([NAMES, NAMES])
    assert_harmless(terminal)
    # a head and two models; a blank line; a head, and two models on each set; and the two lines of `aligned`
    assert len(terminal.splitlines()) == 3 + 1 + 1 + 2 * len(NAMES) + 1
    assert "'=cmd|" in terminal


def test_errors_of_workers_servers_and_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)

    def fails() -> None:
        raise ValueError(WHOLE)

    monkeypatch.setenv("FINE_TUNE_LAUNCH_FOLDER", str(tmp_path))
    with pytest.raises(ValueError, match="cleared"):
        run_worker(fails, str(tmp_path))
    fault = earliest_fault(tmp_path)
    assert fault is not None
    assert_harmless(fault.message + fault.traceback)
    shown = shown_error("Data\x1bError\n", WHOLE)
    assert_harmless(str(shown) + type(shown).__name__)
    assert_harmless(str(FineTuneError(WHOLE)))
    grpc = pytest.importorskip("grpc")
    answer = refusal_message(grpc.StatusCode.NOT_FOUND, f"no\x1b[2J {NAMES[2]}", "p", "e", "task")
    assert_harmless(answer)
    assert len(answer.splitlines()) == 2


def test_a_config_file_with_hostile_keys_and_name(tmp_path: Path) -> None:
    path = tmp_path / NAMES[1].replace(".jsonl", ".yaml")
    path.write_text('"a\\x1b\\n\\u202eb": 1\n"a\\x1b\\n\\u202eb": 2\n', encoding="utf-8")
    with pytest.raises(FineTuneError) as raised:
        read_mapping(path)
    assert_harmless(str(raised.value))
    assert len(str(raised.value).splitlines()) == 1


def test_commands_to_copy_are_quoted(tmp_path: Path) -> None:
    usage = Usage("model", "out/$(touch x); echo", LOCAL_BASE)
    assert vllm_snippet(usage, True).startswith("vllm serve 'out/$(touch x); echo'\n")
    path = tmp_path / "a; touch x.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=re.escape("-t UTF-8 'a; touch x.jsonl' > 'utf8-a; touch x.jsonl'")):
        list(read_rows(find_files(str(path))[0]))


def test_yaml_reads_back_and_hides_nothing() -> None:
    values = {"name": "größer 你好", "text": WHOLE}
    assert_harmless(yaml_text(values))
    assert yaml.safe_load(yaml_text(values)) == values
    assert "größer 你好" in yaml_text({"name": "größer 你好"})
