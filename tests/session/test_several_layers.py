"""One vector at several layers, several vectors at once: lists, ranges and weights, in `steering` as in the tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.small_models import PROMPTS
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    compare_generations,
    generate,
    load_vector,
    remove_all_steering_vectors,
    steering,
)
from steer_tools.core.plan import Plan
from steer_tools.errors import ArgumentError, LayerError, StrengthError
from steer_tools.session.session import Session


def plan_of(session: Session, *calls: dict[str, Any]) -> Plan:
    """Return what is applied after some calls, and take it off."""
    for call in calls:
        apply_steering_vector(**call)
    plan = session.registry.plan()
    remove_all_steering_vectors()
    return plan


@pytest.mark.parametrize("layers", [{0: 0.5, 2: 1.5}, {np.int64(0): np.float32(0.5), -2: 1.5}], ids=str)
def test_layers_with_weights_are_each_layer_by_itself(
    llama_session: Session, make_vector: Callable[..., str], layers: Any
) -> None:
    path, count = make_vector(1), llama_session.engine.info.layers
    wanted = plan_of(
        llama_session,
        {"vector_path": path, "layer": 0, "strength": 0.01},
        {"vector_path": path, "layer": [*layers][1] % count, "strength": 0.03},
    )

    assert plan_of(llama_session, {"vector_path": path, "layer": layers, "strength": 0.02}) == wanted
    with steering(path, layers, 0.02):
        assert llama_session.registry.plan() == wanted
    assert generate(PROMPTS, max_new_tokens=3)["active"] == 0


@pytest.mark.parametrize("layers", [[0, 2], range(0, 3, 2), (2, 0), np.array([0, 2])], ids=str)
def test_a_vector_of_one_layer_acts_at_each_that_is_named(
    llama_session: Session, make_vector: Callable[..., str], layers: Any
) -> None:
    path = make_vector(1)

    result = apply_steering_vector(path, layer=layers)

    assert sorted(result["layer"]) == [0, 2]
    assert sum("made at layer 1" in warning for warning in result["warnings"]) == 2
    directions = [unit.intervention.direction for unit in llama_session.registry.plan()]
    assert all((direction == load_vector(path)[1]).all() for direction in directions)


def test_a_vector_of_several_layers_lacks_others(llama_session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector([0, 1])

    with pytest.raises(LayerError, match=r"no direction for layer 2.*\[0, 1\]"):
        apply_steering_vector(path, layer={0: 1.0, 2: 1.0})
    with pytest.raises(ArgumentError, match="layer is a mapping, and layer_weights"):
        apply_steering_vector(path, layer={0: 1.0}, layer_weights=[1.0])
    with pytest.raises(StrengthError, match="layer weight"):
        apply_steering_vector(path, layer={0: float("nan")})
    assert llama_session.registry.plan() == ()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_several_vectors_are_applied_and_taken_off_as_one(
    llama_session: Session, make_vector: Callable[..., str], is_weighted: bool
) -> None:
    first, second = make_vector(1, "first"), make_vector(2, "second", method="pca")
    weights = {first: 2.0, second: -0.5} if is_weighted else {first: 1.0, second: 1.0}
    wanted = plan_of(
        llama_session, *({"vector_path": path, "strength": 0.03 * weight} for path, weight in weights.items())
    )

    given: Any = weights if is_weighted else [first, load_vector(second)]
    with steering(given, strength=0.03) as applied:
        assert llama_session.registry.plan() == wanted
        assert applied.layers == (1, 2)
        assert len(llama_session.registry) == 1
    assert llama_session.registry.plan() == ()


def test_several_vectors_are_compared_together(llama_session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector(2)
    twice = compare_generations(PROMPTS, [path, path], strengths=[8.0], max_new_tokens=4)
    doubled = compare_generations(PROMPTS, 2 * load_vector(path), strengths=[8.0], max_new_tokens=4)

    assert twice["variants"][0]["texts"] == doubled["variants"][0]["texts"] != twice["baseline"]["texts"]
    with pytest.raises(ArgumentError, match="There is no vector"):
        compare_generations(PROMPTS, [])


def test_steering_takes_another_models_vector_where_it_is_allowed(llama_session: Session) -> None:
    width = llama_session.engine.info.hidden_size
    info = SteeringVector(np.ones(width), layer=1).info.model_copy(update={"model_family": "gpt2"})
    foreign = SteeringVector(np.ones(width), layer=1, info=info)

    with pytest.raises(Exception, match="allow_other_model"), steering(foreign):
        pass
    with steering(foreign, allow_other_model=True, layer_weights=[0.5]) as applied:
        assert applied.unit_placements[0].strength == 0.5
