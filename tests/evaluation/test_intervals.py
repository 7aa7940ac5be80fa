"""Intervals cover what they claim to: by simulation with fixed seeds, and exactly where all cases can be counted."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binom
from scipy.stats import t as student

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.intervals import Interval, cluster_interval, cluster_share_interval, share_interval

SIMULATIONS = 2000
# Groups of one, two, three and six items.
SIZES = (1, 2, 3, 6)

Floats = NDArray[np.float64]


class Drawn(NamedTuple):
    """Samples (simulations, items), the group of each item, and the mean of the population."""

    values: Floats
    groups: list[int]
    mean: float


def independent(count: int, *, is_log_normal: bool, seed: int) -> Drawn:
    values = np.random.default_rng(seed).normal(size=(SIMULATIONS, count))
    return Drawn(np.exp(values) if is_log_normal else values, list(range(count)), _mean(is_log_normal))


def correlated(count: int, *, is_log_normal: bool, seed: int) -> Drawn:
    """Half of the variance, of the logarithm if log-normal, is shared by a group."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), SIZES * (count // len(SIZES)))
    shared = generator.normal(size=(SIMULATIONS, count))[:, groups]
    values = math.sqrt(0.5) * (shared + generator.normal(size=shared.shape))
    return Drawn(np.exp(values) if is_log_normal else values, groups.tolist(), _mean(is_log_normal))


def _mean(is_log_normal: bool) -> float:
    return math.exp(0.5) if is_log_normal else 0.0


def coverage(drawn: Drawn) -> float:
    hits = 0
    for values in drawn.values:
        interval = cluster_interval(values, drawn.groups)
        assert interval is not None
        hits += interval.low <= drawn.mean <= interval.high
    return hits / len(drawn.values)


Draw = Callable[..., Drawn]


@pytest.mark.parametrize("draw", [independent, correlated])
@pytest.mark.parametrize("count", [24, 40])
def test_a_95_percent_interval_covers_normal_means_93_to_97_percent_of_the_time(draw: Draw, count: int) -> None:
    assert 0.93 <= coverage(draw(count, is_log_normal=False, seed=5)) <= 0.97


@pytest.mark.parametrize("draw", [independent, correlated])
@pytest.mark.parametrize("count", [24, 40])
def test_it_covers_log_normal_means_at_least_90_percent_of_the_time(draw: Draw, count: int) -> None:
    assert coverage(draw(count, is_log_normal=True, seed=5)) >= 0.9


def test_the_simulation_sees_intervals_that_cover_too_little() -> None:
    skewed, grouped = independent(24, is_log_normal=True, seed=5), correlated(24, is_log_normal=False, seed=5)

    means, errors = skewed.values.mean(axis=1), skewed.values.std(axis=1, ddof=1) / math.sqrt(24)
    of_student = np.abs(means - skewed.mean) <= student.ppf(0.975, 23) * errors
    as_single_items = Drawn(grouped.values[:300], list(range(len(grouped.groups))), 0.0)

    assert of_student.mean() < 0.9
    assert coverage(as_single_items) < 0.9


@pytest.mark.parametrize(
    ("levels", "chances"),
    [((0, 0.25, 0.5, 0.75, 1), (0.1, 0.1, 0.1, 0.2, 0.5)), ((-1, 0, 1), (0.02, 0.75, 0.23))],
)
def test_it_covers_means_of_heavily_tied_values(levels: tuple[float, ...], chances: tuple[float, ...]) -> None:
    values = np.random.default_rng(5).choice(levels, p=chances, size=(SIMULATIONS // 2, 24))

    assert coverage(Drawn(values, list(range(24)), float(np.dot(levels, chances)))) >= 0.93


@pytest.mark.parametrize("values", [[0.0] * 23 + [1.0], [1.0, 2.0], [0.0, 0.0, 0.0, 1.0, 1.0]])
def test_an_interval_is_finite_where_some_draws_have_no_spread(values: list[float]) -> None:
    interval = cluster_interval(values, range(len(values)))

    assert interval is not None
    assert np.isfinite(interval).all()
    assert interval.low < np.mean(values) < interval.high


def test_repeating_each_item_within_its_group_changes_nothing() -> None:
    values = np.random.default_rng(0).normal(size=24)
    once = cluster_interval(values, range(24))

    twice = cluster_interval(np.repeat(values, 2), np.repeat(np.arange(24), 2).tolist())
    as_if_independent = cluster_interval(np.repeat(values, 2), range(48))

    assert once is not None and twice is not None and as_if_independent is not None
    assert twice == pytest.approx(once)
    assert as_if_independent.high - as_if_independent.low < 0.8 * (once.high - once.low)


def test_the_mean_is_that_over_items_not_over_groups() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(10.0, 0.01, size=90), generator.normal(0.0, 0.01, size=10)])
    groups = [*np.repeat(np.arange(10), 9).tolist(), *range(10, 20)]

    interval = cluster_interval(values, groups)

    assert interval is not None
    assert interval.low > 7 and interval.low < 9 < interval.high


