"""The application `steer-tools`: its table of commands and its exit codes. It must not know what a command does.

0 done, 1 an error, 2 wrong usage, 3 a law that `check` found broken, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from steer_tools import __version__
from steer_tools.cli.analyzing import analyze, read
from steer_tools.cli.auditing import audit
from steer_tools.cli.baking import bake, undo
from steer_tools.cli.behaviors import app as behaviors
from steer_tools.cli.commands import (
    check,
    combine,
    compare,
    create,
    demo,
    generate,
    models,
    next_tokens,
    serve,
    status,
    tokens,
)
from steer_tools.cli.converting import convert
from steer_tools.cli.dissecting import ablate, patch
from steer_tools.cli.experimenting import best_layer, calibrate, experiment, robustness, sweep
from steer_tools.cli.options import DescribedCommand
from steer_tools.cli.spreading import spread
from steer_tools.errors import SteeringError

app = typer.Typer(
    name="steer-tools",
    help="Steer a language model by editing its activations, and show with evidence that it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_EVIDENCE = (experiment, sweep, best_layer, robustness, calibrate)
_FILES = (convert, bake, undo, audit)
_INSIGHT = (analyze, read, ablate, patch)
for command in (
    demo,
    create,
    combine,
    compare,
    next_tokens,
    *_EVIDENCE,
    *_INSIGHT,
    generate,
    tokens,
    check,
    status,
    models,
    *_FILES,
):
    app.command(cls=DescribedCommand)(spread(command))
app.add_typer(behaviors, name="behaviors")
# The server reads its options itself, `--help` as well.
app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, name="serve"
)(serve)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="steer-tools")
    except SteeringError as error:
        typer.echo(f"Error: {error}", err=True)
        return 1
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"steer-tools {__version__}")
        raise typer.Exit


@app.callback()
def _common(  # pyright: ignore[reportUnusedFunction]  # Typer calls it before every command.
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and leave.")
    ] = False,
) -> None:
    if not sys.stderr.isatty():
        # transformers draws bars of its own, which in a file are noise; it reads this when it is imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
