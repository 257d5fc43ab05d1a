"""Once imported, torch cannot be: for programs that must not load it."""

from __future__ import annotations

import sys


class _Refusing:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is not to be loaded here")


sys.meta_path.insert(0, _Refusing())
