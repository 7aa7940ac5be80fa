"""Draws the README's picture, which is the demo's on SmolLM2: `python docs/picture.py`, some 70 seconds."""

import shutil
import tempfile
from pathlib import Path

from steer_tools.cli.demo import FOLDER, run_demo
from steer_tools.cli.demo_report import PICTURE
from steer_tools.engines.named_models import SMOLLM2

TARGET = Path(__file__).parent / "pictures" / PICTURE

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run_demo(model=SMOLLM2, workspace=folder, as_json=False)
        shutil.copy(Path(folder) / FOLDER / PICTURE, TARGET)
