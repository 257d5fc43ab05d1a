"""Writes the images' locks, for `make lock`. A lock pins every package that a pod gets.

It holds a role's packages and all that these require, read from the packages installed here, at the versions in
constraints.txt. Two groups are not installed here and have pin lists of their own: CUDA's libraries (cuda.txt), which
torch's CPU wheel does not require, and the packages of the GPTQ image alone (gptq_pins.txt).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from configs.printable import print_line
from images.roles import INDIRECT, PACKAGES, Role

FOLDER = Path(__file__).parent
_CONSTRAINTS = FOLDER.parent / "constraints.txt"
_CUDA = FOLDER / "cuda.txt"
_GPTQ = FOLDER / "gptq_pins.txt"
# gptqmodel is not installed here, so its requirements among the pinned packages are listed by hand
_GPTQMODEL_NEEDS = (
    "accelerate",
    "datasets",
    "dill",
    "Jinja2",
    "ninja",
    "pillow",
    "protobuf",
    "requests",
    "safetensors",
)


def read_pins(path: Path) -> dict[str, str]:
    """Return the versions in a file of `name==version` lines, by normalized name."""
    lines = re.findall(r"(?m)^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"))
    return {canonicalize_name(name): version for name, version in lines}


def closure(names: Iterable[str]) -> set[str]:
    """Return the normalized names of the packages `names` and of all that they require, extras included.

    The requirements are those of the installed packages; a package that is not installed adds none.
    """
    extras: dict[str, set[str]] = {}
    todo = [Requirement(name) for name in names]
    while todo:
        package = todo.pop()
        name = canonicalize_name(package.name)
        # the empty extra stands for the package itself
        new_extras = {"", *package.extras} - extras.get(name, set())
        if not new_extras:
            continue
        extras.setdefault(name, set()).update(new_extras)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in new_extras):
                todo.append(requirement)
    return set(extras)


def locked_versions(role: Role) -> dict[str, str]:
    """Return the version of every package of a role's image, by normalized name in alphabetical order.

    Raises:
        ValueError: a package has no pin.
    """
    pins = read_pins(_CONSTRAINTS) | read_pins(_CUDA) | (read_pins(_GPTQ) if role == "gptq" else {})
    # torch is in every image
    names = closure([*PACKAGES[role], *INDIRECT[role]]) | set(read_pins(_CUDA))
    if role == "gptq":
        names |= closure(_GPTQMODEL_NEEDS) | set(read_pins(_GPTQ))
    unpinned = sorted(names - set(pins))
    if unpinned:
        raise ValueError(f"constraints.txt has no version of {', '.join(unpinned)}; add it, then run `make lock`")
    return {name: pins[name] for name in sorted(names)}


def lock_text(role: Role) -> str:
    """Return the content of a role's lock."""
    head = f"# Every package of the {role} image; written by `make lock`.\n"
    return head + "".join(f"{name}=={version}\n" for name, version in locked_versions(role).items())


def main() -> None:
    """Write all locks."""
    for role in PACKAGES:
        path = FOLDER / f"{role}.txt"
        path.write_text(lock_text(role), encoding="utf-8")
        print_line(f"{path.relative_to(FOLDER.parent)}: {len(locked_versions(role))} packages")


if __name__ == "__main__":
    main()
