"""The chat templates that TRL ships: the names of known ones, and variants of them that mark what the model wrote.

Some vendors' templates render a turn in one way while it is the last and in another once a turn follows, so the tokens
of an earlier answer cannot be told from those of its prompt. TRL has variants for training that can. The files are read
from the installed package; importing TRL would load torch.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_TRAINING = "_training"


class KnownTemplate(NamedTuple):
    """A vendor's template: its name in TRL, and the text of TRL's variant for training, empty where there is none."""

    name: str
    training: str


def known_template(text: str) -> KnownTemplate | None:
    """Return the template that equals `text`, None where it is none that TRL ships."""
    return _known_templates().get(_comparable(text))


def _comparable(text: str) -> str:
    # tokenizers are saved with and without a line break at the end
    return text.replace("\r\n", "\n").strip()


@cache
def _known_templates() -> dict[str, KnownTemplate]:
    spec = find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    return {
        _comparable(text): KnownTemplate(name, texts.get(name + _TRAINING, ""))
        for name, text in texts.items()
        if not name.endswith(_TRAINING)
    }
