"""The progress of long work → a bar on stderr, if somebody is there to see it. It must not know the work."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steer_tools.progress import reporting_to

_shown: ContextVar[Progress | None] = ContextVar("steer_tools_bar", default=None)


@contextmanager
def progress_bar(message: str) -> Generator[None]:
    """Show what the work inside the `with` block reports, and `message` until it does."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(message, total=None)

        def move(done: int, total: int, message: str) -> None:
            progress.update(task, completed=done, total=total, description=message)

        token = _shown.set(progress)
        try:
            with reporting_to(move):
                yield
        finally:
            _shown.reset(token)


@contextmanager
def hidden_bar() -> Generator[None]:
    """Take the bar away inside the `with` block, so that what is printed does not run into it."""
    progress = _shown.get()
    if progress is not None:
        progress.stop()
    try:
        yield
    finally:
        if progress is not None:
            progress.start()
