"""Show a run's answers before and after training: `make answers RUN=outputs/demo SHOW=wrong`.

No workflow: registration finds nothing in it, so what needs a report is imported when it runs.
"""

from __future__ import annotations

from pathlib import Path

import click

from configs.errors import FineTuneError
from configs.printable import print_text
from configs.wire import HELD_OUT


class _Fault(click.ClickException):
    """An error, with the exit status of the other commands that read a run."""

    exit_code = 2


@click.command(
    help="Print answers of a run's models against the expected ones, with the differences marked. The exit status is 2 "
    "on an error."
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--show",
    type=click.Choice(["all", "wrong", "right", "changed"]),
    default="all",
    show_default=True,
    help="Which answers: wrong or right ones, or those that training made right or wrong.",
)
@click.option("--rows", type=click.IntRange(min=1), default=10, show_default=True, help="Most answers.")
@click.option("--model", help="Whose answers: the tuned model's by default, or those of a copy or another model.")
@click.option("--before", help="Whose answers stand before them: by default of the model that training began with.")
@click.option("--set", "dataset", default=HELD_OUT, show_default=True, help="Which set of rows.")
def main(run: Path, show: str, rows: int, model: str | None, before: str | None, dataset: str) -> None:
    """Print the answers."""
    from tasks.decks.run_answers import SHOWN, run_answers_text
    from tasks.evidence.runs import read_run

    try:
        shown = next(own for own in SHOWN if own == show)
        print_text(run_answers_text(read_run(run), shown, rows, model, before, dataset))
    except FineTuneError as error:
        raise _Fault(str(error)) from None


if __name__ == "__main__":
    main()
