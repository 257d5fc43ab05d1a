"""Whether conversations agree on their system prompt: a few that differ are often an accident of merging files."""

from __future__ import annotations

import hashlib
from collections import Counter

# more distinct ones than this are meant to differ, and are not told apart further
_FEW_PROMPTS = 10


class SystemPrompts:
    """Counts conversations with and without a system turn, and how often each of a few system prompts is used."""

    def __init__(self) -> None:
        self._conversations = self._with_system = 0
        self._prompts: Counter[bytes] = Counter()

    def add(self, prompt: str | None) -> None:
        """Count one conversation: the content of its system turn, or None where it has none."""
        self._conversations += 1
        if prompt is not None:
            self._with_system += 1
            digest = hashlib.blake2b(prompt.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if digest in self._prompts or len(self._prompts) <= _FEW_PROMPTS:
                self._prompts[digest] += 1

    def warnings(self) -> list[str]:
        """Return a warning with the counts where some have a system turn and some not, or 2 to 10 different ones."""
        warnings = []
        if self._with_system not in (0, self._conversations):
            warnings.append(
                f"{self._with_system} of {self._conversations} conversations have a system turn, the others have none"
            )
        if 1 < len(self._prompts) <= _FEW_PROMPTS:
            counts = ", ".join(str(rows) for _, rows in self._prompts.most_common())
            warnings.append(
                f"{self._with_system} conversations have {len(self._prompts)} different system prompts: {counts} rows"
            )
        return warnings
