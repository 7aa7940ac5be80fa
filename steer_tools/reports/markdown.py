"""Texts that anybody may have written → Markdown that shows them letter by letter. It must not know results."""

import re
from collections.abc import Sequence

from steer_tools.foreign_text import visible
from steer_tools.prompts import ChatPrompt, Prompt, prompt_text

MOST_LETTERS = 400
_PUNCTUATION = re.compile(r"([\\`*_\[\]<|~$&])")
# A pipe ends a cell, also inside code.
_BARE_PIPE = re.compile(r"(?<!\\)\|")
# GitHub makes links of these by itself, an escape before them or not; an empty comment parts them.
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?=@)", re.IGNORECASE)


def literal(text: str, most: int = MOST_LETTERS) -> str:
    """Return `text` as Markdown for one line or one cell of a table, without a meaning of its own.

    Line ends become `<br>`, invisible characters are written out, and of a long text the beginning is shown.
    """
    stripped = text.strip()
    if not stripped:
        return "*(blank)*"
    cut = f" *… and {len(stripped) - most:,} more characters*" if len(stripped) > most else ""
    lines = (visible(line) for line in stripped[:most].replace("\r\n", "\n").split("\n"))
    return "<br>".join(_LINKED.sub("<!-- -->", _PUNCTUATION.sub(r"\\\1", line)) for line in lines) + cut


def code(text: str) -> str:
    """Return `text` as inline code."""
    shown = visible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def code_block(language: str, line: str) -> str:
    """Return a line of code that begins with a letter, so that it does not close the fence."""
    return f"```{language}\n{visible(line)}\n```"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> str:
    """Return a table whose columns from `numbers_from` on are aligned to the right."""
    rule = ["---" if i < numbers_from else "---:" for i in range(len(columns))]
    lines = [[_BARE_PIPE.sub(r"\|", cell) for cell in cells] for cells in (columns, rule, *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def question_text(prompt: Prompt) -> str:
    """Return what a prompt says: a chat of one message without the role."""
    match prompt:
        case ChatPrompt(((_, content),)):
            return content
        case _:
            return prompt_text(prompt)
