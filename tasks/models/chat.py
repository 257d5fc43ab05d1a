"""A model that answers in a conversation, and what the folder of its run says of it; `workflows/chat.py` asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from configs.errors import ModelError
from tasks.files.model_files import is_hub_id
from tasks.models.templates import ending

_RUN_FILE, _ADAPTER_FILE = "run.json", "adapter_config.json"


class Speaker:
    """A model that answers in a conversation; `name` stands before its answers."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: str) -> None:
        """`arguments` is the JSON of the chat template's variables, or empty."""
        self.name = name
        self._model, self._tokenizer = model.eval(), tokenizer
        self._arguments: dict[str, Any] = json.loads(arguments) if arguments.strip() else {}
        self._turns: list[dict[str, str]] = []

    def answer(self, question: str, new_tokens: int) -> str:
        """Write the answer to `question` to the terminal as it is generated, and return it.

        A model whose template takes one question only, or none, is asked each question by itself.
        """
        inputs = self._inputs(question)
        length = inputs["input_ids"].shape[1]
        streamer = TextStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)  # type: ignore[arg-type]
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
        with ending("the model's chat template"):
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
            f"there is no folder {place}\nname one such as outputs/demo/model, or the id of a model on a hub"
        )
    is_adapter = (Path(place) / _ADAPTER_FILE).is_file()
    kind: Any = AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM
    try:
        model = kind.from_pretrained(place, device_map="auto" if torch.cuda.is_available() else None)
        words = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"{place} cannot be loaded: {reason}\nname a folder such as outputs/demo/model") from None
    return Speaker(name, model, words, arguments)


def base_of(place: Path) -> str:
    """Return where the base of the model in a run's folder is: by the run's `run.json`, or by an adapter's config.

    Raises:
        ModelError: neither says it.
    """
    run = place.parent / _RUN_FILE
    if run.is_file():
        return str(json.loads(run.read_text(encoding="utf-8"))["config"]["model"]["name"])
    adapter = place / _ADAPTER_FILE
    if adapter.is_file():
        return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    raise ModelError(f"{place}: nothing says which model it began as\nname it: make chat MODEL={place} BASE=owner/name")


def template_arguments_of(place: Path) -> str:
    """Return the variables that the chat template was given in the run that made a model; empty where none is known."""
    run = place.parent / _RUN_FILE
    if not run.is_file():
        return ""
    config = json.loads(run.read_text(encoding="utf-8"))["config"]
    return str(config.get("tokenize", {}).get("template_arguments", ""))
