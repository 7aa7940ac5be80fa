"""Figures, layers and warnings → the words that all commands have for them. It must not know results."""

from collections.abc import Callable, Sequence

from rich.text import Text

from steer_tools.cli.marking import shown


def figure(value: float | None) -> str:
    """Return four digits, or a dash for what is not known."""
    return "–" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    """Return four digits with their sign, which 0 has not."""
    return f"{value:+.4g}" if value else "0"


def span(values: Sequence[float], written: Callable[[float], str]) -> str:
    """Return the first and the last of `values`, once if they read the same."""
    return " to ".join(dict.fromkeys(written(value) for value in (*values[:1], *values[-1:])))


def layer_names(layers: int | list[int] | None) -> str:
    """Return layers as short as they can be said."""
    if layers is None:
        return ""
    if isinstance(layers, int):
        return str(layers)
    is_run = len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if is_run else ", ".join(map(str, layers))


def listed(value: float | Sequence[float | None] | None) -> Sequence[float | None]:
    """Return what a tool says of one layer as it does of several."""
    return value if isinstance(value, Sequence) else [value]


def known(value: float | Sequence[float | None] | None) -> list[float]:
    """Return the figures that are known."""
    return [figure for figure in listed(value) if figure is not None]


def warning_lines(warnings: Sequence[str]) -> list[Text]:
    """Return a line for each warning."""
    return [Text.assemble(("Warning: ", "bold yellow"), shown(warning)) for warning in warnings]
