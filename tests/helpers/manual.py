"""The manual in its parts: pages, code blocks, links and the anchors that they may lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.places import ROOT

DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
NOT_RUN = "# Not run by the tests: "

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def why_not_run(self) -> str | None:
        """The reason that the block itself gives for not being run, where it gives one."""
        first = self.text.split("\n", 1)[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _FENCE.finditer(text)]


def links(page: Path) -> Iterator[str]:
    """Yield where a page's links lead, but for those to other sites."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from (target for target in _LINK.findall(prose) if not re.match(r"[a-z]+:", target))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = page.read_text(encoding="utf-8")
    for included in _SNIPPET.findall(text):
        text += (ROOT / included).read_text(encoding="utf-8")
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@dataclass(frozen=True)
class Command:
    """A line to type, and what the page shows below it."""

    words: str
    shown: tuple[str, ...] = ()


def commands(block: Block) -> list[Command]:
    """Return a block's commands: all lines of a `bash` block, those after a `$` of a `console` block."""
    joined = block.text.replace("\\\n", " ")
    if block.language == "bash":
        return [Command(line) for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    typed = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [Command(lines[0], tuple(lines[1:])) for lines in (part.splitlines() for part in typed)]


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """Return the lines that a page shows and the command did not print, in this order; numbers may differ a little.

    A line of three dots stands for any lines.
    """
    waiting = [_words(line) for line in printed.splitlines()]
    lost = list[str]()
    for line in shown:
        if line.strip() in {"", "..."}:
            continue
        wanted = _words(line)
        at = next((at for at, words in enumerate(waiting) if _agree(wanted, words)), None)
        if at is None:
            lost.append(line)
        else:
            del waiting[: at + 1]
    return lost


_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def _words(line: str) -> tuple[str, tuple[float, ...]]:
    return " ".join(_NUMBER.sub("#", line).split()), tuple(float(number) for number in _NUMBER.findall(line))


def _agree(wanted: tuple[str, tuple[float, ...]], words: tuple[str, tuple[float, ...]]) -> bool:
    close = all(abs(a - b) <= 0.02 * abs(a) + 0.02 for a, b in zip(wanted[1], words[1], strict=False))
    return wanted[0] == words[0] and len(wanted[1]) == len(words[1]) and close
