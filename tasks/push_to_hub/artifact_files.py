"""Which files of a repository belong to a model: what an artifact has, and what an earlier one left behind."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

CARD_FILE, CONFIG_FILE = "README.md", "fine_tune_config.yaml"
# weights in every format that a library loads by itself, the files beside them, and their tokenizers
_KINDS = (
    *("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt", "*.ot", "*.gguf", "*.onnx*"),
    *("*.safetensors.index.json", "*.bin.index.json", "*.h5.index.json", "params.json", "Modelfile"),
    *("config.json", "generation_config.json", "adapter_*", "*quantize_config.json", "quantization_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "tekken.json"),
    *("*.tiktoken", "chat_template.*", "*processor_config.json"),
    *("modeling_*.py", "configuration_*.py", "tokenization_*.py", CONFIG_FILE),
)
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
# folders whose files are parts of a model; a user's other folders are left alone
_FOLDERS = ("additional_chat_templates/", "onnx/", "original/")


def artifact_files(directory: Path) -> dict[str, Path]:
    """Return the files of an artifact by their path in a repository; the card is written anew for each push."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {
        name: files[name]
        for name in sorted(files)
        if name not in (CARD_FILE, CONFIG_FILE) and not any(part.startswith(".") for part in name.split("/"))
    }


def stale_files(remote: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the files of a repository that belong to a model, but not to the one whose files are `own`, sorted.

    Libraries choose by name what they load: beside the shards of a new model, the single file of an old one is loaded.
    """
    kept = set(own)
    return sorted(name for name in remote if name not in kept and _is_of_a_model(name))


def _is_of_a_model(name: str) -> bool:
    if name.startswith(_FOLDERS):
        return True
    return "/" not in name and any(fnmatchcase(name, kind) for kind in _KINDS)


def is_licence(name: str) -> bool:
    """Return whether a file is a licence or a notice, which a repository's owner may have too."""
    return "/" not in name and any(fnmatchcase(name.removeprefix("BASE_MODEL_"), kind) for kind in _LICENCES)
