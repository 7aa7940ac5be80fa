"""Texts token by token, each on the colour of its value → a picture, and a page of HTML. It must not know models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from steer_tools.figures import AGAINST, INK, OTHER, STEERED, new_figure, plain, png
from steer_tools.foreign_text import element, page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches of a letter, of a line, and of what stands above and below.
_LETTER, _LINE, _MARGIN, _WIDTH = 0.082, 0.30, 0.75, 8.0
_STYLE = (
    f"body{{font:16px/2 system-ui,sans-serif;color:{INK};margin:2em;max-width:60em}}"
    f"span{{padding:.2em .1em;border-radius:.2em;white-space:pre-wrap}}small{{color:{OTHER}}}"
)


@dataclass(frozen=True)
class Strip:
    """One text.

    Attributes:
        tokens: As they are to be read.
        values: One a token.
        counts: Whether a token has a colour: special tokens and the first one lie elsewhere, and would take all of it.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    counts: tuple[bool, ...]

    @classmethod
    def of(cls, texts: Sequence[str], values: Sequence[float], counts: Sequence[bool]) -> "Strip":
        """Return the tokens' texts as they are read, with their values."""
        return cls(tuple(map(readable, texts)), tuple(values), tuple(counts))


@dataclass(frozen=True)
class Scale:
    """Values → from -1 to 1: 0 is the median, and ±1 the value furthest from it, of tokens that count."""

    middle: float
    reach: float

    @classmethod
    def of(cls, strips: Sequence[Strip]) -> "Scale":
        """Return the scale of some strips."""
        pairs = [pair for strip in strips for pair in zip(strip.values, strip.counts, strict=True)]
        every = [value for value, counts in pairs if counts] or [value for value, _ in pairs] or [0.0]
        middle = median(every)
        return cls(middle, max(abs(value - middle) for value in every) or 1.0)

    def share(self, value: float) -> float:
        """Return where a value lies."""
        return max(-1.0, min(1.0, (value - self.middle) / self.reach))

    @property
    def legend(self) -> str:
        """What the colours mean."""
        low, high = self.middle - self.reach, self.middle + self.reach
        return f"blue {low:.3g}, white {self.middle:.3g} (the median), orange {high:.3g}"


def readable(text: str) -> str:
    """Return a token's text with signs for a line's end and a tab."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


def strip_picture(strips: Sequence[Strip], *, title: str) -> bytes:
    """Draw the texts in lines, their tokens on colours; return a PNG."""
    scale = Scale.of(strips)
    lines = [line for strip in strips for line in _lines(strip, scale)]
    figure = new_figure(_WIDTH, max(1.6, _MARGIN + _LINE * len(lines)), title)
    axes = figure.subplots()
    for row, line in enumerate(lines):
        _draw_line(axes, line, len(lines) - row)
    axes.set_xlim(0, _WIDTH / _LETTER)
    axes.set_ylim(0, len(lines) + 1)
    axes.set_axis_off()
    axes.text(0, 0.25, plain(scale.legend), fontsize=8, color=INK)
    return png(figure)


def strip_page(strips: Sequence[Strip], *, title: str) -> str:
    """Return a page of HTML, each token's value in its tooltip; it loads nothing."""
    scale = Scale.of(strips)
    texts = (
        element(
            "p",
            *(
                element("span", token, style=f"background:{_colour(scale, value, counts)}", title=f"{value:.4g}")
                for token, value, counts in zip(strip.tokens, strip.values, strip.counts, strict=True)
            ),
        )
        for strip in strips
    )
    return page(
        title,
        element("style", _STYLE),
        element("h1", title),
        element("p", element("small", scale.legend)),
        *texts,
    )


def _lines(strip: Strip, scale: Scale) -> list[list[tuple[str, str]]]:
    """Break a text into lines that fit; of each token the colour beside it."""
    lines: list[list[tuple[str, str]]] = [[]]
    used, most = 0, int(_WIDTH / _LETTER) - 2
    for token, value, counts in zip(strip.tokens, strip.values, strip.counts, strict=True):
        if used and used + len(token) > most:
            lines.append([])
            used = 0
        lines[-1].append((token, _colour(scale, value, counts)))
        used += max(1, len(token))
    return lines


def _draw_line(axes: "Axes", line: Sequence[tuple[str, str]], y: float) -> None:
    from matplotlib.patches import Rectangle

    x = 0.0
    for token, colour in line:
        width = max(1, len(token))
        axes.add_patch(Rectangle((x, y - 0.42), width, 0.84, facecolor=colour, linewidth=0))
        words = plain(token)
        text = axes.text(x + width / 2, y, words, ha="center", va="center", fontsize=9, color=INK, family="monospace")
        text.set_in_layout(False)  # A token longer than a line is cut off.
        x += width


def _colour(scale: Scale, value: float, counts: bool) -> str:
    """Return white mixed with as much of a side's colour; 60 % of it at most, so that ink stays readable."""
    share = scale.share(value) if counts else 0.0
    colour = STEERED if share > 0 else AGAINST
    part = 0.6 * math.sqrt(abs(share))
    mixed = [round(255 + (int(colour[i : i + 2], 16) - 255) * part) for i in (1, 3, 5)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
