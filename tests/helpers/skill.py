"""SKILL.md in its parts, and what loaders of preloaded skills do with it."""

from __future__ import annotations

import re
from typing import Any

from helpers.places import ROOT

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")

BLOCKS = re.findall(r"^```python\n(.*?)^```$", SKILL, re.MULTILINE | re.DOTALL)

DEFINITIONS = [block for block in BLOCKS if re.search(r"^def ", block, re.MULTILINE)]

EXAMPLES = [block for block in BLOCKS if block not in DEFINITIONS]


def preload(namespace: dict[str, Any]) -> dict[str, Any]:
    """Do what loaders do: take each column-0 `def` to the end of its block and run it in the kernel."""
    for block in DEFINITIONS:
        exec(block[block.index("def ") :], namespace)
    return namespace
