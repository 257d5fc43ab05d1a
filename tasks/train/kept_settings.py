"""What config.json and generation_config.json say of a trained model: what they said when training loaded it.

Training changes both for itself: transformers' trainer switches `use_cache` off, and makes the ids of BOS and of the
end token those of the tokenizer; TRL changes more. None of this is part of the result.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

# what transformers writes of the saved weights, and not of the model's settings
_OF_SAVING = ("architectures", "auto_map", "dtype", "transformers_version")


@dataclass(frozen=True)
class KeptSettings:
    """The content of config.json, and the generation config, None for a model that generates nothing."""

    config: dict[str, Any]
    generation: GenerationConfig | None

    def write_config(self, path: Path, dtype: torch.dtype) -> None:
        """Write these settings into the config.json that transformers saved, and `dtype` as that of the weights."""
        written = json.loads(path.read_text(encoding="utf-8"))
        settings = self.config | {name: written[name] for name in _OF_SAVING if name in written}
        settings["dtype"] = str(dtype).removeprefix("torch.")
        settings.pop("distributed_config", None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def kept_settings(model: PreTrainedModel) -> KeptSettings:
    """Return the settings of `model`, as it was loaded and given its end tokens; no trainer may have changed it yet."""
    generation = getattr(model, "generation_config", None)
    # in the form in which transformers would write it
    return KeptSettings(json.loads(model.config.to_json_string()), copy.deepcopy(generation))
