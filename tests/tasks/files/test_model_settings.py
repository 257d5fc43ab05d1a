"""Folders of models with wrong content: the plan and the fetching step name the file and the key in one line.

Each case was a traceback of Python, transformers or peft, or went unseen, before the files were checked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.resolved import resolve_model

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.files.model_settings import INDEX_FILE
from tasks.get_model.fetch import fetch_model
from tasks.plan.checks.tokenizers import read_tokenizer
from tasks.plan.resolve.headers import read_tensors
from tasks.plan.resolve.models import find_model

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
NESTED = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
SERIALIZABLE = '{"a":' * 900 + "1" + "}" * 900
WHOLE_FILES: list[tuple[bytes | str, str]] = [
    (NESTED, "is nested more than 64 deep; copy it again"),
    # deep enough for a parser, and too deep for whoever writes it again
    (SERIALIZABLE, "is nested more than 64 deep; copy it again"),
    ("[]", "is not a JSON object; copy it again"),
    ("5", "is not a JSON object; copy it again"),
    ("null", "is not a JSON object; copy it again"),
    ("", "is not readable JSON (line 1, column 1: Expecting value); copy it again"),
    ('{"a": [1, 2', "is not readable JSON (line 1, column 12: Expecting ',' delimiter); copy it again"),
    (f'{{"a": {"9" * 5000}}}', "holds a number of 5000 digits, and the most are 40; copy it again"),
    ('{"a": 1e400}', "holds a number beyond 1.8e308, the largest that a computer's numbers can be; copy it again"),
    (b'{"a": "\xe9"}', "is not UTF-8 (byte 7); copy it again"),
    ('{"a": 1}'.encode("utf-16"), "is not UTF-8 (byte 0); copy it again"),
    (b"\xef\xbb\xbf{}", "begins with a byte order mark, which is not JSON; save it as UTF-8 without one"),
]
_ID = "is not the number of a token, or a list of such numbers"
_TOKEN = "is not a token: text, or an object with the text `content`"
_DECODER = "is not an object of tokens with the text `content`, by number"
_FILES = "is not an object of names of files in the model's own folder"
WRONG_VALUES: list[tuple[str, str, Any, str]] = [
    (CONFIG, "model_type", 5, "model_type=5 is not a short name"),
    (CONFIG, "model_type", "llama\n", r"model_type='llama\n' is not a short name"),
    (CONFIG, "model_type", "x" * 100_000, f"model_type='{'x' * 59}... is not a short name"),
    (CONFIG, "architectures", "x", "architectures='x' is not a list of texts"),
    (CONFIG, "architectures", [5], "architectures=[5] is not a list of texts"),
    (CONFIG, "architectures", {"a": 1}, "architectures={'a': 1} is not a list of texts"),
    (CONFIG, "auto_map", "x.y", "auto_map='x.y' is not an object"),
    (CONFIG, "text_config", [], "text_config=[] is not an object"),
    (CONFIG, "text_config", {"eos_token_id": "a"}, f"text_config.eos_token_id='a' {_ID}"),
    (CONFIG, "quantization_config", "gptq", "quantization_config='gptq' is not an object"),
    (CONFIG, "id2label", ["a"], "id2label=['a'] is not an object"),
    (CONFIG, "layer_types", 5, "layer_types=5 is not a list of texts"),
    (CONFIG, "rope_scaling", "linear", "rope_scaling='linear' is not an object"),
    (CONFIG, "rope_parameters", 5, "rope_parameters=5 is not an object"),
    (CONFIG, "num_labels", "x", "num_labels='x' is not a whole number of 64 bits"),
    (CONFIG, "num_labels", 10**30, "is not a whole number of 64 bits"),
    (CONFIG, "dtype", "__class__", "dtype='__class__' is not the name of a number format, such as bfloat16"),
    (CONFIG, "torch_dtype", 5, "torch_dtype=5 is not the name of a number format, such as bfloat16"),
    (CONFIG, "output_attentions", 5, "output_attentions=5 is not true or false"),
    (CONFIG, "eos_token_id", "</s>", f"eos_token_id='</s>' {_ID}"),
    (CONFIG, "bos_token_id", 10**12, f"bos_token_id=1000000000000 {_ID}"),
    (CONFIG, "pad_token_id", 1.5, f"pad_token_id=1.5 {_ID}"),
    (CONFIG, "eos_token_id", [1, "a"], f"eos_token_id=[1, 'a'] {_ID}"),
    (TOKENIZER, "chat_template", 5, "chat_template=5 is not text, or a list of objects with the texts `name` and"),
    (TOKENIZER, "chat_template", ["a"], "chat_template=['a'] is not text, or a list of objects"),
    (TOKENIZER, "chat_template", [{"name": "x"}], "chat_template=[{'name': 'x'}] is not text, or a list"),
    (TOKENIZER, "chat_template", {"default": 5}, "chat_template={'default': 5} is not text, or a list"),
    (TOKENIZER, "eos_token", 5, f"eos_token=5 {_TOKEN}"),
    (TOKENIZER, "pad_token", {"content": 5}, f"pad_token={{'content': 5}} {_TOKEN}"),
    (TOKENIZER, "bos_token", {"content": "a", "lstrip": "x"}, _TOKEN),
    (TOKENIZER, "added_tokens_decoder", [], f"added_tokens_decoder=[] {_DECODER}"),
    (TOKENIZER, "added_tokens_decoder", {"a": {"content": "x"}}, _DECODER),
    (TOKENIZER, "added_tokens_decoder", {"²": {"content": "x"}}, _DECODER),
    (TOKENIZER, "added_tokens_decoder", {"9" * 20: {"content": "x"}}, _DECODER),
    (TOKENIZER, "added_tokens_decoder", {"1": 5}, f"added_tokens_decoder={{'1': 5}} {_DECODER}"),
    (TOKENIZER, "added_tokens_decoder", {"1": {"content": 5}}, _DECODER),
    (TOKENIZER, "tokenizer_class", 5, "tokenizer_class=5 is not text"),
    (TOKENIZER, "model_max_length", "x", "model_max_length='x' is not a number"),
    (TOKENIZER, "extra_special_tokens", [5], "extra_special_tokens=[5] is not a list or an object of tokens"),
    (TOKENIZER, "additional_special_tokens", {"a": 5}, "additional_special_tokens={'a': 5} is not a list or an object"),
    (TOKENIZER, "model_input_names", 5, "model_input_names=5 is not a list of texts"),
    (TOKENIZER, "split_special_tokens", "x", "split_special_tokens='x' is not true or false"),
    (TOKENIZER, "init_inputs", 5, "init_inputs=5 is not a list"),
    ("special_tokens_map.json", "eos_token", ["a"], f"eos_token=['a'] {_TOKEN}"),
    ("added_tokens.json", "a", "1", "added_tokens.json is not an object of the numbers of tokens"),
    (GENERATION, "eos_token_id", "x", f"eos_token_id='x' {_ID}"),
    (GENERATION, "max_new_tokens", [], "max_new_tokens=[] is not a whole number of 64 bits"),
    (GENERATION, "temperature", "x", "temperature='x' is not a number"),
    (GENERATION, "suppress_tokens", 5, "suppress_tokens=5 is not a list of numbers of tokens"),
    (GENERATION, "watermarking_config", "x", "watermarking_config='x' is not an object"),
    (INDEX_FILE, "weight_map", [], f"weight_map=[] {_FILES}"),
    (INDEX_FILE, "weight_map", {"a": 5}, f"weight_map={{'a': 5}} {_FILES}"),
    (INDEX_FILE, "weight_map", {"a": "../b.safetensors"}, f"weight_map={{'a': '../b.safetensors'}} {_FILES}"),
    (INDEX_FILE, "weight_map", {"a": "/etc/b.safetensors"}, _FILES),
    (CONFIG, "max_position_embeddings", [None], "max_position_embeddings=[None] is not a number of positions"),
    (CONFIG, "vocab_size", "many", "vocab_size='many' is not a whole number of 64 bits"),
    (INDEX_FILE, "weight_map", {"a": "config.json"}, f"weight_map={{'a': 'config.json'}} {_FILES}"),
    (INDEX_FILE, "metadata", 5, "metadata=5 is not an object"),
    ("chat_template.json", "chat_template", 5, "chat_template=5 is not text"),
]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


def refusals(model: Path) -> list[str]:
    """Return the messages of the plan and of the step that fetches the model, each without the folder's path."""
    (fetched := model.parent / "fetched").mkdir()
    config, found = ModelConfig(name=str(model)), []
    for step in (lambda: resolve_model(config, None), lambda: fetch_model(config, "", fetched, None, lambda *_: None)):
        with pytest.raises(ModelError) as caught:
            step()
        message = str(caught.value)
        assert len(message.splitlines()) == 1 and len(message) < 400
        found.append(message.replace(f"{model}/", "").replace(f"model.name={model}: ", ""))
    return found


