"""The registry is an ordered map from handles to what is applied under them."""

from __future__ import annotations

import pytest
import torch

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import GENERATED
from steer_tools.core.registry import Applied, Registry
from steer_tools.core.site import Site
from steer_tools.errors import UnknownSteeringIdError


def applied(source: str = "a vector in memory", strength: float = 1.0, layers: tuple[int, ...] = (1,)) -> Applied:
    placements = tuple(Placement(Add(torch.ones(4)), Site(layer), 2.0, GENERATED, None) for layer in layers)
    return Applied("", source, "vector", strength, placements)


@pytest.fixture
def registry() -> Registry:
    """Three handles: steer-1 to steer-3, of the files a, b and c."""
    registry = Registry()
    for name in "abc":
        registry.add(applied(f"vectors/{name}.npy"))
    return registry


def strengths(registry: Registry) -> dict[str, float]:
    return {entry.steering_id: entry.strength for entry in registry.entries()}


def test_handles_count_from_1_and_keep_the_order_they_were_applied_in(registry: Registry) -> None:
    assert len(registry) == 3
    assert [entry.steering_id for entry in registry.entries()] == ["steer-1", "steer-2", "steer-3"]
    assert registry.reserve() == "steer-4"


@pytest.mark.parametrize("name", ["steer-1", "steer-2", "steer-3"])
def test_an_update_changes_one_handle_and_leaves_the_others(registry: Registry, name: str) -> None:
    changed = registry.update(name, -3.0)

    assert changed.strength == -3.0 and registry.find(name) is changed
    assert strengths(registry) == {"steer-1": 1.0, "steer-2": 1.0, "steer-3": 1.0} | {name: -3.0}


@pytest.mark.parametrize("name", ["steer-1", "steer-2", "steer-3"])
def test_a_removal_takes_one_handle_off_and_leaves_the_others(registry: Registry, name: str) -> None:
    before = registry.entries()

    removed = registry.remove(name)

    assert removed.steering_id == name
    assert registry.entries() == tuple(entry for entry in before if entry is not removed)
    with pytest.raises(UnknownSteeringIdError):
        registry.find(name)


def test_a_handle_is_found_by_its_files_name_where_one_has_it_and_by_its_id_first(registry: Registry) -> None:
    registry.add(applied("elsewhere/a.npy"))
    registry.add(applied("vectors/steer-1.npy"))

    assert registry.find("b").steering_id == "steer-2"
    assert registry.find("steer-1").source == "vectors/a.npy"
    with pytest.raises(UnknownSteeringIdError, match="'steer-1', 'steer-2'"):
        registry.find("a")  # Of two files.
    assert registry.update("c", 5.0).steering_id == "steer-3" and registry.remove("c").steering_id == "steer-3"


def test_an_empty_registry_says_that_nothing_is_applied() -> None:
    with pytest.raises(UnknownSteeringIdError, match="none, since nothing is applied now"):
        Registry().find("steer-1")


def test_a_plan_is_all_that_is_applied_in_order_at_the_strength_that_holds(registry: Registry) -> None:
    registry.update("steer-2", -0.5)
    registry.add(applied(strength=3.0, layers=(2, 0, 2)))

    assert [placement.strength for placement in registry.plan()] == [2.0, -1.0, 2.0, 6.0, 6.0, 6.0]
    assert [placement.site.layer for placement in registry.plan()] == [1, 1, 1, 2, 0, 2]
    assert registry.entries()[-1].layers == (2, 0)


def test_a_snapshot_is_put_back_whole(registry: Registry) -> None:
    before = registry.entries()
    registry.remove("steer-2")
    registry.update("steer-1", 9.0)

    registry.restore(before)

    assert registry.entries() is before
