"""Words, texts and tables → what a terminal shows of a tool's result. It must not know results.

rich is imported where it is used: tools are loaded by servers and notebooks that show nothing in a terminal.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, TypeAlias

from steer_tools.foreign_text import lines_of
from steer_tools.prompts import PromptLike, prompt_text
from steer_tools.reports.words import signed, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    Shown: TypeAlias = RenderableType
else:
    # For who asks a function for its types without showing anything.
    Shown = Table = Text = Any

_WORD = re.compile(r"\s*\S+")
_NEW, _GONE = "bold underline cyan", "dim strike"


def figure(value: float | None) -> str:
    """Return four digits, or a dash for what is not known."""
    return "–" if value is None else f"{value:.4g}"


def brief(value: float | None) -> str:
    """Return three digits, or a dash for what is not known."""
    return "–" if value is None else f"{value:.3g}"


def nats(value: float) -> str:
    """Return three digits with their sign."""
    return signed(value, "+.3g")


def effect_text(value: float) -> str:
    """Return two decimals with their sign, one digit of what is smaller, and 0 without a sign."""
    return signed(value) if abs(value) >= 0.005 else signed(value, "+.1g") if value else "0"


def interval(ends: Sequence[float] | None, written: Any = nats) -> str:
    """Return the interval behind a figure, nothing where none is known."""
    return "" if ends is None else f" (95 % interval {' to '.join(map(written, ends))})"


def layer_names(layers: int | list[int] | None) -> str:
    """Return layers as short as they can be said."""
    if layers is None:
        return ""
    if isinstance(layers, int):
        return str(layers)
    is_run = len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if is_run else ", ".join(map(str, layers))


def by_layer(value: float | Sequence[float | None] | None) -> Sequence[float | None]:
    """Return what a tool says of one layer as it does of several."""
    return value if isinstance(value, Sequence) else [value]


def known(value: float | Sequence[float | None] | None) -> list[float]:
    """Return the figures that are known."""
    return [figure for figure in by_layer(value) if figure is not None]


def strength_name(strength: float | None) -> str:
    """Return a strength, or what stands for it where several vectors are applied."""
    return "applied" if strength is None else signed(strength, "+.4g") if strength else "0"


def residual_name(added: float | list[float | None] | None) -> str:
    """Return what is added at a layer, or its range over several layers; nothing where nothing is."""
    return span(sorted(known(added), key=abs), strength_name)


def line(text: str, style: str = "") -> "Text":
    """Return a text as it stands, but for what is hidden in it."""
    from rich.text import Text

    return Text(lines_of(text), style=style)


def joined(*parts: "str | Text | tuple[str, str]") -> "Text":
    """Return parts as one text; a pair is a text with its style."""
    from rich.text import Text

    # What is a Text already was made here.
    return Text.assemble(*(part if isinstance(part, Text) else line(*_styled(part)) for part in parts))


def _styled(part: str | tuple[str, str]) -> tuple[str, str]:
    return (part, "") if isinstance(part, str) else part


def shown(text: str) -> "Text":
    """Return `text` without white space around it."""
    stripped = lines_of(text).strip()
    return line(stripped) if stripped else line("(blank)", "dim italic")


def shown_prompt(prompt: PromptLike) -> "Text":
    """Return a prompt: of a chat, each message in a line of its own."""
    return shown(prompt_text(prompt))


def saved(path: str) -> "Text":
    """Return where something was saved."""
    return joined(("Saved ", "bold"), shown(path))


def chosen(text: str, *, is_plain: bool) -> "Text":
    """Return `text` marked as chosen, by a style or, where that does not show, by {+ +}."""
    return line(f"{{+{text}+}}") if is_plain else line(text, _NEW)


def marked(text: str, baseline: str, *, is_plain: bool) -> "Text":
    """Return `text` with the words marked that `baseline` has not there, or has more; where they are equal, say so.

    The mark is a style, which holds without colour too, or, where not even that shows, that of `git --word-diff`.
    """
    if text == baseline:
        return line("(as the baseline)", "dim italic")
    if not text.strip():
        return shown(text)
    old, new = (_WORD.findall(lines_of(one).strip()) for one in (baseline, text))
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    result = line("")
    for operation, from_old, to_old, start, end in matcher.get_opcodes():
        run = "".join(new[start:end])
        words = run.lstrip()
        result.append(run[: len(run) - len(words)])
        if operation == "delete":
            gone = "".join(old[from_old:to_old]).strip()
            result.append(f" [-{gone}-]" if is_plain else f" {gone}", None if is_plain else _GONE)
        else:
            result.append(words if operation == "equal" or not words else chosen(words, is_plain=is_plain))
    return result


def warning_lines(warnings: Sequence[str]) -> list["Text"]:
    """Return a line for each warning."""
    return [joined(("Warning: ", "bold yellow"), shown(warning)) for warning in warnings]


def badge_line(badge: str | None, of: str = "") -> "Text":
    """Return what a certificate says, in green where that is a proof; a blank of what has none."""
    if badge is None:
        return line("")
    return line(f"{of}: {badge}" if of else badge, "green" if badge.startswith("verified: ") else "yellow")


def stack(*parts: Shown) -> Shown:
    """Return parts one below the other."""
    from rich.console import Group

    return Group(*parts)


def table(columns: Mapping[str, str], rows: Iterable[Sequence[Shown]]) -> "Table":
    """Return rows below the names of their columns; each is "left", "right", "fold", or "whole" on one line."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in columns.items():
        justify = "right" if side == "right" else "left"
        result.add_column(
            line(name), justify=justify, no_wrap=side == "whole", overflow="fold" if side == "fold" else "ellipsis"
        )
    for row in rows:
        result.add_row(*(line(cell) if isinstance(cell, str) else cell for cell in row))
    return result


def text_table(prompt: PromptLike, rows: Iterable[tuple[str, "Text"]]) -> "Table":
    """Return labels with long texts below a prompt."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.ROUNDED, show_header=False, show_lines=True, expand=True)
    result.add_column(justify="right", no_wrap=True)
    result.add_column(ratio=1, overflow="fold")
    result.add_row("prompt", shown_prompt(prompt), style="bold")
    for label, text in rows:
        result.add_row(line(label), text)
    return result


def facts(labelled: Mapping[str, str | None]) -> "Table":
    """Return one line a fact that is known."""
    from rich.table import Table

    result = Table.grid(padding=(0, 2))
    result.add_column(style="bold", no_wrap=True)
    result.add_column(overflow="fold")
    for label, fact in labelled.items():
        if fact:
            result.add_row(line(label), shown(fact))
    return result


def bullets(texts: Iterable[str]) -> "Table":
    """Return texts as a list."""
    from rich.table import Table

    result = Table.grid(padding=(0, 1))
    for text in texts:
        result.add_row("-", shown(text))
    return result
