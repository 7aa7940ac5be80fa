"""Scores over strengths → curves. It must not know what was scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_tools.figures.canvas import FAINT, INK, OTHER, STEERED, new_figure, plain, png, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """A score over strengths, with a 95 % interval at each where there is one."""

    label: str
    strengths: Sequence[float]
    scores: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class DosePanel:
    """What one vector does at each strength: the score it is for, and scores that it should leave alone.

    Attributes:
        title: Above the panel.
        effect: The score it is for.
        others: The scores it should leave alone.
        chosen: A strength to mark on the curve.
        reference: A score to compare with, drawn as a dashed line, and what it is.
    """

    title: str
    effect: Curve
    others: Sequence[Curve] = ()
    chosen: float | None = None
    reference: tuple[str, float] | None = None


def dose_response(panels: Sequence[DosePanel], *, title: str, score_label: str, strength_label: str) -> bytes:
    """Draw one panel a vector, side by side on one scale; return a PNG."""
    figure = new_figure(max(7.0, 1.2 + 3.3 * len(panels)), 3.9, title)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        draw_doses(axes, panel)
        style(axes, panel.title, strength_label)
    every[0].set_ylabel(plain(score_label), color=INK, fontsize=9)
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
    axes.plot(
        effect.strengths,
        effect.scores,
        color=STEERED,
        linewidth=2.2,
        marker="o",
        markersize=4,
        label=plain(effect.label),
    )
    if panel.chosen is not None:
        score = effect.scores[list(effect.strengths).index(panel.chosen)]
        axes.plot(
            [panel.chosen], [score], "o", markersize=10, markerfacecolor="none", markeredgecolor=INK, label="chosen"
        )
    if panel.reference is not None:
        label, score = panel.reference
        axes.axhline(score, color=OTHER, linewidth=1.4, linestyle="--", label=plain(label))
    axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=INK)
