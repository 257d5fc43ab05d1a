"""Count system prompts: a few different ones in a data set are often an accident of merging files."""

from __future__ import annotations

import hashlib
from collections import Counter

# more distinct prompts than this are there on purpose, and are not counted further
_MAX_PROMPTS = 10


class SystemPrompts:
    """Counts conversations with and without a system turn, and how often each of a few system prompts is used."""

    def __init__(self) -> None:
        self._conversations = self._with_system = 0
        self._prompts: Counter[bytes] = Counter()

    def add(self, prompt: str | None) -> None:
        """Count one conversation by the content of its system turn, or None if it has no system turn."""
        self._conversations += 1
        if prompt is not None:
            self._with_system += 1
            digest = hashlib.blake2b(prompt.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if digest in self._prompts or len(self._prompts) <= _MAX_PROMPTS:
                self._prompts[digest] += 1

    def warnings(self) -> list[str]:
        """Return warnings: if only some conversations have a system turn, and if there are 2 to 10 distinct prompts."""
        warnings = []
        if self._with_system not in (0, self._conversations):
            warnings.append(
                f"{self._with_system} of {self._conversations} conversations have a system turn, the others have none"
            )
        if 1 < len(self._prompts) <= _MAX_PROMPTS:
            counts = ", ".join(str(rows) for _, rows in self._prompts.most_common())
            warnings.append(
                f"{self._with_system} conversations have {len(self._prompts)} different system prompts: {counts} rows"
            )
        return warnings
