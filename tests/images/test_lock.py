"""The locks equal what `make lock` writes, pin every requirement, and fit exactly what each image's tasks import."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rehearsal.site import build
from support.image_imports import imports_of

from images import lock as locking
from images.lock import closure, lock_text, locked_versions, read_pins
from images.roles import INDIRECT, PACKAGES, Role

ROLES: list[Role] = ["cpu", "gpu", "gptq"]


def lock_file(role: Role) -> Path:
    return ROOT / "images" / f"{role}.txt"


@pytest.mark.parametrize("role", ROLES)
def test_locks_equal_what_make_lock_writes(role: Role) -> None:
    assert lock_file(role).read_text() == lock_text(role), "run `make lock`"


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_holds_only_names_and_versions(role: Role) -> None:
    head, *lines = lock_file(role).read_text().splitlines()
    assert head == f"# Every package of the {role} image; written by `make lock`."
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][\w.]*", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))


@pytest.mark.parametrize("role", ROLES)
def test_every_requirement_of_a_package_is_pinned_to_a_version_it_accepts(role: Role) -> None:
    pins, faults = read_pins(lock_file(role)), []
    for name in pins:
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = pins.get(canonicalize_name(requirement.name))
                if version is None or not requirement.specifier.contains(version, prereleases=True):
                    faults.append(f"{name} needs {requirement}, and gets {version}")
    assert not faults


def test_versions_come_from_the_constraints_except_for_gptq() -> None:
    pins = read_pins(ROOT / "constraints.txt")
    cuda = set(read_pins(ROOT / "images" / "cuda.txt"))
    for role in ("cpu", "gpu"):
        assert {name for name, version in locked_versions(role).items() if pins.get(name) != version} == cuda
    own = read_pins(ROOT / "images" / "gptq_pins.txt")
    # the conflict that gives GPTQ an image of its own
    assert (pins["numpy"], own["numpy"], locked_versions("gptq")["numpy"]) == ("2.4.6", "2.2.6", "2.2.6")
    assert {name for name, version in locked_versions("gptq").items() if pins.get(name) != version} == cuda | set(own)


def test_a_closure_has_requirements_and_only_requested_extras() -> None:
    assert closure(["Jinja2"]) == {"jinja2", "markupsafe"}
    assert "grpcio-status" not in closure(["google-api-core"])
    assert "grpcio-status" in closure(["google-api-core[grpc]"])
    assert closure(["not-installed-here"]) == {"not-installed-here"}


def test_an_unpinned_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "constraints.txt").read_text()
    (tmp_path / "constraints.txt").write_text(lines.replace("MarkupSafe==3.0.4\n", ""))
    monkeypatch.setattr(locking, "_CONSTRAINTS", tmp_path / "constraints.txt")
    with pytest.raises(ValueError, match=r"constraints.txt has no version of markupsafe; add it, then run `make lock`"):
        locked_versions("cpu")


@pytest.mark.parametrize("role", ROLES)
def test_an_image_lists_exactly_what_its_tasks_import(role: Role) -> None:
    _, packages = imports_of(role)
    named = {canonicalize_name(name) for name in PACKAGES[role]}
    indirect = {canonicalize_name(name) for name in INDIRECT[role]}
    assert packages - indirect == named
    assert not named & indirect


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_every_module_of_a_role_imports_with_only_the_roles_packages(role: Role, tmp_path: Path) -> None:
    modules, _ = imports_of(role)
    programs = build([f"{name}=={version}" for name, version in locked_versions(role).items()], tmp_path / "image")
    script = (
        f"import importlib\nfor name in {sorted(modules)!r}:\n    importlib.import_module(name)\n"
        "try:\n    import pytest\nexcept ModuleNotFoundError:\n    print('ALONE')"
    )
    command = [str(programs / "python"), "-c", script]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "ALONE" in result.stdout, result.stderr[-2000:]
