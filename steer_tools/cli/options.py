"""A function's parameters → options of a command: names, types, defaults and descriptions are the function's own.

What only the command line knows stands in three tables: other names, headings, and words for who types. It must not
know what a tool does.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typing_extensions import is_typeddict

from steer_tools import tools
from steer_tools.errors import ArgumentError
from steer_tools.tools.arguments import ONLY_IN_PYTHON

# What a parameter is called where it is not by its own name: lists are given one by one.
NAMES = {
    "behavior_name": "behavior",
    "labels": "label",
    "layer_weights": "layer_weight",
    "layers": "layer",
    "name_or_path": "model",
    "options": "option",
    "save_folder": "save",
    "save_path": "save",
    "source_prompt": "source",
    "strengths": "strength",
    "template_options": "template_option",
    "target_prompt": "target",
    "texts": "text",
    "vector_path": "vector",
    "vector_paths": "vectors",
    "weights": "weight",
}
_HEADINGS = {
    "Steering": "vector layer strength layer_weight unit intervention target positions condition allow_other_model",
    "Evidence": "damage_budget controls per_token",
    "Text": "max_new_tokens temperature",
    "Model": "model engine dtype device_map template_option",
}
HEADING_OF = {name: heading for heading, names in _HEADINGS.items() for name in names.split()}
_BELOW = "A relative path is meant below the workspace."
# Who types has no tool's result at hand, and cannot leave out what a command must be given.
_WORDS = {
    "vector_path": f"A saved vector. {_BELOW}",
    "vector_paths": f"Saved vectors. {_BELOW}",
    "source_prompt": "A prompt; its activations are taken.",
    "target_prompt": "A prompt; they are put into it.",
    "name_or_path": "{} The bundled one is small and ships with the package.",
    "checkpoint": f"{{}} {_BELOW}",
    "base": f"Folder of the checkpoint that it was made from. {_BELOW}",
}
_METAVARS: dict[Any, str] = {int: "N", float: "X"}


@dataclass(frozen=True)
class Option:
    """One parameter of a function, as Typer takes it.

    Attributes:
        typed: Its name, default and annotation on the command line.
        argument: The function's name for it.
        read: What was typed → what the function takes.
        is_prompt: It is one prompt, which may be sent as a chat.
    """

    typed: Parameter
    argument: str
    read: Callable[[Any], Any]
    is_prompt: bool = False

    @property
    def flag(self) -> str:
        """What is typed before its value."""
        return _flag(self.typed.name)


@dataclass(frozen=True)
class Place:
    """What a signature cannot say of its parameters' options: which have no flag, must be given, or differ."""

    positional: Sequence[str] = ()
    required: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])

    def name_of(self, parameter: str) -> str:
        """Return what a parameter is called on the command line, in the form of a Python name."""
        return self.names.get(parameter, NAMES.get(parameter, parameter))


