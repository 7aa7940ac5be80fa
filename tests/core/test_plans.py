"""Plans are values: equal by what they hold, in this process and in any other."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from steer_tools.core.conditions import Both, Condition, Either, Not, Reading, Threshold
from steer_tools.core.interventions import INTERVENTIONS, Add, Clamp, Intervention, ProjectOut, Replace
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.core.values import digest_of
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.engines.site_edits import SiteEdits

WIDTH = 8


def a_tensor(seed: int = 0) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def of_kind(name: str) -> Intervention:
    """Return an intervention of a vector that has all that any kind asks for."""
    direction = a_tensor()
    info = VectorInfo(positive_projections={1: 2.0}, negative_projections={1: -1.0})
    eraser = direction / direction.norm()
    vector = SteeringVector.from_directions({1: direction}, info=info, means={1: a_tensor(1)}, erasers={1: eraser})
    return INTERVENTIONS[name].from_vector(vector, 1, None)


def a_condition(threshold: float = 0.5) -> Condition:
    reading = Reading(Site(1), "last")
    first, second = Threshold(reading, a_tensor(2), threshold), Threshold(reading, a_tensor(3), -1.0)
    return Either(Not(first), Both(first, second))


def a_placement(intervention: Intervention | None = None) -> Placement:
    return Placement(
        intervention or of_kind("clamp"), Site(1, "attention", 3), 0.5, Scope.parse("prompt,-3:"), a_condition()
    )


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("transport", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_of_a_placement_is_equal_and_has_its_digest(name: str, transport: object) -> None:
    assert callable(transport)
    placement = a_placement(of_kind(name))

    copied = transport(placement)

    assert copied.intervention is not placement.intervention
    assert copied == placement and hash(copied) == hash(placement)
    assert copied.digest == placement.digest and digest_of((copied,)) == digest_of((placement,))


def test_each_field_of_a_placement_changes_it_and_its_digest() -> None:
    placement = a_placement()
    others = {
        "intervention": Clamp(a_tensor(), -1.0, 1.0),
        "site": Site(1, "attention", 2),
        "strength": 0.25,
        "positions": Scope.parse("prompt,-2:"),
        "condition": a_condition(0.75),
    }
    assert set(others) == {field.name for field in fields(placement)}

    changed = [replace(placement, **{name: value}) for name, value in others.items()]

    assert placement not in changed
    assert len({placement.digest, *(other.digest for other in changed)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Add(a_tensor()), ProjectOut(a_tensor())),
        (Add(a_tensor()), Add(a_tensor(1))),
        (Add(a_tensor()), Add(a_tensor().double())),
        (Add(torch.zeros(4, dtype=torch.int32)), Add(torch.zeros(4))),
        (Add(torch.zeros(2, 4)), Add(torch.zeros(4, 2))),
        (Clamp(a_tensor(), 0.0, 1.0), Clamp(a_tensor(), 0.0, 2.0)),
        (Both(a_condition(), a_condition(1)), Either(a_condition(), a_condition(1))),
        (Both(a_condition(), a_condition(1)), Both(a_condition(1), a_condition())),
        (Not(a_condition()), a_condition()),
    ],
)
def test_what_acts_otherwise_is_not_equal(first: object, second: object) -> None:
    assert first != second
    assert first.digest != second.digest  # pyright: ignore[reportAttributeAccessIssue]  # Each kind has one.


def test_numbers_that_are_equal_have_one_digest() -> None:
    first, second = replace(a_placement(), strength=1), replace(a_placement(), strength=1.0)

    assert first == second and hash(first) == hash(second) and first.digest == second.digest


def test_the_digest_is_that_of_the_values_and_not_of_how_they_lie_in_memory() -> None:
    whole = torch.stack([a_tensor(), a_tensor(1)], dim=1)

    assert Add(whole[:, 0]) == Add(a_tensor()) and Add(whole[:, 0]).digest == Add(a_tensor()).digest
    assert Add(a_tensor().requires_grad_()) == Add(a_tensor())


def test_the_order_of_a_plan_is_part_of_it() -> None:
    first, second = a_placement(), a_placement(Add(a_tensor()))

    assert (first, second) != (second, first)
    assert digest_of((first, second)) != digest_of((second, first))
    assert digest_of(()) != digest_of((first,))


def test_another_process_gives_a_plan_the_same_digest() -> None:
    plan = tuple(a_placement(of_kind(name)) for name in INTERVENTIONS)
    program = (
        "import pickle, sys; from steer_tools.core.values import digest_of;"
        "print(digest_of(pickle.load(sys.stdin.buffer)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(plan), capture_output=True, check=True, timeout=120
    )

    assert done.stdout.decode().strip() == digest_of(plan)


def test_a_digest_is_made_once_and_does_not_travel() -> None:
    placement = a_placement(Add(a_tensor()))
    digest = placement.digest
    assert isinstance(placement.intervention, Add)

    placement.intervention.direction.add_(1)

    assert placement.digest == digest
    assert pickle.loads(pickle.dumps(placement)).digest != digest


@pytest.mark.parametrize("intervention", [ProjectOut(a_tensor()), Replace(a_tensor()), Add(a_tensor())])
def test_rows_that_share_a_pickled_placement_make_one_step(intervention: Intervention) -> None:
    rows = [[Placement(intervention, Site(1), 1.0)] for _ in range(64)]

    copies = [pickle.loads(pickle.dumps(row)) for row in rows]

    assert len(SiteEdits(rows)._steps) == len(SiteEdits(copies)._steps) == 1


def test_rows_of_other_directions_make_a_step_each() -> None:
    rows = [[Placement(ProjectOut(a_tensor(seed)), Site(1), 1.0)] for seed in range(3)]

    assert len(SiteEdits(rows)._steps) == 3
