"""The application `steer-tools`: its commands, built when they are asked for, and its exit codes.

0 done, 1 an error, 2 wrong usage, 3 a law that `check` found broken, 130 interrupted. It must not know what a command
does.
"""

import inspect
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, cast

import typer
from typer.exceptions import TyperException

from steer_tools import __version__
from steer_tools.cli.help_texts import HelpfulCommand, HelpfulGroup
from steer_tools.cli.own_commands import convert, demo, models, reproduce, serve, undo
from steer_tools.cli.terminal import tell
from steer_tools.errors import SteeringError
from steer_tools.foreign_text import visible
from steer_tools.tools import TOOLS

_TOOLS = {tool.card.command: tool for tool in TOOLS if tool.card.command is not None}
_OWN = {command.__name__: command for command in (demo, models, convert, undo, reproduce, serve)}
# What each command does, in the order of the list.
_ABOUT = {
    "demo": inspect.getdoc(demo) or "",
    **{name: tool.card.about for name, tool in _TOOLS.items()},
    "behaviors": "List and show what behaviours are made of and measured on.",
    **{name: inspect.getdoc(command) or "" for name, command in _OWN.items()},
}


class LazyCommands(Mapping[str, Any]):
    """All commands by name; each is built when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        if name not in _ABOUT:
            raise KeyError(name)
        return _built(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_ABOUT)

    def __len__(self) -> int:
        return len(_ABOUT)


class Commands(HelpfulGroup):
    """All commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast(Any, LazyCommands())

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read what stands before the command; what is wrong there is told visibly."""
        with _told_visibly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with its arguments is told visibly."""
        with _told_visibly():
            return super().invoke(ctx)

    def summaries(self) -> list[tuple[str, str]]:
        """Return each command's name and what it does, without building it."""
        return list(_ABOUT.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="steer-tools")
    except SteeringError as error:
        tell(f"Error: {error}", is_error=True)
        return 1
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


@contextmanager
def _told_visibly() -> Generator[None]:
    """Write out what is hidden in the message of an error of Typer's, which quotes what was typed."""
    try:
        yield
    except TyperException as error:
        error.message = visible(error.message)
        raise


@cache
def _built(name: str) -> Any:
    if name == "behaviors":
        from steer_tools.cli.behaviors import app as behaviors

        group = typer.main.get_command(behaviors)
        group.help = _ABOUT[name]
        return group
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if name == "serve":
        # The server reads its options itself, `--help` as well.
        free = {"allow_extra_args": True, "ignore_unknown_options": True}
        single.command(name=name, add_help_option=False, context_settings=free)(serve)
    elif name in _OWN:
        single.command(name=name, cls=HelpfulCommand)(_OWN[name])
    else:
        from steer_tools.cli.tool_commands import command_of

        single.command(name=name, cls=HelpfulCommand)(command_of(_TOOLS[name]))
    return typer.main.get_command(single)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        tell(f"steer-tools {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="steer-tools",
    cls=Commands,
    help="Steer a language model by editing its activations, and show with evidence that it worked.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback()
def _common(  # pyright: ignore[reportUnusedFunction]  # Typer calls it before every command.
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and leave.")
    ] = False,
) -> None:
    if not sys.stderr.isatty():
        # transformers draws bars of its own, which in a file are noise; it reads this when it is imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
