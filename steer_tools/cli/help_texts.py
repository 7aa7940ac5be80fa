"""Help texts as they were before boxes: a usage line, then a definition list under each heading.

Typer's own drawing costs as much as all else that `--help` does.
"""

import sys
from collections.abc import Sequence
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup


class _Helpful:
    """What a command and a group share."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, with a value where it is not given: to read None, Typer imports pydantic."""
        option = cast(Any, super()).get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usage, what the command does, and its parameters under their headings."""
        command = cast(TyperCommand, self)
        command.format_usage(ctx, formatter)
        command.format_help_text(ctx, formatter)
        headings: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                headings.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in headings.items():
            if records:
                _section(formatter, heading, records)


class HelpfulCommand(_Helpful, TyperCommand):
    """A command whose options stand under their headings."""


class HelpfulGroup(_Helpful, TyperGroup):
    """A group that lists its commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where nothing is asked."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usage, what the group is, its options and its commands."""
        super().format_help(ctx, formatter)
        _section(formatter, "Commands", self.summaries())

    def summaries(self) -> list[tuple[str, str]]:
        """Return each command's name and what it does."""
        return [(name, command.help or "") for name, command in self.commands.items()]


def _section(formatter: Any, heading: str, records: Sequence[tuple[str, str]]) -> None:
    styled = typer.style(heading, bold=True) if sys.stdout.isatty() else heading
    with formatter.section(styled):
        formatter.write_dl(records)
