"""A value as people have it, and the type that a tool asks for → the plain value that the tool takes.

NumPy's and pandas' numbers and columns, tensors, paths, generators and single items come in. What is no way to write
the type is left as it is, for the tool to refuse. It must not import what it converts: that is told by what it can do.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from typing_extensions import is_typeddict

from steer_tools.by_hand.habits import WORDS
from steer_tools.errors import ArgumentError, quoted
from steer_tools.limits import RECORDS
from steer_tools.prompts import PromptLike

# Longer ones are near to none of ours, and take seconds to be compared.
LONGEST_WORD = 100
_TORCH_NAMES = ("dtype", "device")
# Arguments that are words, though their type is any text.
_WORDED = ("intervention", "component")


def plain_value(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the argument `name` of the type `hint` takes it.

    Raises:
        ArgumentError: It is none of the words that the argument may have, or a table.
    """
    kinds = [*_members(hint)]
    if value is None or any(is_typeddict(kind) for kind in kinds):
        return value
    value = _number_or_name(value)
    if name == "positions" and isinstance(value, int) and not isinstance(value, bool):
        index = int.__int__(value)
        # One token, as Python counts them; no prompt has as many as are left as they are, to be refused.
        return f"{index}:{'' if index == -1 else index + 1}" if abs(index) < 2**31 else value
    items = [get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, Sequence)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if isinstance(value, str) and words and not items and value not in words and str not in kinds:
        return _word(value, words, name)
    if _is_prompt(hint):
        return _plain_prompt(value)
    if isinstance(value, str) and name in _WORDED:
        return WORDS.get(value.lower(), value)
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if not items or isinstance(value, bytes):
        return value
    is_scalar = isinstance(value, str | int | float)
    if is_scalar and (value in words or type(value) in kinds or (isinstance(value, int) and float in kinds)):
        return value
    if Any in items and hasattr(value, "columns"):
        return cast(Any, value).to_dict("records")
    if any(map(_is_prompt, items)):
        return _prompts(value, name, may_be_one={*_members(PromptLike)} <= {*kinds})
    if is_scalar or not isinstance(value, Iterable):
        return [value]
    return [plain_value(one, items[0], name) for one in _listed(value, name)]


def plain_mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping whose keys and numbers are plain."""
    return {_number_or_name(key): _number_or_name(item) for key, item in value.items()}


def _members(hint: Any) -> Iterable[Any]:
    """Yield the kinds of a union, without what is said beside them."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _members(get_args(hint)[0])
    elif origin in (Union, UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def _number_or_name(value: Any) -> Any:
    """Return a number that is wrapped in an array or tensor by itself, and a path, dtype or device as text."""
    if isinstance(value, str):
        return str.__str__(value)  # A subclass, such as NumPy's, may compare as it likes.
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    if type(value).__module__ == "torch" and type(value).__name__ in _TORCH_NAMES:
        return str(value).removeprefix("torch.")
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _listed(value: Iterable[Any], name: str) -> list[Any]:
    """Return a column, an array, a tensor, a range or a generator as a list.

    Raises:
        ArgumentError: It is a table, or has no end.
    """
    if hasattr(value, "columns"):
        columns = [str(column) for column in cast(Any, value).columns]
        raise ArgumentError(
            f"{name} is a table with the columns {columns}",
            valid="one of its columns",
            fix=f"Give table[{columns[0]!r}], for instance." if columns else "",
        )
    items = list(cast(Any, value).tolist() if hasattr(value, "tolist") else islice(value, RECORDS.most + 1))
    RECORDS.require(len(items), f"{name} has")
    return items


def _is_prompt(hint: Any) -> bool:
    return set(_members(PromptLike)) == {*_members(hint)} - {NoneType}


def _prompts(value: Any, name: str, *, may_be_one: bool) -> Any:
    """Return prompts as a list: a text or a chat by itself is a list of one, where it is not taken as it is."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return value
    listed = [_plain_prompt(item) for item in _listed(value, name)] if isinstance(value, Iterable) else value
    is_one = isinstance(listed, list) and bool(listed) and all(isinstance(item, Mapping) for item in listed)
    is_chat = is_one and all("role" in item for item in cast(list[Mapping[str, Any]], listed))
    return [listed] if is_chat and not may_be_one else listed


def _plain_prompt(item: Any) -> Any:
    """Return one prompt of a list; a tuple of texts stays what it is."""
    is_array = hasattr(item, "tolist") and getattr(item, "shape", None) is not None
    return _listed(item, "a prompt") if is_array and item.shape != () else _number_or_name(item)


def _word(value: str, words: list[Any], name: str) -> Any:
    """Return the word that is meant.

    Raises:
        ArgumentError: None is.
    """
    meant = WORDS.get(value.lower().replace("-", "_"), value.lower())
    if meant in words:
        return meant
    near = get_close_matches(value[:LONGEST_WORD].lower(), [word for word in words if isinstance(word, str)], 1, 0.6)
    raise ArgumentError(
        f"{name} is {quoted(value)}",
        valid=", ".join(map(repr, words)),
        fix=f"Did you mean {near[0]!r}?" if near else "",
    )
