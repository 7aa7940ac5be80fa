"""A function of the package → the same function as it is called by hand in Python.

Arguments are taken by the names that the field gives them, and in the types that people have; a name that means nothing
is refused with the right one. It must not know what the function does.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from steer_tools.by_hand.habits import ACTING, INSTEAD, INSTEAD_IN, NEEDLESS, SYNONYMS
from steer_tools.by_hand.plain_values import LONGEST_WORD, plain_mapping, plain_value
from steer_tools.by_hand.progress_bars import notebook_bar
from steer_tools.by_hand.results import AppliedResult, Result, VectorResult
from steer_tools.errors import ArgumentError, quoted
from steer_tools.foreign_text import visible
from steer_tools.tools.card import Tool
from steer_tools.tools.documentation import document

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Take a vector, which may be of any type, or the result of a tool that made one.
_VECTORS = ("vector_path", "vector", "ablate", "condition")
_MANY_VECTORS = ("vector_paths", "orthogonal_to", "compare_with")
_log = logging.getLogger("steer_tools")


def tool_by_hand(tool: Tool) -> Callable[..., Result]:
    """Return a tool that takes what people type, shows its progress in a notebook, and returns a `Result`."""
    function = by_hand(document(tool.function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Result:
        acting, args, kwargs = _acting(tool, args, kwargs)
        arguments = _arguments(tool.function, args, kwargs)
        _log.info("%s(%s)", tool.name, ", ".join(f"{name}={quoted(value, 60)}" for name, value in arguments.items()))
        with notebook_bar(tool.name), acting:
            result = tool.function(**arguments)
        for warning in result.get("warnings", ()):
            _log.info("%s: %s", tool.name, visible(warning))
        kind = VectorResult if tool.card.makes_vector else AppliedResult if "steering_id" in result else Result
        return kind(result, tool, arguments)

    return call


def by_hand(function: _Function) -> _Function:
    """Return a function that takes what people type."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(**_arguments(function, args, kwargs))

    return call  # pyright: ignore[reportReturnType]  # It is called as the function is.


def _acting(
    tool: Tool, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[AbstractContextManager[Any], tuple[Any, ...], dict[str, Any]]:
    """Return what steers while the tool runs, and the arguments without it.

    The vector is a keyword, or the first argument where the tool's own first one has a keyword and it is said how the
    vector acts.
    """
    own, kwargs = inspect.signature(tool.function).parameters, dict(kwargs)
    vectors = [name for name in kwargs if name not in own and "vector_path" in SYNONYMS.get(name, ())]
    if not tool.card.vector or not kwargs.keys() - own.keys():
        return nullcontext(), args, kwargs
    from steer_tools.session.placement import steering

    options = inspect.signature(steering).parameters
    taken = [name for name in kwargs if options.keys() & {name, *SYNONYMS.get(name, ())}]
    if (
        not vectors
        and args
        and not _is_model(args[0])
        and taken
        and any(next(iter(own)) in SYNONYMS.get(name, ()) for name in kwargs)
    ):
        vectors, taken, kwargs, args = ["vector"], [*taken, "vector"], {**kwargs, "vector": args[0]}, args[1:]
    if not vectors:
        return nullcontext(), args, kwargs
    acting = by_hand(steering)(**{**ACTING.get(tool.name, {}), **{name: kwargs.pop(name) for name in taken}})
    return acting, args, kwargs


def _arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by our names, as plain values.

    Raises:
        ArgumentError: One is unknown, given twice, missing, or none of the words that it may be.
    """
    name, parameters = function.__name__, inspect.signature(function).parameters
    args, kwargs = _without_model(args, kwargs, parameters)
    positional = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if len(args) > len(positional):
        raise ArgumentError(
            f"{name} was given {len(args)} arguments without a name",
            valid=f"at most {len(positional)}: {', '.join(positional)}",
        )
    given = dict(zip(positional, args, strict=False))
    if "temperature" in parameters and "do_sample" in kwargs:
        kwargs = {**kwargs, "temperature": kwargs.get("temperature", 1.0) if kwargs["do_sample"] else 0.0}
        del kwargs["do_sample"]
    for keyword, value in kwargs.items():
        ours = _named(name, keyword, parameters, {*given, *kwargs}, is_list=isinstance(value, Iterable))
        if ours is not None:
            if ours in given:
                raise ArgumentError(
                    f"{ours} of {name} was given twice" + (f", once as {keyword!r}" if keyword != ours else ""),
                    fix=_instead(name, keyword) or "",
                )
            given[ours] = value
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given]
    if missing:
        raise ArgumentError(f"{name} lacks {' and '.join(missing)}", valid=f"the arguments {', '.join(parameters)}")
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    return {ours: _value(value, hints[ours], ours) for ours, value in given.items()}


def _named(name: str, keyword: str, parameters: Mapping[str, Any], given: set[str], *, is_list: bool) -> str | None:
    """Return our name of a keyword; None for what is so anyway.

    Raises:
        ArgumentError: It means nothing here.
    """
    if keyword in parameters:
        return keyword
    # Of `strength` and `strengths`, several values are the second.
    synonyms = () if keyword in INSTEAD_IN.get(name, {}) else SYNONYMS.get(keyword, ())
    for ours in sorted(synonyms, key=lambda own: is_list and not own.endswith("s")):
        if ours in parameters and (ours not in given or keyword not in INSTEAD):
            return ours
    if keyword in NEEDLESS:
        return None
    near = get_close_matches(keyword[:LONGEST_WORD], parameters, 1, 0.6)
    raise ArgumentError(
        f"{name} has no argument {quoted(keyword)}",
        valid=", ".join(parameters) or "none",
        fix=_instead(name, keyword) or (f"Did you mean {near[0]!r}?" if near else ""),
    )


def _instead(name: str, keyword: str) -> str | None:
    """Return how what a keyword asks for is had, in a function of that name or anywhere."""
    said = INSTEAD_IN.get(name, {}).get(keyword) or INSTEAD.get(keyword)
    return said and f"{said[0].upper()}{said[1:]}."


def _without_model(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take the model, with or without its tokenizer, off the front: it is the one that is steered from now on."""
    rest = {name: value for name, value in kwargs.items() if name not in ("model", "tokenizer") or name in parameters}
    model, tokenizer = (kwargs.get(name) for name in ("model", "tokenizer"))
    if args and _is_model(args[0]):
        model, args = args[0], args[1:]
        if args and callable(args[0]) and hasattr(args[0], "decode"):
            tokenizer, args = args[0], args[1:]
    if model is not None and "model" not in parameters:
        from steer_tools.engines.facets import LiveModel, require
        from steer_tools.session.session import attach_model, current_session

        if tokenizer is None:
            tokenizer = require(current_session().engine, LiveModel, "A model as the first argument").tokenizer
        attach_model(model, tokenizer)
    return args, rest


def _is_model(value: Any) -> bool:
    return hasattr(value, "generate") and hasattr(value, "config")


def _value(value: Any, hint: Any, name: str) -> Any:
    if isinstance(value, Mapping) and name in value:
        # The result of another tool stands for its entry of that name.
        return value[name]
    if isinstance(value, Mapping) and name in (*_VECTORS, *_MANY_VECTORS):
        return value["vector_path"] if "vector_path" in value else plain_mapping(value)
    if name in _VECTORS:
        return value
    if name in _MANY_VECTORS:
        return [_value(one, hint, "vector_path") for one in value] if isinstance(value, list | tuple) else value
    return plain_value(value, hint, name)
