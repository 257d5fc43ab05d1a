"""From what training saved to a model directory that loads by itself; and is what was saved whole."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import peft
from peft import PeftModel
from safetensors import safe_open

from configs.errors import ArtifactError
from configs.schema import ModelConfig
from tasks.models.load import ADAPTER_FOLDER, load_model, load_reward_model, load_tokenizer
from tasks.models.quiet import quiet_libraries

RECORD_FILE = "training.json"
"""Objective, method and every effective choice of the training, beside what it made."""

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def merge_adapter(model_config: ModelConfig, base: Path, adapter: Path, output: Path) -> None:
    """Write the model in `base` with what `adapter` adds, its tokenizer and its end tokens, to `output`.

    A low-rank adapter is added to the weights, in the base's own precision and never to a quantized copy; rows of new
    tokens and a reward model's head are taken over. Virtual tokens cannot be: the base's files are copied as they are,
    and the adapter goes to the folder `adapter` beside them.

    The record of the training goes with it.

    Raises:
        ArtifactError: what was written has no weights, or empty ones.
    """
    quiet_libraries()
    settings = peft.PeftConfig.from_pretrained(adapter)
    tokenizer = load_tokenizer(adapter, model_config.trust_remote_code)
    if settings.is_prompt_learning:
        shutil.copytree(base, output, dirs_exist_ok=True)
        (output / ADAPTER_FOLDER).mkdir()
        for name in _ADAPTER_FILES:
            shutil.copyfile(adapter / name, output / ADAPTER_FOLDER / name)
        check_saved(output / ADAPTER_FOLDER)
    else:
        # "auto" is the type of the checkpoint: an adapter is merged into what was published
        load = partial(load_reward_model, new_head=True) if settings.task_type == "SEQ_CLS" else load_model
        model = load(model_config, base, dtype="auto")  # type: ignore[arg-type]
        vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        if settings.trainable_token_indices and vocabulary_size > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        merged.config.pad_token_id = tokenizer.pad_token_id
        merged.save_pretrained(output)
        check_saved(output)
    tokenizer.save_pretrained(output)
    for name in ("generation_config.json", RECORD_FILE):
        if (adapter / name).exists():
            shutil.copyfile(adapter / name, output / name)


def name_base(model_config: ModelConfig, adapter: Path) -> None:
    """Write into `adapter` the name and revision of its base, in the place of a path that only this machine has."""
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": model_config.name, "revision": model_config.revision}
    if settings.get("tokenizer_name_or_path"):
        settings["tokenizer_name_or_path"] = model_config.name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_saved(directory: Path) -> None:
    """Refuse a saved model or adapter without tensors, or with an empty one (as sharded saving can leave behind).

    Raises:
        ArtifactError: names the file and the tensor.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"training saved no weights to {directory}; run again, and report this")
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            empty = [name for name in names if 0 in file.get_slice(name).get_shape()]
        if not names or empty:
            raise ArtifactError(f"training saved an empty {empty[0] if empty else 'file'} to {path.name}; report this")
