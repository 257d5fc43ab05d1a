"""Compare runs of one config with several seeds: `make seeds RUNS="outputs/a outputs/b outputs/c"`.

No workflow: registration finds nothing in it, so what needs a report is imported when it runs.
"""

from __future__ import annotations

from pathlib import Path

import click

from configs.errors import FineTuneError
from configs.printable import print_text


class _Fault(click.ClickException):
    """An error, with the exit status of the other commands that read a run."""

    exit_code = 2


@click.command(
    help="Print each measure of runs that differ by their seed: its values, its spread, and the gain over the base, "
    "with an interval for other seeds and other rows. The exit status is 2 on an error."
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...]) -> None:
    """Print the comparison."""
    from tasks.decks.seeds import seeds_text
    from tasks.evidence.runs import read_run
    from tasks.gate.seeds import compare_seeds

    try:
        print_text(seeds_text(compare_seeds([read_run(folder) for folder in runs])))
    except FineTuneError as error:
        raise _Fault(str(error)) from None


if __name__ == "__main__":
    main()
