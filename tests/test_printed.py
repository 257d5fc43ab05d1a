"""The house's rule on what people read, read off the source: it goes through configs/printable.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("configs", "images", "tasks", "workflows")
    for path in (ROOT / folder).rglob("*.py")
)
# their results hold no line break and no character that hides
SHOWING = {
    "one_line",
    "first_line",
    "joined_lines",
    "printable",
    "without_secrets",
    "table_cell",
    "shown_address",
    "reason_of",
    "short_name",
}
SHOWING |= {"shown_columns", "setting_name"}
# errors of ours: what they quote was shown where the message was made
OWN = re.compile(r"\w*(Config|Data|Model|Artifact|Hub|FineTune|Rows|Unreachable|Interrupted\w*)Error|RefusedRow")
OWN_TOO = {"Fault", "BrokenCheckpointError", "NotCheckedError", "JsonFault", "YamlFault", "NoAnswerError"}
OWN_TOO |= {"NotCounted", "Failed", "QueryFault"}
MESSAGES = re.compile(r"\w*Error|RefusedRow|Fault|bad_row")
# of other errors: numbers, and words of the operating system
HARMLESS = {"strerror", "errno", "lineno", "colno", "pos", "start", "status_code", "status"}
# what names and paths are called
NAMES = {"path", "file", "folder", "directory", "page", "uri", "address", "entry", "place", "key", "column", "family"}
NAMES |= {"model_type", "text", "target", "group_by"}
# values of ours that are called like these: known keys, canonical columns, numbers, ids of rows, and files' names that
# were shown where they were found (`DataFile.name`)
OURS = {
    "configs/deepspeed_file.py": {"key", "names[0]"},
    "configs/embedded/names.py": {"' or '.join(known)"},
    "configs/load.py": {"', '.join(presets)"},
    "images/lock.py": {"', '.join(unpinned)"},
    "tasks/files/model_settings.py": {"key"},
    "tasks/get_data/merge.py": {"shards[0]['label']"},
    "tasks/measures/sql_process.py": {"error"},
    "tasks/models/template_bounds.py": {"error"},
    "tasks/models/vocabulary.py": {"unknown[0]"},
    "tasks/plan/checks/settings.py": {"setting.split('=')[0]"},
    "tasks/plan/hardware/gpus.py": {"', '.join(types)"},
    "tasks/plan/shapes/counted_shapes.py": {"key"},
    "tasks/plan/shapes/supported.py": {"file"},
    "tasks/quantize/gptq.py": {"' and '.join(map(str, widths))"},
    "tasks/runtime/shown_errors.py": {"error"},
    "tasks/rows/answers.py": {"column", "goes_on[0]"},
    "tasks/rows/canonical.py": {"column"},
    "tasks/rows/tools.py": {"key"},
    "tasks/rows/turns.py": {"key", "_ARTICLES[last]", "', '.join((key for key in _WEIGHTS if key in turn))"},
    "tasks/tokenize/checks.py": {
        "found.first_ids[0]",
        "counts.without_end.first_ids[0]",
        "'; also '.join(_refusal_lines(refused)[:3])",
    },
    "tasks/tokenize/files.py": {"', '.join(kinds)"},
    "tasks/tokenize/packing.py": {"names[row]", "num_tokens[row]", "num_labels[row]"},
    "tasks/tokenize/template.py": {"file"},
    "tasks/tokenize/vocabulary.py": {"written[-1]", "written[0]"},
    "tasks/train/checkpoint/saver.py": {"error"},
    "tasks/train/watch/tracking.py": {"error"},
    "tasks/train/merge.py": {"saved[name]", "wanted[name]"},
}
# messages of pydantic's validators: all faults of a config leave through `configs.schema.section._line`
VALIDATORS = ("configs/schema/",)
PRINTING = {"print", "echo", "secho", "writelines", "pprint"}


def parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def is_shown(node: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    """Return whether a value is an argument of a function that shows, or formatted by `!r` or as a number."""
    while node in above and not isinstance(node, ast.stmt):
        if called(node) in SHOWING:
            return True
        if isinstance(node, ast.FormattedValue) and (node.conversion != -1 or node.format_spec):
            return True
        node = above[node]
    return False


def foreign_errors(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield (where it is known, name) of each error that is not ours: caught there, or given to a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name:
            kinds = [kind for kind in ast.walk(node.type or node) if isinstance(kind, ast.Name | ast.Attribute)]
            names = {str(getattr(kind, "id", getattr(kind, "attr", ""))) for kind in kinds}
            if not (node.type and all(OWN.fullmatch(name) or name in OWN_TOO for name in names)):
                yield node, node.name
        elif isinstance(node, ast.FunctionDef):
            for argument in node.args.args:
                if argument.annotation and re.fullmatch(r"(Base)?Exception", ast.unparse(argument.annotation)):
                    yield node, argument.arg


def foreign_texts(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield each place where the text of an error that is not ours becomes part of a text of ours."""
    above = parents(tree)
    for scope, name in foreign_errors(tree):
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)):
                continue
            outer = above[node]
            is_text = isinstance(outer, ast.FormattedValue) or called(outer) == "str"
            if isinstance(outer, ast.Attribute):
                is_text = isinstance(above[outer], ast.FormattedValue) and outer.attr not in HARMLESS
            further = above[outer]
            is_compared = isinstance(further, ast.Compare) or (
                isinstance(further, ast.Attribute) and further.attr in ("lower", "startswith", "encode")
            )
            if is_text and not is_compared and not is_shown(node, above):
                yield node


