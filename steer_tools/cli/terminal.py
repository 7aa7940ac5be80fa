"""Results → stdout, warnings and the progress of long work → stderr. It must not know what results say.

rich is imported where something is shown: it costs more than all else that `--help` needs.
"""

import io
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

import typer

from steer_tools.foreign_text import lines_of
from steer_tools.progress import Reporter, reporting_to

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

# Where no terminal shows a bar.
_SECONDS_BETWEEN_LINES = 10

_shown: "ContextVar[Progress | None]" = ContextVar("steer_tools_bar", default=None)


def show(result: Mapping[str, Any], rendered: "RenderableType", *, as_json: bool) -> None:
    """Print a result, as one JSON document or as it was rendered."""
    if as_json:
        show_json(result)
    else:
        say(rendered)


def show_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document, in ASCII that can be seen, which every terminal and pipe has."""
    with hidden_bar():
        # Of the controls JSON leaves this one in its texts.
        typer.echo(json.dumps(document, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))


def say(rendered: "RenderableType") -> None:
    """Print something for people."""
    with hidden_bar():
        _console(sys.stdout).print(rendered)


def show_command(intention: str, command: str) -> None:
    """Print a command so that it can be copied: on one line, however long."""
    console = _console(sys.stdout)
    console.print(f"\n{intention}")
    console.print(command, style="bold", soft_wrap=True)


def warn(warnings: Sequence[str]) -> None:
    """Print warnings that no result holds."""
    for warning in warnings:
        _console(sys.stderr).print(f"Warning: {warning}", style="yellow", soft_wrap=True)


def tell(text: str, *, is_error: bool = False) -> None:
    """Print a text to stdout, or to stderr, as it stands."""
    typer.echo(lines_of(text), err=is_error)


def is_plain() -> bool:
    """Return whether stdout shows neither bold nor underline: a pipe, a file or a dumb terminal."""
    console = _console(sys.stdout)
    return not console.is_terminal or console.is_dumb_terminal


@contextmanager
def progress_bar(message: str) -> Generator[None]:
    """Show what the work inside the `with` block reports, and `message` until it does; without a terminal as a line now
    and then."""
    from steer_tools.tools.consoles import TextConsole, bar_on

    console = TextConsole(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        with reporting_to(_lines_now_and_then()):
            yield
        return
    with bar_on(console) as progress:
        task = progress.add_task(message, total=None)

        def move(done: int, total: int, message: str) -> None:
            progress.update(task, completed=done, total=total, description=message)

        token = _shown.set(progress)
        try:
            with reporting_to(move):
                yield
        finally:
            _shown.reset(token)


def _lines_now_and_then() -> Reporter:
    told = time.monotonic()

    def tell_sometimes(done: int, total: int, message: str) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _SECONDS_BETWEEN_LINES:
            told = now
            tell(f"{done / total:.0%} {message}", is_error=True)

    return tell_sometimes


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


def _console(stream: TextIO) -> "Console":
    from steer_tools.tools.consoles import TextConsole

    if isinstance(stream, io.TextIOWrapper):
        # A model may write what the terminal's encoding lacks.
        stream.reconfigure(errors="replace")
    return TextConsole(file=stream)
