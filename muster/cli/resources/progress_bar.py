"""A bar on standard error, for commands that make many calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from muster.terminal import render


@contextmanager
def progress_bar(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what is called after each call; shown at a terminal, for more than one call."""
    screen = render.console(stderr=True)
    if total == 1 or not screen.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda: progress.advance(task)
