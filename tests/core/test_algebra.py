"""Laws of the algebra of steering vectors, what stays known of them, and what it means in a model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small_models import LAYERS, PROMPTS
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.core.vectors import (
    SteeringVector,
    VectorInfo,
    combine,
    cosines,
    layer_cosines,
    oppositions,
    orthogonalized,
)
from steer_tools.core.vectors.algebra import Opposition
from steer_tools.engines.base import Row
from steer_tools.errors import ArgumentError, DirectionError, ForeignVectorError, LayerError, StrengthError
from steer_tools.prompts import parse_prompts

WIDTH = 32
AT = (1, LAYERS - 1)
MODEL = VectorInfo(
    model_name="tiny",
    model_family="llama",
    model_fingerprint="f1",
    model_layers=4,
    residual_norms=dict.fromkeys(AT, 6.0),
)


def normal(seed: int) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def vector(seed: int, info: VectorInfo = MODEL, layers: tuple[int, ...] = AT) -> SteeringVector:
    return SteeringVector.from_directions({layer: normal(10 * seed + layer) for layer in layers}, info=info)


def known_vector() -> SteeringVector:
    """A vector with every fact, as a mean difference has it."""
    positive, negative = normal(1) + 1, normal(2) - 1
    direction = positive - negative
    unit = direction / direction.norm()
    high, low = float(positive @ unit), float(negative @ unit)
    info = MODEL.model_copy(
        update={
            "method": "mean_difference",
            "pooling": "last",
            "positive_count": 8,
            "negative_count": 5,
            "contrast_norms": {2: float(direction.norm())},
            "positive_projections": {2: high},
            "negative_projections": {2: low},
            "thresholds": {2: 0.4 * high + 0.6 * low},
        }
    )
    slant = normal(3)
    return SteeringVector.from_directions(
        {2: direction},
        info=info,
        means={2: (positive + negative) / 2},
        erasers={2: unit + slant - (slant @ unit) * unit},
    )


def assert_equal(one: SteeringVector, other: SteeringVector, *, exactly: bool = False) -> None:
    assert one.layers == other.layers
    for layer in one.layers:
        tolerance = {"atol": 0.0, "rtol": 0.0} if exactly else {"atol": 1e-6, "rtol": 1e-6}
        torch.testing.assert_close(one.directions[layer], other.directions[layer], **tolerance)


def same_tensors(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[layer], other[layer]) for layer in one)


# Laws


def test_addition_commutes_and_associates_and_is_the_sum_of_the_tensors() -> None:
    a, b, c = vector(1), vector(2), vector(3)

    assert_equal(a + b, b + a, exactly=True)
    assert_equal((a + b) + c, a + (b + c))
    for layer in AT:
        assert torch.equal((a + b).directions[layer], a.directions[layer] + b.directions[layer])
        assert torch.equal((a - b).directions[layer], a.directions[layer] - b.directions[layer])
    assert not torch.equal((a - b).directions[1], (b - a).directions[1])


def test_multiplication_distributes_and_division_undoes_it() -> None:
    a, b = vector(1), vector(2)

    assert_equal(3 * (a + b), 3 * a + 3 * b)
    assert_equal((2 + 0.5) * a, 2 * a + 0.5 * a)
    assert_equal(a * 3, 3 * a, exactly=True)
    assert_equal(3 * a / 3, a)
    assert_equal(a / 4, 0.25 * a, exactly=True)
    assert_equal(a - b, a + -b, exactly=True)
    assert_equal(-1 * -a, a, exactly=True)
    assert_equal(a + a, 2 * a, exactly=True)
    assert torch.equal((3 * a).directions[1], 3 * a.directions[1])


def test_combine_is_the_weighted_sum_and_one_vector_of_weight_1_is_itself() -> None:
    a, b, c = vector(1), vector(2), vector(3)

    assert_equal(combine([a, b, c], [1.0, -0.5, 2.0]), a - 0.5 * b + 2 * c)
    assert_equal(combine([a], [1.0]), a, exactly=True)
    assert combine([a], [1.0]).info == a.info


def test_a_sum_is_rounded_once() -> None:
    large, small = (SteeringVector.from_directions({1: torch.full((4,), value)}) for value in (3.0, 1.23456e-5))

    assert_equal(combine([large, small, large], [1.0, 1.0, -1.0]), small, exactly=True)
    assert not torch.equal((large + small - large).directions[1], small.directions[1])


def test_what_was_given_is_not_changed() -> None:
    known = known_vector()
    before = known.directions[2].clone(), known.erasers[2].clone(), known.info.model_copy(deep=True)

    for result in (-known, 2 * known, known + known, orthogonalized(known, [known + 0.1 * one_at_2(5)])):
        result.directions[2].zero_()

    assert torch.equal(known.directions[2], before[0]) and torch.equal(known.erasers[2], before[1])
    assert known.info == before[2]


def one_at_2(seed: int) -> SteeringVector:
    return SteeringVector.from_directions({2: normal(seed)}, info=MODEL)


# Refusals


def test_what_cancels_is_refused_at_every_layer_and_what_nearly_cancels_is_not() -> None:
    a, b = vector(1), vector(2)
    partly = SteeringVector.from_directions({1: a.directions[1], 3: b.directions[3]}, info=MODEL)

    for make in (lambda: a - a, lambda: 0 * a, lambda: combine([a, b], [0.0, 0.0]), lambda: (a + b) - a - b):
        with pytest.raises(DirectionError, match="Nothing is left of the weighted sum at layer 1"):
            make()
    with pytest.raises(DirectionError, match="at layer 3"):
        b - partly
    assert (a - 0.999 * a).magnitude(1) == pytest.approx(0.001 * a.magnitude(1), rel=1e-3)
    assert (1e-20 * a).magnitude(1) == pytest.approx(1e-20 * a.magnitude(1))


def test_a_sum_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(DirectionError, match="infinity"):
        3e38 * vector(1)
    with pytest.raises(DirectionError, match="Nothing is left"):
        1e-60 * vector(1)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e39])
def test_a_weight_that_is_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(StrengthError, match="weights are"):
        combine([vector(1), vector(2)], [1.0, weight])
    with pytest.raises(StrengthError, match="divided by 0"):
        vector(1) / 0


def test_each_vector_needs_one_weight() -> None:
    for vectors, weights in (([], []), ([vector(1)], []), ([vector(1), vector(2)], [1.0]), ([vector(1)], [1.0, 2.0])):
        with pytest.raises(ArgumentError, match=f"{len(vectors)} vectors and {len(weights)} weights"):
            combine(vectors, weights)


def test_a_number_is_no_vector() -> None:
    for wrong in (1.0, None, torch.ones(WIDTH)):
        with pytest.raises(TypeError):
            vector(1) + wrong
        with pytest.raises(TypeError):
            vector(1) - wrong


def test_vectors_of_other_places_layers_and_models_are_refused_by_name() -> None:
    a, directions = vector(1), {layer: normal(layer) for layer in AT}
    heads = [SteeringVector.from_directions(directions, component="attention", head=head) for head in (0, 1)]
    elsewhere = MODEL.model_copy(update={"model_family": "gpt2"})
    deeper = MODEL.model_copy(update={"model_layers": 5})
    cases = (
        (a, SteeringVector.from_directions(directions, component="mlp"), ArgumentError, r"mlp.*residual"),
        (*heads, ArgumentError, r"head 0.*head 1"),
        (a, SteeringVector.from_directions(dict.fromkeys(AT, torch.ones(9))), ArgumentError, r"width 32.*width 9"),
        (a, vector(2, elsewhere), ForeignVectorError, r"gpt2.*llama"),
        (a, vector(2, deeper), ForeignVectorError, r"4 layers.*5 layers"),
        (a, vector(2, layers=(1, 2)), LayerError, r"\[1, 3\], \[1, 2\]"),
        (a, vector(2, layers=(1,)), LayerError, r"\[1, 3\], \[1\]"),
    )
    for one, other, error, words in cases:
        with pytest.raises(error, match=words):
            one + other
        with pytest.raises(error, match=words):
            orthogonalized(one, [other])
        if error is not LayerError:
            with pytest.raises(error, match=words):
                cosines([one, other], 3)


# What stays known


def test_a_longer_vector_keeps_every_fact_and_is_no_unit_vector() -> None:
    known = known_vector()
    unit = known.normalized()

    for changed in (2.5 * known, known / 3, combine([known], [1e-3])):
        assert changed.info == known.info
        assert same_tensors(changed.means, known.means) and same_tensors(changed.erasers, known.erasers)
    assert (2 * unit).info == unit.info.model_copy(update={"is_unit": False})
    assert (1.0 * unit).info.is_unit and (-unit).info.is_unit and not (-2 * unit).info.is_unit
    assert (-unit).magnitude(2) == pytest.approx(1.0)


def test_the_negative_is_the_vector_of_the_swapped_prompts() -> None:
    known = known_vector()
    info, swapped = known.info, (-2 * known).info

    assert swapped.positive_projections == {2: -info.negative_projections[2]}
    assert swapped.negative_projections == {2: -info.positive_projections[2]}
    assert swapped.negative_projections[2] < swapped.thresholds[2] < swapped.positive_projections[2]
    assert swapped.thresholds == {2: -info.thresholds[2]}
    assert (swapped.positive_count, swapped.negative_count) == (5, 8)
    assert swapped.contrast_norms == info.contrast_norms and swapped.method == info.method
    assert same_tensors((-known).means, known.means)
    back = -1 * -known
    assert back.info == info and same_tensors(back.erasers, known.erasers)
    for changed in (known, -known, -2 * known):
        unit = changed.directions[2] / changed.magnitude(2)
        assert float(unit @ changed.erasers[2]) == pytest.approx(1.0, abs=1e-5)


def test_a_mixture_belongs_to_the_model_and_to_no_contrast() -> None:
    known, other = known_vector(), one_at_2(5)
    expected = MODEL.model_copy(update={"method": "combined"})

    for mixed, method in (
        (known + other, "combined"),
        (known - 0.5 * known, "combined"),
        (orthogonalized(known, [other]), "orthogonalized"),
    ):
        pooling = "last" if mixed.info.pooling else None
        assert mixed.info == expected.model_copy(update={"method": method, "pooling": pooling})
        assert not mixed.means and not mixed.erasers and not mixed.info.is_unit
    assert (known + known).info.pooling == "last"
    assert (known + other).info.pooling is None


def test_where_the_models_are_not_known_to_be_equal_the_mixture_does_not_name_one() -> None:
    tuned = MODEL.model_copy(update={"model_fingerprint": "f2", "model_name": "tuned", "residual_norms": {1: 7.0}})

    mixed = (vector(1) + vector(2, tuned)).info
    with_unknown = (vector(1) + vector(2, VectorInfo())).info

    assert (mixed.model_family, mixed.model_layers) == ("llama", 4)
    assert (mixed.model_fingerprint, mixed.model_name, mixed.residual_norms) == (None, None, {})
    assert with_unknown == VectorInfo(method="combined")


def test_the_place_is_kept() -> None:
    a, b = (SteeringVector.from_directions({1: normal(s)}, component="attention", head=3) for s in (1, 2))

    for result in (a + b, 2 * a, -a, orthogonalized(a, [b])):
        assert (result.component, result.head) == ("attention", 3)


# How vectors lie to each other


def test_what_is_orthogonalized_has_no_part_along_any_of_the_others_and_keeps_the_rest() -> None:
    a, others = vector(1), [vector(2), 1e-6 * vector(3), 1e6 * vector(4)]

    result = orthogonalized(a, others)

    for layer in AT:
        assert cosines([result, *others], layer)[0, 1:].abs().max() < 1e-6
        assert cosines([a, *others], layer)[0, 1:].abs().max() > 0.05
        removed = a.directions[layer] - result.directions[layer]
        basis = torch.stack([other.directions[layer] / other.magnitude(layer) for other in others], dim=1)
        inside = basis @ torch.linalg.lstsq(basis, removed[:, None]).solution
        torch.testing.assert_close(inside[:, 0], removed, atol=1e-5, rtol=0)
    assert_equal(orthogonalized(result, others), result)


def test_parallel_others_take_away_no_more_than_one_of_them() -> None:
    a, b = vector(1), vector(2)

    assert_equal(orthogonalized(a, [b, -3 * b, b]), orthogonalized(a, [b]))


def test_a_vector_in_the_span_of_the_others_is_refused() -> None:
    a, b, c = vector(1), vector(2), vector(3)

    for inside, others in ((a, [a]), (a, [b, -2 * a]), (a + 2 * b, [a, b])):
        with pytest.raises(DirectionError, match=r"layer 1 .*span"):
            orthogonalized(inside, others)
    assert orthogonalized(a + 0.01 * c, [a, b]).magnitude(1) > 0
    with pytest.raises(ArgumentError, match="at least one"):
        orthogonalized(a, [])


def test_cosines_are_those_of_the_tensors_whatever_the_lengths() -> None:
    a, b = vector(1), vector(2)

    table = cosines([a, 3 * b, -a, 1e-30 * b], 3)

    expected = torch.nn.functional.cosine_similarity(a.directions[3].double(), b.directions[3].double(), dim=0)
    assert table.shape == (4, 4) and table.dtype == torch.float64
    torch.testing.assert_close(table.diagonal(), torch.ones(4).double())
    torch.testing.assert_close(table, table.T, atol=0, rtol=0)
    assert float(table[0, 1]) == pytest.approx(float(expected))
    assert float(table[0, 2]) == pytest.approx(-1.0) and float(table[1, 3]) == pytest.approx(1.0)
    with pytest.raises(LayerError, match=r"layer 2.*\[1, 3\]"):
        cosines([a, b], 2)


def test_layers_are_compared_in_their_order() -> None:
    three = SteeringVector.from_directions({7: 1e-30 * normal(1), 2: 5 * normal(1), 4: normal(2)})

    table = layer_cosines(three)

    assert three.layers == (2, 4, 7)
    assert float(table[0, 2]) == pytest.approx(1.0) and abs(float(table[0, 1])) < 0.9
    assert {layer: three.magnitude(layer) for layer in three.layers} == {
        layer: pytest.approx(float(three.directions[layer].double().norm())) for layer in (2, 4, 7)
    }


def test_opposed_pairs_are_found_at_their_layers_and_weights_turn_them() -> None:
    a, b = vector(1), vector(2)
    against = SteeringVector.from_directions({1: 0.1 * normal(5) - a.directions[1], 3: a.directions[3]}, info=MODEL)

    (found,) = oppositions([b, a, against], [1.0, 1.0, 0.5])
    (turned,) = oppositions([a, against], [1.0, -1.0])

    assert found == Opposition(1, 2, 1, float(cosines([a, against], 1)[0, 1])) and found.cosine < -0.9
    assert (turned.first, turned.second, turned.layer) == (0, 1, 3) and turned.cosine == pytest.approx(-1.0)
    assert oppositions([a, b], [1.0, 1.0]) == oppositions([a, against], [0.0, 1.0]) == ()


@pytest.mark.parametrize(("cosine", "is_opposed"), [(-0.55, True), (-0.45, False), (0.9, False)])
def test_opposition_begins_below_minus_one_half(cosine: float, is_opposed: bool) -> None:
    one = SteeringVector.from_directions({0: torch.tensor([2.0, 0.0])})
    other = SteeringVector.from_directions({0: torch.tensor([cosine, math.sqrt(1 - cosine**2)])})

    assert bool(oppositions([one, other], [1.0, 1.0])) is is_opposed


# In a model


def placements(steering: SteeringVector, strength: float) -> Plan:
    scope = Scope.parse("all")
    return tuple(Placement(Add(d), Site(n), strength, scope) for n, d in steering.directions.items())


def test_steering_with_a_combination_equals_steering_with_all_of_it(engine: Any) -> None:
    a, b = vector(1), vector(2)
    rows = parse_prompts(PROMPTS)

    def logits(plan: Plan) -> Tensor:
        return torch.stack(engine.distributions([Row(prompt, plan) for prompt in rows]))

    together = logits(placements(combine([a, b], [1.5, -0.5]), 1.0))
    both = logits(placements(a, 1.5) + placements(b, -0.5))
    one_alone = logits(placements(a, 1.5))

    torch.testing.assert_close(together, both, atol=2e-4, rtol=0)
    assert (together - one_alone).abs().max() > 0.1
    for weight in (1.5, 0.1, -1 / 3):
        assert torch.equal(logits(placements(combine([a], [weight]), 1.0)), logits(placements(a, weight)))
    assert not torch.equal(logits(()), one_alone)


def test_what_a_threshold_misses_of_one_class_is_a_false_alarm_for_the_opposite() -> None:
    info = VectorInfo(thresholds={1: 2.0}, misses={1: 0.1}, false_alarms={1: 0.3})

    turned = (-SteeringVector.from_directions({1: torch.ones(4)}, info=info)).info

    assert (turned.thresholds, turned.misses, turned.false_alarms) == ({1: -2.0}, {1: 0.3}, {1: 0.1})
