"""Keeps notes of the libraries that no user can act on out of a run's log."""

from __future__ import annotations

import os
import sys
import warnings

import torch
import transformers


def quiet_libraries() -> None:
    """Silence notes that no user can act on. Errors still show, and progress bars stay in a terminal."""
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*OMP_NUM_THREADS.*")
    # virtual tokens come first; evaluation and losses allow for that
    warnings.filterwarnings("ignore", message="Position ids are not supported.*")
