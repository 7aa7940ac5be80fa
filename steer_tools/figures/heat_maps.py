"""Effects over layers and strengths, or of named rows and columns → a heat map. It must not know what they are of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_tools.figures import AGAINST, FAINT, INK, OTHER, STEERED, new_figure, plain, png, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _WORDS, _MARGIN = 0.3, 0.85, 0.75
# Below this full colour numbers need a second decimal; from this width on four marks have room beside each other.
_SMALL, _WIDE = 2.0, 10.0
_DAMAGED = "#f1f5f9"


@dataclass(frozen=True)
class HeatCell:
    """One layer at one signed strength: the effect that its colour and its number say, and how it is marked.

    Where nothing was measured the effect is None.
    """

    layer: int
    strength: float
    effect: float | None
    is_damaged: bool = False
    is_in_window: bool = False
    is_chosen: bool = False


@dataclass(frozen=True)
class Marks:
    """What is said of cells that are marked."""

    window: str = "window: enough effect, within the budget"
    damaged: str = "above the damage budget"
    missing: str = "not measured"


@dataclass(frozen=True)
class HeatMap:
    """Cells in any order, with what their numbers, strengths and marks mean; `title` is the effect's label if blank."""

    cells: Sequence[HeatCell]
    effect_label: str
    strength_label: str
    title: str = ""
    marks: Marks = Marks()

    @property
    def layers(self) -> list[int]:
        """The rows, from the first layer to the last."""
        return sorted({cell.layer for cell in self.cells})

    @property
    def strengths(self) -> list[float]:
        """The columns, from the lowest to the highest."""
        return sorted({cell.strength for cell in self.cells})

    @property
    def limit(self) -> float:
        """The effect of the full colour: the largest of sound cells, of positive strengths where there are such.

        Broken cells may have any effect, and would leave no colour to the others.
        """
        sound = [(cell.strength > 0, abs(cell.effect or 0.0)) for cell in self.cells if not cell.is_damaged]
        positive = [effect for is_positive, effect in sound if is_positive]
        every = [abs(cell.effect or 0.0) for cell in self.cells]
        return max(positive, default=0.0) or max((effect for _, effect in sound), default=0.0) or max(every) or 1.0


def height_of(every: Sequence[HeatMap]) -> float:
    """Return the inches that the rows of maps below each other need, and their words."""
    return _MARGIN + sum(_ROW * len(shown.layers) + _WORDS for shown in every)


def heat_maps(every: Sequence[HeatMap], *, title: str) -> bytes:
    """Draw maps below each other, the deepest layer of each on top; return a PNG."""
    width = 2.2 + 0.62 * max(len(shown.strengths) for shown in every)
    figure = new_figure(max(6.5, width), max(3.4, height_of(every)), title)
    for axes, shown in zip(figure.subplots(len(every), squeeze=False)[:, 0], every, strict=True):
        draw_cells(axes, shown)
    explain_marks(figure, every)
    return png(figure)


