"""Laws of the interventions, over all of them where a law is general, so that the next kind is held to it too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from steer_tools.core.interventions import (
    INTERVENTIONS,
    Add,
    AddKeepingNorm,
    Affine,
    Clamp,
    Intervention,
    ProjectOut,
    intervention_named,
)
from steer_tools.core.interventions.moving import Rotate
from steer_tools.core.interventions.projecting import Erase
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, DirectionError

WIDTH = 24
LAYER = 3
TARGETED = {"affine", "clamp", "rotate"}
# Replacing by the direction as it is saved uses its length, though the strength is a share.
USES_LENGTH = {"add", "add_keeping_norm", "replace"}
WHOLE = sorted(name for name, kind in INTERVENTIONS.items() if not kind.scales_direction and name != "rotate")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(direction: Tensor) -> Tensor:
    return direction.double() / direction.double().norm()


def vector_with_everything(width: int = WIDTH) -> SteeringVector:
    """A vector that has every fact that an intervention may ask for; its negative prompts are not at the origin."""
    direction, mean, slanted = 2.5 * normal(width, seed=1), normal(width, seed=2), normal(width, seed=3)
    eraser = unit(direction) + 0.5 * (slanted - (slanted.double() @ unit(direction)) * unit(direction))
    middle = float(mean.double() @ unit(direction))
    half = float(direction.double().norm()) / 2
    info = VectorInfo(positive_projections={LAYER: middle + half}, negative_projections={LAYER: middle - half})
    return SteeringVector.from_directions({LAYER: direction}, info=info, means={LAYER: mean}, erasers={LAYER: eraser})


def make(name: str, target: float | None = None, width: int = WIDTH) -> Intervention:
    return INTERVENTIONS[name].from_vector(vector_with_everything(width), LAYER, target)


def edited(intervention: Intervention, hidden: Tensor, strength: float) -> Tensor:
    return intervention.edit(hidden, torch.tensor(strength))


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32)


@pytest.fixture(params=INTERVENTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# Laws of all


def test_each_is_found_by_its_own_name_and_another_name_is_refused_with_all_of_them(name: str) -> None:
    assert intervention_named(name).name == name
    for stranger in ("addition", "", None, ["add"]):
        with pytest.raises(ArgumentError, match=f"intervention is .*'{name}'"):
            intervention_named(stranger)


def test_the_units_of_length_belong_to_the_two_additions() -> None:
    assert {name for name, kind in INTERVENTIONS.items() if kind.scales_direction} == {"add", "add_keeping_norm"}


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e15])
def test_strength_zero_keeps_every_bit_and_another_strength_does_not(name: str, size: float) -> None:
    hidden = size * normal(6, WIDTH, seed=4)
    hidden[0], hidden[1], hidden[2, ::2] = 0.0, -0.0, -0.0
    by_row = torch.tensor([[0.0], [-0.0], [0.0], [1.0], [0.0], [-1.0]])

    for zero in (0.0, -0.0):
        assert torch.equal(bits(edited(make(name), hidden, zero)), bits(hidden))
    mixed = make(name).edit(hidden, by_row)

    assert torch.equal(bits(mixed[by_row[:, 0] == 0]), bits(hidden[by_row[:, 0] == 0]))
    if size == 1.0:
        assert not (mixed[3] == hidden[3]).all() and not (mixed[5] == hidden[5]).all()
        assert torch.equal(bits(mixed[3:4]), bits(edited(make(name), hidden[3:4], 1.0)))


def test_nothing_given_is_changed_and_the_result_shares_no_memory(name: str) -> None:
    vector, hidden = vector_with_everything(), normal(5, WIDTH)
    strengths = torch.tensor([[0.0], [0.7], [1.0], [-1.0], [0.0]])
    tensors = [*vector.directions.values(), *vector.means.values(), *vector.erasers.values(), hidden, strengths]
    before = [tensor.clone() for tensor in tensors]

    for strength in (strengths, strengths[0, 0], strengths[2, 0]):
        INTERVENTIONS[name].from_vector(vector, LAYER, None).edit(hidden, strength).fill_(9.0)

    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def test_float64_gives_the_same_in_float64(name: str) -> None:
    hidden = normal(5, WIDTH)

    for strength in (0.7, 1.0, -2.0):
        single = edited(make(name), hidden, strength)
        double = make(name).edit(hidden.double(), torch.tensor(strength, dtype=torch.float64))
        by_row = make(name).edit(hidden.double(), torch.full((5, 1), strength))

        assert single.dtype == torch.float32 and double.dtype == by_row.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, atol=3e-6, rtol=3e-6)
        torch.testing.assert_close(by_row, double, atol=3e-7, rtol=3e-7)
        assert strength == 1.0 or not torch.equal(single.double(), double)


@pytest.mark.parametrize("width", [WIDTH, 33, 257])
def test_a_row_among_others_equals_the_row_alone_bit_for_bit(name: str, width: int) -> None:
    hidden, strengths = normal(7, width), torch.tensor([[1.0], [0.0], [-0.3], [2.5], [0.5], [1.0], [-1.0]])
    intervention = make(name, width=width)

    together = intervention.edit(hidden, strengths)
    alone = torch.cat([intervention.edit(hidden[i : i + 1], strengths[i : i + 1]) for i in range(7)])
    by_scalar = torch.cat([intervention.edit(hidden[i : i + 1], strengths[i, 0]) for i in range(7)])

    assert torch.equal(bits(together), bits(alone))
    assert torch.equal(bits(together), bits(by_scalar))


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_gradients_are_right_by_hidden_and_by_strength(name: str, strength: float) -> None:
    intervention = make(name, width=6)
    hidden = normal(3, 6).double().requires_grad_()
    strengths = torch.full((3, 1), strength, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(intervention.edit, (hidden, strengths))
    (by_strength,) = torch.autograd.grad((intervention.edit(hidden, strengths) * normal(3, 6, seed=5)).sum(), strengths)
    assert (by_strength.abs() > 1e-3).all()


def test_only_the_direction_of_the_direction_counts_but_where_its_length_is_added(name: str) -> None:
    vector, hidden = vector_with_everything(), normal(5, WIDTH)

    def result(of: SteeringVector) -> Tensor:
        return edited(INTERVENTIONS[name].from_vector(of, LAYER, None), hidden, 1.0)

    if name in USES_LENGTH:
        assert not torch.allclose(result(3 * vector), result(vector), atol=0.1)
    else:
        for factor in (3.0, 1e-25, 1e25):
            torch.testing.assert_close(result(factor * vector), result(vector), atol=1e-5, rtol=1e-5)


def test_a_target_is_refused_where_there_is_none_and_where_it_is_not_finite(name: str) -> None:
    if name in TARGETED:
        assert not torch.allclose(
            edited(make(name, 0.8), normal(5, WIDTH), 1.0), edited(make(name), normal(5, WIDTH), 1.0), atol=1e-3
        )
        for target in (math.nan, math.inf, -math.inf):
            with pytest.raises(ArgumentError, match=f"target is {target}.*finite.*{name}"):
                make(name, target)
    else:
        with pytest.raises(ArgumentError, match=f"target is 0.8.*{name}.*has no target"):
            make(name, 0.8)


def test_a_vector_that_lacks_a_fact_is_refused_only_by_those_that_need_it(name: str) -> None:
    bare = SteeringVector.from_directions(vector_with_everything().directions)
    needs = {"affine": "negative", "clamp": "target", "rotate": "mean", "mean": "mean", "erase": "eraser"}

    if name in {"add", "add_keeping_norm", "project_out", "replace", "zero"}:
        INTERVENTIONS[name].from_vector(bare, LAYER, None)
    else:
        fact = needs.get(name, "")
        with pytest.raises(ArgumentError, match=f"{name}.*needs.*{fact}.*layer 3.*create_steering_vector"):
            INTERVENTIONS[name].from_vector(bare, LAYER, None)
    assert isinstance(Clamp.from_vector(bare, LAYER, 0.5), Clamp)


def test_each_single_missing_fact_is_named() -> None:
    full = vector_with_everything()
    without_eraser = SteeringVector.from_directions(full.directions, means=full.means, info=full.info)
    without_mean = SteeringVector.from_directions(full.directions, erasers=full.erasers)
    half = SteeringVector.from_directions(full.directions, info=VectorInfo(negative_projections={LAYER: 1.0}))

    for kind, vector, words in (
        (Erase, without_eraser, "eraser of a mean difference"),
        (Erase, without_mean, "mean activation"),
        (Affine, half, "positive prompts' projection"),
    ):
        with pytest.raises(ArgumentError, match=words):
            kind.from_vector(vector, LAYER, None)


# Laws of those that have a whole


@pytest.mark.parametrize("kind", WHOLE)
class TestEveryWholeEdit:
    def test_the_strength_is_the_share_of_the_whole(self, kind: str) -> None:
        hidden = normal(5, WIDTH)
        whole = edited(make(kind), hidden, 1.0) - hidden

        for strength in (0.25, 0.5, 2.0, -1.0):
            share = edited(make(kind), hidden, strength) - hidden
            torch.testing.assert_close(share, strength * whole, atol=2e-6, rtol=2e-6)
        assert whole.norm(dim=1).min() > 0.1

    def test_the_whole_twice_is_the_whole_once_and_the_half_is_not(self, kind: str) -> None:
        hidden = normal(5, WIDTH)

        whole, half = edited(make(kind), hidden, 1.0), edited(make(kind), hidden, 0.5)

        torch.testing.assert_close(edited(make(kind), whole, 1.0), whole, atol=2e-6, rtol=0)
        assert not torch.allclose(edited(make(kind), half, 0.5), half, atol=0.01)


@pytest.mark.parametrize("kind", ["project_out", "affine", "clamp", "erase", "rotate"])
def test_what_is_across_the_direction_is_untouched(kind: str) -> None:
    vector, hidden = vector_with_everything(), normal(5, WIDTH).double()
    plane = [vector.directions[LAYER].double()] + ([vector.means[LAYER].double()] if kind == "rotate" else [])
    basis, _ = torch.linalg.qr(torch.stack(plane, dim=1))

    def outside(states: Tensor) -> Tensor:
        return states - states @ basis @ basis.T

    result = edited(make(kind), hidden, 0.8)

    torch.testing.assert_close(outside(result), outside(hidden), atol=1e-12, rtol=0)
    assert not torch.allclose(result, hidden, atol=0.01)


def test_constant_targets_are_reached_exactly() -> None:
    vector, hidden = vector_with_everything(), 100 * normal(5, WIDTH)

    for kind, end in (
        ("replace", vector.directions[LAYER]),
        ("zero", torch.zeros(WIDTH)),
        ("mean", vector.means[LAYER]),
    ):
        assert torch.equal(edited(make(kind), hidden, 1.0), end.expand(5, WIDTH))
        assert not torch.equal(edited(make(kind), hidden, 0.9), end.expand(5, WIDTH))


# Each by itself


def test_add_is_the_sum() -> None:
    hidden, direction = normal(5, WIDTH), normal(WIDTH, seed=1)

    assert torch.equal(edited(Add(direction), hidden, 0.3), hidden + 0.3 * direction)


@pytest.mark.parametrize("strength", [0.5, -3.0, 100.0])
def test_add_keeping_norm_keeps_the_norm_and_points_where_the_sum_points(strength: float) -> None:
    hidden, direction = normal(5, WIDTH).double(), normal(WIDTH, seed=1)
    total = hidden + strength * direction

    result = edited(AddKeepingNorm(direction), hidden, strength)

    torch.testing.assert_close(result.norm(dim=1), hidden.norm(dim=1), atol=1e-12, rtol=0)
    torch.testing.assert_close(result / hidden.norm(dim=1)[:, None], total / total.norm(dim=1)[:, None])
    assert not torch.allclose(total.norm(dim=1), hidden.norm(dim=1), atol=0.1)


def test_add_keeping_norm_keeps_a_token_that_the_sum_makes_zero_and_its_gradient_finite() -> None:
    direction = normal(WIDTH, seed=1)
    hidden = torch.stack([-2 * direction, torch.zeros(WIDTH), direction]).requires_grad_()

    result = edited(AddKeepingNorm(direction), hidden, 2.0)
    result.sum().backward()

    assert torch.equal(result[0], hidden[0])
    assert torch.equal(result[1], torch.zeros(WIDTH))
    torch.testing.assert_close(result[2], hidden[2])
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_project_out_leaves_no_component() -> None:
    hidden, direction = normal(5, WIDTH).double(), normal(WIDTH, seed=1)

    result = edited(ProjectOut(direction), hidden, 1.0)

    assert (result @ unit(direction)).abs().max() < 1e-12
    assert (hidden @ unit(direction)).abs().min() > 1e-3


def test_affine_gives_every_token_the_projection_that_the_target_names() -> None:
    vector, hidden = vector_with_everything(), normal(5, WIDTH).double()
    negative, positive = vector.info.negative_projections[LAYER], vector.info.positive_projections[LAYER]

    for target, expected in (
        (None, negative),
        (0.0, negative),
        (1.0, positive),
        (0.5, (negative + positive) / 2),
        (-1.0, 2 * negative - positive),
    ):
        result = edited(make("affine", target), hidden, 1.0) @ unit(vector.directions[LAYER])
        torch.testing.assert_close(result, torch.full((5,), expected).double(), atol=1e-6, rtol=1e-6)
    assert abs(negative) > 0.1 and abs(positive - negative) > 0.1


def test_clamp_holds_at_the_positive_prompts_or_the_target() -> None:
    vector, hidden = vector_with_everything(), normal(5, WIDTH).double()

    for target, expected in ((None, vector.info.positive_projections[LAYER]), (-0.5, -0.5), (0.0, 0.0)):
        result = edited(make("clamp", target), hidden, 1.0) @ unit(vector.directions[LAYER])
        torch.testing.assert_close(result, torch.full((5,), expected).double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-math.inf, 0.2), (-0.2, math.inf), (-0.2, 0.2)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_clamp_moves_tokens_outside_to_the_bound_and_keeps_every_bit_of_those_inside(
    low: float, high: float, strength: float
) -> None:
    hidden, direction = normal(200, WIDTH), normal(WIDTH, seed=1)
    hidden[:, 0] = -0.0
    before = hidden.double() @ unit(direction)
    is_inside = (before >= low) & (before <= high)

    result = edited(Clamp(direction, low, high), hidden, strength)

    assert torch.equal(bits(result[is_inside]), bits(hidden[is_inside]))
    after = result[~is_inside].double() @ unit(direction)
    outside = before[~is_inside]
    torch.testing.assert_close(after, outside + strength * (outside.clamp(low, high) - outside), atol=1e-5, rtol=0)
    assert 20 < is_inside.sum() < 180


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 0.0), (math.nan, 1.0), (0.0, math.nan), (-math.inf, math.inf), (math.inf, math.inf)],
)
def test_a_clamp_without_a_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ArgumentError, match="low <= high"):
        Clamp(normal(WIDTH), low, high)


# Rotation


def rotation(angle: float) -> Rotate:
    return Rotate(normal(WIDTH, seed=1), normal(WIDTH, seed=2), angle)


def in_plane(states: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along the direction and across it, towards the second vector."""
    direction = unit(normal(WIDTH, seed=1))
    second = normal(WIDTH, seed=2).double()
    across = unit(second - (second @ direction) * direction)
    return states @ direction, states @ across


