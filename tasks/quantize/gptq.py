"""Quantize a merged language model by GPTQ, calibrated on training rows, in an image with gptqmodel's packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from configs.artifacts import methods_of
from configs.errors import ConfigError, ModelError, either
from configs.schema import ModelConfig
from tasks.files.model_settings import read_settings
from tasks.models.companions import copy_record
from tasks.models.load import ADAPTER_FOLDER, is_reward_model, load_tokenizer, weight_dtype
from tasks.models.pace import doing
from tasks.models.quiet import quiet_libraries

BITS = 4
# most published models have 128; small models need smaller groups
_GROUP_SIZES = (128, 64, 32)
_WORKERS = "GPTQMODEL_CPU_WORKERS"
_TOKENS_FILE = "tokens.parquet"


def quantize_model(model_config: ModelConfig, model: Path, tokens: Path, num_rows: int, output: Path) -> None:
    """Write a 4-bit copy of `model`, with its tokenizer, to `output`, calibrated on `num_rows` rows of `tokens`.

    GPTQ, Frantar et al. 2022 (https://arxiv.org/abs/2210.17323), by gptqmodel. It rounds weights column by column, and
    adjusts the columns that remain so that they make up for the rounding error on the calibration rows. Linear layers
    are quantized; embeddings, the output head and virtual tokens in `adapter/` keep their type.

    Raises:
        ConfigError: gptqmodel is not installed.
        ModelError: a reward model, or one whose matrices do not divide into groups.
    """
    # gptqmodel's own default is half the cores, and it cannot load a model with one worker
    os.environ.setdefault(_WORKERS, str(min(12, max(2, (os.cpu_count() or 1) // 2))))
    try:
        from gptqmodel import GPTQModel, QuantizeConfig
    except ImportError:
        raise ConfigError(
            "quantize.methods names gptq, which needs gptqmodel and its image; run on a cluster, or choose "
            f"{either(methods_of('bitsandbytes'))}"
        ) from None
    if is_reward_model(model):
        raise ModelError(
            f"{model_config.name}: GPTQ is for language models; quantize a reward model to "
            f"{either(methods_of('bitsandbytes'))}"
        )
    quiet_libraries()
    settings = QuantizeConfig(bits=BITS, group_size=group_size(model_config.name, model), desc_act=False)
    with doing("loading the model"):
        loaded = GPTQModel.load(
            str(model),
            settings,
            dtype=weight_dtype(model_config),
            trust_remote_code=model_config.trust_remote_code,
        )
    with doing(f"calibrating on {num_rows} training rows"):
        loaded.quantize(calibration_rows(tokens / _TOKENS_FILE, num_rows), batch_size=1)
    with doing("saving"):
        loaded.save(str(output))
    load_tokenizer(model, model_config.trust_remote_code).save_pretrained(output)
    copy_record(model, output)
    if (model / ADAPTER_FOLDER).is_dir():
        shutil.copytree(model / ADAPTER_FOLDER, output / ADAPTER_FOLDER)


def calibration_rows(file: Path, num_rows: int) -> list[dict[str, list[int]]]:
    """Return at most `num_rows` rows of a tokens file at even distances, with `input_ids` and `attention_mask`."""
    parquet = pq.ParquetFile(file)
    total = parquet.metadata.num_rows
    chosen = np.unique(np.linspace(0, total - 1, min(num_rows, total)).round().astype(int))
    rows: list[dict[str, list[int]]] = []
    start = 0
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        here = chosen[(chosen >= start) & (chosen < start + size)] - start
        if len(here):
            # one group at a time: a file of a million rows does not fit into memory beside a model
            chosen_rows = parquet.read_row_group(group, columns=["input_ids"])["input_ids"].take(here).to_pylist()
            rows += [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in chosen_rows]
        start += size
    return rows


def group_size(name: str, model: Path) -> int:
    """Return how many weights of a row share a scale: the largest of 128, 64 and 32 that divides both layer widths.

    Raises:
        ModelError: none of them does.
    """
    settings = read_settings(model / "config.json")
    settings = settings.get("text_config") or settings
    widths = [settings[key] for key in ("hidden_size", "intermediate_size") if settings.get(key)]
    for size in _GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    raise ModelError(
        f"{name}: widths {' and '.join(map(str, widths))} are no multiples of 32, which GPTQ needs; use "
        f"{either(methods_of('bitsandbytes'))}"
    )
