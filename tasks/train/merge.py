"""Turns what training saved into a model that loads by itself, and checks that what was saved is whole."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from configs.addresses import shown_address
from configs.errors import ArtifactError, ModelError
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.files.model_settings import read_settings
from tasks.models.companions import copy_companions
from tasks.models.end_tokens import set_end_tokens, write_end_tokens
from tasks.models.library_errors import LIBRARY_ERRORS, reason_of
from tasks.models.load import (
    ADAPTER_FOLDER,
    is_reward_model,
    load_model,
    load_reward_model,
    load_tokenizer,
    weight_dtype,
)
from tasks.models.quiet import quiet_libraries
from tasks.models.record import PARITY_FILE, RECORD_FILE

_GENERATION_FILE = "generation_config.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def merge_adapter(model_config: ModelConfig, base: Path, adapter: Path, output: Path) -> None:
    """Write the model in `base`, with `adapter` merged into it, its tokenizer and its end tokens, to `output`.

    A low-rank adapter is added to the weights, in `model.dtype` or else the base's own precision, and never to a
    quantized copy; rows of new tokens and a reward model's head replace the base's. Virtual tokens cannot be merged:
    the base's files are copied as they are, and the adapter is written to the folder `adapter` beside them.

    The record of the training is copied too.

    Raises:
        ArtifactError: what was written is not whole.
        ModelError: the adapter is of another base.
    """
    quiet_libraries()
    settings = peft.PeftConfig.from_pretrained(adapter)
    tokenizer = load_tokenizer(adapter, model_config.trust_remote_code)
    end_token_ids = _end_token_ids(adapter)
    if settings.is_prompt_learning:
        shutil.copytree(base, output, dirs_exist_ok=True)
        (output / ADAPTER_FOLDER).mkdir()
        for name in _ADAPTER_FILES:
            shutil.copyfile(adapter / name, output / ADAPTER_FOLDER / name)
        _write_end_tokens(output, model_config, end_token_ids, tokenizer.pad_token_id)
        check_saved(output / ADAPTER_FOLDER, model_config, base)
    else:
        # "auto" is the type in which the base was published
        dtype: Any = "auto" if model_config.dtype == "auto" else weight_dtype(model_config)
        load = partial(load_reward_model, new_head=True) if settings.task_type == "SEQ_CLS" else load_model
        model = load(model_config, base, dtype=dtype)
        vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        if settings.trainable_token_indices and vocabulary_size > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
        try:
            merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except LIBRARY_ERRORS as error:
            # an adapter that was not trained here may be that of another base
            raise ModelError(
                f"the adapter does not fit the base model.name={shown_address(model_config.name)} "
                f"({reason_of(error)[:200]})\nname the base that it was trained on"
            ) from None
        if end_token_ids:
            set_end_tokens(merged, end_token_ids, tokenizer.pad_token_id)
        merged.config.pad_token_id = tokenizer.pad_token_id
        merged.save_pretrained(output)
        check_saved(output, model_config)
    tokenizer.save_pretrained(output)
    copy_companions(base, output)
    for name in (_GENERATION_FILE, RECORD_FILE, PARITY_FILE):
        if (adapter / name).exists():
            shutil.copyfile(adapter / name, output / name)


def _end_token_ids(adapter: Path) -> list[int]:
    """Return the ids at which the adapter's model stops; none for a reward model, which generates nothing."""
    path = adapter / _GENERATION_FILE
    ids = read_settings(path).get("eos_token_id") if path.exists() else None
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def _write_end_tokens(
    directory: Path, loading: ModelConfig, end_token_ids: list[int], pad_token_id: int | None
) -> None:
    """Write the ids into the copied config.json in `directory`, and into the section of its language model, if any."""
    path = directory / "config.json"
    settings = read_settings(path)
    config = AutoConfig.from_pretrained(directory, trust_remote_code=loading.trust_remote_code).get_text_config()
    if end_token_ids:
        write_end_tokens(config, end_token_ids, pad_token_id)
    for section in (settings, settings.get("text_config")):
        if section is not None:
            section |= {"pad_token_id": pad_token_id, "eos_token_id": config.eos_token_id}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def name_base(model_config: ModelConfig, adapter: Path) -> None:
    """Write the name and revision of the base into `adapter`, where peft wrote a path of this machine."""
    path = adapter / "adapter_config.json"
    settings = read_settings(path)
    name = shown_address(model_config.name)
    settings |= {"base_model_name_or_path": name, "revision": model_config.revision}
    if settings.get("tokenizer_name_or_path"):
        settings["tokenizer_name_or_path"] = name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_saved(directory: Path, loading: ModelConfig | None = None, base: Path | None = None) -> None:
    """Refuse a saved model or adapter that is not whole: saving a sharded model can leave tensors empty or in parts.

    No tensor may be empty, and all numbers must be finite. With `loading`, names and shapes of a model's tensors must
    be those that transformers expects by its config.json; with `base` too, those of an adapter must be the ones that
    peft makes for the model in that directory.

    Raises:
        ArtifactError: names the file and the tensor.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"training saved no weights to {one_line(directory)}; run again, and report this")
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if not names:
                raise ArtifactError(f"training saved an empty file to {path.name}; report this")
            for name in names:
                shapes[name] = tuple(file.get_slice(name).get_shape())
                if 0 in shapes[name]:
                    raise ArtifactError(f"training saved an empty {one_line(name)} to {path.name}; report this")
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise ArtifactError(f"{one_line(name)} in {path.name} has numbers that are not finite; report this")
    if loading is not None and (directory / "adapter_config.json").exists():
        if base is not None:
            _compare(shapes, _adapter_shapes(loading, base, directory), directory)
    elif loading is not None:
        _check_loads(loading, directory)


def _check_loads(loading: ModelConfig, directory: Path) -> None:
    """Load a model without its numbers: transformers then lists missing tensors, whatever names the files use."""
    kind = AutoModelForSequenceClassification if is_reward_model(directory) else AutoModelForCausalLM
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        # transformers prints the list as a table
        _, found = kind.from_pretrained(
            directory,
            dtype="auto",
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=loading.trust_remote_code,
        )
    for name in sorted(found["missing_keys"]):
        raise ArtifactError(f"training saved no {one_line(name)} to {directory.name}; report this")
    for name in sorted(found["unexpected_keys"]):
        raise ArtifactError(
            f"training saved {one_line(name)} to {directory.name}, which the model does not have; report this"
        )
    for name, saved, wanted in sorted(found["mismatched_keys"]):
        raise ArtifactError(
            f"{one_line(name)} in {directory.name} has shape {tuple(saved)}, and the model {tuple(wanted)}; report this"
        )


def _adapter_shapes(loading: ModelConfig, base: Path, adapter: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that peft makes for the model in `base` by the adapter's config."""
    settings = peft.PeftConfig.from_pretrained(adapter)
    model_config = AutoConfig.from_pretrained(base, trust_remote_code=loading.trust_remote_code)
    kind = AutoModelForCausalLM
    if settings.task_type == "SEQ_CLS":
        kind, model_config.num_labels = AutoModelForSequenceClassification, 1
    with torch.device("meta"):
        model = kind.from_config(model_config, trust_remote_code=loading.trust_remote_code)
    new_tokens = [
        token for tokens in (getattr(settings, "trainable_token_indices", None) or {}).values() for token in tokens
    ]
    if new_tokens and max(new_tokens) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(new_tokens) + 1, mean_resizing=False)
    # otherwise peft warns that the adapter belongs to a model of another name
    settings.base_model_name_or_path = model.name_or_path
    wrapped = peft.get_peft_model(model, settings, low_cpu_mem_usage=True)
    tensors = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _compare(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], directory: Path) -> None:
    for name in sorted(wanted.keys() | saved.keys()):
        if name not in saved:
            raise ArtifactError(f"training saved no {one_line(name)} to {directory.name}; report this")
        if name not in wanted:
            raise ArtifactError(
                f"training saved {one_line(name)} to {directory.name}, which the model does not have; report this"
            )
        if saved[name] != wanted[name]:
            raise ArtifactError(
                f"{one_line(name)} in {directory.name} has shape {saved[name]}, and the model {wanted[name]}; report "
                "this"
            )