def test_the_interval_moves_and_scales_with_the_values_and_keeps_its_ends_under_a_change_of_sign() -> None:
    values = np.exp(np.random.default_rng(0).normal(size=24))
    interval = cluster_interval(values, range(24))

    assert interval is not None
    assert cluster_interval(3 * values + 1e6, range(24)) == pytest.approx(
        (3 * interval.low + 1e6, 3 * interval.high + 1e6), abs=1e-6
    )
    assert cluster_interval(-values, range(24)) == pytest.approx((-interval.high, -interval.low))
    assert interval.high - values.mean() > 1.3 * (values.mean() - interval.low)


def test_of_many_normal_values_it_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    half = student.ppf(0.975, 1999) * values.std(ddof=1) / math.sqrt(2000)

    interval = cluster_interval(values, range(2000))

    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_it_equals_a_plain_loop_over_the_same_draws() -> None:
    values, groups = np.random.default_rng(0).normal(size=27) + 5, np.arange(27) * 12 // 27
    members = [values[groups == group] for group in range(12)]

    def mean_and_error(drawn: list[Floats]) -> tuple[float, float]:
        mean, count = np.concatenate(drawn).mean(), len(np.concatenate(drawn))
        squares = sum((one.sum() - mean * len(one)) ** 2 for one in drawn)
        return float(mean), math.sqrt(len(drawn) / (len(drawn) - 1) * squares) / count

    mean, error = mean_and_error(members)
    found: list[float] = []
    for draw in np.random.default_rng(3).integers(12, size=(199, 12)):
        of_draw, error_of_draw = mean_and_error([members[i] for i in draw])
        found.append((of_draw - mean) / max(error_of_draw, error / 5))
    ordered = sorted(found)
    interval = cluster_interval(values, groups.tolist(), seed=3, resamples=199)

    assert interval == pytest.approx((mean - ordered[-5] * error, mean - ordered[4] * error))


def test_more_confidence_is_a_wider_interval_and_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(0).normal(size=24)

    ends = [cluster_interval(values, range(24), confidence=confidence) for confidence in (0.8, 0.95, 0.99)]

    widths = [interval.high - interval.low for interval in ends if interval]
    assert len(widths) == 3 and widths == sorted(widths) and len(set(widths)) == 3
    assert ends[1] == cluster_interval(values, range(24)) != cluster_interval(values, range(24), seed=1)


def test_values_that_do_not_vary_have_an_interval_of_no_width() -> None:
    assert cluster_interval([0.1] * 24, range(24)) == Interval(0.1, 0.1)
    assert cluster_interval([0.3, 0.7, 0.3, 0.7, 0.7, 0.3], "aabbcc") == pytest.approx((0.5, 0.5), abs=1e-15)
    assert cluster_interval([0.1] * 23 + [0.2], range(24)) != pytest.approx((0.1, 0.1), abs=1e-3)


def test_fewer_than_two_groups_have_no_interval() -> None:
    assert cluster_interval([1.0, 2.0], ["a", "a"]) is None
    assert cluster_interval([], []) is None
    assert cluster_share_interval([True, False], ["a", "a"]) is None
    assert cluster_share_interval([], []) is None


