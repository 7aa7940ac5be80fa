"""Doses, cells and controls of one vector → one wide picture for a report. It must not know experiments."""

from dataclasses import dataclass

from steer_tools.figures.canvas import new_figure, png, style
from steer_tools.figures.control_plot import Controls, draw_controls
from steer_tools.figures.doses import DosePanel, draw_doses
from steer_tools.figures.heat_maps import HeatMap, draw_cells, explain_marks

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
