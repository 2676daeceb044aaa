"""What the commands share on the terminal: one console, progress bars, tables, errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class CommandError(Exception):
    """Wrong use of a command; the text names the argument."""


console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar; call what is yielded with (done, total, message)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        row = bar.add_task(title, total=None, said="")

        def tell(done: int, total: int, said: str = "") -> None:
            bar.update(row, completed=done, total=total, said=said[:60])

        yield tell


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def one_line(error: BaseException) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def ours(error: BaseException) -> bool:
    """Whether the error is one of the project's typed ones: a person's mistake or the world's, not a bug."""
    return any(kind.__module__.split(".")[0].startswith("grape") for kind in type(error).__mro__)


def guarded(run: Callable[[], object]) -> int:
    """Run a command: 0, or one line on stderr and 1 for a typed error, 130 for an interruption.

    Anything else is a bug and keeps its traceback."""
    try:
        run()
    except KeyboardInterrupt:
        print("grape: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not ours(error):
            raise
        print(f"grape: {one_line(error)}", file=sys.stderr)
        return 1
    return 0
