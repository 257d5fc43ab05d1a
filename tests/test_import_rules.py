"""The house's rules on imports, read off the source: one direction, no stage in another, and light shells."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HEAVY = {"torch", "transformers", "datasets", "trl", "peft", "deepspeed", "bitsandbytes", "accelerate", "pandas"}
SHARED_ROOMS = {"decks", "endpoints", "evidence", "files", "measures", "models", "retained", "rewards", "rows"}
# the plan asks the rules of later stages before they run; each module here is pure: it loads neither torch nor a model
PURE_RULES = {
    "tasks/plan/checks/first_rows.py": {"tasks.tokenize.checks"},
    "tasks/plan/checks/token_checks.py": {
        "tasks.tokenize.checks",
        "tasks.tokenize.control_tokens",
        "tasks.tokenize.counts",
        "tasks.tokenize.files",
        "tasks.tokenize.refused",
        "tasks.tokenize.rows",
        "tasks.tokenize.template",
        "tasks.tokenize.tokens",
        "tasks.tokenize.vocabulary",
    },
    "tasks/plan/checks/token_questions.py": {"tasks.tokenize.refused", "tasks.tokenize.template"},
    "tasks/plan/checks/tokenizers.py": {"tasks.tokenize.template"},
}
# lowest first; the modules that lie in tasks/plan itself are the top
PLAN_ROOMS = ("hardware", "shapes", "memory", "time", "resolve", "checks", "top")
FLYTE = {"flytekit", "flytekitplugins"}
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("configs", "images", "tasks", "workflows")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(path: Path, top_level_only: bool) -> set[str]:
    """Return the dotted names that a file imports."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_shell(path: Path) -> bool:
    """Return whether a file may import flytekit, and must load fast."""
    return path.parts[0] in ("images", "workflows") or path.parts[:2] == ("tasks", "runtime") or path.name == "task.py"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    room, everything = path.parts[0], imports(path, top_level_only=False)
    first = {name.split(".")[0] for name in everything}
    allowed = {
        "configs": {"configs"},
        "images": {"configs", "images"},
        "tasks": {"configs", "tasks", *({"images"} if is_shell(path) else set())},
        "workflows": {"configs", "images", "tasks", "workflows"},
    }[room]
    assert first & {"configs", "images", "tasks", "workflows"} <= allowed
    if room == "tasks" and len(path.parts) > 2:
        pure = PURE_RULES.get(path.as_posix(), set())
        others = {name for name in everything if not any(f"{name}.".startswith(f"{rule}.") for rule in pure)}
        stages = {name.split(".")[1] for name in others if name.startswith("tasks.") and name.count(".") >= 1}
        reachable = {path.parts[1], *SHARED_ROOMS} if path.parts[1] not in SHARED_ROOMS else SHARED_ROOMS
        if is_shell(path):
            reachable = reachable | {"runtime"}
        assert stages <= reachable, f"{path} imports another stage: {stages - reachable}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[:2] == ("tasks", "plan")], ids=str)
def test_no_room_of_the_plan_imports_one_above_it(path: Path) -> None:
    rank = {room: number for number, room in enumerate(PLAN_ROOMS)}
    own = path.parts[2] if path.parts[2] in rank else "top"
    for name in imports(path, top_level_only=False):
        parts = name.split(".")
        if parts[:2] == ["tasks", "plan"] and len(parts) > 2:
            imported = parts[2] if parts[2] in rank else "top"
            assert rank[imported] <= rank[own], f"{path} ({own}) imports {name}, which stands above it"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_shells_import_flytekit(path: Path) -> None:
    if not is_shell(path):
        # the deck renderers are the one exception, inside the function that needs them
        found = imports(path, top_level_only=path == Path("tasks/decks/html.py"))
        assert not {name.split(".")[0] for name in found} & FLYTE


@pytest.mark.parametrize("path", [p for p in SOURCES if is_shell(p) or p.parts[0] == "configs"], ids=str)
def test_what_pyflyte_loads_is_light(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    assert not heavy, f"{path} imports {heavy} at its top; import it inside the task"


def test_rules_of_other_stages_are_pure() -> None:
    modules = {module for rules in PURE_RULES.values() for module in rules}
    modules |= {".".join(path.with_suffix("").parts) for path in SOURCES if path.parts[:2] == ("tasks", "rows")}
    heavy = HEAVY - {"pandas"}
    script = f"import sys; [__import__(name) for name in {sorted(modules)}]; print(*({heavy} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr
    # and each exception is used
    for path, rules in PURE_RULES.items():
        assert rules <= imports(Path(path), top_level_only=False)


def test_sources_are_found() -> None:
    assert len(SOURCES) > 30
