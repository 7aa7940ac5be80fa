"""Figures as PNG, and what all of them share: colours, the canvas, the look of axes, and the sign that they are ours,
by which a save tells what it may replace. Must not know what is drawn."""

import io
import os
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

from steer_tools.foreign_text import visible
from steer_tools.workspace import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Orange and blue differ for every kind of colour blindness.
STEERED, AGAINST, OTHER, INK, FAINT = "#c2410c", "#1d4ed8", "#64748b", "#1e293b", "#cbd5e1"


_SOFTWARE = "steer-tools"
_SIGNATURE = b"<!-- Written by steer-tools -->\n"


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
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": _SOFTWARE})
    return picture.getvalue()


def signed(text: str) -> bytes:
    """Return Markdown, HTML or SVG with a comment behind it that says who wrote it."""
    return f"{text.rstrip()}\n\n".encode() + _SIGNATURE


def _is_picture(file: BinaryIO) -> bool:
    # Its texts stand before the pixels.
    return f"Software\0{_SOFTWARE}".encode() in file.read(1024)


def _is_signed(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_SIGNATURE)))
    return file.read() == _SIGNATURE


PICTURE = Kind("a picture that steer-tools drew", _is_picture)
SIGNED = Kind("a page that ends as steer-tools writes it", _is_signed)


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
    return "".join(letter if _has_glyph(letter) else "□" for letter in visible(text)).replace("$", r"\$")


@cache
def _has_glyph(letter: str) -> bool:
    """Whether the fonts that come with matplotlib can draw a letter; of others it would warn."""
    from matplotlib.font_manager import findfont, get_font

    fonts = (get_font(findfont(name)) for name in ("DejaVu Sans", "DejaVu Sans Mono"))
    return all(font.get_char_index(ord(letter)) for font in fonts)
