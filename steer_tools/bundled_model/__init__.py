"""The small model that ships with the package, its language and how it was made; see MODEL_CARD.md.

`load_model("bundled")` loads it; `language` checks it.
"""

from pathlib import Path

NAME = "bundled"
CHECKPOINT = Path(__file__).parent / "checkpoint"
