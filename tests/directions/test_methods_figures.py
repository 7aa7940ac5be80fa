"""What is measured beside a direction agrees with oracles: folds by hand, scikit-learn, brute force, a theorem."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from helpers.contrast_classes import WIDTH, anisotropic_covariance, classes, fit
from steer_tools.directions.methods import METHODS, Method
from steer_tools.directions.separation import best_threshold, held_out, mean_pair_cosine, roc_area
from steer_tools.directions.statistics import Examples

MEASURED = [method for method in METHODS.values() if method.most is None]
every_measured = pytest.mark.parametrize("method", MEASURED, ids=[method.name for method in MEASURED])


def unit(direction: Tensor) -> Tensor:
    return direction.double() / direction.double().norm()


@every_measured
def test_held_out_figures_are_those_of_folds_made_by_hand(method: Method) -> None:
    positive, negative, _ = classes(0, 19, 1.5, anisotropic_covariance())
    areas, highs, lows = [], [], []
    for fold in range(4):
        held = [index for index in range(19) if index % 4 == fold]
        others = [index for index in range(19) if index % 4 != fold]
        fitted = fit(method, positive[others], negative[others])
        high, low = (side[held] @ unit(fitted.direction) for side in (positive, negative))
        areas.append(roc_auc_score([1] * len(high) + [0] * len(low), torch.cat([high, low]).numpy()))
        highs.append(high - fitted.threshold)
        lows.append(low - fitted.threshold)

    found = fit(method, positive, negative)
    high, low = torch.cat(highs), torch.cat(lows)
    pooled = ((high.var() + low.var()) / 2).sqrt()

    assert found.separation == pytest.approx(sum(areas) / 4, abs=1e-12)
    assert found.misses == int((high <= 0).sum()) / 19
    assert found.false_alarms == int((low > 0).sum()) / 19
    assert found.d_prime == pytest.approx(float((high.mean() - low.mean()) / pooled), rel=1e-5)


def test_error_rates_are_those_of_the_gap_between_the_classes() -> None:
    def mean_rates(shift: float) -> list[float]:
        found = [fit(METHODS["mean_difference"], *classes(seed, 100, shift)[:2]) for seed in range(20)]
        figures = torch.tensor([[one.misses or 0.0, one.false_alarms or 0.0, one.d_prime or 0.0] for one in found])
        return figures.mean(0).tolist()

    # Two normal classes at a distance of 3 standard deviations are cut in their middle: Φ(−1.5) = 0.067.
    misses, false_alarms, d_prime = mean_rates(3.0)
    assert misses == pytest.approx(0.067, abs=0.03) and false_alarms == pytest.approx(0.067, abs=0.03)
    assert d_prime == pytest.approx(2.9, abs=0.2)
    misses, false_alarms, d_prime = mean_rates(0.0)
    assert misses + false_alarms == pytest.approx(1.0, abs=0.1)
    assert abs(d_prime) < 0.25


def test_projections_without_spread_have_no_d_prime() -> None:
    positive, negative = torch.ones(8, WIDTH), torch.zeros(8, WIDTH)

    found = fit(METHODS["mean_difference"], positive, negative)

    assert found.separation == 1.0
    assert found.d_prime is None
    assert found.misses == found.false_alarms == 0


def test_a_method_that_finds_nothing_in_a_fold_is_at_chance_there() -> None:
    positive, negative, _ = classes(0, 16)
    positive[1:], negative[1:] = negative[1:], negative[1:].clone()
    positive[0] += 100  # Without fold 0 the pairs do not differ at all.

    found = fit(METHODS["pca"], positive, negative)

    assert found.separation is not None and found.separation < 0.7
    assert fit(METHODS["paired_mean_difference"], positive, negative).separation is not None


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_has_the_least_balanced_error_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    high = torch.randn(13, generator=generator, dtype=torch.float64) + 1
    low = torch.randn(8, generator=generator, dtype=torch.float64)

    def error(cut: float) -> float:
        return float((high <= cut).double().mean() + (low > cut).double().mean())

    found = best_threshold(high, low)
    values = sorted([*high.tolist(), *low.tolist()])
    middles = [(one + other) / 2 for one, other in pairwise(values)]

    assert error(found) == pytest.approx(min(map(error, middles)))
    gaps = [other - one for one, other in pairwise(values) if error((one + other) / 2) < error(found) + 1e-9]
    assert max(gaps) == next(o - n for n, o in pairwise(values) if n < found < o)


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        ([3.0, 4.0], [0.0, 1.0], 2.0),
        ([5.0, 5.0], [5.0], 5.0),
        ([1.0], [0.0, 0.0, 0.0], 0.5),
        # Both cuts miss one of a kind; the gap from 1 to 4 is the widest.
        ([0.5, 4.0, 5.0], [0.0, 1.0, -1.0], 2.5),
        ([0.0, 4.0], [1.0, 3.0], 3.5),
    ],
)
def test_a_threshold_is_in_the_middle_of_the_widest_gap(high: list[float], low: list[float], expected: float) -> None:
    assert best_threshold(torch.tensor(high), torch.tensor(low)) == expected


def test_a_threshold_weighs_the_classes_equally_whatever_their_numbers() -> None:
    low = torch.cat([torch.zeros(90), torch.full((10,), 2.0)])
    high = torch.full((3,), 1.0)

    # Cutting below 1 costs a tenth of the low class, cutting above costs all of the high one.
    assert best_threshold(high, low) == 0.5


def test_ties_count_half() -> None:
    assert float(roc_area(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))) == 0.875


def test_the_threshold_of_a_logistic_regression_is_its_own_boundary() -> None:
    positive, negative, _ = classes(0, 60, 2.0)
    examples = torch.cat([positive, negative])
    standard = (examples - examples.mean(0)) / examples.std(0, correction=0)
    oracle = LogisticRegression(tol=1e-8, max_iter=10_000).fit(standard.numpy(), [1] * 60 + [0] * 60)

    found = fit(METHODS["logistic"], positive, negative)
    projections = examples @ unit(found.direction)

    decisions = torch.from_numpy(oracle.decision_function(standard.numpy()))
    ratio = (projections - found.threshold) / decisions
    torch.testing.assert_close(ratio, ratio.mean().expand(120), rtol=1e-3, atol=1e-6)
    assert best_threshold(projections[:60], projections[60:]) != pytest.approx(found.threshold, abs=1e-6)


def test_pair_agreement_is_the_mean_cosine_of_every_two_differences() -> None:
    positive, negative, _ = classes(0, 9, 2.0)
    differences = torch.nn.functional.normalize(positive - negative, dim=1)
    cosines = differences @ differences.T

    found = fit(METHODS["paired_mean_difference"], positive, negative).pair_agreement

    assert found == pytest.approx(float((cosines.sum() - 9) / 72), abs=1e-12)


def test_pair_agreement_is_one_for_equal_differences_and_none_for_a_single_one() -> None:
    _, negative, truth = classes(0, 9)

    assert fit(METHODS["pca"], negative + truth, negative).pair_agreement == pytest.approx(1)
    assert fit(METHODS["pca"], negative[:1] + truth, negative[:1]).pair_agreement is None
    assert fit(METHODS["mean_difference"], negative + truth, negative).pair_agreement is None


def test_a_pair_without_a_difference_agrees_with_none() -> None:
    ones = torch.ones(1, 4, dtype=torch.float64)

    assert mean_pair_cosine(torch.cat([ones, ones])) == pytest.approx(1)
    assert mean_pair_cosine(torch.cat([ones, ones, 0 * ones])) == pytest.approx(1 / 3)


def probe_gain(positive: Tensor, negative: Tensor) -> float:
    """How much of the labels' variance a least-squares probe explains."""
    examples = torch.cat([positive, negative])
    labels = (torch.arange(len(examples)) < len(positive)).double()
    labels = labels - labels.mean()
    centred = examples - examples.mean(0)
    # What is erased leaves a line of rounding errors of the float32 eraser; a probe may not read those.
    fitted = torch.linalg.lstsq(centred, labels[:, None], rcond=1e-5, driver="gelsd").solution
    remainder = labels - (centred @ fitted)[:, 0]
    return 1 - float(remainder.square().sum() / labels.square().sum())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mean_difference", (300, 300)),
        ("mean_difference", (300, 120)),
        ("mean_difference", (10, 10)),
        ("paired_mean_difference", (300, 300)),
        ("paired_mean_difference", (10, 10)),
    ],
)
def test_after_erasing_no_linear_probe_beats_the_constant(name: str, counts: tuple[int, int]) -> None:
    positive, negative, _ = classes(0, 300, 3.0, anisotropic_covariance())
    positive, negative = positive[: counts[0]] + 5, negative[: counts[1]] + 5
    fitted = fit(METHODS[name], positive, negative)
    assert fitted.eraser is not None
    u, w, mean = unit(fitted.direction), fitted.eraser.double(), fitted.mean.double()

    def erase(hidden: Tensor) -> Tensor:
        return hidden - ((hidden - mean) @ w)[:, None] * u

    assert float(w @ u) == pytest.approx(1, abs=1e-6)
    assert probe_gain(positive, negative) > 0.5
    gap = (erase(positive).mean(0) - erase(negative).mean(0)).norm()
    assert gap < 1e-5 * fitted.contrast_norm
    assert probe_gain(erase(positive), erase(negative)) < 1e-6


