"""Where the project's files are, and the material beside the project, which not every machine has."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"
STORIES = SHARED / "models" / "stories3M"
CAA = SHARED / "datasets" / "CAA"