def options_of(function: Callable[..., object], place: Place, *, without: Sequence[str] = ()) -> list[Option]:
    """Return the options of a function's parameters, in their order, but for those that others make."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [p for p in signature(function).parameters.values() if p.name not in without]
    typed = {p.name: place.name_of(p.name) for p in parameters}
    return [_option(parameter.replace(annotation=hints[parameter.name]), place, typed) for parameter in parameters]


def holds_prompts(annotation: object) -> bool:
    """Whether a parameter takes a list of prompts, which nobody can type as they are."""
    members = _members(annotation)
    return str not in members and any(get_origin(member) is list and _takes_prompt(member) for member in members)


def description_of(annotation: object) -> str:
    """Return what is said of a parameter in its annotation."""
    return next(
        (data.description for data in getattr(annotation, "__metadata__", ()) if hasattr(data, "description")), ""
    )


def read_options(typed: Sequence[str] | None, flag: str = "--option") -> dict[str, object] | None:
    """Return NAME=VALUE texts as a mapping, or None of none; a value that is not JSON is a text.

    Raises:
        ArgumentError: There is no name or no value, or a name comes twice.
    """
    options: dict[str, object] = {}
    for text in typed or ():
        name, sign, value = text.partition("=")
        if not name or not sign or not value:
            raise ArgumentError(f"{flag} {text!r} has no name or no value", valid="NAME=VALUE, such as seed=3")
        if name in options:
            raise ArgumentError(f"{flag} {name} was given twice", valid="one value for each name")
        options[name] = _json_or_text(value)
    return options or None


@dataclass(frozen=True)
class _Kind:
    """How a type is typed; `said` is added to its description."""

    base: Any
    read: Callable[[Any], object]
    said: str = ""
    metavar: str | None = None
    is_prompt: bool = False


def _option(parameter: Parameter, place: Place, typed_names: Mapping[str, str]) -> Option:
    name = place.name_of(parameter.name)
    kind = _kind(parameter.annotation, _flag(name))
    default: object = place.defaults.get(parameter.name, parameter.default)
    is_positional = parameter.name in place.positional
    is_required = is_positional or parameter.name in place.required or default is Parameter.empty
    said = _said(parameter, must_be_given=is_required or parameter.default is Parameter.empty) + kind.said
    # Who types knows no parameters: where a description names another one, its flag is meant.
    for other, typed_name in typed_names.items():
        said = re.sub(rf"\b{other}\b", _flag(typed_name), said) if "_" in other and other != parameter.name else said
    least, most = _bounds(parameter.annotation)
    if is_positional:
        info = typer.Argument(metavar=name.upper(), help=said, min=least, max=most)
    else:
        metavar = kind.metavar or _metavar_of_file(parameter.name)
        info = typer.Option(
            _flag(name), metavar=metavar, help=said, rich_help_panel=HEADING_OF.get(name), min=least, max=most
        )
    base = kind.base if is_required or default is not None else kind.base | None
    typed = Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if is_required else default,
        annotation=Annotated[base, info],
    )
    return Option(typed, parameter.name, kind.read, kind.is_prompt)


def _said(parameter: Parameter, *, must_be_given: bool) -> str:
    own = description_of(parameter.annotation)
    elsewhere = re.fullmatch(r"As for (\w+)\.", own)
    if elsewhere:
        hints = get_type_hints(getattr(tools, elsewhere[1]), include_extras=True)
        own = description_of(hints[parameter.name])
    # What a tool can do without has a use of its own.
    return _WORDS[parameter.name].format(own) if parameter.name in _WORDS and must_be_given else own


def _kind(annotation: object, flag: str) -> _Kind:
    members = _members(annotation)
    lists = [member for member in members if get_origin(member) is list]
    choices = [str(value) for member in members if get_origin(member) is Literal for value in get_args(member)]
    first = members[0]
    if is_typeddict(first):
        return _Kind(list[str], read_options, f" Repeat it for several: {_fields(first)}.", "NAME=VALUE")
    if get_origin(first) is dict:
        read = partial(read_options, flag=flag)
        return _Kind(list[str], read, " Repeat it for several.", "NAME=VALUE")
    if choices and lists:
        return _Kind(list[str], _read_layers, f" Repeat it for several, or say {' or '.join(choices)!r}.", "N")
    if choices and int in members:
        return _Kind(str, _number_or_word, f" One of {', '.join(choices)}, or a number.")
    if choices:
        return _Kind(str, _as_it_is, f" One of {', '.join(choices)}.")
    if lists and str not in members:
        (item,) = get_args(lists[0])
        item = item if item in {int, float} else str
        read = _one_or_list if item in members else _none_if_empty
        return _Kind(list[item], read, " Repeat it for several.", _METAVARS.get(item))
    return _Kind(first, _as_it_is, "", _METAVARS.get(first), is_prompt=bool(lists))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar_of_file(argument: str) -> str | None:
    if argument.endswith("_folder"):
        return "FOLDER"
    return "FILE" if argument.endswith("_path") and argument != "name_or_path" else None


def _fields(options: object) -> str:
    hints = get_type_hints(options, include_extras=True)
    return ", ".join(f"{name} ({description_of(hint).removesuffix('.')})" for name, hint in hints.items())


def _members(kind: object) -> list[object]:
    """Return the types that a type is a union of, without None and what only Python can say."""
    origin = get_origin(kind)
    if origin is Annotated:
        return [] if ONLY_IN_PYTHON in get_args(kind) else _members(get_args(kind)[0])
    if origin in {Union, UnionType}:
        return [member for one in get_args(kind) for member in _members(one)]
    return [] if kind is NoneType or origin is Callable else [kind]


def _takes_prompt(kind: object) -> bool:
    (item,) = get_args(kind)
    return str in _members(item) and len(_members(item)) > 1


def _bounds(annotation: object) -> tuple[int | None, int | None]:
    """Return the least and the largest value, where a number has them."""
    least, most = (
        next(
            (int(getattr(data, name)) for data in getattr(annotation, "__metadata__", ()) if hasattr(data, name)), None
        )
        for name in ("ge", "le")
    )
    return least, most


def _as_it_is(value: object) -> object:
    return value


def _none_if_empty(values: list[object] | None) -> object:
    return values or None


def _one_or_list(values: list[object] | None) -> object:
    """Return one value as itself, so that a vector's only direction may be used at another layer."""
    return values[0] if values and len(values) == 1 else values or None


def _read_layers(typed: list[str]) -> object:
    """Return numbers, or the words that stand for them; the tool refuses what is neither."""
    return _one_or_list([*map(_number_or_word, typed)])


def _number_or_word(text: str) -> object:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
