"""A model that answers in a conversation, and what the folder of its run says of it; `workflows/chat.py` asks it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from configs.addresses import shown_address
from configs.errors import ModelError
from configs.foreign_json import parse_json, read_object
from configs.printable import one_line, print_text
from tasks.files.model_files import is_hub_id
from tasks.models.library_errors import LIBRARY_ERRORS, reason_of
from tasks.models.templates import ending, try_apart

_RUN_FILE, _ADAPTER_FILE = "run.json", "adapter_config.json"


class Terminal(TextStreamer):
    """Writes an answer while it is generated; a model may generate what moves a terminal's cursor."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print_text(text, end="\n" if stream_end else "")


class Speaker:
    """A model that answers in a conversation; `name` stands before its answers."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: str) -> None:
        """`arguments` is the JSON of the chat template's variables, or empty."""
        self.name = name
        self._model, self._tokenizer = model.eval(), tokenizer
        self._arguments: dict[str, Any] = parse_json(arguments) if arguments.strip() else {}
        self._turns: list[dict[str, str]] = []

    def answer(self, question: str, new_tokens: int) -> str:
        """Write the answer to `question` to the terminal as it is generated, and return it.

        A model whose template takes one question only, or none, is asked each question by itself.
        """
        inputs = self._inputs(question)
        length = inputs["input_ids"].shape[1]
        streamer = Terminal(self._tokenizer, skip_prompt=True, skip_special_tokens=True)  # type: ignore[arg-type]
        with torch.inference_mode():
            output = self._model.generate(  # type: ignore[operator]
                **inputs.to(self._model.device), max_new_tokens=new_tokens, do_sample=False, streamer=streamer
            )
        text = str(self._tokenizer.decode(output[0, length:], skip_special_tokens=True))
        self._turns.append({"role": "assistant", "content": text})
        return text

    def _inputs(self, question: str) -> Any:
        asked = {"role": "user", "content": question}
        if not self._tokenizer.chat_template:
            self._turns = [asked]
            return self._tokenizer(question, return_tensors="pt")
        try:
            inputs = self._rendered([*self._turns, asked])
            self._turns.append(asked)
        except TemplateError:
            inputs = self._rendered([asked])
            self._turns = [asked]
        return inputs

    def _rendered(self, turns: list[dict[str, str]]) -> Any:
        title, words = "the model's chat template", self._tokenizer
        try_apart(title, words.get_chat_template(), {**words.special_tokens_map, **self._arguments}, turns)
        with ending(title):
            return self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, **self._arguments
            )


def load_speaker(name: str, place: str, tokenizer: str, arguments: str) -> Speaker:
    """Return the model at `place`, a folder or a hub's id, which may be an adapter, with the tokenizer at `tokenizer`.

    Raises:
        ModelError: it cannot be loaded.
    """
    if not Path(place).is_dir() and not is_hub_id(place):
        raise ModelError(
            f"there is no folder {one_line(place)}\nname one such as outputs/demo/model, or the id of a model on a hub"
        )
    is_adapter = (Path(place) / _ADAPTER_FILE).is_file()
    kind: Any = AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM
    try:
        model = kind.from_pretrained(place, device_map="auto" if torch.cuda.is_available() else None)
        words = AutoTokenizer.from_pretrained(tokenizer)
    except LIBRARY_ERRORS as error:
        raise ModelError(
            f"{shown_address(place)} cannot be loaded: {reason_of(error)}\nname a folder such as outputs/demo/model"
        ) from None
    return Speaker(name, model, words, arguments)


def base_of(place: Path) -> str:
    """Return where the base of the model in a run's folder is: by the run's `run.json`, or by an adapter's config.

    Raises:
        ModelError: neither says it.
    """
    run, adapter = place.parent / _RUN_FILE, place / _ADAPTER_FILE
    name: Any = None
    if run.is_file():
        name = _config_of(run).get("model", {}).get("name")
    elif adapter.is_file():
        name = read_object(adapter, ModelError).get("base_model_name_or_path")
    if isinstance(name, str) and name:
        return name
    command = f"make chat MODEL={shlex.quote(str(place))} BASE=owner/name"
    raise ModelError(f"{one_line(place)}: nothing says which model it began as\nname it: {one_line(command)}")


def template_arguments_of(place: Path) -> str:
    """Return the variables that the chat template was given in the run that made a model; empty where none is known."""
    run = place.parent / _RUN_FILE
    if not run.is_file():
        return ""
    return str(_config_of(run).get("tokenize", {}).get("template_arguments", ""))


def _config_of(run: Path) -> dict[str, Any]:
    config = read_object(run, ModelError).get("config")
    if not isinstance(config, dict) or not all(isinstance(config.get(key, {}), dict) for key in ("model", "tokenize")):
        raise ModelError(f"{run} does not hold the config of a run; copy the folder of the run again")
    return config
