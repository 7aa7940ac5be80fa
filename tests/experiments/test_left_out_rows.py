"""What was left out of a behaviour's file is told in the result of every tool that it went into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools import (
    ablate_component,
    calibrate_strength,
    create_steering_vector,
    evaluate_steering_robustness,
    find_best_layer,
    project_activations,
    steering_experiment,
    sweep_steering,
)
from steer_tools.session.session import Session

WORDS = ("keke", "lili", "mora", "seti", "nura", "tili", "kemo", "vozu", "lira", "bake")
ROWS = [f"nuri {word}\tbaba\tzuzu" for word in WORDS]
FILE = "pairs.txt"
LEFT_OUT = f"{FILE}: 2 of 12 rows were left out: 1 its header, 1 empty."

TOOLS: dict[str, Callable[[str], Any]] = {
    "create": lambda vector: create_steering_vector(behavior=FILE, layer=2),
    "experiment": lambda vector: steering_experiment(FILE, layers=[2], strengths=[0.1], controls=19),
    "best layer": lambda vector: find_best_layer(FILE, layers=[2], strengths=[0.1]),
    "sweep": lambda vector: sweep_steering(vector, FILE, strengths=[0.1]),
    "sweep of texts": lambda vector: sweep_steering(
        vector, FILE, strengths=[0.1], scorer={"keywords": ["keke"]}, max_new_tokens=4
    ),
    "robustness": lambda vector: evaluate_steering_robustness(vector, FILE, strength=0.1),
    "calibrate": lambda vector: calibrate_strength(vector, behavior_name=FILE, target_damage=0.01),
    "ablate": lambda vector: ablate_component(FILE, component="mlp", layers=[2]),
    "project": lambda vector: project_activations(vector, behavior_name=FILE),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_tells_what_was_left_out_and_nothing_of_a_whole_file(llama_session: Session, tool: str) -> None:
    vector = create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]
    told: list[bool] = []

    for rows in (["Prompt\tpositive\tnegative", *ROWS, ""], ROWS):
        llama_session.workspace.write(FILE, "".join(f"{row}\n" for row in rows).encode())
        told.append(LEFT_OUT in TOOLS[tool](vector)["warnings"])

    assert told == [True, False]


def test_the_report_tells_it_too(llama_session: Session) -> None:
    rows = ["prompt\tpositive\tnegative", *ROWS, ""]
    llama_session.workspace.write(FILE, "".join(f"{row}\n" for row in rows).encode())

    result = steering_experiment(FILE, layers=[2], strengths=[0.1], controls=19)

    report = Path(result["report_path"])
    assert "2 of 12 rows were left out" in report.read_text(encoding="utf-8")
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in report.parent.glob("*.json")]
    assert any(document.get("behavior", {}).get("notes") == [LEFT_OUT] for document in documents)
