"""Blocks of activations give what all at once give, and take no more memory than two blocks."""

from __future__ import annotations

import pytest
import torch

from helpers.contrast_classes import WIDTH, anisotropic_covariance, classes, fit, planted_direction
from steer_tools.directions import fitting
from steer_tools.directions.fitting import FittedDirection, Fitter
from steer_tools.directions.methods import METHODS, Method
from steer_tools.directions.moments import Moments
from steer_tools.directions.session_methods import GivenDirection
from steer_tools.directions.statistics import Examples, top_component
from steer_tools.errors import DirectionError, PromptError

ALL = [*METHODS.values(), GivenDirection(planted_direction(5))]
SEVERAL = [method for method in ALL if method.most is None]
STREAMABLE = [method for method in SEVERAL if method.needs != "examples"]


def several(methods: list[Method]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=[method.name for method in methods])


def streamed(method: Method, positive: torch.Tensor, negative: torch.Tensor, sizes: list[int]) -> FittedDirection:
    fitter = Fitter(method)
    for ours, theirs in zip(positive.split(sizes), negative.split(sizes), strict=True):
        fitter.add(ours, theirs)
    return fitter.finish()


@several(SEVERAL)
def test_a_long_stream_gives_the_direction_of_all_examples(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEPT_EXAMPLES", 20)
    positive, negative, _ = classes(0, 111, covariance=anisotropic_covariance())
    # Means that drift and lie far from zero are what running sums get wrong.
    drift = torch.linspace(0, 5, 111, dtype=torch.float64)[:, None]
    positive, negative = positive + 300 + drift, negative + 300 + drift

    parts, whole = streamed(method, positive, negative, [1, 30, 7, 73]), fit(method, positive, negative)

    difference = (parts.direction - whole.direction).norm()
    assert difference <= 1e-6 * whole.direction.norm()
    assert parts.contrast_norm == pytest.approx(whole.contrast_norm, rel=1e-9)
    assert parts.positive_projection == pytest.approx(whole.positive_projection, rel=1e-6)
    torch.testing.assert_close(parts.mean, whole.mean)


@several(SEVERAL)
def test_a_short_stream_gives_everything_bit_for_bit(method: Method) -> None:
    positive, negative, _ = classes(0, 40)

    parts, whole = streamed(method, positive, negative, [25, 15]), fit(method, positive, negative)

    assert torch.equal(parts.direction, whole.direction)
    assert (parts.separation, parts.d_prime, parts.threshold) == (whole.separation, whole.d_prime, whole.threshold)


@several(STREAMABLE)
def test_figures_of_a_long_stream_are_those_of_its_first_examples(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "KEPT_EXAMPLES", 20)
    positive, negative, _ = classes(0, 60)
    positive[25:] += 100  # A later part that every figure would show.

    parts = streamed(method, positive, negative, [15, 10, 15, 20])

    assert parts.separation == fit(method, positive[:25], negative[:25]).separation
    assert parts.contrast_norm == pytest.approx(fit(method, positive, negative).contrast_norm)


@several([method for method in SEVERAL if not method.is_paired])
def test_classes_may_come_one_after_the_other(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEPT_EXAMPLES", 20)
    positive, negative, _ = classes(0, 60)
    fitter = Fitter(method)

    for block in positive.split(30):
        fitter.add(block, negative[:0])
    for block in negative.split(30):
        fitter.add(positive[:0], block)

    whole = fit(method, positive, negative)
    found = fitter.finish()
    assert (found.direction - whole.direction).norm() <= 1e-6 * whole.direction.norm()
    assert found.separation is not None


@pytest.mark.parametrize("needs", ["means", "pair_moments", "class_moments"])
def test_moments_hold_no_more_after_many_blocks_than_after_one(needs: str) -> None:
    def held(moments: Moments) -> int:
        own = [*vars(moments).values(), *vars(moments._positive).values(), *vars(moments._negative).values()]
        return sum(value.untyped_storage().nbytes() for value in own if isinstance(value, torch.Tensor))

    moments = Moments(WIDTH, needs)  # type: ignore[arg-type]  # The names are parametrised.
    moments.add(torch.randn(50, WIDTH), torch.randn(50, WIDTH))
    after_one = held(moments)
    for _ in range(20):
        moments.add(torch.randn(50, WIDTH), torch.randn(50, WIDTH))

    assert held(moments) == after_one
    squares = {"means": 0, "pair_moments": 1, "class_moments": 2}[needs]
    assert squares * WIDTH**2 * 8 <= after_one < (squares + 1) * WIDTH**2 * 8


def test_a_fitter_keeps_no_row_of_a_long_stream_beyond_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEPT_EXAMPLES", 20)
    few, many = Fitter(METHODS["pca"]), Fitter(METHODS["pca"])
    for fitter, blocks in ((few, 3), (many, 30)):
        for _ in range(blocks):
            fitter.add(torch.randn(10, WIDTH), torch.randn(10, WIDTH))

    def kept(fitter: Fitter) -> int:
        return sum(block.untyped_storage().nbytes() for side in fitter._kept for block in side)

    assert kept(many) == kept(few) == 2 * 20 * WIDTH * 8


def test_a_caller_may_reuse_its_buffer() -> None:
    positive, negative, _ = classes(0, 30)
    whole = fit(METHODS["mean_difference"], positive, negative)
    fitter = Fitter(METHODS["mean_difference"])
    fitter.add(positive[:15], negative[:15])
    first = positive[:15].clone(), negative[:15].clone()

    positive[:15], negative[:15] = positive[15:], negative[15:]
    fitter.add(positive[:15], negative[:15])

    assert not torch.equal(first[0], positive[:15])
    torch.testing.assert_close(fitter.finish().direction, whole.direction)


def test_a_wide_stream_finds_its_component_by_iteration() -> None:
    generator = torch.Generator().manual_seed(0)
    differences = torch.randn(400, 300, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(differences)
    moments = Moments(300, "pair_moments")
    moments.add(differences, zero)

    component = moments.top_pair_component

    assert abs(float(component @ top_component(differences))) == pytest.approx(1, abs=1e-9)
    assert abs(float(component @ Examples(differences, zero).top_pair_component)) == pytest.approx(1, abs=1e-9)


def test_a_later_block_is_held_to_the_same_rules() -> None:
    positive, negative, _ = classes(0)
    fitter = Fitter(METHODS["paired_mean_difference"])
    fitter.add(positive, negative)

    with pytest.raises(DirectionError, match="NaN or infinity"):
        fitter.add(positive / 0, negative)
    with pytest.raises(DirectionError, match="after others of width 24"):
        fitter.add(positive[:, 1:], negative[:, 1:])
    with pytest.raises(PromptError, match="12 positive and 11 negative"):
        fitter.add(positive, negative[1:])
    assert torch.equal(fitter.finish().direction, fit(METHODS["paired_mean_difference"], positive, negative).direction)


def test_blocks_whose_contrasts_cancel_have_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEPT_EXAMPLES", 5)
    positive, negative, _ = classes(0)
    fitter = Fitter(METHODS["mean_difference"])
    fitter.add(positive, negative)
    fitter.add(negative, positive)

    with pytest.raises(DirectionError, match="are equal"):
        fitter.finish()
    fitter.add(positive, negative)
    assert fitter.finish().contrast_norm > 0
