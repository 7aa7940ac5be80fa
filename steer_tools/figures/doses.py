"""Scores over strengths → curves, alone or in a wide picture with cells and controls. It must not know experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from steer_tools.figures import AGAINST, FAINT, INK, OTHER, STEERED, new_figure, plain, png, style
from steer_tools.figures.heat_maps import HeatMap, draw_cells, explain_marks, height_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """A score over strengths, with a 95 % interval at each where there is one; it says nothing at `broken` ones."""

    label: str
    strengths: Sequence[float]
    scores: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()
    broken: Sequence[float] = ()


@dataclass(frozen=True)
class Points:
    """Single scores at one strength."""

    label: str
    strength: float
    scores: Sequence[float]


@dataclass(frozen=True)
class DosePanel:
    """What one vector does at each strength: the score it is for, and `others` that it should leave alone.

    `chosen` is a strength to mark on the curve, `reference` a score to compare with, and what it is, `points` scores
    that were not averaged.
    """

    title: str
    effect: Curve
    others: Sequence[Curve] = ()
    chosen: float | None = None
    reference: tuple[str, float] | None = None
    points: Sequence[Points] = ()


def dose_response(panels: Sequence[DosePanel], *, title: str, score_label: str, strength_label: str) -> bytes:
    """Draw one panel a vector, side by side on one scale; return a PNG."""
    figure = new_figure(max(7.0, 1.2 + 3.3 * len(panels)), 3.9, title)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        draw_doses(axes, panel)
        style(axes, panel.title, strength_label, score_label if axes is every[0] else "")
    return png(figure)


def draw_doses(axes: "Axes", panel: DosePanel) -> None:
    """Draw the curves of one vector."""
    axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    for i, other in enumerate(panel.others):
        label = f"{len(panel.others)} other scores" if i == 0 else None
        axes.plot(other.strengths, other.scores, color=OTHER, linewidth=1, alpha=0.55, label=label)
    effect = panel.effect
    if effect.intervals:
        low, high = zip(*effect.intervals, strict=True)
        axes.fill_between(effect.strengths, low, high, color=STEERED, alpha=0.18, linewidth=0)
    label = plain(effect.label)
    axes.plot(effect.strengths, effect.scores, "o-", color=STEERED, linewidth=2.2, markersize=4, label=label)
    known = dict(zip(effect.strengths, effect.scores, strict=True))
    if effect.broken:
        scores = [known[strength] for strength in effect.broken]
        axes.plot(effect.broken, scores, "x", color=INK, markersize=8, label="texts do not pass")
    _draw_points(axes, panel.points)
    if panel.chosen is not None:
        axes.plot(
            [panel.chosen], [known[panel.chosen]], "o", color=INK, fillstyle="none", markersize=10, label="chosen"
        )
    if panel.reference is not None:
        label, score = panel.reference
        axes.axhline(score, color=OTHER, linewidth=1.4, linestyle="--", label=plain(label))
    if panel.points:  # Below the axes, since no place within them is sure to be empty.
        from matplotlib.transforms import offset_copy

        below = offset_copy(axes.transAxes, axes.get_figure(root=True), y=_BELOW, units="points")
        axes.legend(
            frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, labelcolor=INK
        )
    else:
        axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=INK)


def _draw_points(axes: "Axes", every: Sequence[Points]) -> None:
    """Draw single scores beside each other, as wide as a small share of the axes."""
    low, high = axes.get_xlim()
    for own, colour in zip(every, cycle((INK, AGAINST)), strict=False):
        places = [own.strength + _CLOUD * (high - low) * ((i * _GOLDEN) % 1 - 0.5) for i in range(len(own.scores))]
        label = plain(own.label)
        axes.plot(places, own.scores, "o", color=colour, markersize=3, alpha=0.6, mew=0, zorder=3, label=label)


_SPREAD, _CLOUD = 0.5, 0.05
# Points between the axes and what stands below their words.
_BELOW = -30
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
    from matplotlib.patheffects import withStroke

    if controls.interval is not None:
        axes.axvspan(*controls.interval, color=STEERED, alpha=0.18, linewidth=0)
    axes.axvline(controls.effect, color=STEERED, linewidth=2.2, label="the vector")
    halo = withStroke(linewidth=2.5, foreground="#ffffff")
    for row, group in enumerate(reversed(controls.groups)):
        heights = [row + _SPREAD * ((index * _GOLDEN) % 1 - 0.5) for index in range(len(group.effects))]
        axes.plot(group.effects, heights, "o", markersize=3.5, color=OTHER, alpha=0.7, markeredgewidth=0)
        label, across = plain(f"{group.label} ({len(group.effects)})"), axes.get_yaxis_transform()
        axes.text(0.02, row + _SPREAD / 2 + 0.1, label, transform=across, fontsize=8, color=INK, path_effects=[halo])
    axes.set_ylim(-0.85, len(controls.groups) - 0.25)
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8, loc="lower left", labelcolor=INK)


# At this width a text of 8 points has 8 pixels where the picture is shown 900 pixels wide.
_WIDTH = 12.0


@dataclass(frozen=True)
class Overview:
    """The panels: doses at the left, cells in the middle, below each other, controls at the right."""

    doses: DosePanel
    cells: Sequence[HeatMap]
    controls: Controls
    controls_title: str
    controls_label: str


def overview(shown: Overview, *, title: str) -> bytes:
    """Draw the panels side by side; return a PNG."""
    figure = new_figure(_WIDTH, max(4.4, height_of(shown.cells) + 0.4), title)
    places = figure.add_gridspec(len(shown.cells), 3, width_ratios=[1, 1.5, 1])
    doses, controls = figure.add_subplot(places[:, 0]), figure.add_subplot(places[:, 2])
    draw_doses(doses, shown.doses)
    style(doses, shown.doses.title, shown.cells[0].strength_label, shown.cells[0].effect_label)
    for row, cells in enumerate(shown.cells):
        draw_cells(figure.add_subplot(places[row, 1]), cells)
    draw_controls(controls, shown.controls)
    style(controls, shown.controls_title, shown.controls_label)
    explain_marks(figure, shown.cells)
    return png(figure)
