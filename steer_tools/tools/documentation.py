"""A tool's signature, descriptions and result type → what `help()` and `?` in a notebook show, for any tool."""

import functools
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from steer_tools.tools.arguments import Doc

_Function = TypeVar("_Function", bound=Callable[..., Any])
_WIDTH = 92


class _Signature(inspect.Signature):
    """A signature that takes a line for each parameter where it is long."""

    def __str__(self) -> str:
        """Write the signature."""
        line = super().__str__()
        if len(line) <= _WIDTH - 24:
            return line
        parameters = "".join(f"    {parameter},\n" for parameter in self.parameters.values())
        return f"(\n{parameters}) -> {inspect.formatannotation(self.return_annotation)}"


def document(function: _Function) -> _Function:
    """Give a tool a signature of plain types, and a docstring with its arguments and its result; once."""
    if hasattr(function, "__signature__"):
        return function
    hints = get_type_hints(function, include_extras=True)
    signature, result = inspect.signature(function), hints.pop("return")
    parameters = [p.replace(annotation=_plain(hints[p.name])) for p in signature.parameters.values()]
    function.__signature__ = _Signature(parameters, return_annotation=result)  # pyright: ignore[reportFunctionMemberAccess]  # inspect reads it
    arguments = [_entry(name, " ".join([_description(hint), *_choices(hint)])) for name, hint in hints.items()]
    fields = ", ".join(f"{name} ({_name(kind)})" for name, kind in get_type_hints(result).items())
    function.description = inspect.cleandoc(function.__doc__ or "")  # pyright: ignore[reportFunctionMemberAccess]  # A tool reads it.
    sections = [
        inspect.cleandoc(function.__doc__ or ""),
        *(["\n".join(["Args:", *arguments])] if arguments else []),
        "\n".join(["Returns:", _entry(f"{result.__name__}, a dict of", f"{fields}.")]),
        textwrap.indent(inspect.cleandoc(result.__doc__ or ""), "    "),
    ]
    function.__doc__ = "\n\n".join("\n".join(_narrow(section)) for section in sections)
    return function


def _plain(kind: Any) -> Any:
    """Return a type without descriptions, bounds, and choices, which stand in the docstring."""
    if is_typeddict(kind):
        return dict
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin is Literal:
        return type(arguments[0])
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, map(_plain, arguments))
    if origin is list:
        return list[_plain(arguments[0])]
    return kind if origin is None else origin


def _description(hint: Any) -> str:
    return next(said.description for said in get_args(hint) if isinstance(said, Doc))


def _choices(kind: Any) -> Iterator[str]:
    """Yield what values a text or an options' dict may have."""
    if is_typeddict(kind):
        said = get_type_hints(kind, include_extras=True).items()
        yield f"Its keys: {'; '.join(f'{name} ({_description(hint)[:-1]})' for name, hint in said)}."
    elif get_origin(kind) is Literal:
        yield f"One of {', '.join(map(repr, get_args(kind)))}."
    elif get_origin(kind) is Annotated:
        yield from _choices(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            if len(get_args(member)) > 1 or is_typeddict(member):
                yield from _choices(member)


def _name(kind: Any) -> str:
    """Return how a result's type is called."""
    members = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(_name, members))
    if get_origin(kind) is not None:
        return f"{get_origin(kind).__name__}[{', '.join(map(_name, members))}]"
    return "None" if kind is NoneType else getattr(kind, "__name__", str(kind))


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"{name}: {text}", _WIDTH, initial_indent="    ", subsequent_indent="        ")


def _narrow(section: str) -> Iterator[str]:
    """Yield lines, those that are too long in two."""
    for line in section.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(line, _WIDTH, subsequent_indent=indent) or [""]
