"""Figures as PNG, and what all of them share: colours, the canvas, the look of axes. Must not know what is drawn."""

import io
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Orange and blue differ for every kind of colour blindness.
STEERED, AGAINST, OTHER, INK, FAINT = "#c2410c", "#1d4ed8", "#64748b", "#1e293b", "#cbd5e1"


def new_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure of `width` × `height` inches with its title at the left."""
    # matplotlib takes longer to import than most commands run.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    figure.suptitle(plain(title), color=INK, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def style(axes: "Axes", title: str, x_label: str, y_label: str = "") -> None:
    """Give axes their words, and the look that all of them have."""
    axes.set_title(plain(title), color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel(plain(x_label), color=INK, fontsize=9)
    if y_label:
        axes.set_ylabel(plain(y_label), color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def plain(text: str) -> str:
    """Return `text` so that matplotlib takes no part of it for a formula, and can draw each letter of it."""
    drawn = (letter if letter.isprintable() else " " for letter in text)
    return "".join(letter if _has_glyph(letter) else "□" for letter in drawn).replace("$", r"\$")


@cache
def _has_glyph(letter: str) -> bool:
    """Whether the fonts that come with matplotlib can draw a letter; of others it would warn."""
    from matplotlib.font_manager import findfont, get_font

    fonts = (get_font(findfont(name)) for name in ("DejaVu Sans", "DejaVu Sans Mono"))
    return all(font.get_char_index(ord(letter)) for font in fonts)
