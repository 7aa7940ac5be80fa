"""The pictures: each shows what it is given, at any size of a grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.pictures import size_of_png
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, heat_map

STRENGTHS = (-0.8, -0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4, 0.8)


def grid(layers: int, strengths: tuple[float, ...] = STRENGTHS) -> HeatMap:
    cells = [HeatCell(layer, s, 10 * s * (1 + layer % 3)) for layer in range(layers) for s in strengths]
    return HeatMap(cells, "effect (nats)", "strength")


def with_first(shown: HeatMap, **changes: object) -> HeatMap:
    first, *others = shown.cells
    return replace(shown, cells=[replace(first, **changes), *others])  # type: ignore[arg-type]  # Fields of HeatCell.


PANEL = DosePanel("doses", Curve("vector", [-1, 0, 1], [-2, 0, 2], [(-3, -1), (0, 0), (1, 3)]), chosen=1)
CONTROLS = Controls([ControlGroup("random", [0.1, -0.2]), ControlGroup("shuffled", [0.3])], 2.0, (1.0, 3.0))
EVIDENCE = Overview(PANEL, grid(3), "cells", CONTROLS, "controls")


@pytest.mark.parametrize(("layers", "strengths"), [(1, (0.1,)), (1, STRENGTHS), (3, STRENGTHS), (32, STRENGTHS)])
def test_a_heat_map_has_room_for_any_grid(layers: int, strengths: tuple[float, ...]) -> None:
    width, height = size_of_png(heat_map(grid(layers, strengths), title="t"))

    assert min(width, height) > 400
    assert height >= 45 * layers
    assert width >= 90 * len(strengths)


@pytest.mark.parametrize(
    "change",
    [{"effect": -99.0}, {"is_damaged": True}, {"is_in_window": True}, {"is_chosen": True}],
    ids=lambda change: next(iter(change)),
)
def test_a_heat_map_shows_the_effect_and_each_mark(change: dict[str, object]) -> None:
    plain = heat_map(grid(2), title="t")

    assert heat_map(grid(2), title="t") == plain
    assert heat_map(with_first(grid(2), **change), title="t") != plain


@pytest.mark.parametrize("mark", ["is_damaged", "is_in_window", "is_chosen"])
def test_a_mark_stands_at_its_cell(mark: str) -> None:
    shown = grid(2)
    at_first = with_first(shown, **{mark: True})
    at_second = replace(shown, cells=[shown.cells[0], replace(shown.cells[1], **{mark: True}), *shown.cells[2:]])

    pictures = [heat_map(one, title="t") for one in (at_first, at_second)]

    assert size_of_png(pictures[0]) == size_of_png(pictures[1])
    assert pictures[0] != pictures[1]


def test_a_cell_that_is_broken_does_not_take_the_colours_from_the_others() -> None:
    shown = HeatMap([HeatCell(0, 0.1, 2.0), HeatCell(0, 0.8, -100.0, is_damaged=True)], "y", "x")

    assert shown.limit == 2.0
    assert replace(shown, cells=[replace(cell, is_damaged=False) for cell in shown.cells]).limit == 100.0


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_grid_without_any_effect_or_with_only_broken_cells_is_drawn(is_damaged: bool) -> None:
    cells = [HeatCell(0, s, 0.0, is_damaged=is_damaged) for s in STRENGTHS]

    assert min(size_of_png(heat_map(HeatMap(cells, "y", "x"), title="t"))) > 400


def test_the_order_of_cells_does_not_matter() -> None:
    shown = grid(3)

    assert heat_map(replace(shown, cells=list(shown.cells)[::-1]), title="t") == heat_map(shown, title="t")


def test_the_evidence_is_one_wide_picture() -> None:
    width, height = size_of_png(overview(EVIDENCE, title="t"))

    assert width >= 1800
    assert 2 < width / height < 3
    assert size_of_png(overview(replace(EVIDENCE, cells=grid(32)), title="t"))[1] > 2 * height


@pytest.mark.parametrize(
    "other",
    [
        replace(EVIDENCE, doses=replace(PANEL, reference=("asking", 1.5))),
        replace(EVIDENCE, doses=replace(PANEL, chosen=-1)),
        replace(EVIDENCE, doses=replace(PANEL, effect=Curve("vector", [-1, 0, 1], [-2, 0, 2]))),
        replace(EVIDENCE, cells=with_first(grid(3), is_chosen=True)),
        replace(EVIDENCE, controls=replace(CONTROLS, effect=2.5)),
        replace(EVIDENCE, controls=replace(CONTROLS, interval=None)),
        replace(EVIDENCE, controls=replace(CONTROLS, groups=CONTROLS.groups[:1])),
        replace(EVIDENCE, controls=replace(CONTROLS, groups=[*CONTROLS.groups[:1], ControlGroup("shuffled", [0.2])])),
    ],
    ids=["prompting", "chosen", "no band", "cells", "effect", "no interval", "fewer kinds", "a control"],
)
def test_the_evidence_shows_each_of_its_parts(other: Overview) -> None:
    assert overview(EVIDENCE, title="t") == overview(EVIDENCE, title="t")
    assert overview(other, title="t") != overview(EVIDENCE, title="t")


def test_labels_that_look_like_formulas_are_drawn_as_they_are() -> None:
    hostile = r"$\frac{$ a_b ^ \ % {"

    for shown in (heat_map(grid(1), title=hostile), overview(replace(EVIDENCE, controls_title=hostile), title=hostile)):
        assert min(size_of_png(shown)) > 400
