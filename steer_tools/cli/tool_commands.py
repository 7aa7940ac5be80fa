"""A tool → its command: the options are derived from the signature, the rest stands on its card.

A command reads its inputs, calls the tool and shows the result. It must not know results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

import typer

from steer_tools import tools
from steer_tools.cli.inputs import (
    SOURCES,
    AsChat,
    LabelSource,
    OwnBehaviorSource,
    Source,
    as_prompt,
    from_current_folder,
    silence_of,
)
from steer_tools.cli.options import Option, Place, holds_prompts, options_of
from steer_tools.cli.suggestions import suggestions
from steer_tools.cli.terminal import is_plain, progress_bar, say, show_command, show_json, warn
from steer_tools.cli.workbench import (
    AS_JSON,
    REQUIRE_VERIFIED,
    WORKSPACE,
    Workbench,
    choose_workspace,
    in_force,
    model_options,
    vector_options,
    verified_only,
)
from steer_tools.errors import ArgumentError
from steer_tools.tools.card import Tool

LAW_BROKEN = 3
_BEHAVIORS = ("behavior_name", "dataset")
_CHAT = Parameter("chat", Parameter.KEYWORD_ONLY, default=False, annotation=AsChat)


def command_of(tool: Tool) -> Callable[..., None]:
    """Return the function that Typer makes the command of a tool of."""
    command = ToolCommand(tool)

    def call(**typed: Any) -> None:
        command.run(typed)

    call.__name__ = tool.name
    call.__doc__ = tool.card.about
    call.__signature__ = Signature(command.parameters)  # pyright: ignore[reportFunctionMemberAccess]  # What `inspect` reads.
    return call


@dataclass(frozen=True)
class ToolCommand:
    """A tool with what is typed for it."""

    tool: Tool

    @cached_property
    def sources(self) -> list[type[Source]]:
        """The groups of options that make parameters which cannot be typed."""
        hints = get_type_hints(self.tool.function, include_extras=True)
        # PROMPTS are typed already, so a file of others has another flag.
        labels: dict[type[Source], type[Source]] = {OwnBehaviorSource: LabelSource} if "prompts" in hints else {}
        return [
            labels.get(source, source)
            for source in SOURCES
            if all(name in hints and name not in self.tool.card.not_typed for name in source.makes)
            and (source.makes == ("scorer",) or holds_prompts(hints[source.makes[0]]))
        ]

    @cached_property
    def options(self) -> list[Option]:
        """The options that are the tool's own parameters."""
        card = self.tool.card
        place = Place(card.positional, card.required, card.flags)
        made = [name for source in self.sources for name in source.makes]
        return options_of(self.tool.function, place, without=[*made, *card.not_typed])

    @cached_property
    def use(self) -> list[Option]:
        """The options of the vector that acts while the tool runs."""
        card = self.tool.card
        return vector_options(is_required=card.vector == "required") if card.vector else []

    @cached_property
    def parameters(self) -> list[Parameter]:
        """All that is typed, each once, what has no flag first."""
        own = [option.typed for option in self.options]
        groups = [p for source in self.sources for p in signature(source, eval_str=True).parameters.values()]
        chat = [_CHAT] if any(option.is_prompt for option in self.options) else []
        bench = [option.typed for option in model_options()] if self.tool.card.needs_model else []
        use = [*(option.typed for option in self.use), *([REQUIRE_VERIFIED] if self.use else [])]
        every = [*own, *groups, *chat, *use, *bench, WORKSPACE, AS_JSON]
        by_name = {parameter.name: parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in reversed(every)}
        return list(reversed(by_name.values()))

    def run(self, typed: Mapping[str, Any]) -> None:
        """Read the inputs, call the tool and show its result.

        Raises:
            SteeringError: What was typed, or what the tool was asked, cannot be done.
            Exit: A law does not hold.
        """
        card = self.tool.card
        left_out: list[str] = []
        arguments = self.read(typed, left_out)
        self.require_vector(typed, arguments)
        acting = {option.argument: option.read(typed[option.typed.name]) for option in self.use}
        # By name, since a tool is called as everybody calls it.
        call = getattr(tools, self.tool.name)
        if card.needs_model:
            bench = Workbench.of(typed)
            is_required = typed.get(REQUIRE_VERIFIED.name, False)
            with bench.at_work(), verified_only(is_required), in_force(acting) as warnings:
                result = call(**arguments)
        else:
            bench, warnings = Workbench(workspace=typed["workspace"]), list[str]()
            choose_workspace(bench.workspace)
            with progress_bar("working"):
                result = call(**arguments)
        is_shown = "warnings" in result
        if left_out:
            result["warnings"] = [*left_out, *result.get("warnings", ())]
        told = result.get("warnings", ())
        warn(
            [
                *(() if is_shown else left_out),
                *(warning for warning in warnings if warning not in told),
                *silence_of(arguments.get("scorer")),
            ]
        )
        if typed["as_json"] or self.tool.show is None:
            show_json(result)
        else:
            say(self.tool.shown(result, arguments, is_plain=is_plain()))
            for intention, command in suggestions(self.tool.name, bench, arguments, result):
                show_command(intention, command)
        if result.get("passed") is False:
            raise typer.Exit(LAW_BROKEN)

    def read(self, typed: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
        """Return the tool's arguments; what was left out of files is appended to `told`."""
        arguments: dict[str, Any] = {}
        for option in self.options:
            value = option.read(typed[option.typed.name])
            arguments[option.argument] = as_prompt(value, typed["chat"]) if option.is_prompt else value
            if option.argument in _BEHAVIORS:
                arguments[option.argument] = from_current_folder(value)
        required = {p.name for p in signature(self.tool.function).parameters.values() if p.default is p.empty}
        for source in self.sources:
            given = source(**{field.name: typed[field.name] for field in fields(source)})
            arguments |= given.arguments(typed, told, is_required=source.makes[0] in required)
        return arguments

    def require_vector(self, typed: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Refuse a vector's options without it, and both or neither of two vectors where the card says so.

        Raises:
            ArgumentError: That is so.
        """
        if not self.use:
            return
        own = {option.typed.name for option in self.options}
        vectors = [option for option in self.use if option.typed.name not in own]
        said = [option.flag for option in vectors if typed[option.typed.name] != option.typed.default]
        if typed["vector"] is None and said:
            raise ArgumentError(
                f"{' and '.join(sorted(said))} came without --vector", valid="a vector with its options, or neither"
            )
        other = self.tool.card.instead_of_vector
        if other and (typed["vector"] is None) == (arguments[other] is None):
            raise ArgumentError("One vector is needed", valid=f"--vector with --positions all, or --{other}")