@pytest.mark.parametrize(("angle", "strength"), [(90.0, 1.0), (90.0, -0.3), (20.0, 2.0), (1e-3, 1.0), (400.0, 0.5)])
def test_rotate_turns_by_the_angle_towards_the_direction_and_keeps_the_norm(angle: float, strength: float) -> None:
    hidden = normal(50, WIDTH).double()

    result = rotation(angle).edit(hidden, torch.tensor(strength, dtype=torch.float64))

    (x, y), (x_after, y_after) = in_plane(hidden), in_plane(result)
    turned = torch.rad2deg(torch.atan2(y, x) - torch.atan2(y_after, x_after))
    off = (turned - angle * strength + 180) % 360 - 180
    assert off.abs().max() < 1e-9
    torch.testing.assert_close(result.norm(dim=1), hidden.norm(dim=1), atol=1e-12, rtol=0)


def test_turns_add_up_and_turn_back() -> None:
    hidden, one = normal(5, WIDTH).double(), torch.tensor(1.0, dtype=torch.float64)

    both = rotation(35.0).edit(rotation(20.0).edit(hidden, one), one)

    torch.testing.assert_close(both, rotation(55.0).edit(hidden, one), atol=1e-12, rtol=0)
    torch.testing.assert_close(rotation(55.0).edit(both, -one), hidden, atol=1e-12, rtol=0)
    torch.testing.assert_close(rotation(360.0).edit(hidden, one), hidden, atol=1e-12, rtol=0)
    assert not torch.allclose(both, hidden, atol=0.1)


