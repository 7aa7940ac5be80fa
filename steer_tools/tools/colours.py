"""Numbers → colours behind them in a terminal, as a small table or along a text; levels where there is no colour.

It must not know results. What draws is imported here at once: a tool imports this module when it shows something.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.table import Table
from rich.text import Text

from steer_tools.figures.strips import Scale, Strip, readable
from steer_tools.tools.rendering import Shown, line, shown

# So many stand beside each other in 80 columns, and so many lines in a terminal.
_MOST_COLUMNS, _MOST_LINES = 8, 12
_LEVELS = 3


@dataclass(frozen=True)
class HeatTable:
    """Values with the names of their lines and columns; `corner` says what both are."""

    corner: str
    lines: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]

    def shown(self, written: Callable[[float], str], *, is_plain: bool) -> list[Shown]:
        """Return the strongest lines and columns in their order, and how many are left out."""
        # Layers of one model may have different numbers of heads.
        across = list(zip_longest(*self.values, fillvalue=0.0))
        lines, columns = _strongest(self.values, _MOST_LINES), _strongest(across, _MOST_COLUMNS)
        limit = max((abs(value) for values in self.values for value in values), default=0.0) or 1.0
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(line(self.corner), no_wrap=True, max_width=24)
        for column in columns:
            table.add_column(line(self.columns[column]), justify="right")
        for index in lines:
            values = self.values[index]
            cells = [values[column] if column < len(values) else None for column in columns]
            table.add_row(
                line(self.lines[index]),
                *(line("" if value is None else written(value), _style(value, limit, is_plain)) for value in cells),
            )
        left_out = {"lines": len(self.lines) - len(lines), "columns": len(self.columns) - len(columns)}
        notes = " and ".join(f"{count} more {name}" for name, count in left_out.items() if count)
        return [table, *([line(f"({notes} of weaker effects in the picture)", "dim")] if notes else [])]


def token_text(text: str) -> Text:
    """Return a token with a dot for each space, so that " the" is not "the"."""
    return shown(readable(text).replace(" ", "·"))


def coloured(strips: Sequence[Strip], *, is_plain: bool) -> list[Shown]:
    """Return texts with their tokens on colours, or in plain text with a level from -3 to +3 behind each; explained."""
    scale = Scale.of(strips)
    levels = f"levels from -{_LEVELS} to +{_LEVELS}: " if is_plain else ""
    texts = (_coloured(strip, scale, is_plain=is_plain) for strip in strips)
    return [*texts, line(f"({levels}{scale.legend})", "dim")]


def _coloured(strip: Strip, scale: Scale, *, is_plain: bool) -> Text:
    result = line("")
    for token, value, counts in zip(strip.tokens, strip.values, strip.counts, strict=True):
        share = scale.share(value) if counts else 0.0
        words = shown(token).plain if token.strip() else line(token).plain
        result.append(" " if token.startswith(" ") else "")
        level = round(_LEVELS * share)
        result.append(words, None if is_plain or not level else f"black on {_background(share)}")
        if is_plain and level:
            result.append(f"[{level:+d}]")
    return result


def _strongest(values: Sequence[Sequence[float]], most: int) -> list[int]:
    ranked = sorted(range(len(values)), key=lambda index: -max(map(abs, values[index]), default=0.0))
    return sorted(ranked[:most])


def _style(value: float | None, limit: float, is_plain: bool) -> str:
    share = (value or 0.0) / limit
    # Beneath a twelfth of the largest there is no colour to be seen.
    return "" if is_plain or abs(share) < 1 / 12 else f"black on {_background(share)}"


def _background(share: float) -> str:
    """Return the colour behind a value that is such a share of the largest: red above 0, blue below."""
    faded = round(235 - 110 * abs(share))
    return f"rgb(255,{faded},{faded - 40})" if share > 0 else f"rgb({faded - 40},{faded},255)"
