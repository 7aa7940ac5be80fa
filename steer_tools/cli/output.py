"""Results → stdout, warnings → stderr. It must not know what results say."""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import typer
from rich.console import Console, RenderableType

from steer_tools.cli.bar import hidden_bar


def show(result: Mapping[str, Any], rendered: RenderableType, *, as_json: bool) -> None:
    """Print a result, as one JSON document or as it was rendered."""
    if as_json:
        show_json(result)
    else:
        say(rendered)


def show_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document, in ASCII, which every terminal and pipe has."""
    with hidden_bar():
        typer.echo(json.dumps(document, indent=2, allow_nan=False))


def say(rendered: RenderableType) -> None:
    """Print something for people."""
    with hidden_bar():
        _console(sys.stdout).print(rendered)


def show_command(intention: str, command: str) -> None:
    """Print a command so that it can be copied: on one line, however long."""
    console = _console(sys.stdout)
    console.print(f"\n{intention}", markup=False)
    console.print(command, style="bold", markup=False, soft_wrap=True)


def warn(warnings: Sequence[str]) -> None:
    """Print warnings that no result holds."""
    for warning in warnings:
        _console(sys.stderr).print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def is_plain() -> bool:
    """Return whether stdout shows neither bold nor underline: a pipe, a file or a dumb terminal."""
    console = _console(sys.stdout)
    return not console.is_terminal or console.is_dumb_terminal


def _console(stream: TextIO) -> Console:
    if isinstance(stream, io.TextIOWrapper):
        # A model may write what the terminal's encoding lacks.
        stream.reconfigure(errors="replace")
    return Console(file=stream, highlight=False, emoji=False)
