"""Doses, cells and controls of one vector → one wide picture for a report. It must not know experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_tools.figures.canvas import INK, OTHER, STEERED, new_figure, plain, png, style
from steer_tools.figures.doses import DosePanel, draw_doses
from steer_tools.figures.heat_maps import HeatMap, draw_cells, explain_marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPREAD = 0.5
# Multiples of the golden section fill an interval evenly, in any number and without a random generator.
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class ControlGroup:
    """Controls of one kind: their effects."""

    label: str
    effects: Sequence[float]


@dataclass(frozen=True)
class Controls:
    """Controls by kind, and the vector's own effect with its 95 % interval where there is one."""

    groups: Sequence[ControlGroup]
    effect: float
    interval: tuple[float, float] | None


def draw_controls(axes: "Axes", controls: Controls) -> None:
    """Draw a point for each control, kind by kind, and the vector as a line across."""
    if controls.interval is not None:
        axes.axvspan(*controls.interval, color=STEERED, alpha=0.18, linewidth=0)
    axes.axvline(controls.effect, color=STEERED, linewidth=2.2, label="the vector")
    for row, group in enumerate(reversed(controls.groups)):
        heights = [row + _SPREAD * ((index * _GOLDEN) % 1 - 0.5) for index in range(len(group.effects))]
        axes.plot(group.effects, heights, "o", markersize=3.5, color=OTHER, alpha=0.7, markeredgewidth=0)
        axes.text(
            0.02,
            row + _SPREAD / 2 + 0.1,
            plain(f"{group.label} ({len(group.effects)})"),
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            color=INK,
        )
    axes.set_ylim(-0.85, len(controls.groups) - 0.25)
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8, loc="lower left", labelcolor=INK)


# At this width a text of 8 points has 8 pixels where the picture is shown 900 pixels wide.
_WIDTH = 12.0


@dataclass(frozen=True)
class Overview:
    """The three panels, from the left to the right."""

    doses: DosePanel
    cells: HeatMap
    cells_title: str
    controls: Controls
    controls_title: str


def overview(shown: Overview, *, title: str) -> bytes:
    """Draw the three panels side by side; return a PNG."""
    figure = new_figure(_WIDTH, max(4.4, shown.cells.height + 0.4), title)
    doses, cells, controls = figure.subplots(1, 3, width_ratios=[1, 1.5, 1])
    draw_doses(doses, shown.doses)
    style(doses, shown.doses.title, shown.cells.strength_label, shown.cells.effect_label)
    draw_cells(cells, shown.cells)
    style(cells, shown.cells_title, shown.cells.strength_label, "layer")
    draw_controls(controls, shown.controls)
    style(controls, shown.controls_title, shown.cells.effect_label)
    explain_marks(figure, shown.cells)
    return png(figure)
