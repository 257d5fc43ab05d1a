"""An adapter's folder, and the tokenizer that its model is asked with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tasks.files.model_files import TOKENIZER_FILES
from tasks.files.model_settings import read_settings

_OF_ADAPTER = ("adapter_config.json", "README.md")
_ENDINGS = (".json", ".jinja", ".model", ".txt")


def complete_tokenizer(base_tokenizer: Path, adapter: Path, tokenizer: Path) -> None:
    """Write to `tokenizer` the files of the base's tokenizer, with those of the adapter's own in their place, if any.

    An adapter without a tokenizer gets that of the base, as the merged model is saved with it.
    """
    shutil.copytree(base_tokenizer, tokenizer, dirs_exist_ok=True)
    if any((adapter / name).is_file() for name in TOKENIZER_FILES):
        for file in adapter.iterdir():
            if file.is_file() and file.suffix in _ENDINGS and file.name not in _OF_ADAPTER:
                shutil.copyfile(file, tokenizer / file.name)
        _count_new_tokens(tokenizer)
        return
    for file in base_tokenizer.iterdir():
        if file.is_file() and not (adapter / file.name).exists():
            shutil.copyfile(file, adapter / file.name)


def _count_new_tokens(tokenizer: Path) -> None:
    """Let config.json count the tokens that training added to the vocabulary: the merged model has room for them."""
    if not (tokenizer / "tokenizer.json").is_file():
        return
    config = read_settings(tokenizer / "config.json")
    size, added = config.get("vocab_size"), read_settings(tokenizer / "tokenizer.json").get("added_tokens")
    if isinstance(size, int) and isinstance(added, list) and added:
        config["vocab_size"] = max(size, *(token["id"] + 1 for token in added))
        (tokenizer / "config.json").write_text(json.dumps(config), encoding="utf-8")