def test_a_quarter_turn_is_the_default_and_brings_what_was_across_to_the_direction() -> None:
    vector = vector_with_everything()
    direction, mean = unit(vector.directions[LAYER]), vector.means[LAYER].double()
    across = mean - (mean @ direction) * direction

    turned = edited(make("rotate"), across[None], 1.0)[0]
    away = edited(make("rotate"), across[None], -1.0)[0]

    torch.testing.assert_close(turned, across.norm() * direction, atol=1e-6, rtol=0)
    torch.testing.assert_close(away, -across.norm() * direction, atol=1e-6, rtol=0)


def test_a_positive_turn_brings_the_mean_activation_nearer_to_the_direction_and_a_negative_one_away() -> None:
    vector = vector_with_everything()

    for sign in (1, -1):
        signed = sign * vector
        direction, mean = unit(signed.directions[LAYER]), signed.means[LAYER].double()
        results = [edited(make_rotation(signed), mean[None], s)[0] @ direction for s in (-1.0, 0.0, 1.0)]
        assert results[0] < results[1] - 0.1 and results[1] < results[2] - 0.1


def make_rotation(vector: SteeringVector) -> Rotate:
    return Rotate.from_vector(vector, LAYER, 20.0)


def test_parallel_vectors_span_no_plane() -> None:
    direction = normal(WIDTH, seed=1)

    for factor in (1.0, -3.0, 1e-20):
        with pytest.raises(DirectionError, match="parallel"):
            Rotate(direction, factor * direction, 90.0)
    for factor in (1.0, 1e-20, 1e20):
        assert Rotate(direction, factor * (direction + 0.01 * normal(WIDTH)), 90.0).angle == 90.0


