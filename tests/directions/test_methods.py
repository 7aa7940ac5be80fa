"""Laws that hold for every method, whoever adds the next one, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contrast_classes import WIDTH, classes, cosine, fit, planted_direction, suitable
from steer_tools.directions.fitting import Fitter
from steer_tools.directions.methods import METHODS, Method, method_named
from steer_tools.directions.session_methods import GivenDirection
from steer_tools.errors import ArgumentError, DirectionError, PromptError

ALL = [*METHODS.values(), GivenDirection(planted_direction(5).float())]
IDS = [*METHODS, "given"]
FOUND = [method for method in METHODS.values() if not method.is_control]
CONTROLS = [method for method in METHODS.values() if method.is_control]


def named(methods: list[Method]) -> dict[str, Any]:
    return {"argvalues": methods, "ids": [method.name for method in methods]}


@pytest.mark.parametrize("method", ALL, ids=IDS)
class TestEveryMethod:
    def test_the_length_follows_from_the_contrast(self, method: Method) -> None:
        for seed in range(20):
            positive, negative = suitable(method, *classes(seed)[:2])

            fitted = fit(method, positive, negative)
            contrast = positive.mean(0) - negative.mean(0)
            length = fitted.direction.double().norm()
            along = fitted.direction.double() / length @ contrast

            assert fitted.direction.dtype == torch.float32
            assert fitted.contrast_norm == pytest.approx(float(contrast.norm()), rel=1e-12)
            torch.testing.assert_close(length, contrast.norm() if method.is_control else along, atol=1e-6, rtol=1e-6)

    def test_the_projections_and_the_mean_are_those_of_the_classes(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(2)[:2])

        fitted = fit(method, positive, negative)
        unit = torch.nn.functional.normalize(fitted.direction.double(), dim=0)

        assert fitted.positive_projection == pytest.approx(float(unit @ positive.mean(0)), abs=1e-5)
        assert fitted.negative_projection == pytest.approx(float(unit @ negative.mean(0)), abs=1e-5)
        torch.testing.assert_close(fitted.mean, ((positive.mean(0) + negative.mean(0)) / 2).float())

    def test_the_examples_are_not_changed(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(1)[:2])
        before = positive.clone(), negative.clone()

        fit(method, positive, negative)

        assert torch.equal(positive, before[0]) and torch.equal(negative, before[1])

    def test_fitting_twice_gives_the_same_bits(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(1)[:2])

        assert torch.equal(fit(method, positive, negative).direction, fit(method, positive, negative).direction)

    def test_what_both_classes_share_changes_nothing(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(1)[:2])
        shared = torch.linspace(-30, 30, WIDTH, dtype=torch.float64)

        moved = fit(method, positive + shared, negative + shared)

        torch.testing.assert_close(moved.direction, fit(method, positive, negative).direction, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("side", [0, 1])
    def test_activations_that_are_not_finite_are_refused(self, method: Method, bad: float, side: int) -> None:
        sides = suitable(method, *classes(0)[:2])
        spoiled = [tensor.clone() for tensor in sides]
        spoiled[side][-1, 3] = bad

        with pytest.raises(DirectionError, match="NaN or infinity"):
            fit(method, *spoiled)

    def test_classes_that_do_not_differ_are_refused(self, method: Method) -> None:
        positive, _ = suitable(method, *classes(0)[:2])

        with pytest.raises(DirectionError, match="are equal"):
            fit(method, positive, positive.clone())

    def test_shapes_that_are_no_tables_of_one_width_are_refused(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(0)[:2])

        for wrong in (negative[:, :-1], negative[:, :1], negative[0], negative[None]):
            with pytest.raises(DirectionError, match="shape"):
                fit(method, positive, wrong)
            with pytest.raises(DirectionError, match="shape"):
                fit(method, wrong, positive)

    def test_too_few_and_too_many_examples_are_refused_with_the_numbers(self, method: Method) -> None:
        positive, negative, _ = classes(0)

        with pytest.raises(PromptError, match="0 positive and 0 negative"):
            fit(method, positive[:0], negative[:0])
        with pytest.raises(PromptError, match="0 positive and 0 negative"):
            Fitter(method).finish()
        if method.fewest > 1:
            few = method.fewest - 1
            with pytest.raises(PromptError, match=f"{few} positive and {few} negative.*at least {method.fewest}"):
                fit(method, positive[:few], negative[:few])
        if method.most is not None:
            many = method.most + 1
            with pytest.raises(PromptError, match=f"{many} positive and {many} negative.*exactly {method.most}"):
                fit(method, positive[:many], negative[:many])
        fit(method, positive[: method.fewest], negative[: method.fewest])

    def test_sides_of_unequal_length_are_refused_where_they_are_pairs_and_taken_elsewhere(self, method: Method) -> None:
        positive, negative, _ = classes(0)

        if method.is_paired:
            with pytest.raises(PromptError, match=r"pairs.*12 positive and 9 negative"):
                fit(method, positive, negative[:9])
        else:
            assert fit(method, positive, negative[:9]).pair_agreement is None


@pytest.mark.parametrize("method", **named(FOUND))
class TestEveryMethodThatLearns:
    def test_the_sign_is_right_for_a_hundred_seeds(self, method: Method) -> None:
        for seed in range(100):
            positive, negative, truth = classes(seed, shift=6.0)

            assert fit(method, *suitable(method, positive, negative)).direction.double() @ truth > 0

    def test_swapping_the_sides_negates_the_direction(self, method: Method) -> None:
        positive, negative = suitable(method, *classes(3)[:2])

        forth, back = fit(method, positive, negative), fit(method, negative, positive)

        # A regression stops within its tolerance; sums add up in another order.
        torch.testing.assert_close(forth.direction, -back.direction, rtol=1e-4, atol=1e-4)
        assert forth.positive_projection == pytest.approx(-back.negative_projection, abs=1e-4)


# What takes one pair alone has none to hold out.
MEASURED = [method for method in ALL if method.most is None]


@pytest.mark.parametrize("method", **named(MEASURED))
def test_held_out_figures_need_eight_examples_on_each_side(method: Method) -> None:
    positive, negative, _ = classes(0, count=8)

    enough, short = fit(method, positive, negative), fit(method, positive[:7], negative[:7])

    assert None not in (enough.separation, enough.d_prime, enough.misses, enough.false_alarms)
    assert {short.separation, short.d_prime, short.misses, short.false_alarms} == {None}


@pytest.mark.parametrize("method", **named(MEASURED))
def test_separation_is_chance_without_a_difference(method: Method) -> None:
    found = [fit(method, *classes(seed, 16, 0.0)[:2]).separation for seed in range(40)]

    assert None not in found
    assert abs(sum(found) / len(found) - 0.5) < 0.06


@pytest.mark.parametrize("method", **named([method for method in FOUND if method in MEASURED]))
def test_separation_is_near_one_with_a_large_difference(method: Method) -> None:
    found = [fit(method, *classes(seed, 16, 8.0)[:2]).separation or 0.0 for seed in range(20)]

    assert sum(found) / len(found) > 0.95


# The one standardises each dimension, the other pairs by the order along a drawn line.
TURNING = [method for method in FOUND if method.name not in {"logistic", "lat"}]


@pytest.mark.parametrize("method", **named(TURNING))
def test_a_rotation_of_space_rotates_the_direction(method: Method) -> None:
    positive, negative = suitable(method, *classes(4)[:2])
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q

    turned = fit(method, positive @ turn.T, negative @ turn.T).direction.double()

    expected = turn @ fit(method, positive, negative).direction.double()
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)


def test_rounding_noise_of_half_precision_is_no_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(1, WIDTH, generator=generator).expand(4, WIDTH)
    rounding = torch.finfo(torch.bfloat16).eps
    noisy = same * (1 + rounding * (torch.rand(4, WIDTH, generator=generator) - 0.5))

    with pytest.raises(DirectionError, match="no direction"):
        fit(METHODS["mean_difference"], same, noisy, precision=rounding)
    assert fit(METHODS["mean_difference"], same, noisy).contrast_norm > 0
    assert fit(METHODS["mean_difference"], same, same + 0.1, precision=rounding).contrast_norm > 0


def test_a_mean_difference_is_the_contrast_bit_for_bit() -> None:
    positive, negative, _ = classes(0)

    for name in ("mean_difference", "paired_mean_difference"):
        assert torch.equal(
            fit(METHODS[name], positive, negative).direction, (positive.mean(0) - negative.mean(0)).float()
        )


def test_a_given_direction_keeps_its_line_and_gets_the_contrasts_length_and_sign() -> None:
    positive, negative, truth = classes(0)
    contrast = positive.mean(0) - negative.mean(0)

    for given in (truth * 17, -truth / 17):
        fitted = fit(GivenDirection(given), positive, negative)

        assert cosine(fitted.direction, truth) == pytest.approx(1.0, abs=1e-9)
        assert float(fitted.direction.double() @ truth) == pytest.approx(float(truth @ contrast), rel=1e-6)


def right_angle() -> Tensor:
    positive, negative, truth = classes(0)
    contrast = positive.mean(0) - negative.mean(0)
    return truth - contrast * (truth @ contrast) / (contrast @ contrast)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.zeros(WIDTH), "is zero"),
        (lambda: torch.full((WIDTH,), float("nan")), "not finite"),
        (lambda: torch.ones(1, WIDTH), r"\(1, 24\)"),
        (lambda: torch.ones(WIDTH + 1), "width 25, the activations 24"),
        (right_angle, "no direction along which"),
    ],
    ids=["zero", "nan", "table", "width", "right_angle"],
)
def test_a_given_direction_that_cannot_be_one_is_refused(make: Callable[[], Tensor], words: str) -> None:
    positive, negative, _ = classes(0)

    with pytest.raises(DirectionError, match=words):
        fit(GivenDirection(make()), positive, negative)


def test_options_make_another_method_of_the_same_name() -> None:
    assert method_named("lda", {"shrinkage": 0.5}) != method_named("lda") == method_named("lda", {})
    assert method_named("lda", {"shrinkage": None}) == method_named("lda")
    assert method_named("lda", {"shrinkage": 1}).name == "lda"
    assert method_named("random", {"seed": 3}) != method_named("random", {"seed": 4})
    assert method_named("logistic", {"penalty": 10}).name == "logistic"


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"no option 'speed'.*(default|has no options)"):
        method_named(name, {"speed": 1})


@pytest.mark.parametrize(
    ("name", "option", "value", "valid"),
    [
        ("lda", "shrinkage", 0.0, "from 1e-06 to 1.0, default None"),
        ("lda", "shrinkage", 1.5, "from 1e-06 to 1.0, default None"),
        ("lda", "shrinkage", "auto", "a number"),
        ("lda", "shrinkage", True, "a number"),
        ("lda", "shrinkage", float("nan"), "a number"),
        ("logistic", "penalty", 0, "of at least 1e-06, default 1.0"),
        ("logistic", "penalty", None, "a number"),
        ("logistic", "penalty", float("inf"), "a number"),
        *(
            (name, "seed", value, "a whole number of at least 0, default 0")
            for name in ("random", "random_covariance", "balanced_shuffle", "lat")
            for value in (-1, 1.0, "1", None, False)
        ),
    ],
)
def test_an_option_out_of_range_is_refused_with_the_range(name: str, option: str, value: object, valid: str) -> None:
    with pytest.raises(ArgumentError, match=valid):
        method_named(name, {option: value})


@pytest.mark.parametrize("name", ["median", "", None, 0, ["lda"]])
def test_an_unknown_method_is_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(ArgumentError, match="'balanced_shuffle'"):
        method_named(name)