@pytest.mark.parametrize(
    "file", [CONFIG, TOKENIZER, GENERATION, INDEX_FILE, "added_tokens.json", "adapter_config.json"]
)
@pytest.mark.parametrize(("content", "rule"), WHOLE_FILES)
def test_a_file_that_is_no_object_is_refused(file: str, content: str | bytes, rule: str, model: Path) -> None:
    (model / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert all(message.startswith(f"{file} {rule}") for message in refusals(model))


@pytest.mark.parametrize(("file", "key", "value", "rule"), WRONG_VALUES)
def test_a_wrong_value_of_a_known_key_is_named(file: str, key: str, value: Any, rule: str, model: Path) -> None:
    path = model / file
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, key: value}))
    assert all(message.startswith(file) and rule in message for message in refusals(model))


def test_a_file_that_is_too_long_is_not_read(model: Path) -> None:
    with (model / CONFIG).open("ab") as file:
        file.truncate(2**40)
    assert all(message == "config.json is larger than 16 MiB; copy it again" for message in refusals(model))


def test_what_published_models_have_is_accepted(model: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        CONFIG: {
            "pad_token_id": -1,
            "rope_scaling": None,
            "eos_token_id": [1, 2],
            "time_step_limit": [0.0, float("inf")],
        },
        TOKENIZER: {
            "model_max_length": 1000000000000000019884624838656,
            "chat_template": [{"name": "default", "template": "x"}],
            "added_tokens_decoder": {"1": {"content": "<eos>", "special": True}},
            "pad_token": {"__type": "AddedToken", "content": "<pad>", "lstrip": False},
            "unk_token": None,
        },
        GENERATION: {"eos_token_id": [1, 2], "temperature": 0.6, "max_length": 4096},
    }
    for file, change in changes.items():
        (model / file).write_text(json.dumps({**json.loads((model / file).read_text()), **change}))
    (model / INDEX_FILE).write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}})
    )
    resolve_model(ModelConfig(name=str(model)), None)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a":' + b"[" * 100_000, "its header is nested more than 64 deep"),
        (b"[]", "its header is not a JSON object"),
        (b"", "its header is not readable JSON"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}', "a safetensors header of the model is damaged"),
        (b'{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,0]}}', "a safetensors header of the model is damaged"),
        (b'{"a":5}', "a safetensors header of the model is damaged"),
    ],
)
def test_a_damaged_header_is_refused(header: bytes, words: str, model: Path) -> None:
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    files = find_model(ModelConfig(name=str(model)), None)
    assert files is not None
    with pytest.raises(ModelError, match=words):
        read_tensors(files.read_header, ["model.safetensors"])
    (model / "model.safetensors").write_bytes((2**60).to_bytes(8, "little"))
    with pytest.raises(ModelError, match="its header is longer than 95 MiB"):
        read_tensors(files.read_header, ["model.safetensors"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", 5),
        ("added_tokens", [{"id": -1, "content": "a", "special": True}]),
        ("normalizer", json.loads('{"type":"Sequence","normalizers":[' * 100 + "]}" * 100)),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": False}),
    ],
)
def test_a_hostile_tokenizer_is_refused(key: str, value: Any, model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**content, key: value}))
    files = find_model(ModelConfig(name=str(model)), None)
    assert files is not None
    with pytest.raises(ModelError, match=r"the tokenizers package cannot read tokenizer\.json"):
        read_tokenizer(files, "model.name=x")