def test_the_eraser_is_that_of_the_total_covariance_and_edits_less_than_projecting_out() -> None:
    positive, negative, _ = classes(0, 3000, 3.0, anisotropic_covariance())
    fitted = fit(METHODS["mean_difference"], positive, negative)
    assert fitted.eraser is not None
    u, examples = unit(fitted.direction), torch.cat([positive, negative])
    total = examples.T.cov()

    oracle = torch.linalg.solve(total, u) / (u @ torch.linalg.solve(total, u))
    ours = fitted.eraser.double()

    assert float((ours - oracle).norm() / oracle.norm()) < 0.02
    assert float((u - oracle).norm() / oracle.norm()) > 0.2
    assert float(ours @ total @ ours) < 0.9 * float(u @ total @ u)


def test_a_single_pair_has_the_eraser_that_projects_out() -> None:
    positive, negative, _ = classes(0, 1)

    fitted = fit(METHODS["act_add"], positive, negative)

    assert fitted.eraser is not None
    torch.testing.assert_close(fitted.eraser.double(), unit(fitted.direction), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["pca", "lat", "lda", "logistic", "random", "random_covariance", "balanced_shuffle"])
def test_directions_other_than_the_contrasts_have_no_eraser(name: str) -> None:
    assert fit(METHODS[name], *classes(0)[:2]).eraser is None


def test_held_out_figures_of_too_few_are_none() -> None:
    positive, negative, _ = classes(0, 8)

    assert held_out(METHODS["lda"], Examples(positive, negative)) is not None
    assert held_out(METHODS["lda"], Examples(positive, negative[:7])) is None
    assert held_out(METHODS["lda"], Examples(positive[:7], negative)) is None
