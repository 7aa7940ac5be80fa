"""A prompt's texts by strength, and the effects beside those of random directions → an SVG that can be read.

It must not know models or measures.
"""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from steer_tools.figures import FAINT, INK, OTHER, STEERED

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
    parts, top = [f'<text x="24" y="36" font-size="18" font-weight="700">{escape(title)}</text>'], 56
    for panel in panels:
        drawn, height = _panel(panel, top)
        parts += drawn
        top += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" font-family="{_FONT}" '
        f'font-size="13" fill="{INK}">'
    )
    ground = f'<rect width="{_WIDTH}" height="{top + 8}" rx="10" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>"]) + "\n"


def _panel(panel: Cards, top: int) -> tuple[list[str], int]:
    """Return the panel's parts and its height."""
    unsteered = panel.texts[len(panel.texts) // 2][1]
    parts = [
        f'<text x="24" y="{top + 20}"><tspan font-weight="700">{escape(panel.title)}</tspan>'
        f'<tspan dx="14" fill="{OTHER}">{escape(panel.prompt)}</tspan></text>'
    ]
    y = top + 32
    for label, text in panel.texts:
        drawn, height = _card(y, label, text, unsteered)
        parts += drawn
        y += height + 6
    return [*parts, *_effects(panel, top + 32, y - 6)], y - top + 12


def _card(top: int, label: str, text: str, unsteered: str) -> tuple[list[str], int]:
    lines = _marked_lines(text, unsteered)
    colour, height = OTHER if text == unsteered else STEERED, 14 + _LINE * len(lines)
    return [
        f'<rect x="24" y="{top}" width="{_CARD_WIDTH}" height="{height}" rx="5" fill="{_FIELD}"/>',
        f'<rect x="24" y="{top}" width="4" height="{height}" fill="{colour}"/>',
        f'<text x="38" y="{top + 20}" font-size="12" font-weight="600" fill="{colour}">{escape(label)}</text>',
        *(f'<text x="120" y="{top + 20 + _LINE * row}" font-size="12">{line}</text>' for row, line in enumerate(lines)),
    ], height


def _marked_lines(text: str, unsteered: str) -> list[str]:
    """Return the text in lines, its words coloured where the unsteered text has others; what is too long is cut."""
    words = text.split()
    changes = difflib.SequenceMatcher(None, unsteered.split(), words, autojunk=False).get_opcodes()
    changed = {at for kind, _, _, start, end in changes if kind != "equal" for at in range(start, end)}
    lines, at = list[str](), 0
    wrapped = textwrap.wrap(" ".join(words), _COLUMNS, break_long_words=False, break_on_hyphens=False)
    for line in wrapped[:_MOST_LINES]:
        shown = list[str]()
        for word in line.split():
            coloured = f'<tspan fill="{STEERED}">{_printable(word)}</tspan>'
            shown.append(coloured if at in changed else _printable(word))
            at += 1
        lines.append(" ".join(shown))
    return lines or [""]


def _printable(word: str) -> str:
    """Return a word as XML may hold it: without control characters and halves of surrogates."""
    return escape("".join(letter if letter.isprintable() else "�" for letter in word))


def _effects(panel: Cards, top: int, bottom: int) -> list[str]:
    ends = [end for bar in panel.bars for end in (bar.interval or (bar.mean, bar.mean))]
    least, most = min(0.0, *ends, *panel.controls), max(0.0, *ends, *panel.controls)

    def across(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - least) / ((most - least) or 1.0), 1)

    rows = [*panel.bars, *([None] if panel.controls else [])]
    step = (bottom - top - 22) / len(rows)
    parts = [
        f'<text x="{_LEFT}" y="{top - 12}" font-size="12" fill="{OTHER}">{escape(panel.measure)}</text>',
        f'<path d="M{across(0)} {top}V{bottom - 18}" stroke="{FAINT}"/>',
        f'<text x="{across(0)}" y="{bottom - 4}" font-size="11" fill="{OTHER}" text-anchor="middle">0</text>',
    ]
    for row, bar in enumerate(rows):
        y = round(top + step * (row + 0.62), 1)
        if bar is None:
            label = f"{len(panel.controls)} random directions of the same norm"
            parts.append(f'<text x="{_LEFT}" y="{y - 10}" font-size="11" fill="{OTHER}">{label}</text>')
            parts += [f'<circle cx="{across(own)}" cy="{y}" r="3.5" fill="{OTHER}"/>' for own in panel.controls]
            continue
        low, high = bar.interval or (bar.mean, bar.mean)
        written = f"{bar.label}: {bar.mean:+.3g}" + (f" ({low:+.3g} to {high:+.3g})" if bar.interval else "")
        parts += [
            f'<text x="{_LEFT}" y="{y - 10}" font-size="11" fill="{STEERED}" font-weight="600">{written}</text>',
            f'<path d="M{across(low)} {y}H{across(high)}" stroke="{STEERED}" stroke-width="3" opacity="0.5"/>',
            f'<circle cx="{across(bar.mean)}" cy="{y}" r="4.5" fill="{STEERED}"/>',
        ]
    return parts
