"""What transformers, peft and tokenizers raise for a model's files that they cannot use, and how it is told.

None of them has an error class for it: the constructors of hundreds of architectures and tokenizers raise what Python
raises when a value is missing, of another type, or contradicts another.
"""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError

from configs.addresses import without_secrets
from configs.printable import one_line

LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_REASON_CHARACTERS = 200


def is_of_library(error: Exception) -> bool:
    """Return whether an error says that a file cannot be used. The tokenizers package raises plain `Exception`s."""
    return isinstance(error, LIBRARY_ERRORS) or type(error) is Exception


def reason_of(error: Exception) -> str:
    """Return the first lines of an error on one line, at most 200 characters; its class where it has no text."""
    lines = [line.strip() for line in without_secrets(str(error)).splitlines() if line.strip()]
    return one_line(" ".join(lines[:2])[:_REASON_CHARACTERS]) or type(error).__name__
