"""Keep the libraries' own chatter out of a run's log, so that what the log says is worth reading."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import torch
import transformers

# they log each matrix product's cast, a missing optional kernel, or the choice of the CPU
_CHATTY = ("bitsandbytes", "DeepSpeed", "torch.distributed", "accelerate")


def quiet_libraries() -> None:
    """Silence notes that no user can act on; errors still come through. Progress bars stay in a terminal."""
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*OMP_NUM_THREADS.*")
