"""Ask a model in the terminal: `make chat MODEL=outputs/demo/model`, with its base beside it for BASE=1.

No workflow: registration finds nothing in it, so what needs a model is imported when it runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import FineTuneError
from configs.printable import print_line, print_text


def _base_place(model: Path, base: str) -> str:
    """Return where the base is; that of the demo is made anew, in a few seconds, as each run makes it."""
    from configs.schema import ModelConfig
    from tasks.get_model.fetch import fetch_model
    from tasks.models.chat import base_of

    place = base_of(model) if base == "1" else base
    if place != EMBEDDED_MODEL:
        return place
    folder = Path(tempfile.gettempdir()) / "chat-base"
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fetch_model(ModelConfig(name=place), "", folder, None, lambda address, path: None)
    return str(folder)


def _questions(prompt: str | None) -> Iterator[str]:
    """Yield the given question, or those that the user types until the end of the input."""
    if prompt is not None:
        yield prompt
        return
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            question = input("> " if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            print_line()
            return
        if question:
            yield question


@click.command(help="Ask a model in the terminal; a line is a question, and the end of the input ends the talk.")
@click.argument("model")
@click.option("--base", help="Answer with the base beside it: its folder or id, or `1` for that of the model's run.")
@click.option("--prompt", help="Ask this alone, and end.")
@click.option("--new-tokens", default=256, show_default=True, help="Longest answer in tokens.")
def main(model: str, base: str | None, prompt: str | None, new_tokens: int) -> None:
    """Answer questions until the input ends."""
    from tasks.models.chat import load_speaker, template_arguments_of
    from tasks.models.quiet import quiet_libraries

    quiet_libraries()
    try:
        arguments = template_arguments_of(Path(model))
        speakers = [load_speaker("tuned", model, model, arguments)]
        if base:
            place = _base_place(Path(model), base)
            # the tuned model's tokenizer has the template by which both are asked
            speakers.insert(0, load_speaker("base", place, model, arguments))
    except FineTuneError as error:
        raise click.ClickException(str(error)) from None
    for question in _questions(prompt):
        for speaker in speakers:
            if len(speakers) > 1:
                print_text(f"{speaker.name}: ", end="")
            speaker.answer(question, new_tokens)


if __name__ == "__main__":
    main()
