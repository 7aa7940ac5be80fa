"""Breaks the code by hand in many places, one at a time, and says which fault no test sees.

`PYTHONPATH=tests python -m helpers.mutants [ID ...]` works on a copy of the tree. Each fault of the list in tests/data
names the tests that must see it. Exit code 1 where one survives, or where its tests are red without it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from helpers.places import DATA, ROOT, SHARED

WORKERS = 2
KEPT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "site")


def main(names: Sequence[str]) -> int:
    """Try each mutant, or those that are named, and return the exit code."""
    mutants: list[dict[str, Any]] = json.loads((DATA / "mutants.json").read_text(encoding="utf-8"))
    chosen = [mutant for mutant in mutants if not names or mutant["id"] in names]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        if SHARED.exists():
            (Path(folder) / "shared").symlink_to(SHARED)
        trees = SimpleQueue[Path]()
        for number in range(WORKERS):
            shutil.copytree(ROOT, tree := Path(folder) / f"tree{number}", ignore=KEPT_OUT)
            trees.put(tree)
        if pytest_code(sorted({test for mutant in chosen for test in mutant["tests"]}), tree) != 0:
            print("Some of their tests are red without any mutant.")
            return 1
        outcomes = list(pool.map(lambda mutant: outcome_of(mutant, trees), chosen))
    print(f"{outcomes.count('died')} of {len(outcomes)} died")
    return int(outcomes.count("died") < len(outcomes))


def outcome_of(mutant: dict[str, Any], trees: SimpleQueue[Path]) -> str:
    """Return "died", "survived", or why the mutant could not be tried, and print it."""
    tree = trees.get()
    path = tree / mutant["file"]
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    if source.count(mutant["old"]) != 1:
        outcome = "is not of this code"
    else:
        path.write_text(source.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        # 1 is the code of failed tests; others are those of tests that could not run.
        outcome = {0: "survived", 1: "died"}.get(pytest_code(mutant["tests"], tree), "lets no test run")
        path.write_text(source, encoding="utf-8")
    trees.put(tree)
    print(f"{mutant['id']}: {outcome} ({mutant['what']})", flush=True)
    return outcome


def pytest_code(tests: Sequence[str], tree: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
