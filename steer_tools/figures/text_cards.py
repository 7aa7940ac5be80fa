"""A prompt's texts by strength, and the effects beside those of random directions → an SVG that can be read.

It must not know models or measures.
"""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from steer_tools.figures import FAINT, INK, OTHER, STEERED
from steer_tools.foreign_text import Markup, element

_FIELD, _FONT = "#f8fafc", "system-ui, sans-serif"
_WIDTH, _CARD_WIDTH, _LEFT, _RIGHT = 1000, 612, 690, 970
_COLUMNS, _MOST_LINES, _LINE = 74, 4, 16


@dataclass(frozen=True)
class Bar:
    """A mean with its 95 % interval where there is one."""

    label: str
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Cards:
    """One vector: `texts` are (label, text) by strength, the middle one unsteered; `controls` are means."""

    title: str
    prompt: str
    texts: Sequence[tuple[str, str]]
    measure: str
    bars: Sequence[Bar]
    controls: Sequence[float]


def text_cards(panels: Sequence[Cards], *, title: str) -> str:
    """Draw one panel a vector, below each other: its texts at the left, its effects at the right."""
    parts, top = [_words(24, 36, title, font_size=18, font_weight=700)], 56
    for panel in panels:
        drawn, height = _panel(panel, top)
        parts += drawn
        top += height
    height = top + 8
    ground = element("rect", width=_WIDTH, height=height, rx=10, fill="#ffffff")
    page = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {_WIDTH} {height}"}
    font = {"font_family": _FONT, "font_size": 13, "fill": INK}
    return element("svg", *_lines(element("title", title), ground, *parts), **page, **font) + "\n"


def _lines(*parts: Markup) -> list[str]:
    """Return each part in a line of its own."""
    return ["\n", *(own for part in parts for own in (part, "\n"))]


def _words(x: float, y: float, *said: str, **look: object) -> Markup:
    return element("text", *said, x=x, y=y, **look)


def _panel(panel: Cards, top: int) -> tuple[list[Markup], int]:
    """Return the panel's parts and its height."""
    unsteered = panel.texts[len(panel.texts) // 2][1]
    title = element("tspan", panel.title, font_weight=700)
    parts = [_words(24, top + 20, title, element("tspan", panel.prompt, dx=14, fill=OTHER))]
    y = top + 32
    for label, text in panel.texts:
        drawn, height = _card(y, label, text, unsteered)
        parts += drawn
        y += height + 6
    return [*parts, *_effects(panel, top + 32, y - 6)], y - top + 12


def _card(top: int, label: str, text: str, unsteered: str) -> tuple[list[Markup], int]:
    lines = _marked_lines(text, unsteered)
    colour, height = OTHER if text == unsteered else STEERED, 14 + _LINE * len(lines)
    return [
        element("rect", x=24, y=top, width=_CARD_WIDTH, height=height, rx=5, fill=_FIELD),
        element("rect", x=24, y=top, width=4, height=height, fill=colour),
        _words(38, top + 20, label, font_size=12, font_weight=600, fill=colour),
        *(_words(120, top + 20 + _LINE * row, *words, font_size=12) for row, words in enumerate(lines)),
    ], height


def _marked_lines(text: str, unsteered: str) -> list[list[str]]:
    """Return the text in lines, its words coloured where the unsteered text has others; what is too long is cut."""
    words = text.split()
    changes = difflib.SequenceMatcher(None, unsteered.split(), words, autojunk=False).get_opcodes()
    changed = {at for kind, _, _, start, end in changes if kind != "equal" for at in range(start, end)}
    lines, at = list[list[str]](), 0
    wrapped = textwrap.wrap(" ".join(words), _COLUMNS, break_long_words=False, break_on_hyphens=False)
    for line in wrapped[:_MOST_LINES]:
        shown = list[str]()
        for word in line.split():
            shown += [" ", element("tspan", word, fill=STEERED) if at in changed else word]
            at += 1
        lines.append(shown[1:])
    return lines or [[]]


def _effects(panel: Cards, top: int, bottom: int) -> list[Markup]:
    ends = [end for bar in panel.bars for end in (bar.interval or (bar.mean, bar.mean))]
    least, most = min(0.0, *ends, *panel.controls), max(0.0, *ends, *panel.controls)

    def across(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - least) / ((most - least) or 1.0), 1)

    rows = [*panel.bars, *([None] if panel.controls else [])]
    step = (bottom - top - 22) / len(rows)
    parts = [
        _words(_LEFT, top - 12, panel.measure, font_size=12, fill=OTHER),
        element("path", d=f"M{across(0)} {top}V{bottom - 18}", stroke=FAINT),
        _words(across(0), bottom - 4, "0", font_size=11, fill=OTHER, text_anchor="middle"),
    ]
    for row, bar in enumerate(rows):
        y = round(top + step * (row + 0.62), 1)
        if bar is None:
            label = f"{len(panel.controls)} random directions of the same norm"
            parts.append(_words(_LEFT, y - 10, label, font_size=11, fill=OTHER))
            parts += [element("circle", cx=across(own), cy=y, r=3.5, fill=OTHER) for own in panel.controls]
            continue
        low, high = bar.interval or (bar.mean, bar.mean)
        written = f"{bar.label}: {bar.mean:+.3g}" + (f" ({low:+.3g} to {high:+.3g})" if bar.interval else "")
        parts += [
            _words(_LEFT, y - 10, written, font_size=11, fill=STEERED, font_weight=600),
            element("path", d=f"M{across(low)} {y}H{across(high)}", stroke=STEERED, stroke_width=3, opacity=0.5),
            element("circle", cx=across(bar.mean), cy=y, r=4.5, fill=STEERED),
        ]
    return parts
