"""Finds in the source which modules and packages the tasks of each image import."""

from __future__ import annotations

import ast
import functools
import sys
from importlib import metadata
from pathlib import Path

from conftest import ROOT
from packaging.utils import canonicalize_name

from images.roles import Role

_ROOMS = ("configs", "images", "tasks", "workflows")
_IMAGE_ROLES: dict[str, Role] = {"CPU_IMAGE": "cpu", "GPU_IMAGE": "gpu", "GPTQ_IMAGE": "gptq"}
# functions whose decorator does not show the role: train tasks are declared in a loop, and GPTQ models are also scored
# in the GPTQ image
_OTHER_ROLES: list[tuple[str, str, Role]] = [
    ("tasks.train.task", "_train", "gpu"),
    ("tasks.train.task", "_name_previous", "gpu"),
    ("tasks.evaluate.task", "evaluate", "gptq"),
    ("tasks.evaluate.task", "evaluate_part", "gptq"),
]

# imported in pods too, but its functions run on a laptop alone
_LAPTOP_ONLY = ("tasks.runtime.laptop_run", "tasks.runtime.leftovers")


def imports_of(role: Role) -> tuple[set[str], set[str]]:
    """Return (modules of the project, normalized packages) that tasks of a role import, at the top or when they run."""
    modules: set[str] = set()
    packages: set[str] = set()
    todo = [
        name
        for module, task in _tasks(role)
        for function in _with_called_functions(module, task)
        for name in [module, *_imports(function)]
    ]
    while todo:
        name = todo.pop()
        room = name.split(".")[0]
        if room in _ROOMS:
            path = _file(name)
            if path is None or name in modules:
                continue
            modules.add(name)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            # a shell also has tasks of other images, whose bodies this role never runs
            is_shell = path.name == "task.py" or room == "workflows" or name in _LAPTOP_ONLY
            for node in tree.body:
                if not (is_shell and isinstance(node, ast.FunctionDef)):
                    todo += _imports(node)
        elif room not in sys.stdlib_module_names:
            packages.add(_package(name))
    return modules, packages


def _tasks(role: Role) -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for path in [*ROOT.glob("tasks/*/task.py"), *ROOT.glob("workflows/*.py")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        body = ast.parse(path.read_text(encoding="utf-8")).body
        # a decorator that several tasks share is a `partial(task, ...)` of its own
        shared = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}
        for node in body:
            if not isinstance(node, ast.FunctionDef):
                continue
            roles = {other for name, function, other in _OTHER_ROLES if (name, function) == (module, node.name)}
            for written in node.decorator_list:
                decorator = shared.get(ast.unparse(written), written)
                for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
                    if keyword.arg == "container_image":
                        roles.add(_IMAGE_ROLES[ast.unparse(keyword.value)])
            if role in roles:
                found.append((module, node))
    return found


def _with_called_functions(module: str, task: ast.FunctionDef) -> list[ast.FunctionDef]:
    """Return a task and the plain functions of its module that it calls, directly or through others."""
    path = _file(module)
    assert path is not None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list}
    found, todo = [task], [task]
    while todo:
        names = {node.id for node in ast.walk(todo.pop()) if isinstance(node, ast.Name)}
        for name in sorted(names & set(plain)):
            called = plain.pop(name)
            found.append(called)
            todo.append(called)
    return found


def _imports(node: ast.AST) -> set[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return set()
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            found |= {child.module, *(f"{child.module}.{alias.name}" for alias in child.names)}
    return found


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _package(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "flytekitplugins":
        return {"deck": "flytekitplugins-deck-standard", "kfpytorch": "flytekitplugins-kfpytorch"}.get(
            parts[1] if len(parts) > 1 else "deck", module
        )
    # a package that is not installed here is assumed to have its module's name
    return canonicalize_name(_distributions().get(parts[0], [parts[0]])[0])


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
