"""Values and texts that anybody may have written → the words and the Markdown that reports have for them.

It must not know results, nor import what is heavy: the command line speaks the same words.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt


class UnitWords(NamedTuple):
    """A unit of strength: its plural, and what a strength of 1 is."""

    plural: str
    one: str


UNITS: Mapping[str, UnitWords] = {
    "vector": UnitWords("saved vectors", "the vector as it is saved"),
    "contrast": UnitWords("contrasts", "one mean difference between positive and negative prompts"),
    "residual": UnitWords("residual norms", "the usual norm of the model's activations at that layer"),
}
POSITIONS: Mapping[str, str] = {
    "generated": "the last token of the prompt, and every new token",
    "prompt": "every token of the prompt",
    "all": "every token",
    "last_prompt": "the last token of the prompt",
    "first": "the first token",
    "after_user": "every token after the user's last message",
}
POOLINGS: Mapping[str, str] = {
    "last": "the last token",
    "first": "the first token",
    "mean": "the mean over all tokens",
    "response": "the mean over the answer's tokens",
}
CONTROL_KINDS: Mapping[str, str] = {
    "random": "random",
    "random_covariance": "random, spread like the activations",
    "balanced_shuffle": "shuffled labels",
}
CONTROLS_EXPLAINED: Mapping[str, str] = {
    "random": "any direction",
    "random_covariance": "a direction drawn with the covariance of the model's activations",
    "balanced_shuffle": "made like the vector, with positive and negative prompts mixed evenly on both sides",
}
VERDICTS: Mapping[str, str] = {
    "works": "The vector works: it moves held-out items the way that was asked, further than every control direction, "
    "without breaking the texts.",
    "weak": "The vector is weak: it moves held-out items the way that was asked, but not reliably enough to call it "
    "working.",
    "indistinguishable from random": "The vector cannot be told from a random direction: what it does to held-out "
    "items is no evidence that it steers the behaviour.",
    "breaks the model": "The vector breaks the model: it moves held-out items only at more damage than is allowed.",
}


def signed(value: float) -> str:
    """Return two decimals with their sign."""
    return f"{value:+.2f}"


def share(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.0%}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(values: list[str]) -> str:
    """Return values as a list in a sentence."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def span(low: float, high: float) -> str:
    """Return an interval of effects."""
    return f"{signed(low)} to {signed(high)}"


MOST_LETTERS = 400
_PUNCTUATION = re.compile(r"([\\`*_\[\]<|~$&])")
# A pipe ends a cell, also inside code.
_BARE_PIPE = re.compile(r"(?<!\\)\|")
# GitHub makes links of these by itself, an escape before them or not; an empty comment parts them.
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?=@)", re.IGNORECASE)
# Scripts and emoji need these two.
_JOINERS = {"\u200c", "\u200d"}


def literal(text: str, most: int = MOST_LETTERS) -> str:
    """Return `text` as Markdown for one line or one cell of a table, without a meaning of its own.

    Line ends become `<br>`, invisible characters are written out, and of a long text the beginning is shown.
    """
    stripped = text.strip()
    if not stripped:
        return "*(blank)*"
    cut = f" *… and {len(stripped) - most:,} more characters*" if len(stripped) > most else ""
    lines = ("".join(map(visible, line)) for line in stripped[:most].splitlines())
    return "<br>".join(_LINKED.sub("<!-- -->", _PUNCTUATION.sub(r"\\\1", line)) for line in lines) + cut


def code(text: str) -> str:
    """Return `text` as inline code."""
    shown = "".join(map(visible, text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def code_block(language: str, *lines: str) -> list[str]:
    """Return lines of code, each of which begins with a letter, so that none closes the fence."""
    return [f"```{language}", *("".join(map(visible, line)) for line in lines), "```"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> list[str]:
    """Return a table whose columns from `numbers_from` on are aligned to the right."""
    rule = ["---" if i < numbers_from else "---:" for i in range(len(columns))]
    lines = [[_BARE_PIPE.sub(r"\|", cell) for cell in cells] for cells in (columns, rule, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def prompt_text(prompt: Prompt) -> str:
    """Return what a prompt says: a chat of one message without the role."""
    match prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(((_, content),)):
            return content
        case ChatPrompt(messages):
            return "\n".join(f"{role}: {content}" for role, content in messages)
        case _:
            return str(prompt)


def visible(letter: str) -> str:
    """Return a character, or its escape where it is a control, reorders what is around it, or is half a surrogate."""
    is_hidden = unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and letter not in _JOINERS
    return ascii(letter)[1:-1] if is_hidden else letter