@pytest.mark.parametrize(
    ("values", "groups", "options", "words"),
    [
        ([1.0, math.nan], "ab", {}, "nan at"),
        ([[1.0, 2.0]], "a", {}, "shape"),
        ([1.0, 2.0], "a", {}, "1 groups and 2 items"),
        ([1.0, 2.0], "ab", {"confidence": 1.0}, "confidence"),
        ([1.0, 2.0], "ab", {"confidence": 0.0}, "confidence"),
        ([1.0, 2.0], "ab", {"resamples": 38}, "at least 39"),
        ([1.0, 2.0], "ab", {"resamples": 18, "confidence": 0.9}, "at least 19 "),
        ([1.0, 2.0], "ab", {"resamples": 198, "confidence": 0.99}, "at least 199"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[float], groups: str, options: dict[str, float], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        cluster_interval(values, groups, **options)  # type: ignore[arg-type]  # Options of several types.


def test_the_fewest_resamples_are_enough() -> None:
    assert cluster_interval([1.0, 2.0, 4.0], "abc", resamples=39) is not None
    assert cluster_interval([1.0, 2.0, 4.0], "abc", resamples=19, confidence=0.9) is not None
    assert cluster_interval([1.0, 2.0, 4.0], "abc", resamples=199, confidence=0.99) is not None


def test_two_thousand_items_take_bounded_memory() -> None:
    values = np.random.default_rng(0).normal(size=2000)

    tracemalloc.start()
    cluster_interval(values, range(2000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 64 * 2**20


@pytest.mark.parametrize("n", [24, 40, 100])
def test_a_share_of_a_tenth_is_covered_92_percent_of_the_time_or_more(n: int) -> None:
    covering = [k for k in range(n + 1) if (found := share_interval(k, n)).low <= 0.1 <= found.high]

    assert 0.92 <= binom.pmf(covering, n, 0.1).sum() < 0.98


def test_the_interval_of_a_share_is_where_the_score_test_does_not_refuse() -> None:
    """Wilson's ends solve |p̂ − p| = z √(p (1 − p) / n)."""
    low, high = share_interval(7, 40)

    for end in (low, high):
        assert abs(7 / 40 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 40), rel=1e-6)
    assert low < 7 / 40 < high
    assert share_interval(0, 40).low == 0 < share_interval(0, 40).high < 0.1
    assert share_interval(40, 40).high == 1 > share_interval(40, 40).low > 0.9


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (0, 0)])
def test_shares_of_nothing_or_beyond_all_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ArgumentError, match="successes of"):
        share_interval(successes, n)


def test_a_share_over_groups_of_one_item_has_wilsons_interval() -> None:
    successes = [True] * 7 + [False] * 33

    assert cluster_share_interval(successes, range(40)) == pytest.approx(share_interval(7, 40))


@pytest.mark.parametrize("success", [True, False])
def test_groups_that_all_agree_count_as_one_item_each(success: bool) -> None:
    groups = np.repeat(np.arange(10), 4).tolist()

    assert cluster_share_interval([success] * 40, groups) == pytest.approx(share_interval(10 * success, 10))


def test_groups_that_agree_within_but_not_between_are_less_sure_than_their_items() -> None:
    successes = np.repeat([True, False] * 10, 4).tolist()

    found = cluster_share_interval(successes, np.repeat(np.arange(20), 4).tolist())

    assert found is not None
    assert found.high - found.low > 0.9 * (share_interval(10, 20).high - share_interval(10, 20).low)
    balanced = cluster_share_interval([True, False] * 20, np.repeat(np.arange(20), 2).tolist())
    assert balanced is not None
    assert balanced.high - balanced.low >= share_interval(20, 40).high - share_interval(20, 40).low


def test_the_effective_number_of_items_is_that_of_korn_and_graubard() -> None:
    """Of 20 groups of 4 that agree within, 5 with successes: residuals are 3 in 5 groups and −1 in 15."""
    successes = np.repeat([True] * 5 + [False] * 15, 4).tolist()
    squared_error = 20 / 19 * (5 * 3**2 + 15 * 1**2) / 80**2
    effect = squared_error / (0.25 * 0.75 / 79)
    n = 80 / effect * (student.ppf(0.975, 79) / student.ppf(0.975, 19)) ** 2

    found = cluster_share_interval(successes, np.repeat(np.arange(20), 4).tolist())

    assert found is not None
    for end in found:
        assert abs(0.25 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-6)


@pytest.mark.parametrize("count", [24, 40])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_shares_over_correlated_groups_are_covered(count: int, share: float) -> None:
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(count), SIZES * (count // len(SIZES)))
    # Chances of groups with an intraclass correlation of 0.3.
    chances = beta.rvs(share * 7 / 3, (1 - share) * 7 / 3, size=(SIMULATIONS, count), random_state=generator)
    successes = generator.random((SIMULATIONS, len(groups))) < chances[:, groups]

    def covered(intervals: list[Interval | None]) -> float:
        return float(np.mean([found is not None and found.low <= share <= found.high for found in intervals]))

    assert covered([cluster_share_interval(one, groups.tolist()) for one in successes]) >= 0.91
    assert covered([share_interval(int(one.sum()), len(groups)) for one in successes]) < 0.88


def test_a_success_is_true_or_false() -> None:
    with pytest.raises(ArgumentError, match="true or false"):
        cluster_share_interval([0.5, 1.0], "ab")  # type: ignore[list-item]  # The point of the test.
