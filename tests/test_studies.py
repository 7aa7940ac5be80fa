"""The worked studies say what was measured and fail where it is not so; the reproductions run, on a model that fits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKSPACE = Path(__file__).parent.parent / "workspace"
STUDIES = WORKSPACE / "studies"
# What each study says of the files it leaves, and of the claims that a random vector cannot keep.
LEAVES = {
    "refusal": ["direction.safetensors", "heat_map.png", "without/model.safetensors"],
    "sycophancy": ["patient/undo.safetensors", "vector.safetensors", "falsehood.safetensors", "doses.png", "report.md"],
    "what_does_this_vector_do": ["unknown.safetensors", "projections.png"],
}
FOLDERS = {"what_does_this_vector_do": "unknown"}
BROKEN = {
    "refusal": ["added, it makes the model refuse what it does not refuse", "projected out, the model no longer"],
    "sycophancy": ["the experiment on held-out pairs says that disagreement can be steered"],
    "what_does_this_vector_do": ["it is more like one trait than any random direction", "without it the trait is lost"],
}


def run(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    paths = os.pathsep.join([str(WORKSPACE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def claims(said: str) -> dict[str, str]:
    """Each claim with whether it holds or FAILS."""
    lines = said.partition("\nClaims\n")[2].splitlines()
    return {claim: word for word, claim in (line.strip().split("  ", 1) for line in lines)}


@pytest.mark.parametrize("study", LEAVES)
def test_each_claim_of_a_study_holds_and_its_files_are_there(study: str, tmp_path: Path) -> None:
    ended = run(STUDIES / f"{study}.py", "--workspace", tmp_path)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    held = claims(ended.stdout)
    assert len(held) >= 6
    assert set(held.values()) == {"holds"}
    for name in LEAVES[study]:
        assert (tmp_path / "results" / FOLDERS.get(study, study) / name).is_file(), name


@pytest.mark.parametrize("study", LEAVES)
def test_a_study_of_a_random_vector_fails_by_its_claims(study: str, tmp_path: Path) -> None:
    ended = run(STUDIES / f"{study}.py", "--workspace", tmp_path, "--control")

    assert ended.returncode == 1, ended.stdout + ended.stderr
    failed = [claim for claim, word in claims(ended.stdout).items() if word == "FAILS"]
    for claim in BROKEN[study]:
        assert any(own.startswith(claim) for own in failed), (claim, failed)
    assert "Traceback" not in ended.stderr
