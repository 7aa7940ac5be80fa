"""Results → pictures, as PNG bytes. It must not know models or files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

_STEERED, _OTHER, _INK, _FAINT = "#c2410c", "#64748b", "#1e293b", "#cbd5e1"


@dataclass(frozen=True)
class Curve:
    """A score over strengths, with a 95 % interval at each where there is one."""

    label: str
    strengths: Sequence[float]
    scores: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class DosePanel:
    """What one vector does at each strength: the score it is for, and scores that it should leave alone."""

    title: str
    effect: Curve
    others: Sequence[Curve] = ()


def dose_response(panels: Sequence[DosePanel], *, title: str, score_label: str, strength_label: str) -> bytes:
    """Draw one panel a vector, side by side on one scale; return a PNG."""
    # matplotlib takes longer to import than most commands run.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(max(7.0, 1.2 + 3.3 * len(panels)), 3.9), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, color=_INK, fontsize=12, fontweight="bold", x=0.01, ha="left")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        axes.axhline(0, color=_FAINT, linewidth=1, zorder=0)
        axes.axvline(0, color=_FAINT, linewidth=1, zorder=0)
        for i, other in enumerate(panel.others):
            label = f"{len(panel.others)} other scores" if i == 0 else None
            axes.plot(other.strengths, other.scores, color=_OTHER, linewidth=1, alpha=0.55, label=label)
        effect = panel.effect
        if effect.intervals:
            low, high = zip(*effect.intervals, strict=True)
            axes.fill_between(effect.strengths, low, high, color=_STEERED, alpha=0.18, linewidth=0)
        axes.plot(
            effect.strengths, effect.scores, color=_STEERED, linewidth=2.2, marker="o", markersize=4, label=effect.label
        )
        axes.set_title(panel.title, color=_INK, fontsize=10.5, loc="left")
        axes.set_xlabel(strength_label, color=_INK, fontsize=9)
        axes.tick_params(colors=_INK, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_FAINT)
        axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=_INK)
    every[0].set_ylabel(score_label, color=_INK, fontsize=9)
    picture = io.BytesIO()
    canvas.print_png(picture)
    return picture.getvalue()
