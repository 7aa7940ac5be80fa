"""Figures of texts, and of what steering did to items: laws, then small cases that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import linregress, spearmanr

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.metrics import (
    anti_steerable_share,
    changed_share,
    distinct_2,
    empirical_p,
    paraphrase_share,
    perplexity,
    pooled_distinct_2,
    robustness,
    slopes,
)


def in_groups(groups: int, size: int, *, share: float, seed: int) -> tuple[NDArray[np.float64], list[int]]:
    """Normal values of which `share` of the variance lies within groups, around 7."""
    generator = np.random.default_rng(seed)
    number = np.repeat(np.arange(groups), size)
    between, within = generator.normal(size=groups)[number], generator.normal(size=groups * size)
    return 7 + math.sqrt(1 - share) * between + math.sqrt(share) * within, number.tolist()


def test_texts_change_at_places_that_differ_or_that_one_lacks() -> None:
    assert changed_share([[1, 2, 3]], [[1, 2, 3]]) == 0
    assert changed_share([[1, 9, 3], [4]], [[1, 2, 3], [4, 5]]) == pytest.approx(2 / 5)
    assert changed_share([[]], [[]]) is None


def test_a_loop_has_few_distinct_pairs() -> None:
    assert distinct_2([[1, 2, 3, 4]]) == 1
    assert distinct_2([[1, 2, 1, 2, 1], [1, 2, 3]]) == pytest.approx((2 / 4 + 1) / 2)
    assert distinct_2([[1], []]) is None


def test_lists_that_are_alike_have_few_distinct_pairs_together() -> None:
    assert pooled_distinct_2([[1, 2, 3], [4, 5, 6]]) == 1
    assert pooled_distinct_2([[1, 2, 3], [1, 2, 3], [1, 2, 9]]) == pytest.approx(3 / 6)
    assert pooled_distinct_2([[1], []]) is None


def test_perplexity_is_the_number_of_tokens_that_would_be_equally_likely() -> None:
    assert perplexity([[math.log(1 / 8)] * 3, [math.log(1 / 8)]]) == pytest.approx(8)
    assert perplexity([[], []]) is None
    assert perplexity([[-1000.0]]) is None


def test_slopes_are_those_of_a_regression_of_each_item() -> None:
    strengths = [-1.5, -0.5, 0.0, 3.0]
    propensities = np.random.default_rng(0).normal(size=(4, 7)) + 3

    found = slopes(propensities, strengths)

    expected = [linregress(strengths, propensities[:, item]).slope for item in range(7)]
    assert found.shape == (7,)
    assert found == pytest.approx(expected)
    assert spearmanr(found, slopes(propensities + 10, strengths)).statistic == pytest.approx(1)


@pytest.mark.parametrize(
    ("propensities", "strengths", "words"),
    [
        ([[1.0], [2.0]], [1.0, 1.0], "at least two that differ"),
        ([[1.0]], [1.0], "at least two that differ"),
        ([[1.0], [2.0]], [1.0], "1 strengths and 2 rows"),
        ([1.0, 2.0], [1.0, 2.0], "shape"),
        ([[1.0], [math.inf]], [1.0, 2.0], r"inf at \[1, 0\]"),
    ],
)
def test_slopes_over_one_strength_or_of_broken_values_are_refused(
    propensities: list[list[float]], strengths: list[float], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        slopes(propensities, strengths)


def test_an_item_is_anti_steerable_where_its_slope_is_negative_and_not_where_it_is_zero() -> None:
    assert anti_steerable_share([1.0, -0.1, 0.0, -2.0, 0.5]) == pytest.approx(2 / 5)
    assert anti_steerable_share([]) is None


def test_a_p_value_counts_the_effect_itself_and_ties() -> None:
    assert empirical_p(2.0, [1.0, 2.0, 3.0, -5.0]) == pytest.approx(3 / 5)
    assert empirical_p(9.0, [0.0] * 99) == pytest.approx(1 / 100)
    assert empirical_p(9.0, []) == 1


def test_p_values_under_chance_are_uniform_on_their_steps() -> None:
    drawn = np.random.default_rng(0).normal(size=(4000, 20))

    found = np.array([empirical_p(one[0], one[1:]) for one in drawn])

    for step in (0.05, 0.25, 0.5):
        assert (found <= step + 1e-9).mean() == pytest.approx(step, abs=4 * math.sqrt(step * (1 - step) / 4000))


@pytest.mark.parametrize(("effect", "controls"), [(math.nan, [1.0]), (1.0, [math.nan])])
def test_a_p_value_of_what_is_no_number_is_refused(effect: float, controls: list[float]) -> None:
    with pytest.raises(ArgumentError, match="nan"):
        empirical_p(effect, controls)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_paraphrase_share_is_that_of_the_population(share: float) -> None:
    values, groups = in_groups(1500, 3, share=share, seed=0)
    # Sizes differ: the last item of every second group is left out.
    kept = [i for i in range(len(groups)) if i % 6 != 5]

    assert paraphrase_share(values, groups) == pytest.approx(share, abs=0.04)
    assert paraphrase_share(values[kept], [groups[i] for i in kept]) == pytest.approx(share, abs=0.05)


def test_the_paraphrase_share_by_hand_with_unequal_groups() -> None:
    """Group means are 2, 6 and 10."""
    values, groups = [1.0, 2.0, 3.0, 4.0, 8.0, 10.0], "aaabbc"
    total = sum(values) / 6
    within = (2 + 8) / 3
    between = (3 * (2 - total) ** 2 + 2 * (6 - total) ** 2 + (10 - total) ** 2) / 2
    of_groups = (between - within) / ((6 - (9 + 4 + 1) / 6) / 2)

    assert paraphrase_share(values, groups) == pytest.approx(within / (within + of_groups))


def test_the_paraphrase_share_ends_at_none_and_all() -> None:
    assert paraphrase_share([1.0, 1.0, 5.0, 5.0], "aabb") == 0
    assert paraphrase_share([0.0, 1.0, 0.0, 1.0], "aabb") == 1


@pytest.mark.parametrize(("values", "groups"), [([1.0, 2.0], "ab"), ([1.0, 2.0], "aa"), ([3.0] * 4, "aabb"), ([], "")])
def test_variance_that_cannot_be_shared_out_has_no_share(values: list[float], groups: str) -> None:
    assert paraphrase_share(values, groups) is None


def test_a_group_is_robust_where_each_of_its_variants_and_items_moves_by_a_quarter_of_the_median() -> None:
    effects = [[4.0, 4.0, 4.0, 1.0], [4.0, 4.0, 0.9, 4.0]]

    assert robustness(effects, "abcd") == pytest.approx(3 / 4)
    assert robustness(effects, "abbc") == pytest.approx(2 / 3)
    assert robustness([[8.0, *row[1:]] for row in effects], "abcd") == robustness(effects, "abcd")


def test_nothing_is_robust_where_the_median_does_not_move_the_asked_way() -> None:
    effects = np.array([[4.0, 4.0, -4.0]])

    assert robustness(effects, "abc") == pytest.approx(2 / 3)
    assert robustness(-effects, "abc") == 0
    assert robustness([[0.0, 0.0]], "ab") == 0
    assert robustness(np.empty((2, 0)), "") is None


def test_groups_are_one_for_each_item() -> None:
    with pytest.raises(ArgumentError, match="2 groups and 3 items"):
        robustness([[1.0, 2.0, 3.0]], "ab")
    with pytest.raises(ArgumentError, match="2 groups and 3 items"):
        paraphrase_share([1.0, 2.0, 3.0], "ab")
