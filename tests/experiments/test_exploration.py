"""Which cells are written: few, and those that choose as all of them would."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from steer_tools.experiments.exploration import ENOUGH, Key, Lane, Outcome, chosen, next_cells

STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
LANES = [Lane(layer, positions, 1) for layer in range(8) for positions in ("generated", "all")]


def surface(seed: int, noise: float = 0.0) -> dict[Key, Outcome]:
    """A made-up model: each lane has a slope, a largest effect, and a strength beyond which its texts break."""
    drawn = np.random.default_rng(seed)
    found: dict[Key, Outcome] = {}
    for lane in LANES:
        half, most, breaks = 10 ** drawn.uniform(-1.3, 0.3), drawn.uniform(-0.2, 1.2), 10 ** drawn.uniform(-1.2, 0.3)
        for strength in STRENGTHS:
            effect = most * strength / (strength + half) if strength < breaks else 0.0
            for sign in (1, -1):
                told = sign * effect + noise * drawn.standard_normal()
                found[Lane(lane.layer, lane.positions, sign), strength] = Outcome(told, strength < breaks)
    return found


def explored(every: Mapping[Key, Outcome]) -> dict[Key, Outcome]:
    known: dict[Key, Outcome] = {}
    while following := next_cells(LANES, STRENGTHS, known):
        assert not known.keys() & following and len(set(following)) == len(following)
        known |= {key: every[key] for key in following}
    return known


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_that_of_the_whole_grid(seed: int) -> None:
    every = surface(seed)
    ahead = {key: own for key, own in every.items() if key[0].sign == 1}

    known = explored(every)

    assert chosen(known) == chosen(ahead)
    assert len(known) <= 0.8 * len(ahead)


def test_noise_costs_little_of_the_effect_and_half_of_the_cells_are_spared() -> None:
    lost, written = list[float](), list[int]()
    for seed in range(200):
        every = surface(seed, noise=0.05)
        known = explored(every)
        ours, best = chosen(known), chosen({key: own for key, own in every.items() if key[0].sign == 1})
        assert ours is not None and best is not None
        lost.append(every[best].effect - every[ours].effect)
        written.append(len(known))
    assert np.quantile(lost, 0.95) <= 0.1
    assert 0.2 <= np.mean(written) / (len(LANES) * len(STRENGTHS)) <= 0.5


def test_where_texts_go_the_wrong_way_the_other_sign_is_tried() -> None:
    every = {(Lane(0, "all", sign), s): Outcome(-sign * s, True) for sign in (1, -1) for s in STRENGTHS}

    known: dict[Key, Outcome] = {}
    while following := next_cells(LANES[1:2], STRENGTHS, known):
        known |= {key: every[key] for key in following}

    assert chosen(known) == (Lane(0, "all", -1), 0.8)


def test_what_breaks_texts_is_tried_more_gently_and_nothing_is_chosen_where_all_are_broken() -> None:
    lane = LANES[0]
    broken = {(lane, s): Outcome(0.0, False) for s in STRENGTHS[2:]}

    assert next_cells([lane], STRENGTHS, {(lane, 0.2): Outcome(0.0, False)}) == [(lane, 0.1)]
    assert next_cells([lane], STRENGTHS, broken | {(lane, 0.1): Outcome(0.5, True)}) == [(lane, 0.05)]
    assert next_cells([lane], STRENGTHS, broken | {(lane, s): Outcome(0.0, False) for s in STRENGTHS}) == []
    assert chosen(broken) is None


def test_a_cell_that_cannot_reach_the_largest_effect_goes_no_further() -> None:
    strong, weak = LANES[:2]
    known = {(strong, 0.2): Outcome(0.9, True), (strong, 0.4): Outcome(0.0, False), (weak, 0.2): Outcome(0.02, True)}

    assert next_cells([strong, weak], STRENGTHS, known) == [(strong, 0.1)]
    assert next_cells([strong, weak], STRENGTHS, known | {(weak, 0.2): Outcome(0.3, True)}) == [
        (strong, 0.1),
        (weak, 0.4),
    ]


def test_the_gentlest_cell_that_does_enough_is_chosen_and_of_equal_strengths_the_one_that_does_most() -> None:
    first, second = LANES[:2]
    known = {
        (first, 0.1): Outcome(ENOUGH * 0.5, True),
        (second, 0.1): Outcome(0.45, True),
        (first, 0.2): Outcome(0.5, True),
        (second, 0.05): Outcome(0.9, False),
    }

    assert chosen(known) == (second, 0.1)
