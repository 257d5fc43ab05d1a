"""How a model is asked as it was trained: the exact prompt, and code to run it. For cards, reports and folders."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from configs.artifacts import QUANTIZATIONS, PushedArtifact
from tasks.decks.markdown import fenced
from tasks.models.templates import accepted, ending, try_apart

QUESTION = "What is the capital of France?"
"""The prompt of the snippets; a reader puts their own in its place."""
_NEW_TOKENS = 256
LOCAL_BASE = "PATH-OF-THE-BASE-MODEL"
"""Stands in a README for the folder of a base that is on no hub."""


@dataclass(frozen=True)
class Usage:
    """What a reader needs to ask a model.

    `place` is where it loads from: a repository, or a folder. `base` is where an adapter's base loads from.
    `template_arguments` is the JSON of the chat template's variables, or empty. A reward model yields a score.
    """

    artifact: PushedArtifact
    place: str
    base: str
    template_arguments: str = ""
    trust_remote_code: bool = False
    is_reward_model: bool = False
    new_tokens: int = _NEW_TOKENS


def render_usage(usage: Usage, directory: Path) -> str:
    """Return Markdown on the use of the artifact in `directory`: prompt format, transformers, and vLLM.

    A model that was trained on plain texts alone has no chat template, and continues a text.
    """
    asked = prompt_format(usage, directory)
    parts = []
    if asked is not None:
        parts.append(f"The prompt, as it was trained; `{{question}}` stands for the user's text:\n\n{fenced(asked)}")
    parts.append(f"With transformers:\n\n{fenced(python_snippet(usage, asked is not None), 'python')}")
    if usage.artifact == "adapter" and usage.base == LOCAL_BASE:
        parts.append("The base is on no hub, so the adapter cannot be loaded by its name alone: `base` is its folder.")
    if not usage.is_reward_model:
        words = "With vLLM, which needs a GPU; this was not run here:"
        parts.append(f"{words}\n\n{fenced(vllm_snippet(usage, asked is not None), 'sh')}")
    return "\n\n".join(parts)


def prompt_format(usage: Usage, directory: Path) -> str | None:
    """Return the text with which the model is asked, `{question}` being the user's words; None without a template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=usage.trust_remote_code)
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "{question}"}]
    title, arguments = "the model's chat template", _arguments(usage)
    try_apart(title, tokenizer.get_chat_template(), {**tokenizer.special_tokens_map, **arguments}, turns)
    with ending(title):
        asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
    return accepted(str(asked), title)


def python_snippet(usage: Usage, has_template: bool) -> str:
    """Return Python code that loads the model, asks it, and prints its answer; runnable as it stands."""
    if usage.is_reward_model:
        return _reward_snippet(usage)
    remote = ", trust_remote_code=True" if usage.trust_remote_code else ""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", f"place = {json.dumps(usage.place)}"]
    if usage.artifact == "adapter":
        lines.insert(0, "from peft import PeftModel")
        lines += [
            f"base = {json.dumps(usage.base)}",
            f"tokenizer = AutoTokenizer.from_pretrained(place{remote})",
            f'model = AutoModelForCausalLM.from_pretrained(base, device_map="auto"{remote})',
            "if len(tokenizer) > model.get_input_embeddings().num_embeddings:",
            "    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)",
            "model = PeftModel.from_pretrained(model, place)",
        ]
    else:
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained(place{remote})",
            f'model = AutoModelForCausalLM.from_pretrained(place, device_map="auto"{remote})',
        ]
    if has_template:
        given = "".join(f", {name}={value!r}" for name, value in _arguments(usage).items())
        lines += [
            f'messages = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]',
            f'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            f"return_dict=True{given})",
        ]
    else:
        lines.append(f'inputs = tokenizer({json.dumps(QUESTION)}, return_tensors="pt")')
    lines += [
        f"output = model.generate(**inputs.to(model.device), max_new_tokens={usage.new_tokens}, do_sample=False)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(lines)


def _reward_snippet(usage: Usage) -> str:
    remote = ", trust_remote_code=True" if usage.trust_remote_code else ""
    return "\n".join(
        [
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            f"place = {json.dumps(usage.place)}",
            f"tokenizer = AutoTokenizer.from_pretrained(place{remote})",
            f'model = AutoModelForSequenceClassification.from_pretrained(place, device_map="auto"{remote})',
            f'asked = {{"role": "user", "content": {json.dumps(QUESTION)}}}',
            'messages = [asked, {"role": "assistant", "content": "Paris."}]',
            'inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)',
            "print(model(**inputs.to(model.device)).logits[0, 0].item())",
        ]
    )


def vllm_snippet(usage: Usage, has_template: bool) -> str:
    """Return the commands that serve the model with vLLM and ask it."""
    place = shlex.quote(usage.place)
    serve = f"vllm serve {place}"
    if usage.artifact == "adapter":
        serve = f"vllm serve {shlex.quote(usage.base)} --enable-lora --lora-modules tuned={place} --tokenizer {place}"
    elif usage.artifact in QUANTIZATIONS and QUANTIZATIONS[usage.artifact].library == "bitsandbytes":
        serve += " --quantization bitsandbytes"
    model = "tuned" if usage.artifact == "adapter" else usage.place
    body: dict[str, object] = {"model": model, "max_tokens": usage.new_tokens, "temperature": 0}
    if has_template:
        body["messages"] = [{"role": "user", "content": QUESTION}]
        if usage.template_arguments.strip():
            body["chat_template_kwargs"] = _arguments(usage)
        path = "chat/completions"
    else:
        body["prompt"] = QUESTION
        path = "completions"
    return (
        f"{serve}\ncurl http://localhost:8000/v1/{path} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(body))}"
    )


def _arguments(usage: Usage) -> dict[str, object]:
    return dict(json.loads(usage.template_arguments)) if usage.template_arguments.strip() else {}
