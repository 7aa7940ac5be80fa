"""A call that was measured by → what it takes to run it again, and two documents of it → where they differ.

It must not know models or tools.
"""

import inspect
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from math import inf, isfinite
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

from steer_tools import __version__
from steer_tools.workspace import Workspace

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn")
_OF_MODEL = ("name", "fingerprint", "dtype", "device", "engine")
# What another run of the same call has otherwise: when, where and with what.
_CIRCUMSTANCES = ("facts.seconds", "facts.run", "facts.version", "facts.vector_path")


class Run(BaseModel):
    """What it takes to run a call again.

    Attributes:
        tool: Its name.
        arguments: Those that are not the defaults.
        unsaid: Names of arguments that no file can hold, such as a function.
        inputs: SHA-256 of the files that it read, by their paths.
        model: Name, fingerprint, dtype and device.
        versions: Of Python and of what computes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    tool: str
    arguments: dict[str, Any]
    unsaid: tuple[str, ...] = ()
    inputs: dict[str, str]
    model: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        tool: Callable[..., Any],
        arguments: Mapping[str, Any],
        info: Mapping[str, Any],
        workspace: Workspace,
        inputs: Iterable[str | None],
    ) -> "Run":
        """Describe a call of `tool` on the model of `info`; where it writes to is no part of it, and not all `inputs`
        need be files."""
        defaults = inspect.signature(tool).parameters
        chosen = [name for name in defaults if name in arguments and name != "save_folder"]
        said = {name: arguments[name] for name in chosen if arguments[name] is not defaults[name].default}
        plain = {name: value for name, value in ((n, _plain(v)) for n, v in said.items()) if value is not None}
        return cls(
            tool=tool.__name__,
            arguments=plain,
            unsaid=tuple(name for name in said if name not in plain),
            inputs={
                workspace.name_of(path): digest for path in inputs if path and (digest := digest_of(workspace, path))
            },
            model={fact: str(info[fact]) for fact in _OF_MODEL},
            versions=versions(),
        )


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what it computes with."""
    return {
        "python": platform.python_version(),
        "steer-tools": __version__,
        **{package: version(package) for package in _PACKAGES},
    }


def digest_of(workspace: Workspace, path: str) -> str | None:
    """Return the SHA-256 of a file of the workspace; None where there is none."""
    return sha256(workspace.read(path)).hexdigest() if workspace.holds(path) else None


def _plain(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except ValueError:  # JSON has no such thing, or it holds itself.
        return None


@dataclass(frozen=True)
class Differences:
    """How two documents of one call differ.

    Attributes:
        numbers: How many were compared.
        changed: How many are not the same to the last bit.
        largest: The largest difference, as a share of the largest number at the same place of the document.
        where: The place of that.
        others: Places where texts, choices or shapes differ.
    """

    numbers: int = 0
    changed: int = 0
    largest: float = 0.0
    where: str = ""
    others: list[str] = field(default_factory=list[str])


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Differences:
    """Compare two documents of one call, but for when and where it ran.

    Numbers in one list are told by the largest of it: one near 0 among others says nothing by itself.
    """
    numbers = changed = 0
    largest, where, others = 0.0, "", list[str]()
    for place, ours, theirs, scale in _pairs("", first, second):
        if _is_number(ours) and _is_number(theirs):
            numbers += 1
            if ours != theirs:
                changed += 1
                apart = abs(ours - theirs) / scale if scale else inf
                if apart > largest:
                    largest, where = apart, place
        elif ours != theirs:
            others.append(place)
    return Differences(numbers, changed, largest, where, others)


def _pairs(place: str, ours: Any, theirs: Any, scale: float = 0.0) -> Iterator[tuple[str, Any, Any, float]]:
    if place in _CIRCUMSTANCES:
        return
    if isinstance(ours, dict) and isinstance(theirs, dict):
        mine, other = cast(dict[str, Any], ours), cast(dict[str, Any], theirs)
        if mine.keys() != other.keys():
            yield place, sorted(mine), sorted(other), 0.0
        for key in mine.keys() & other.keys():
            yield from _pairs(f"{place}.{key}".lstrip("."), mine[key], other[key])
    elif isinstance(ours, list) and isinstance(theirs, list) and len(cast(list[Any], ours)) == len(theirs):
        mine, other = cast(list[Any], ours), cast(list[Any], theirs)
        numbers = [abs(value) for value in (*mine, *other) if _is_number(value)]
        for i, (one, two) in enumerate(zip(mine, other, strict=True)):
            yield from _pairs(f"{place}[{i}]", one, two, max(numbers, default=0.0))
    else:
        own = [abs(cast(float, value)) for value in (ours, theirs) if _is_number(value)]
        yield place, ours, theirs, scale or max(own, default=0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
