"""Strengths and robustness by what is written: held against planted texts, and against the bundled model's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from helpers.small_models import NEGATIVE, POSITIVE, WORDS
from steer_tools import (
    calibrate_strength,
    create_steering_vector,
    evaluate_steering_robustness,
    load_model,
    load_vector,
    save_vector,
)
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.core.vectors import ChosenCell, SteeringVector
from steer_tools.errors import ArgumentError
from steer_tools.experiments.calibration import calibrate_by_texts
from steer_tools.session.placement import Placed
from steer_tools.session.session import Session

ITEMS = [{"prompt": f"{word} lili", "positive": "keke", "negative": "mora"} for word in WORDS[:12]]
PLACED = Placed("v", "residual", (Placement(Add(torch.ones(4)), Site(1), 1.0),), None, None, ())


@dataclass
class Planted:
    """A meter whose texts show s / (s + half) of strength s, and break behind a strength."""

    half: float
    breaks: float
    sign: int = 1

    def measure(self, plans: Any) -> list[Any]:
        return [self.written(plan[0].strength) for plan in plans]

    def written(self, strength: float) -> Any:
        size = abs(strength)
        passes = size <= self.breaks
        effect = math.copysign(size / (size + self.half), strength) if passes else 0.0
        checked = type("Checked", (), {"passes": passes})()
        return type("Written", (), {"effect": self.sign * effect, "checked": checked})()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("half", "breaks"), [(0.1, 0.7), (0.4, 1.3), (0.02, 0.3)])
def test_the_gentlest_strength_does_most_of_what_the_strongest_unbroken_one_does(
    half: float, breaks: float, sign: int
) -> None:
    found = calibrate_by_texts(Planted(half, breaks), PLACED, sign, 4.0)  # type: ignore[arg-type]

    strength, unbroken = sign * found.strength, sign * found.unbroken
    assert breaks / 2**0.25 <= unbroken <= breaks
    wanted = 0.8 * unbroken / (unbroken + half)
    assert strength / (strength + half) >= wanted
    gentler = strength / 2**0.5
    assert gentler / (gentler + half) < wanted
    assert not found.is_unbounded


def test_texts_that_never_break_leave_the_strongest_open() -> None:
    found = calibrate_by_texts(Planted(0.1, 9.0), PLACED, 1, 4.0)  # type: ignore[arg-type]

    assert (found.unbroken, found.is_unbounded) == (4.0, True)


@pytest.mark.parametrize("meter", [Planted(0.1, 0.001), Planted(0.1, 0.7, sign=-1)])
def test_a_vector_that_breaks_texts_at_once_or_moves_them_the_other_way_has_no_strength(meter: Planted) -> None:
    with pytest.raises(ArgumentError, match="do texts that pass show more of it"):
        calibrate_by_texts(meter, PLACED, 1, 4.0)  # type: ignore[arg-type]


def with_cell(session: Session, path: str, cell: ChosenCell) -> None:
    vector = load_vector(path)
    info = vector.info.model_copy(update={"chosen": cell})
    made = SteeringVector(dict(vector.directions), info=info)
    save_vector(made, path, workspace=session.workspace)


@pytest.fixture
def vector(empty_session: Session) -> str:
    load_model("bundled")
    return create_steering_vector(behavior="sentiment", layer=1, save_path="v")["vector_path"]


def test_the_bundled_models_texts_tell_the_strength_and_where_they_break(vector: str) -> None:
    found = calibrate_strength(vector, behavior_name="sentiment")

    assert found["own_effect"] is not None
    assert found["unbroken_strength"] is not None
    assert found["own_effect"] > 0.8
    assert 0 < found["strength"] < found["unbroken_strength"] < 2
    beyond = evaluate_steering_robustness(vector, "sentiment", strength=2 * found["unbroken_strength"])["written"]
    assert beyond is not None
    assert beyond["whole"] < 2 / 3
    with pytest.raises(ArgumentError, match="behavior_name alone"):
        calibrate_strength(vector)


def test_a_cell_that_was_chosen_for_less_is_calibrated_below_zero(empty_session: Session, vector: str) -> None:
    with_cell(empty_session, vector, ChosenCell(layer=1, strength=-0.1, unit="residual", positions="all"))

    found = calibrate_strength(vector, behavior_name="sentiment")

    assert found["strength"] < 0
    assert found["own_effect"] is not None
    assert found["own_effect"] > 0.5
    assert found["apply"]["positions"] == "all"


def test_robustness_tells_what_the_texts_of_the_chosen_cell_show(empty_session: Session, vector: str) -> None:
    norm = load_vector(vector).magnitude(1)
    residual = evaluate_steering_robustness(vector, "sentiment", strength=0.1, positions="all")
    with_cell(empty_session, vector, ChosenCell(layer=1, strength=0.75, unit="contrast", positions="all"))

    chosen = evaluate_steering_robustness(vector, "sentiment")

    assert (chosen["unit"], chosen["strength"], chosen["apply"]["positions"]) == ("contrast", 0.75, "all")
    assert (residual["unit"], residual["strength"]) == ("residual", 0.1)
    assert residual["written"] is not None
    assert residual["written"]["effect"] > 0.8
    assert residual["written"]["texts_wrong_way"] == 0
    drawn = torch.randn(len(load_vector(vector).directions[1]), generator=torch.Generator().manual_seed(0))
    save_vector(SteeringVector.from_directions({1: drawn * norm / drawn.norm()}), "random")
    by_chance = evaluate_steering_robustness("random", "sentiment", strength=0.1, positions="all")["written"]
    assert by_chance is not None
    assert abs(by_chance["effect"]) < 0.5 * residual["written"]["effect"]


def test_where_texts_cannot_tell_a_warning_says_why_and_a_target_is_asked_for(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "own.safetensors")["vector_path"]
    llama_session.workspace.write("few.jsonl", "\n".join(json.dumps(own) for own in ITEMS).encode())

    found = evaluate_steering_robustness(path, "few.jsonl", strength=1.0)

    assert found["written"] is None
    assert any(warning.startswith("No texts were measured") for warning in found["warnings"])
    with pytest.raises(ArgumentError, match="target_damage or target_effect"):
        calibrate_strength(path, behavior_name="few.jsonl")
