"""Where the project's files are, and the material beside the project, which not every machine has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"
STORIES = SHARED / "models" / "stories3M"
CAA = SHARED / "datasets" / "CAA"


def skip_without_shared(items: Iterable[pytest.Item], *, is_there: bool, is_required: bool) -> None:
    """Skip what is marked `shared` where that material is missing; where it is required it fails instead."""
    if is_there or is_required:
        return
    skip = pytest.mark.skip(reason=f"the model stories3M and the data sets CAA are not in {SHARED}")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)