# LEACE

# What is erased has one dimension less, and what fills that one is the rounding of float32 tensors.
RIDGE = 1e-3


def two_classes(count: int, *, shift: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations (2 count, WIDTH) float64 of a badly conditioned Gaussian, and their classes (2 count,), 0 or 1."""
    mixing = normal(WIDTH, WIDTH, seed=7).double() * torch.logspace(0, -1, WIDTH, dtype=torch.float64)
    labels = torch.arange(2 * count) % 2
    contrast = shift * unit(normal(WIDTH, seed=8)) + 0.3
    states = normal(2 * count, WIDTH, seed=100 + seed).double() @ mixing.T + labels[:, None] * contrast
    return states + 2.0, labels.double()


def fitted_eraser(states: Tensor, labels: Tensor) -> Erase:
    """The closed form for two classes: w = Σ⁻¹δ / (û·Σ⁻¹δ), with Σ the covariance within classes."""
    positive, negative = states[labels == 1], states[labels == 0]
    contrast = positive.mean(0) - negative.mean(0)
    centred = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    w = torch.linalg.solve(centred.T @ centred / len(centred), contrast)
    return Erase(contrast.float(), (w / (w @ unit(contrast))).float(), states.mean(0).float())


def standardised(states: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what brings activations to mean 0 and variance 1 as in `states`, with a column of ones."""
    mean, spread = states.mean(0), states.std(0)
    return lambda raw: torch.cat([(raw - mean) / spread, torch.ones(len(raw), 1, dtype=raw.dtype)], dim=1)


def logistic_probe(states: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Fit a logistic regression by Newton's method, with a small ridge, and return its scores."""
    design = standardised(states)
    inputs, weights = design(states), torch.zeros(WIDTH + 1, dtype=torch.float64)
    for _ in range(15):
        chances = (inputs @ weights).sigmoid()
        slope = inputs.T @ (chances - labels) + RIDGE * weights
        curve = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + RIDGE * torch.eye(WIDTH + 1)
        weights = weights - torch.linalg.solve(curve, slope)
    return lambda raw: design(raw) @ weights


def least_squares_probe(states: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    design = standardised(states)
    inputs = design(states)
    weights = torch.linalg.solve(inputs.T @ inputs + RIDGE * torch.eye(WIDTH + 1), inputs.T @ (labels - 0.5))
    return lambda raw: design(raw) @ weights


Probe = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]


@pytest.mark.parametrize("probe", [logistic_probe, least_squares_probe])
def test_after_erasing_no_linear_probe_beats_chance_on_new_examples_and_before_it_does(probe: Probe) -> None:
    eraser = fitted_eraser(*two_classes(4000))
    states, labels = two_classes(2000, seed=1)
    held_out, held_out_labels = two_classes(2000, seed=2)

    def accuracy(edit: Callable[[Tensor], Tensor]) -> float:
        scores = probe(edit(states), labels)(edit(held_out))
        return float(((scores > 0) == (held_out_labels == 1)).double().mean())

    assert accuracy(lambda h: h) > 0.9
    assert abs(accuracy(lambda h: edited(eraser, h, 1.0)) - 0.5) < 0.04
    assert accuracy(lambda h: edited(eraser, h, 0.5)) > 0.9


@pytest.mark.parametrize("probe", [logistic_probe, least_squares_probe])
def test_on_its_own_examples_the_best_probe_after_erasing_is_constant(probe: Probe) -> None:
    states, labels = two_classes(500)
    eraser = fitted_eraser(states, labels)

    def spread(raw: Tensor) -> float:
        scores = probe(raw, labels)(raw)
        return float(scores.max() - scores.min())

    assert spread(edited(eraser, states, 1.0)) < 1e-3
    assert spread(edited(eraser, states, 0.9)) > 0.5


def test_erasing_leaves_no_covariance_with_the_class() -> None:
    states, labels = two_classes(500)
    eraser = fitted_eraser(states, labels)

    def covariance(raw: Tensor) -> Tensor:
        return (raw - raw.mean(0)).T @ (labels - labels.mean()) / len(raw)

    assert covariance(edited(eraser, states, 1.0)).abs().max() < 1e-6
    assert covariance(states).abs().max() > 0.1
    torch.testing.assert_close(edited(eraser, states, 1.0).mean(0), states.mean(0), atol=1e-6, rtol=0)


def test_erasing_is_the_least_change_in_the_metric_of_the_data_among_edits_that_erase() -> None:
    states, labels = two_classes(500)
    eraser = fitted_eraser(states, labels)
    centred = states - states.mean(0)
    whitening = torch.linalg.inv(centred.T @ centred / len(states))
    contrast = unit(eraser.direction)

    def change(w: Tensor) -> float:
        """Mean squared change of h − û(w·(h − mean)), which erases for every w with w·û = 1."""
        moved = (centred @ w)[:, None] * contrast
        return float(((moved @ whitening) * moved).sum(dim=1).mean())

    least = change(eraser.eraser.double())

    assert change(contrast) > 1.5 * least
    for seed in range(20):
        other = normal(WIDTH, seed=seed).double()
        other = other - (other @ contrast) * contrast
        assert change(eraser.eraser.double() + 0.1 * other) > least


def test_an_eraser_that_does_not_erase_is_refused() -> None:
    eraser = fitted_eraser(*two_classes(100))

    for wrong in (2 * eraser.eraser, -eraser.eraser, torch.full((WIDTH,), math.nan)):
        with pytest.raises(DirectionError, match="eraser's product"):
            Erase(eraser.direction, wrong, eraser.mean)
    assert isinstance(Erase(5 * eraser.direction, eraser.eraser, eraser.mean), Erase)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_other_side_of_a_vector_asks_the_opposite(sign: float) -> None:
    """−vector is the vector of the swapped prompts, for every kind: at the other side's place, or away from it."""
    vector, hidden = vector_with_everything(), normal(5, WIDTH)
    swapped = sign * vector

    def result(kind: str, of: SteeringVector, target: float | None = None, strength: float = 1.0) -> Tensor:
        return edited(INTERVENTIONS[kind].from_vector(of, LAYER, target), hidden, strength)

    for kind in ("project_out", "erase", "zero", "mean"):
        torch.testing.assert_close(result(kind, swapped), result(kind, vector), atol=1e-6, rtol=0)
    for kind in ("add", "rotate"):
        torch.testing.assert_close(result(kind, swapped), result(kind, vector, strength=sign), atol=1e-6, rtol=0)
    there = 0.0 if sign > 0 else 1.0
    torch.testing.assert_close(result("affine", swapped, 0.0), result("affine", vector, there), atol=1e-5, rtol=0)
    assert not torch.allclose(result("affine", vector, 0.0), result("affine", vector, 1.0), atol=0.1)
