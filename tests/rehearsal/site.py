"""What a container image holds, in place of the image: an interpreter that can import its packages and no others.

Docker is not needed for it. A package that only the developer has, or an image's pins forget, is not there; nor is the
project, which reaches a pod as the archive that registration uploaded.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import venv
from collections import Counter
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_WATCH = Path(__file__).parent / "watch_paths.py"


def installed(names: list[str]) -> dict[str, metadata.Distribution]:
    """Return the distributions called `names` (`name==version` will do) and all that they need, by normalized name.

    What is not installed here, such as kernels for GPUs, is left out.
    """
    found: dict[str, metadata.Distribution] = {}
    queue = [Requirement(name) for name in names]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement = queue.pop()
        name, extras = normalized(requirement.name), ["", *sorted(requirement.extras)]
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for extra in extras:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in found[name].requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return found


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def build(packages: list[str], folder: Path) -> Path:
    """Make an interpreter in `folder` that imports `packages` (see `installed`); return its folder of programs."""
    venv.create(folder, symlinks=True, with_pip=False)
    [site] = (folder / "lib").glob("python*/site-packages")
    programs, home = folder / "bin", Path(str(metadata.distribution("flytekit").locate_file("")))
    owners = Counter(
        top
        for distribution in metadata.distributions()
        for top in {name.split("/")[0] for name in _files(distribution)}
    )
    for distribution in installed(packages).values():
        names = _files(distribution)
        # a folder of one package is linked as a whole, one of several (a namespace) file by file
        tops = {name.split("/")[0] for name in names}
        for name in [name for name in names if owners[name.split("/")[0]] > 1] + [t for t in tops if owners[t] == 1]:
            if name.startswith(".."):
                path = Path(os.path.normpath(home / name))
                if path.parent == Path(sys.executable).parent:
                    _program(path, programs)
            elif name != "__pycache__":
                _link(home / name, site / name)
    (site / "sitecustomize.py").write_text(_WATCH.read_text(encoding="utf-8"), encoding="utf-8")
    return programs


def _files(distribution: metadata.Distribution) -> list[str]:
    """Return what a package has installed, beside compiled modules, relative to the folder of all packages."""
    record = distribution.read_text("RECORD") or ""
    return [row[0] for row in csv.reader(record.splitlines()) if "__pycache__/" not in row[0]]


def _link(path: Path, target: Path) -> None:
    if not target.exists() and path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)


def _program(path: Path, programs: Path) -> None:
    """Put a program of a package beside the interpreter: one in Python with that interpreter, another as it is."""
    if not path.exists():
        return
    content = path.read_bytes()
    target = programs / path.name
    if content.startswith(b"#!") and b"python" in content.splitlines()[0]:
        target.write_bytes(f"#!{programs / 'python'}\n".encode() + content.split(b"\n", 1)[1])
        target.chmod(0o755)
    elif not target.exists():
        target.symlink_to(path)
