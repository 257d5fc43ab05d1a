"""Say whether a run's model may be published: `make gate RUN=outputs/demo`, with the exit status 0 or 1 for CI.

No workflow: registration finds nothing in it, so what needs a report is imported when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from configs.errors import ArtifactError, FineTuneError, either
from configs.printable import one_line, print_text


class _Fault(click.ClickException):
    """An error, whose exit status is not that of a model which is held back."""

    exit_code = 2


@click.command(
    help="Print the gate's verdict on a run's models. The exit status is 0 if the model may be published, 1 if not, "
    "and 2 on an error."
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--model", default="", help="Which model: a copy such as quantized_4bit; by default tuned, or the only one."
)
def main(run: Path, model: str) -> None:
    """Print the verdict, and exit with it."""
    from tasks.decks.evidence import verdict_text
    from tasks.evidence.runs import read_verdict

    try:
        verdict = read_verdict(run)
        names = [artifact.model for artifact in verdict.artifacts]
        if not model:
            model = "tuned" if "tuned" in names or len(names) != 1 else names[0]
        if model not in names:
            raise ArtifactError(f"--model={one_line(model)} was not judged in this run; choose {either(names)}")
    except FineTuneError as error:
        raise _Fault(str(error)) from None
    print_text(verdict_text(verdict))
    sys.exit(0 if verdict.of(model).promote else 1)


if __name__ == "__main__":
    main()
