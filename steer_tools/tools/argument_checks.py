"""A tool's arguments → the same ones, of the types that its signature says. It must not know any tool.

Whoever calls it, a tool works on plain values: a subclass of int, float or str is made one of these, which do nothing
unexpected. Prompts and vectors are checked by what reads them, functions by nobody: what they raise is their caller's.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MinLen
from typing_extensions import is_typeddict

from steer_tools.errors import ArgumentError, LayerError, StrengthError, quoted
from steer_tools.prompts import PromptLike
from steer_tools.tools.arguments import MANY_VECTORS, VECTORS

# What tensors hold: no layer, count or seed is larger.
_LARGEST = 2**63 - 1
_ERRORS = {"layer": LayerError, "layers": LayerError, "strength": StrengthError, "strengths": StrengthError}
_PROMPT = frozenset(get_args(PromptLike))


class _UnfitError(Exception):
    """A value is not of a type: `str` says what is valid, and `where` which part of an argument it is."""

    def __init__(self, valid: str, value: object, where: str = "") -> None:
        super().__init__(valid)
        self.value, self.where = value, where


def checked(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tool's function.

    Raises:
        ArgumentError: One is unknown, missing, or not of its type.
    """
    signature, hints = _described(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        valid = ", ".join(signature.parameters) or "none, it takes no arguments"
        raise ArgumentError(f"{function.__name__}: {error}", valid=valid) from error
    return {name: _checked(value, hints[name], name) for name, value in arguments.items()}


@functools.cache
def _described(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(function), get_type_hints(inspect.unwrap(function), include_extras=True)


def _checked(value: Any, hint: Any, name: str) -> Any:
    try:
        if name == "condition" and not isinstance(value, str):
            return value  # The grammar says what else it may be.
        if name in VECTORS and value is not None:
            return _vectors(value)
        # Several vectors may also be a mapping to their weights; what combines them reads it.
        if name in MANY_VECTORS and value is not None and not isinstance(value, Mapping):
            return [_vector(item, f"[{index}]") for index, item in enumerate(_list(value, ()))]
        # Layers may come with their weights in Python, too; who places a vector reads them.
        has_weights = isinstance(value, Mapping) and name in ("layer", *MANY_VECTORS)
        return value if has_weights else _of_type(value, hint)
    except _UnfitError as error:
        kind = _ERRORS.get(name, ArgumentError)
        raise kind(f"{name}{error.where} is {quoted(error.value)}", valid=str(error)) from error


def _vectors(value: Any) -> Any:
    """Return a vector, several, or several with weights."""
    if isinstance(value, list | tuple):
        return [_vector(item, f"[{index}]") for index, item in enumerate(cast(Sequence[Any], value))]
    return _vector(value)


def _vector(value: Any, where: str = "") -> Any:
    """Return a vector's path, or what is a vector in memory: those are of many types, and what loads it knows them."""
    if isinstance(value, str):
        return _part(value, str, where)
    is_one = isinstance(value, PathLike | Mapping) or hasattr(value, "directions") or hasattr(value, "shape")
    if not is_one or isinstance(value, type):
        raise _UnfitError("the path of a vector's file, or a vector", value, where)
    return cast(Any, value)


def _of_type(value: Any, hint: Any, bounds: Sequence[Any] = ()) -> Any:
    """Return a value of the type that a hint says.

    Raises:
        _UnfitError: It is none.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _of_type(value, parts[0], (*bounds, *parts[1:]))
    if _is_of_prompts(hint):
        return value
    if origin in (Union, UnionType):
        return _of_any(value, parts, bounds)
    if origin is Literal:
        return _word(value, parts)
    if origin is list:
        return _items(value, parts[0], bounds)
    if origin is dict or is_typeddict(hint):
        return _options(value, get_type_hints(hint, include_extras=True) if is_typeddict(hint) else {})
    if hint in (int, float):
        return _number(value, hint, bounds)
    if hint is str:
        return _text(value, "a text")
    valid, is_fit = _OTHERS[origin or hint]
    if not is_fit(value):
        raise _UnfitError(valid, value)
    return value


def _is_of_prompts(hint: Any) -> bool:
    """Whether values may be prompts: those may be written in many ways."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {*members} >= _PROMPT or any(get_args(member)[:1] == (PromptLike,) for member in members)


def _of_any(value: Any, members: Sequence[Any], bounds: Sequence[Any]) -> Any:
    unfit: list[_UnfitError] = []
    for member in members:
        try:
            return _of_type(value, member, bounds)
        except _UnfitError as error:
            unfit.append(error)
    # What is wrong with an item of a list says more than that a list is no number.
    inner = next((error for error in unfit if error.where), None)
    raise inner or _UnfitError(" or ".join(filter(None, map(str, unfit))), value)


def _word(value: Any, words: Sequence[Any]) -> Any:
    text = str.__str__(value) if isinstance(value, str) else None
    if text not in words:
        raise _UnfitError(", ".join(map(repr, words)), value)
    return text


def _text(value: Any, valid: str) -> str:
    if not isinstance(value, str):
        raise _UnfitError(valid, value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _UnfitError("Unicode text, without half a surrogate pair", value) from error
    return str.__str__(value)


def _number(value: Any, kind: type[int] | type[float], bounds: Sequence[Any]) -> int | float:
    """Return a number within its bounds; which of them may be infinite or not a number, a tool itself says."""
    told, is_fit = ("a whole number" if kind is int else "a number"), False
    number = 0
    if isinstance(value, int) and not isinstance(value, bool):
        number = int.__int__(value)
        is_fit = abs(number) <= _LARGEST
    elif isinstance(value, float) and kind is float:
        number, is_fit = float.__float__(value), True
    for bound in bounds:
        match bound:
            case Ge(ge=least):
                told, is_fit = f"{told} from {least}", is_fit and number >= cast(float, least)
            case Gt(gt=below):
                told, is_fit = f"{told} above {below}", is_fit and number > cast(float, below)
            case Le(le=most):
                told, is_fit = f"{told} to {most}", is_fit and number <= cast(float, most)
            case _:
                pass
    if not is_fit:
        raise _UnfitError(told, value)
    return number


def _items(value: Any, hint: Any, bounds: Sequence[Any]) -> list[Any]:
    return [_part(item, hint, f"[{index}]") for index, item in enumerate(_list(value, bounds))]


def _list(value: Any, bounds: Sequence[Any]) -> Sequence[Any]:
    least = next((bound.min_length for bound in bounds if isinstance(bound, MinLen)), 0)
    if not isinstance(value, list | tuple | range) or len(cast(Sequence[Any], value)) < least:
        raise _UnfitError(f"a list{f' of at least {least}' * bool(least)}", value)
    return cast(Sequence[Any], value)


def _options(value: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return options; that there are such, and that they belong together, is for the tool to say."""
    if not isinstance(value, Mapping):
        raise _UnfitError(f"a mapping of {', '.join(map(repr, hints)) or 'options'}", value)
    table = cast(Mapping[Any, Any], value)
    return {_part(key, str, ""): _part(item, hints.get(key, Any), f"[{key!r}]") for key, item in table.items()}


def _part(value: Any, hint: Any, where: str) -> Any:
    try:
        return value if hint is Any else _of_type(value, hint)
    except _UnfitError as error:
        raise _UnfitError(str(error), error.value, f"{where}{error.where}") from error


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


_OTHERS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    NoneType: ("", lambda value: value is None),
    Sequence: ("a list of pairs", _is_list),
    Callable: ("a function", callable),
}
