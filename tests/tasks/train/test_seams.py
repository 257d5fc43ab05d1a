"""Each seam of seam_table.py is there, and the table is complete: an upgrade that moves one fails here by name."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from support.seam_table import SEAMS, Seam

import images
import tasks
from images.lock import read_pins
from tasks.train.checkpoint import universal
from tasks.train.objectives import FORMS, trainer_class

SOURCES = [path for folder in ("configs", "images", "tasks", "workflows") for path in (ROOT / folder).rglob("*.py")]
LIBRARIES = {"accelerate", "deepspeed", "flytekit", "flytekitplugins", "fsspec", "peft", "torch", "transformers", "trl"}
# what NamedTuple and os have for everybody
PUBLIC = {"_exit", "_fields", "_replace"}
PAIRS = [pytest.param(seam, owner, id=f"{owner}.{seam.name}") for seam in SEAMS for owner in seam.owners.split()]


def resolve(path: str) -> Any:
    """Return the module or class of a dotted path."""
    names = path.split(".")
    found: Any = importlib.import_module(names[0])
    for number, name in enumerate(names[1:], 2):
        if not hasattr(found, name):
            importlib.import_module(".".join(names[:number]))
        found = getattr(found, name)
    return found


def fault_of(seam: Seam, owner: str) -> str | None:
    """Return what is wrong with a seam, or None."""
    library = owner.partition(".")[0]
    version = metadata.version({"flytekitplugins": "flytekitplugins-kfpytorch"}.get(library, library))
    seen = f"{owner}.{seam.name} in {library} {version}"
    try:
        place = resolve(owner)
    except (ImportError, AttributeError):
        return f"{owner} is gone in {library} {version}; needed for: {seam.why}"
    if seam.signature is None:
        is_there = hasattr(place, seam.name) or seam.name in assigned_names(place)
        return None if is_there else f"{seen} is gone; needed for: {seam.why}"
    if seam.name not in vars(place):
        return f"{seen} is gone; needed for: {seam.why}"
    found = plain_signature(getattr(place, seam.name))
    return None if found == seam.signature else f"{seen} has {found}, and had {seam.signature}; needed for: {seam.why}"


def plain_signature(function: Any) -> str:
    """Return names, kinds and defaults of the parameters."""
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@cache
def assigned_names(place: Any) -> set[str]:
    """Return the attributes that the source of a class or module sets on objects."""
    tree = ast.parse(inspect.getsource(place))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


@pytest.mark.parametrize(("seam", "owner"), PAIRS)
def test_a_seam_is_there_as_it_was(seam: Seam, owner: str) -> None:
    if owner.startswith("deepspeed") and sys.platform != "linux":
        pytest.skip("DeepSpeed is for Linux")
    if fault := fault_of(seam, owner):
        pytest.fail(fault, pytrace=False)


def test_a_seam_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    by_name = {(owner, seam.name): seam for seam in SEAMS for owner in seam.owners.split()}
    norm = by_name["transformers.Trainer", "_get_grad_norm"]
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, *, norm=None: None)
    assert re.fullmatch(
        r"transformers\.Trainer\._get_grad_norm in transformers 5\.\S+ has \(self, model, \*, norm=None\), and had "
        r"\(self, model, grad_norm=None\); needed for: the loss watch",
        str(fault_of(norm, "transformers.Trainer")),
    )
    monkeypatch.delattr(Trainer, "_get_grad_norm")
    assert "Trainer._get_grad_norm in transformers 5" in str(fault_of(norm, "transformers.Trainer"))
    assert "is gone" in str(fault_of(norm, "transformers.Trainer"))
    attribute = Seam("transformers.Trainer", "gather_functions", None, "a test")
    assert "gather_functions in transformers" in str(fault_of(attribute, "transformers.Trainer"))
    assert "transformers.Trainers is gone" in str(fault_of(norm, "transformers.Trainers"))


def overrides() -> Iterator[tuple[type, str, type]]:
    """Yield each class of this project, the name of one of its attributes, and a library's base that has it too."""
    modules = [
        importlib.import_module(module.name)
        for package in (tasks, images)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    classes |= {trainer_class(objective) for objective in FORMS}
    for kind in classes:
        bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
        for own in kind.__mro__:
            if own.__module__.partition(".")[0] in ("tasks", "images"):
                yield from ((own, name, base) for name in vars(own) for base in bases if name in vars(base))


def test_every_override_of_a_library_is_in_the_table() -> None:
    known = {(resolve(owner), seam.name) for seam in SEAMS for owner in seam.owners.split()}
    found = {
        (own.__name__, name, base)
        for own, name, base in overrides()
        if not name.startswith("__") and name not in ("_abc_impl", "_ERROR_CODE")
    }
    # the walk finds mixins of trainers, callbacks and Flyte's classes
    assert {"Ordered", "TokenizedPrompts", "Progress", "ConfiguredElasticTask", "Cluster"} <= {own for own, *_ in found}
    missing = {(own, name, base) for own, name, base in found if (base, name) not in known}
    assert not {f"{own}.{name} overrides that of {base.__module__}.{base.__name__}" for own, name, base in missing}


def private_names(source: str) -> set[str]:
    """Return the names with an underscore that a file reads off something else than `self`, and does not define."""
    tree = ast.parse(source)
    own, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            used |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name for name in used - own if str(name).startswith("_") and not str(name).startswith("__")}


def test_every_private_name_of_a_library_is_in_the_table() -> None:
    known = PUBLIC.union(*({seam.name, *re.split(r"[. ]", seam.owners)} for seam in SEAMS))
    used = {(path.relative_to(ROOT).as_posix(), name) for path in SOURCES for name in private_names(path.read_text())}
    assert ("_total_train_tokens" in {name for _, name in used}) and len(used) > 20
    assert not {f"{path}: {name}" for path, name in used if name not in known}


def test_every_seam_is_used() -> None:
    source = "\n".join(path.read_text() for path in SOURCES)
    assert not [seam.name for seam in SEAMS if not re.search(rf"\b{seam.name}\b", source)]


def test_the_converter_gets_the_arguments_that_its_own_parser_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds_to_universal = pytest.importorskip("deepspeed.checkpoint.ds_to_universal")
    (tmp_path / "latest").write_text("step7")
    given: list[Any] = []
    monkeypatch.setattr(ds_to_universal, "main", given.append)
    universal.to_universal(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ds_to_universal", "--input_folder", "a", "--output_folder", "b"])
    assert vars(given[0]).keys() == vars(ds_to_universal.parse_arguments()).keys()


@pytest.mark.parametrize("name", ["accelerate", "deepspeed", "peft", "transformers", "trl"])
def test_a_library_with_seams_is_bounded_to_the_minor_version_that_was_tested(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = [found.specifier for text in project["dependencies"] if (found := Requirement(text)).name == name]
    tested = Version(read_pins(ROOT / "constraints.txt")[name])
    assert tested in bounds
    assert f"{tested.major}.{tested.minor}.999" in bounds
    assert f"{tested.major}.{tested.minor + 1}" not in bounds
    assert f"{tested.major}.{tested.minor - 1}.999" not in bounds
