"""Laws that hold for every method and every intervention, whoever adds the next one."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from steer_tools.errors import DirectionError
from steer_tools.interventions import Add
from steer_tools.methods import METHODS, Method, fit, held_out_separation
from steer_tools.parameters import InterventionName, MethodName

WIDTH = 24


def classes(seed: int, count: int = 12, shift: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two Gaussian classes (count, width) that differ by `shift` along a hidden unit direction."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    positive = torch.randn(count, WIDTH, generator=generator) + shift * truth
    return positive, torch.randn(count, WIDTH, generator=generator), truth


def test_the_names_in_the_schema_are_the_methods_and_interventions() -> None:
    assert set(get_args(MethodName)) == set(METHODS)
    assert get_args(InterventionName) == (Add.name,)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestEveryMethod:
    def test_the_length_is_the_contrast_along_the_direction_and_the_sign_is_positive(self, method: Method) -> None:
        for seed in range(100):
            positive, negative, truth = classes(seed)

            direction = fit(method, positive, negative).direction
            contrast = positive.double().mean(0) - negative.double().mean(0)
            unit = direction.double() / direction.double().norm()

            torch.testing.assert_close(direction.double().norm(), unit @ contrast, atol=1e-6, rtol=1e-6)
            assert direction @ truth > 0

    def test_a_planted_direction_is_found(self, method: Method) -> None:
        # A mean of n draws of unit variance has noise of norm sqrt(2 · width / n) beside the shift.
        expected = 3.0 / (9.0 + 2 * WIDTH / 400) ** 0.5
        cosines = []
        for seed in range(20):
            positive, negative, truth = classes(seed, count=400)
            cosines.append(
                float(torch.nn.functional.cosine_similarity(fit(method, positive, negative).direction, truth, 0))
            )

        assert sum(cosines) / len(cosines) >= expected - 0.01

    def test_swapping_the_sides_negates_the_direction_bit_for_bit(self, method: Method) -> None:
        positive, negative, _ = classes(3)

        assert torch.equal(fit(method, positive, negative).direction, -fit(method, negative, positive).direction)

    def test_separation_is_chance_without_a_difference_and_near_one_with_it(self, method: Method) -> None:
        def mean_separation(shift: float) -> float:
            found = [held_out_separation(method, *classes(s, 16, shift)[:2]) for s in range(30)]
            assert None not in found
            return sum(found) / len(found)

        assert abs(mean_separation(0.0) - 0.5) < 0.1
        assert mean_separation(6.0) > 0.95

    def test_separation_needs_eight_examples_on_each_side(self, method: Method) -> None:
        positive, negative, _ = classes(0, count=8)

        assert held_out_separation(method, positive, negative) is not None
        assert held_out_separation(method, positive[:7], negative[:7]) is None

    def test_the_examples_are_not_changed(self, method: Method) -> None:
        positive, negative, _ = classes(1)
        before = positive.clone(), negative.clone()

        fit(method, positive, negative)

        assert torch.equal(positive, before[0]) and torch.equal(negative, before[1])


def test_rounding_noise_of_half_precision_is_no_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(1, WIDTH, generator=generator).expand(4, WIDTH)
    rounding = torch.finfo(torch.bfloat16).eps
    noisy = same * (1 + rounding * (torch.rand(4, WIDTH, generator=generator) - 0.5))

    with pytest.raises(DirectionError, match="no direction"):
        fit(METHODS["mean_difference"], same, noisy, precision=rounding)
    assert fit(METHODS["mean_difference"], same, noisy).contrast_norm > 0
    assert fit(METHODS["mean_difference"], same, same + 0.1, precision=rounding).contrast_norm > 0


def test_every_intervention_is_the_identity_at_strength_zero_and_not_at_another() -> None:
    hidden, direction = torch.randn(5, WIDTH), torch.randn(WIDTH)
    before = hidden.clone()

    for intervention in (Add(direction),):
        assert torch.equal(intervention.edit(hidden, torch.tensor(0.0)), hidden)
        assert not torch.equal(intervention.edit(hidden, torch.tensor(1.0)), hidden)
        by_row = intervention.edit(hidden, torch.arange(5.0)[:, None])
        assert torch.equal(by_row[3], intervention.edit(hidden[3:4], torch.tensor(3.0))[0])
    assert torch.equal(hidden, before)
