"""The pages of docs/migration in their parts: a setup, then sections that do one thing there and here.

Code for another package is fenced as `py`, for its shell as `sh`; ours as `python` and `bash`, as on any page. Where
the two must come to the same, the one is named `theirs`, the other `ours`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from helpers.manual import DOCS, Block, blocks

PAGES = tuple(sorted(page for page in (DOCS / "migration").glob("*.md") if page.stem != "index"))
# The page of each package that can be installed, and the distributions whose versions count.
PACKAGES = {
    "nnsight": ("nnsight",),
    "repeng": ("repeng", "scikit-learn", "numpy"),
    "rotalabs": ("rotalabs-steer",),
    "steering_vectors": ("steering-vectors", "scikit-learn"),
    "transformer_lens": ("transformer-lens",),
}
# What stands there is run in the package's environment alone.
THEIRS = ("py", "sh")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A heading, and the code there and here."""

    title: str
    there: tuple[Block, ...]
    here: tuple[Block, ...]

    @property
    def digest(self) -> str:
        """What the code there is, for whoever keeps what it gave."""
        return hashlib.sha256("".join(block.text for block in self.there).encode()).hexdigest()[:16]


def sections(page: Path) -> list[Section]:
    """Return the setup, which has no title and one block, and the sections that have code."""
    text = page.read_text(encoding="utf-8")
    lines = [(0, ""), *((text.count("\n", 0, found.start()) + 1, found[1]) for found in _HEADING.finditer(text))]
    made = list[Section]()
    for (start, title), (end, _) in zip(lines, [*lines[1:], (10**9, "")], strict=True):
        inside = [block for block in blocks(page) if start <= block.line < end]
        there = tuple(block for block in inside if block.language in THEIRS)
        if inside:
            made.append(Section(title, there, tuple(block for block in inside if block not in there)))
    return made


def plain(value: Any) -> Any:
    """Return a tensor, an array or a list of them as numbers, and a text as it is."""
    if isinstance(value, str | float | int):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # The shortest decimals that give the same float32 back.
    return torch.as_tensor(value).detach().float().numpy().astype(str).astype(float).tolist()


def difference(first: Any, second: Any) -> float:
    """Return the largest difference of two plain values, relative to the largest number; 0 or infinity for texts."""
    if isinstance(first, str) or (isinstance(first, list) and first and isinstance(first[0], str)):
        return 0.0 if first == second else float("inf")
    one, other = torch.tensor(first), torch.tensor(second)
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / other.abs().max())
