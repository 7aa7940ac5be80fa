"""What is to be shown → a terminal, or a record of it. It must not know what is shown.

The only place that makes a console of rich: here no text is markup, and none reaches a terminal unseen. It imports rich
at once; who shows something imports it then.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from steer_tools.foreign_text import lines_of


class TextConsole(Console):
    """A console for which texts are texts: they have no markup, and what is hidden in them is written out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything; those that rich itself moves the cursor by are let through."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else lines_of(text), style, control)


def bar_on(console: Console) -> Progress:
    """Return a bar that says what is being done, takes itself away, and leaves stdout alone."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)
