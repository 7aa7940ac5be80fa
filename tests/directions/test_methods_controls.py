"""Controls know nothing of the labels: their norm, sign and cosine with the truth are those of chance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.contrast_classes import WIDTH, anisotropic_covariance, classes, cosine, fit
from steer_tools.directions.methods import METHODS, method_named
from steer_tools.directions.statistics import Examples
from steer_tools.errors import DirectionError

CONTROLS = [name for name, method in METHODS.items() if method.is_control]
SEEDS = 400


def cosines(name: str, positive: Tensor, negative: Tensor, target: Tensor) -> Tensor:
    found = [fit(method_named(name, {"seed": seed}), positive, negative).direction for seed in range(SEEDS)]
    return torch.tensor([cosine(direction, target) for direction in found])


def plain_shuffle(positive: Tensor, negative: Tensor, seed: int) -> Tensor:
    order = torch.randperm(2 * len(positive), generator=torch.Generator().manual_seed(seed))
    mixed = torch.cat([positive, negative])[order]
    return mixed[: len(positive)].mean(0) - mixed[len(positive) :].mean(0)


def test_the_controls_are_these() -> None:
    assert CONTROLS == ["random", "random_covariance", "balanced_shuffle"]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_the_norm_of_the_contrast_and_no_fitted_sign(name: str) -> None:
    positive, negative, _ = classes(0)
    contrast = positive.mean(0) - negative.mean(0)

    fits = [fit(method_named(name, {"seed": seed}), positive, negative) for seed in range(100)]

    for fitted in fits:
        assert float(fitted.direction.double().norm()) == pytest.approx(float(contrast.norm()), rel=1e-6)
    right = sum(float(fitted.direction.double() @ contrast) > 0 for fitted in fits)
    assert 30 <= right <= 70
    assert len({tuple(fitted.direction.tolist()) for fitted in fits}) > 80


def test_the_sign_of_a_control_does_not_follow_the_labels() -> None:
    positive, negative, _ = classes(0)

    forth, back = fit(METHODS["random"], positive, negative), fit(METHODS["random"], negative, positive)

    assert torch.equal(forth.direction, back.direction)
    assert float(back.separation or 0) == pytest.approx(1 - float(forth.separation or 0))


def test_a_random_direction_has_the_cosine_of_chance_and_a_found_one_has_not() -> None:
    positive, negative, truth = classes(0, 40)

    found = cosines("random", positive, negative, truth)

    # The mean absolute cosine of two random directions, up to terms in 1/d².
    assert float(found.abs().mean()) == pytest.approx((2 / (torch.pi * WIDTH)) ** 0.5, abs=0.02)
    assert abs(float(found.mean())) < 0.03
    assert cosine(fit(METHODS["mean_difference"], positive, negative).direction, truth) > 0.9


def test_a_covariance_direction_varies_as_the_activations_do_within_their_classes() -> None:
    positive, negative, truth = classes(0, 200, 30.0, anisotropic_covariance())
    data = Examples(positive + 50, negative + 50)
    centred = torch.cat([side - side.mean(0) for side in (positive, negative)])
    together = torch.cat([positive, negative]) - torch.cat([positive, negative]).mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred / 400)

    def variances(name: str) -> Tensor:
        draws = torch.stack([method_named(name, {"seed": seed}).raw(data) for seed in range(4000)])
        return (draws @ axes).square().mean(0)

    # The variance of 4000 squares of normal numbers is within 10 %, four standard errors.
    torch.testing.assert_close(variances("random_covariance"), values, rtol=0.1, atol=0)
    assert float((variances("random") / values - 1).abs().max()) > 1
    # With the contrast in it, the covariance would make most draws the contrast.
    draws = [method_named("random_covariance", {"seed": seed}).raw(data) for seed in range(200)]
    of_both = torch.randn(200, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ together
    assert sum(abs(cosine(draw, truth)) for draw in draws) / 200 < 0.4
    assert sum(abs(cosine(draw, truth)) for draw in of_both) / 200 > 0.8


@pytest.mark.parametrize(
    ("ours", "theirs"), [(8, 8), (7, 7), (8, 6), (7, 5), (2, 9)], ids=["pairs", "odd", "halves", "odd_halves", "few"]
)
def test_a_balanced_shuffle_holds_none_of_a_common_difference_and_a_plain_one_does(ours: int, theirs: int) -> None:
    positive, negative, truth = classes(0, 9)
    positive, negative = positive[:ours], negative[:theirs]
    common = 10 * truth

    for seed in range(20):
        method = method_named("balanced_shuffle", {"seed": seed})
        before, after = (method.raw(Examples(positive + extra, negative)) for extra in (0 * common, common))
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
        assert before.norm() > 0
    if ours == theirs:
        moves = [
            plain_shuffle(positive + common, negative, seed) - plain_shuffle(positive, negative, seed)
            for seed in range(20)
        ]
        assert max(float(move.norm()) for move in moves) > 1


def test_a_balanced_shuffle_has_the_cosine_of_chance_and_a_plain_one_much_more() -> None:
    positive, negative, truth = classes(0, 6, 8.0)

    balanced = cosines("balanced_shuffle", positive, negative, truth)
    plain = torch.tensor([cosine(plain_shuffle(positive, negative, seed), truth) for seed in range(SEEDS)])

    assert abs(float(balanced.mean())) < 0.05
    assert float(balanced.abs().mean()) < 0.25
    assert float(plain.abs().mean()) > 0.4


@pytest.mark.parametrize("count", [6, 7])
def test_exactly_half_of_the_pairs_are_swapped_and_an_odd_one_is_left_out(count: int) -> None:
    # Pair i is the i-th axis, so that each weight can be read off.
    positive, negative = torch.eye(count), torch.zeros(count, count)
    left_out = set()

    for seed in range(60):
        weights = method_named("balanced_shuffle", {"seed": seed}).raw(Examples(positive, negative))
        assert int((weights > 0).sum()) == int((weights < 0).sum()) == count // 2
        assert weights.abs().max() == weights[weights != 0].abs().min()
        left_out |= set((weights == 0).nonzero()[:, 0].tolist())

    assert left_out == (set(range(count)) if count % 2 else set())


def test_a_shuffle_of_equal_differences_has_no_direction() -> None:
    _, negative, truth = classes(0)

    with pytest.raises(DirectionError, match="'balanced_shuffle' finds no direction"):
        fit(METHODS["balanced_shuffle"], torch.round(negative) + 1, torch.round(negative))
    assert fit(METHODS["random"], negative + truth, negative).contrast_norm > 0