def draw_cells(axes: "Axes", shown: HeatMap) -> None:
    """Draw the cells with their numbers, marks and words."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.patches import Rectangle

    columns, rows, limit = shown.strengths, shown.layers, shown.limit
    colours, scale = LinearSegmentedColormap.from_list("", [AGAINST, "#ffffff", STEERED]), Normalize(-limit, limit)
    for cell in sorted(shown.cells, key=lambda own: (own.layer, own.strength)):
        x, y, effect = columns.index(cell.strength), rows.index(cell.layer), cell.effect
        if effect is None:
            axes.add_patch(Rectangle((x - 0.44, y - 0.42), 0.88, 0.84, facecolor="#ffffff", edgecolor=FAINT))
            continue
        face = _DAMAGED if cell.is_damaged else colours(scale(effect))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="#ffffff", linewidth=0.6))
        if cell.is_damaged:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=FAINT, linewidth=0, hatch="///"))
        if cell.is_in_window:
            frame = (x - 0.44, y - 0.42), 0.88, 0.84
            axes.add_patch(Rectangle(*frame, fill=False, edgecolor=INK, linewidth=1, linestyle=":", zorder=2))
        if cell.is_chosen:
            frame = (x - 0.47, y - 0.46), 0.94, 0.92
            axes.add_patch(Rectangle(*frame, fill=False, edgecolor=INK, linewidth=2.4, zorder=2))
        ink = OTHER if cell.is_damaged else "#ffffff" if abs(effect) / limit > 0.6 else INK
        number = short(effect, 2 if limit < _SMALL else 1)
        axes.text(x, y, number, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xticks(range(len(columns)), [plain(f"{strength:+g}") for strength in columns])
    axes.set_yticks(range(len(rows)), [str(layer) for layer in rows])
    style(axes, shown.title or shown.effect_label, shown.strength_label, "layer")


def explain_marks(figure: "Figure", every: Sequence[HeatMap]) -> None:
    """Say below everything what the marks mean that are there."""
    from matplotlib.patches import Patch

    words, cells = every[0].marks, [cell for shown in every for cell in shown.cells]
    marks = {
        Patch(fill=False, edgecolor=INK, linewidth=2, label="chosen"): any(cell.is_chosen for cell in cells),
        Patch(fill=False, edgecolor=INK, linestyle=":", label=words.window): any(cell.is_in_window for cell in cells),
        Patch(facecolor=_DAMAGED, edgecolor=FAINT, hatch="///", label=words.damaged): any(
            cell.is_damaged for cell in cells
        ),
        Patch(facecolor="#ffffff", edgecolor=FAINT, label=words.missing): any(cell.effect is None for cell in cells),
    }
    handles = [patch for patch, is_there in marks.items() if is_there]
    if handles:
        columns = 4 if figure.get_figwidth() > _WIDE else 2
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=INK
        )


def short(effect: float, decimals: int = 1) -> str:
    """Return an effect in at most five characters, unless it is enormous."""
    if abs(effect) < 0.5 * 10**-decimals:
        return "0"
    return f"{effect:+.{decimals}f}" if abs(effect) < 9.95 else f"{effect:+.0f}"


_CELL, _MARGIN_OF_NAMES = 0.62, 1.9
# Of more columns the numbers would overlap: then colours alone are left.
_MOST_NUMBERED = 24
_WIDEST = 16.0


@dataclass(frozen=True)
class Matrix:
    """Effects (rows, columns) by layer, from the bottom to the top, and column; None, where there is none, is white."""

    effects: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    column_label: str
    effect_label: str


def matrix(shown: Matrix, *, title: str) -> bytes:
    """Draw the effects on colours, white at 0; return a PNG."""
    from matplotlib.colors import LinearSegmentedColormap

    width = min(_WIDEST, max(5.0, 1.8 + _CELL * len(shown.columns)))
    figure = new_figure(width, max(2.8, _MARGIN_OF_NAMES + _ROW * len(shown.rows)), title)
    axes = figure.subplots()
    limit = max((abs(effect) for row in shown.effects for effect in row if effect is not None), default=0.0) or 1.0
    colours = LinearSegmentedColormap.from_list("", [AGAINST, "#ffffff", STEERED])
    values = [[math.nan if effect is None else effect for effect in row] for row in shown.effects]
    image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    if len(shown.columns) <= _MOST_NUMBERED:
        for y, row in enumerate(shown.effects):
            for x, effect in enumerate(row):
                if effect is not None:
                    ink = "#ffffff" if abs(effect) > 0.6 * limit else INK
                    number = f"{effect:+.2f}" if round(effect, 2) else "0"
                    axes.text(x, y, number, ha="center", va="center", fontsize=7.5, color=ink)
    style(axes, shown.effect_label, shown.column_label, "layer")
    axes.set_xticks(range(len(shown.columns)), map(plain, shown.columns))
    axes.tick_params(axis="x", rotation=60 if max(map(len, shown.columns), default=0) > 3 else 0)
    axes.set_yticks(range(len(shown.rows)), map(plain, shown.rows))
    if len(shown.columns) > _MOST_NUMBERED:
        figure.colorbar(image, ax=axes)
    return png(figure)
