"""Scorers that run here: words, a pattern, or a caller's own function."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import regex

from steer_tools.errors import ArgumentError
from steer_tools.prompts import Prompt

Scorer: TypeAlias = Callable[[str, str], float | None]
# Of any range: how much of something a text written to a prompt has.
Metric: TypeAlias = Callable[[str, str], float]
# Of a prompt with its roles.
TextScore: TypeAlias = Callable[[Prompt, str], float | None]

_LONGEST_PATTERN = 1000
_SEARCH_SECONDS = 0.5
# A pattern is unrolled when it is compiled: `((a{1000}){1000}){1000}` would take all memory there is.
_MOST_UNROLLED = 100_000
_COUNT = re.compile(r"(\))?\{(\d*)(?:,(\d*))?\}", re.ASCII)
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_SHOWN_CHARACTERS = 80


class MeanScore(NamedTuple):
    """The mean of the scores that are there, None where there is none, and how many are missing."""

    mean: float | None
    missing: int


def keyword_scorer(keywords: Sequence[str], *, whole_words: bool = True) -> Scorer:
    """Return a scorer that gives 1 where a text holds one of `keywords`, in whatever case, and 0 elsewhere.

    `whole_words` wants a boundary on either side; languages written without spaces have none.
    """
    if isinstance(keywords, str) or not keywords or not all(word.strip() for word in keywords):
        raise ArgumentError(f"keywords is {keywords!r}", valid="a list of at least one word, none of them blank")
    either = "|".join(re.escape(word.strip()) for word in keywords)
    pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)" if whole_words else either, re.IGNORECASE)
    return lambda _, text: float(pattern.search(text) is not None)


def regex_scorer(pattern: str) -> Scorer:
    """Return a scorer that gives 1 where `pattern` is found in a text, in whatever case, and 0 elsewhere.

    A search that takes longer than half a second is given up and gives None: some patterns take time that grows
    exponentially with the text, and Python's own `re` cannot be stopped. So the package `regex` searches.

    Raises:
        ArgumentError: The pattern is blank, no regular expression of Python, longer than 1,000 characters, verbose
            (`(?x)`), or repeats so often that compiling it would take very much memory.
    """
    if not pattern.strip() or len(pattern) > _LONGEST_PATTERN:
        raise ArgumentError(
            f"The pattern has {len(pattern)} characters", valid=f"1 to {_LONGEST_PATTERN:,}, not only spaces"
        )
    if _VERBOSE.search(pattern) or _unrolled(pattern) > _MOST_UNROLLED:
        raise ArgumentError(
            f"The pattern {_shown(pattern)} is verbose, or repeats too often",
            valid=f"no (?x), and counts in braces that come to {_MOST_UNROLLED:,} at most when they are multiplied out",
            fix="Use smaller counts, or * and +.",
        )
    try:
        re.compile(pattern)
        search = regex.compile(pattern, regex.IGNORECASE).search
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ArgumentError(
            f"The pattern {_shown(pattern)} cannot be compiled ({error})", valid="a regular expression of Python"
        ) from error

    def score(_: str, text: str) -> float | None:
        try:
            return float(search(text, timeout=_SEARCH_SECONDS) is not None)
        except TimeoutError:
            return None

    return score


def callable_scorer(function: Callable[[str, str], object]) -> Scorer:
    """Return a scorer that asks `function(prompt, text)` and refuses what is no score.

    What the function raises passes, with a note that names the prompt.

    Raises:
        ArgumentError: By the scorer, where the function returned something else.
    """

    def score(prompt: str, text: str) -> float | None:
        try:
            value = function(prompt, text)
        except Exception as error:
            error.add_note(f"A scorer raised this on the prompt {_shown(prompt)}.")
            raise
        if value is None:
            return None
        number = float(value) if isinstance(value, Real | np.bool_) else math.nan
        if not 0 <= number <= 1:
            raise ArgumentError(
                f"A scorer returned {_shown(value)} on the prompt {_shown(prompt)}",
                valid="a number from 0 to 1, true, false, or None where it cannot say",
            )
        return number

    return score


def metric_of(function: Callable[..., object], name: str | None = None) -> tuple[str, Metric]:
    """Return a caller's `metric(text)` or `metric(prompt, text)` with its name; how many it needs says which it is.

    What the function raises passes, with a note that names the prompt.

    Raises:
        ArgumentError: It takes neither; or, by the metric, it returned what is no finite number.
    """
    said = name or getattr(function, "__name__", type(function).__name__)
    needed = _needed(function)
    if needed not in (1, 2):
        raise ArgumentError(
            f"The metric {said} needs {needed} arguments", valid="a function of the text, or of the prompt and the text"
        )

    def measure(prompt: str, text: str) -> float:
        try:
            value = function(text) if needed == 1 else function(prompt, text)
        except Exception as error:
            error.add_note(f"The metric {said} raised this on the prompt {_shown(prompt)}.")
            raise
        return finite_number(value, f"The metric {said}", f"on the prompt {_shown(prompt)}")

    return said, measure


def finite_number(value: object, said: str, where: str) -> float:
    """Return what a caller's function returned as a number; a tensor or array may hold it.

    Raises:
        ArgumentError: It is no finite number.
    """
    number = cast(Any, value).item() if math.prod(getattr(value, "shape", (0,))) == 1 else value
    if not isinstance(number, Real | np.bool_) or not math.isfinite(number):
        raise ArgumentError(f"{said} returned {_shown(value)} {where}", valid="a finite number")
    return float(number)


def mean_score(scores: Iterable[float | None]) -> MeanScore:
    """Return the mean over the scores that are there, and the number of missing ones."""
    every = list(scores)
    there = [score for score in every if score is not None]
    return MeanScore(math.fsum(there) / len(there) if there else None, len(every) - len(there))


def _needed(function: Callable[..., object]) -> int:
    """Return how many arguments a function must be given; some built-in ones do not say, and take the text."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 1
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    # Whatever takes anything takes the text.
    return len(needed) or int(bool(parameters))


def _unrolled(pattern: str) -> int:
    """Return a bound of the number of parts that a compiled pattern has."""
    parts, times = len(pattern), 1
    for closing, low, high in _COUNT.findall(pattern):
        count = max(int(low or 0), int(high or 0), 1)
        if closing:
            times *= count
        else:
            parts += count
    return parts * times


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
