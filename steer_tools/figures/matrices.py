"""Effects of named rows and columns → a heat map. It must not know what they are of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steer_tools.figures.canvas import AGAINST, INK, STEERED, new_figure, plain, png, style

_CELL, _ROW, _MARGIN = 0.62, 0.3, 1.9
# Of more columns the numbers would overlap: then colours alone are left.
_MOST_NUMBERED = 24
_WIDEST = 16.0


@dataclass(frozen=True)
class Matrix:
    """Effects with the names of their rows and columns.

    Attributes:
        effects: (rows, columns); None where there is none, which stays white.
        rows: From the bottom to the top.
        columns: From the left to the right.
        row_label: What the rows are.
        column_label: What the columns are.
        effect_label: What the numbers are.
        decimals: Of the numbers.
    """

    effects: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    effect_label: str
    decimals: int = 1


def matrix(shown: Matrix, *, title: str) -> bytes:
    """Draw the effects on colours, white at 0; return a PNG."""
    from matplotlib.colors import LinearSegmentedColormap

    width = min(_WIDEST, max(5.0, 1.8 + _CELL * len(shown.columns)))
    figure = new_figure(width, max(2.8, _MARGIN + _ROW * len(shown.rows)), title)
    axes = figure.subplots()
    limit = max((abs(effect) for row in shown.effects for effect in row if effect is not None), default=0.0) or 1.0
    colours = LinearSegmentedColormap.from_list("", [AGAINST, "#ffffff", STEERED])
    values = [[math.nan if effect is None else effect for effect in row] for row in shown.effects]
    image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    if len(shown.columns) <= _MOST_NUMBERED:
        for y, row in enumerate(shown.effects):
            for x, effect in enumerate(row):
                if effect is None:
                    continue
                ink = "#ffffff" if abs(effect) > 0.6 * limit else INK
                number = f"{effect:+.{shown.decimals}f}" if round(effect, shown.decimals) else "0"
                axes.text(x, y, number, ha="center", va="center", fontsize=7.5, color=ink)
    style(axes, shown.effect_label, shown.column_label, shown.row_label)
    slanted = max(map(len, shown.columns), default=0) > 3
    axes.set_xticks(range(len(shown.columns)), [plain(name) for name in shown.columns])
    axes.tick_params(axis="x", rotation=60 if slanted else 0)
    axes.set_yticks(range(len(shown.rows)), [plain(name) for name in shown.rows])
    if len(shown.columns) > _MOST_NUMBERED:
        figure.colorbar(image, ax=axes)
    return png(figure)
