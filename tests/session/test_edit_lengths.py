"""Whoever adds more than a text can bear is told so, with the strength that would be gentle."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS
from steer_tools import (
    apply_steering_vector,
    compare_generations,
    compare_next_tokens,
    create_steering_vector,
    generate,
    remove_all_steering_vectors,
    steering,
    update_steering_vector,
)
from steer_tools.core.site import Site
from steer_tools.session.session import Session

RULE = "above 0.5 texts tend to break;"
TOO_LONG = re.compile(r"above 0\.5 texts tend to break; (.+) would add 0\.2")


@pytest.fixture
def vector(llama_session: Session) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]


def told(warnings_of_a_result: list[str]) -> list[str]:
    return [warning for warning in warnings_of_a_result if TOO_LONG.search(warning)]


def gentle(warning: str) -> float:
    found = TOO_LONG.search(warning)
    assert found
    return float(found[1])


@pytest.mark.parametrize("strength", [1e6, -1e6, 0.51, -0.51])
@pytest.mark.parametrize("intervention", ["add", "add_keeping_norm"])
def test_a_long_edit_is_told_of_and_the_named_strength_is_gentle(
    vector: str, strength: float, intervention: Any
) -> None:
    applied = apply_steering_vector(vector, 2, strength, "residual", intervention)
    (warning,) = told(applied["warnings"])
    remove_all_steering_vectors()
    softly = apply_steering_vector(vector, 2, gentle(warning), "residual", intervention)

    assert softly["residual_strength"] == pytest.approx(0.2 if strength > 0 else -0.2)
    assert told(softly["warnings"]) == []


@pytest.mark.parametrize("strength", [0.2, 0.5, -0.5, 0.0])
def test_half_a_norm_is_not_too_long(vector: str, strength: float) -> None:
    for layer in range(4):
        assert told(apply_steering_vector(vector, layer, strength, "residual")["warnings"]) == []
        remove_all_steering_vectors()


def test_each_way_to_steer_tells_the_same_of_a_long_edit_and_nothing_of_a_gentle_one(vector: str) -> None:
    def by_each_way(strength: float) -> list[list[str]]:
        own = {"layer": 2, "unit": "residual"}
        compared = compare_generations(PROMPTS[:1], vector, strengths=[0.1, strength], max_new_tokens=1, **own)  # pyright: ignore[reportArgumentType]
        tokens = compare_next_tokens(PROMPTS[:1], vector, strengths=[strength], **own)  # pyright: ignore[reportArgumentType]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with steering(vector, 2, strength, unit="residual"):
                inside = generate(PROMPTS[:1], max_new_tokens=1)
                live = compare_generations(PROMPTS[:1], max_new_tokens=1)
        applied = apply_steering_vector(vector, 2, 0.1, "residual")
        updated = update_steering_vector(applied["steering_id"], strength)
        remove_all_steering_vectors()
        results = [compared, tokens, inside, live, updated]
        assert all(warning.filename == __file__ for warning in caught)
        return [[str(warning.message) for warning in caught], *(told(result["warnings"]) for result in results)]

    long, soft = by_each_way(3.0), by_each_way(0.2)

    assert long == [[f"At layer 2 strength 3 adds 3 of the typical norm there, and {RULE} 0.2 would add 0.2."]] * 6
    assert soft == [[]] * 6
    assert told(generate(PROMPTS[:1], max_new_tokens=1)["warnings"]) == []


def test_what_several_vectors_add_at_one_layer_is_told_of_together(vector: str) -> None:
    first = apply_steering_vector(vector, 2, 0.4, "residual")
    second = apply_steering_vector(vector, 2, 0.4, "residual")
    elsewhere = apply_steering_vector(vector, 1, 0.4, "residual")
    against = apply_steering_vector(vector, 2, -0.6, "residual")

    assert told(first["warnings"]) == told(elsewhere["warnings"]) == told(against["warnings"]) == []
    assert told(second["warnings"]) == [
        f"At layer 2 strengths 0.4 and 0.4 together add 0.8 of the typical norm there, and {RULE} 0.1 and 0.1 would "
        "add 0.2."
    ]


def test_additions_whose_conditions_differ_are_not_counted_together(vector: str) -> None:
    apply_steering_vector(vector, 2, 0.4, "residual", condition=vector)
    other = apply_steering_vector(vector, 2, 0.4, "residual", condition=f"not {vector}")
    everywhere = apply_steering_vector(vector, 2, 0.2, "residual")

    assert told(other["warnings"]) == []
    assert len(told(everywhere["warnings"])) == 1


def test_the_longest_of_several_layers_and_the_own_norm_of_a_part_are_told(llama_session: Session) -> None:
    several = create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "several", normalize=True)["vector_path"]
    part = create_steering_vector(POSITIVE, NEGATIVE, 1, "part", component="mlp")["vector_path"]

    (at_two,) = told(apply_steering_vector(several, [1, 2], layer_weights=[0.1, 1e4])["warnings"])
    (at_part,) = told(apply_steering_vector(part, 1, 3.0, "residual")["warnings"])

    norm = llama_session.typical_norm(Site(2))
    assert at_two.startswith(f"At layer 2 strength 1 adds {1e4 / norm:.2g} of")
    assert gentle(at_two) == pytest.approx(0.2 * norm / 1e4, rel=1e-2)
    assert at_part.startswith("At layer 1 mlp strength 3 adds 3 of the typical norm there")


def test_edits_without_a_length_of_their_own_are_not_told_of(vector: str) -> None:
    for kind in ("project_out", "zero", "replace"):
        assert told(apply_steering_vector(vector, 2, intervention=kind)["warnings"]) == []