def raw_names(tree: ast.AST) -> Iterator[ast.FormattedValue]:
    """Yield each name, path, key or list of them that becomes part of an error's message as it is."""
    above = parents(tree)
    for call in (node for node in ast.walk(tree) if MESSAGES.fullmatch(called(node))):
        for part in ast.walk(call):
            if not isinstance(part, ast.FormattedValue) or is_shown(part, above):
                continue
            value = part.value
            last = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
            is_item = isinstance(value, ast.Subscript) and not isinstance(value.slice, ast.Slice)
            # a list of constants, in capitals, is ours
            is_list = called(value) == "join" and not re.search(r"\(_?[A-Z_]+\)", ast.unparse(value))
            if (last in NAMES or is_item or is_list) and not any(called(node) in SHOWING for node in ast.walk(value)):
                yield part


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_messages_show_what_they_quote(path: Path) -> None:
    tree, ours = tree_of(path), OURS.get(path.as_posix(), set())
    foreign = [(node.lineno, ast.unparse(node)) for node in foreign_texts(tree)]
    names = [(node.lineno, ast.unparse(node.value)) for node in raw_names(tree)]
    names = [] if path.as_posix().startswith(VALIDATORS) else names
    raw = [(line, text) for line, text in foreign + names if text not in ours]
    assert not raw, "show these with one_line or first_line of configs/printable.py; in OURS are those that are ours"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('raise DataError(f"{path} is bad")', ["path"]),
        ('raise DataError(f"{one_line(path)} is bad: {redacted(file)}, {key!r}, {page:,}")', []),
        (
            "raise ModelError(f\"no {weights[0]}, {names[:3]} and {', '.join(missing)}\")",
            ["weights[0]", "', '.join(missing)"],
        ),
        ('raise ModelError(f"no {first_line(weights[0])}")', []),
        ('raise HubError(f"{error}")', ["error"]),
        ('raise HubError(f"{type(error).__name__} {error.errno}: {first_line(error)}")', []),
        ('raise HubError(f"{str(error)[:9]}")', ["error"]),
        ('reason = "x" if "full" in str(error).lower() else str(error)', ["error"]),
    ],
)
def test_the_rule_finds_what_is_not_shown(statement: str, found: list[str]) -> None:
    tree = ast.parse(f"try:\n    work()\nexcept OSError as error:\n    {statement}\n")
    texts = [ast.unparse(node) for node in foreign_texts(tree)] + [ast.unparse(n.value) for n in raw_names(tree)]
    assert texts == found
    own = ast.parse(f"try:\n    work()\nexcept DataError as error:\n    {statement}\n")
    assert not list(foreign_texts(own))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_one_module_prints(path: Path) -> None:
    if path == Path("configs/printable.py"):
        return
    for call in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)):
        name, words = called(call), ast.unparse(call.func)
        assert name not in PRINTING, f"line {call.lineno}: print with print_line or print_text of configs/printable.py"
        assert not re.search(r"std(out|err)\.write", words), f"line {call.lineno}: as above"
        if (name == "write" and "_bar" in words) or words == "os.write":
            assert "one_line" in ast.unparse(call), f"line {call.lineno}: a line beside a bar goes through one_line"
        if re.search(r"\b(log|logger|logging)\.(debug|info|warning|error|exception|critical)$", words):
            first, *others = call.args
            assert isinstance(first, ast.Constant), f"line {call.lineno}: the text of a log line is a constant"
            assert all(called(other) in SHOWING for other in others), f"line {call.lineno}: show what is logged"
            assert not call.keywords and name != "exception", f"line {call.lineno}: log the trace with printable"
        assert name != "tqdm" or all(
            key.arg != "desc" or isinstance(key.value, ast.Constant) or "one_line" in ast.unparse(key.value)
            for key in call.keywords
        ), f"line {call.lineno}: a bar's description goes through one_line"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_one_module_writes_html_and_one_writes_yaml(path: Path) -> None:
    for call in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)):
        words = ast.unparse(call.func)
        assert words != "escape" or path == Path("tasks/decks/html.py"), f"line {call.lineno}"
        assert not words.startswith("yaml.") or "dump" not in words or path == Path("configs/printable.py"), call.lineno
        assert not words.endswith((".to_yaml", ".to_csv", "csv.writer")), f"line {call.lineno}: see table_cell"
