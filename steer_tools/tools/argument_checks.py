"""A tool's function → the same one, which first holds its arguments to the types of its signature, whoever calls it.

What has a reader of its own is left to it, and which numbers are valid to the tool: they say more than a type does.
Subclasses of int, float and str become plain ones, since their methods may do anything. It must not know any tool.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import is_typeddict

from steer_tools.errors import ArgumentError, LayerError, StrengthError, quoted
from steer_tools.limits import RECORDS
from steer_tools.prompts import PromptLike

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_ERRORS = {"layer": LayerError, "layers": LayerError, "strength": StrengthError, "strengths": StrengthError}
# Vectors may be of any type in Python, and several a mapping to their weights, as layers may.
_LISTS_OF_VECTORS: dict[str, Any] = {
    "compare_with": list[Any] | None,
    "orthogonal_to": list[Any] | None,
    "vector_paths": list[Any],
}
_MAPPINGS = frozenset(("device_map", "layer", *_LISTS_OF_VECTORS))
_READ_ELSEWHERE = frozenset(
    ("ablate", "behavior_name", "condition", "dataset", "position", "positions", "steering_id", "strength", "tokens")
)
# What is valid, where the tools say more than a type does.
_VALID = {
    "max_new_tokens": "max_new_tokens >= 1",
    "repetition_penalty": "repetition_penalty > 0",
    "temperature": "temperature >= 0",
}
_PATHS = ("save_path", "vector_path")
# What tensors hold: no layer, count or seed is larger.
_MOST_BITS = 63


def checked(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a tool's function that raises an ArgumentError for an argument which is not of its type.

    `pydantic.validate_call` would do as much, but its texts do not say what is valid, and it knows neither what Python
    takes beside JSON nor what a reader says better.
    """

    @functools.cache
    def described() -> tuple[inspect.Signature, dict[str, Any]]:
        return inspect.signature(function), get_type_hints(function, include_extras=True)

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        signature, hints = described()
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            valid = ", ".join(signature.parameters) or "none, it takes no arguments"
            raise ArgumentError(f"{function.__name__}: {error}", valid=valid) from error
        return function(**{name: _checked(value, hints[name], name) for name, value in arguments.items()})  # pyright: ignore[reportCallIssue]  # They are those that came.

    return call


class _UnfitError(Exception):
    """A value is not of a type: `str` says what is valid, and `where` which part of an argument it is."""

    def __init__(self, valid: str, value: object, where: str = "") -> None:
        super().__init__(valid)
        self.value, self.where = value, where


def _checked(value: Any, hint: Any, name: str) -> Any:
    try:
        if _is_of_prompts(hint) or (isinstance(value, Mapping) and name in _MAPPINGS):
            return cast(Any, value)
        if name in _PATHS:
            return _own(value)
        if name in _READ_ELSEWHERE:
            return list(map(_unicode, cast(list[Any], value))) if isinstance(value, list) else _unicode(value)
        return _of_type(value, _LISTS_OF_VECTORS.get(name, hint))
    except _UnfitError as error:
        kind = _ERRORS.get(name, ArgumentError)
        raise kind(f"{name}{error.where} is {quoted(error.value)}", valid=_VALID.get(name, str(error))) from error


def _is_of_prompts(hint: Any) -> bool:
    """Whether it is, or lists, prompts."""
    return hint == PromptLike or any(map(_is_of_prompts, get_args(hint)))


def _of_type(value: Any, hint: Any) -> Any:
    """Return a value of the type that a hint says.

    Raises:
        _UnfitError: It is none.
    """
    origin, parts, value = get_origin(hint), get_args(hint), _plain(value)
    if hint is Any:
        return value
    if origin is Annotated:
        return _of_type(value, parts[0])
    if origin in (Union, UnionType):
        return _of_any(value, hint)
    if isinstance(value, range) and value[RECORDS.most :]:
        raise _UnfitError(f"at most {RECORDS.most:,} items", value)
    if origin is list and isinstance(value, list | tuple | range):
        return [_part(item, parts[0], f"[{index}]") for index, item in enumerate(cast(Sequence[Any], value))]
    if (origin is dict or is_typeddict(hint)) and isinstance(value, Mapping):
        return _options(cast(Mapping[Any, Any], value), hint)
    if not _KINDS[_kind(hint)][1](value, parts):
        raise _UnfitError(_valid(hint), value)
    return value


def _plain(value: Any) -> Any:
    value = _unicode(value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise _UnfitError(f"a finite number of at most {_MOST_BITS} bits", value)
    return value


def _unicode(value: Any) -> Any:
    value = _own(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _UnfitError("Unicode text, without half a surrogate pair", value) from error
    return value


def _own(value: Any) -> Any:
    """Return a text or a number as Python's own, whose methods do what they say."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def _of_any(value: Any, hint: Any) -> Any:
    unfit: list[_UnfitError] = []
    for member in get_args(hint):
        try:
            return _of_type(value, member)
        except _UnfitError as error:
            unfit.append(error)
    # What is wrong with an item of a list, or with a text, says more than that it is nothing of all this.
    inner = next((error for error in unfit if error.where), None)
    raise inner or _UnfitError(_valid(hint), value)


def _options(value: Mapping[Any, Any], hint: Any) -> dict[str, Any]:
    """Return options; that there are such, and that they belong together, is for the tool to say."""
    hints = get_type_hints(hint, include_extras=True) if is_typeddict(hint) else {}
    return {_part(key, str, ""): _part(item, hints.get(key, Any), f"[{key!r}]") for key, item in value.items()}


def _part(value: Any, hint: Any, where: str) -> Any:
    try:
        return _of_type(value, hint)
    except _UnfitError as error:
        raise _UnfitError(str(error), error.value, f"{where}{error.where}") from error


def _valid(hint: Any) -> str:
    """Say what a type takes."""
    parts = get_args(hint)
    match _kind(hint):
        case kind if kind is Annotated:
            return _valid(parts[0])
        case kind if kind in (Union, UnionType):
            return " or ".join(filter(None, map(_valid, parts)))
        case kind if kind is list:
            return f"a list, each {_valid(parts[0])}" if parts[0] is not Any else "a list"
        case kind if kind is Literal:
            return ", ".join(map(repr, parts))
        case kind if kind is dict:
            return f"a mapping of {', '.join(map(repr, get_type_hints(hint))) if is_typeddict(hint) else 'options'}"
        case kind:
            return _KINDS[kind][0]


def _kind(hint: Any) -> Any:
    return dict if is_typeddict(hint) else get_origin(hint) or hint


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


_Fits: TypeAlias = Callable[[Any, tuple[Any, ...]], bool]


def _is(kind: Any) -> _Fits:
    return lambda value, words: isinstance(value, kind)


# By type: what is valid, and whether a plain value is it; of a list or a mapping, which is looked into, none is.
_KINDS: dict[Any, tuple[str, _Fits]] = {
    NoneType: ("", _is(NoneType)),
    bool: ("true or false", _is(bool)),
    int: ("a whole number", lambda value, words: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a finite number", lambda value, words: isinstance(value, int | float) and not isinstance(value, bool)),
    str: ("a text", _is(str)),
    Literal: ("", lambda value, words: isinstance(value, str) and value in words),
    Sequence: ("a list of pairs", lambda value, words: _is_list(value)),
    Callable: ("a function", lambda value, words: callable(value)),
    list: ("", _is(())),
    dict: ("", _is(())),
}
