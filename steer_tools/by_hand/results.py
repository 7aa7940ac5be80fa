"""A tool's plain result → the same dict, shown as a table in a notebook and read by attributes.

It must not know what the tool does: how it looks is the tool's own.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_tools.by_hand.habits import ENTRIES
from steer_tools.errors import ArgumentError, UnsupportedFeatureError
from steer_tools.tools.card import Tool
from steer_tools.tools.remove_steering_vector import remove_steering_vector

if TYPE_CHECKING:
    from steer_tools.by_hand.vectors import SteeringVector

_WIDTH = 110


class Result(dict[str, Any]):
    """What a tool returned, a dict of plain values; `result.texts` is `result["texts"]`.

    What is a list at heart, as texts are, is one as well: `result[0]`, `len(result)` and `for text in result`; the keys
    are `result.keys()`. A notebook shows it as the command line does, `summary()` is that as text, and `to_dataframe()`
    its main table.
    """

    def __init__(self, values: Mapping[str, Any], tool: Tool, arguments: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._tool, self._arguments = tool, arguments

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int) and self._tool.card.items:
            return self._listed()[key]
        if key in self._other_names():
            return self._other_names()[key](self)
        raise KeyError(self._unknown(key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._listed() if self._tool.card.items else self.keys())

    def __len__(self) -> int:
        return len(self._listed() if self._tool.card.items else self.keys())

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self or name in self._other_names():
            return self[name]
        raise AttributeError(self._unknown(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def to_dict(self) -> dict[str, Any]:
        """Return the dict alone."""
        return dict(self)

    def summary(self) -> str:
        """Return what the command line shows of it, as text."""
        return self._rendered(as_html=False)

    def to_dataframe(self) -> Any:
        """Return its main table, one row a cell, text or item, as pandas has it.

        Raises:
            ArgumentError: It has no table.
            UnsupportedFeatureError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise UnsupportedFeatureError(
                "A data frame needs pandas, which is not installed",
                valid="the result's own entries, or summary() for its table as text",
                fix='Install it: pip install "steer-tools[pandas]"',
            ) from error

        rows = self._tool.card.rows
        if rows is None:
            raise ArgumentError(
                f"{self._tool.name} returns no table", valid=f"the entries {', '.join(self.keys())}, each as it is"
            )
        return pd.DataFrame(self[rows] if isinstance(rows, str) else rows(self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.summary().rstrip() if self._tool.show is not None and not cycle else repr(dict(self)))

    def _repr_html_(self) -> str | None:
        return self._rendered(as_html=True) if self._tool.show is not None else None

    def _rendered(self, *, as_html: bool) -> str:
        from steer_tools.tools.consoles import TextConsole

        console = TextConsole(record=True, file=io.StringIO(), width=_WIDTH, force_jupyter=False)
        console.print(self._tool.shown(self, self._arguments, is_plain=not as_html) if self._tool.show else dict(self))
        text = console.export_html(inline_styles=True, code_format=_HTML) if as_html else console.export_text()
        # As it is seen from here.
        return text.replace(f"{Path.cwd()}/", "")

    def _listed(self) -> Sequence[Any]:
        items = self._tool.card.items
        return self[items] if isinstance(items, str) else items(self) if items else ()

    def _other_names(self) -> Mapping[object, Callable[[Any], Any]]:
        return ENTRIES.get(self._tool.name, {})

    def _unknown(self, name: object) -> str:
        near = get_close_matches(str(name), self.keys(), 1, 0.5)
        return f"The result of {self._tool.name} has no {name!r}: it has {', '.join(self.keys())}" + (
            f". Did you mean {near[0]!r}?" if near else ""
        )


_STYLE = "white-space:pre;overflow-x:auto;line-height:1.25;font-size:90%;font-family:'DejaVu Sans Mono',Menlo,monospace"
_HTML = f'<pre style="{_STYLE}">{{code}}</pre>'


class AppliedResult(Result):
    """What a tool returned that put something on the model: `result.remove()` takes it off again."""

    def remove(self) -> None:
        """Take this one vector off the model, as `remove_steering_vector(result)` does.

        Raises:
            UnknownSteeringIdError: It is not applied any more.
        """
        remove_steering_vector(self["steering_id"])


# What a result says of its vector; whatever else is asked of it, as `hasattr` does, reads no file.
_OF_A_VECTOR = frozenset(
    {"component", "cosine_similarity", "directions", "info", "layers", "magnitude", "norm", "normalized"}
    | {"apply", "export_gguf", "save", "vector", "width"}
)


class VectorResult(Result):
    """What a tool returned that made a vector: in Python it stands for the vector itself, too.

    `2 * result`, `result.norm()`, `result[15]` and `numpy.asarray(result)` are those of the vector in its file.
    """

    @property
    def steering_vector(self) -> "SteeringVector":
        """The vector, read from its file."""
        from steer_tools.by_hand.vectors import load_vector

        return load_vector(self["vector_path"])

    def __missing__(self, key: object) -> Any:
        return self.steering_vector[key] if isinstance(key, int) else super().__missing__(key)

    def __getattr__(self, name: str) -> Any:
        if name not in self and name in _OF_A_VECTOR:
            return getattr(self.steering_vector, name)
        return super().__getattr__(name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.steering_vector.__array__(dtype, copy)

    def __add__(self, other: Any) -> Any:
        return self.steering_vector + _vector(other)

    def __radd__(self, other: Any) -> Any:
        return _vector(other) + self.steering_vector

    def __sub__(self, other: Any) -> Any:
        return self.steering_vector - _vector(other)

    def __rsub__(self, other: Any) -> Any:
        return _vector(other) - self.steering_vector

    def __mul__(self, factor: float) -> Any:
        return self.steering_vector * factor

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Any:
        return self.steering_vector / divisor

    def __neg__(self) -> Any:
        return -self.steering_vector


def _vector(value: Any) -> Any:
    return value.steering_vector if isinstance(value, VectorResult) else value
