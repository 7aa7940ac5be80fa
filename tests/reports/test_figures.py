"""The pictures: each shows what it is given, at any size of a grid."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.pictures import size_of_png
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, Points, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, Marks, heat_maps, short

STRENGTHS = (-0.8, -0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4, 0.8)


def grid(layers: int, strengths: tuple[float, ...] = STRENGTHS) -> HeatMap:
    cells = [HeatCell(layer, s, 10 * s * (1 + layer % 3)) for layer in range(layers) for s in strengths]
    return HeatMap(cells, "effect (nats)", "strength")


def with_first(shown: HeatMap, **changes: object) -> HeatMap:
    first, *others = shown.cells
    return replace(shown, cells=[replace(first, **changes), *others])  # type: ignore[arg-type]  # Fields of HeatCell.


PANEL = DosePanel("doses", Curve("vector", [-1, 0, 1], [-2, 0, 2], [(-3, -1), (0, 0), (1, 3)]), chosen=1)
CONTROLS = Controls([ControlGroup("random", [0.1, -0.2]), ControlGroup("shuffled", [0.3])], 2.0, (1.0, 3.0))
EVIDENCE = Overview(PANEL, [grid(3)], CONTROLS, "controls", "effect (nats)")


@pytest.mark.parametrize(("layers", "strengths"), [(1, (0.1,)), (1, STRENGTHS), (3, STRENGTHS), (32, STRENGTHS)])
def test_a_heat_map_has_room_for_any_grid(layers: int, strengths: tuple[float, ...]) -> None:
    width, height = size_of_png(heat_maps([grid(layers, strengths)], title="t"))

    assert min(width, height) > 400
    assert height >= 45 * layers
    assert width >= 90 * len(strengths)


@pytest.mark.parametrize(
    "change",
    [{"effect": -99.0}, {"effect": None}, {"is_damaged": True}, {"is_in_window": True}, {"is_chosen": True}],
    ids=lambda change: str(next(iter(change.items()))),
)
def test_a_heat_map_shows_the_effect_and_each_mark(change: dict[str, object]) -> None:
    plain = heat_maps([grid(2)], title="t")

    assert heat_maps([grid(2)], title="t") == plain
    assert heat_maps([with_first(grid(2), **change)], title="t") != plain


@pytest.mark.parametrize("mark", ["is_damaged", "is_in_window", "is_chosen"])
def test_a_mark_stands_at_its_cell(mark: str) -> None:
    shown = grid(2)
    at_first = with_first(shown, **{mark: True})
    at_second = replace(shown, cells=[shown.cells[0], replace(shown.cells[1], **{mark: True}), *shown.cells[2:]])

    pictures = [heat_maps([one], title="t") for one in (at_first, at_second)]

    assert size_of_png(pictures[0]) == size_of_png(pictures[1])
    assert pictures[0] != pictures[1]


def test_a_cell_that_is_broken_does_not_take_the_colours_from_the_others() -> None:
    shown = HeatMap([HeatCell(0, 0.1, 2.0), HeatCell(0, 0.8, -100.0, is_damaged=True)], "y", "x")

    assert shown.limit == 2.0
    assert replace(shown, cells=[replace(cell, is_damaged=False) for cell in shown.cells]).limit == 100.0


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_grid_without_any_effect_or_with_only_broken_cells_is_drawn(is_damaged: bool) -> None:
    cells = [HeatCell(0, s, 0.0, is_damaged=is_damaged) for s in STRENGTHS]

    assert min(size_of_png(heat_maps([HeatMap(cells, "y", "x")], title="t"))) > 400


def test_negative_strengths_and_missing_cells_have_colours_too() -> None:
    negative = HeatMap(
        [HeatCell(0, -0.1, -0.5), HeatCell(0, -0.8, 9.0, is_damaged=True), HeatCell(0, 0.1, None)], "y", "x"
    )

    assert negative.limit == 0.5
    assert HeatMap([HeatCell(0, 0.1, None)], "y", "x").limit == 1.0
    assert min(size_of_png(heat_maps([negative], title="t"))) > 400


@pytest.mark.parametrize(
    ("effect", "decimals", "shown"),
    [(0.04, 1, "0"), (0.05, 1, "+0.1"), (0.04, 2, "+0.04"), (-0.004, 2, "0"), (9.94, 1, "+9.9"), (-12.3, 2, "-12")],
)
def test_a_number_is_as_long_as_a_cell_has_room_for(effect: float, decimals: int, shown: str) -> None:
    assert short(effect, decimals) == shown


def test_maps_below_each_other_have_room_and_their_own_words() -> None:
    one, two = (heat_maps([grid(8)] * count, title="t") for count in (1, 2))
    marked = with_first(grid(2), is_damaged=True)

    assert size_of_png(two)[1] > 1.7 * size_of_png(one)[1]
    assert heat_maps([replace(marked, title="other")], title="t") != heat_maps([marked], title="t")
    assert heat_maps([replace(marked, marks=Marks(damaged="other"))], title="t") != heat_maps([marked], title="t")


def test_the_order_of_cells_does_not_matter() -> None:
    shown = grid(3)

    assert heat_maps([replace(shown, cells=list(shown.cells)[::-1])], title="t") == heat_maps([shown], title="t")


def test_the_evidence_is_one_wide_picture() -> None:
    width, height = size_of_png(overview(EVIDENCE, title="t"))

    assert width >= 1800
    assert 2 < width / height < 3
    assert size_of_png(overview(replace(EVIDENCE, cells=[grid(32)]), title="t"))[1] > 2 * height


@pytest.mark.parametrize(
    "other",
    [
        replace(EVIDENCE, doses=replace(PANEL, reference=("asking", 1.5))),
        replace(EVIDENCE, doses=replace(PANEL, chosen=-1)),
        replace(EVIDENCE, doses=replace(PANEL, effect=Curve("vector", [-1, 0, 1], [-2, 0, 2]))),
        replace(EVIDENCE, doses=replace(PANEL, points=[Points("each", 1, [1, 2])])),
        replace(EVIDENCE, doses=replace(PANEL, effect=replace(PANEL.effect, broken=[-1]))),
        replace(EVIDENCE, cells=[with_first(grid(3), is_chosen=True)]),
        replace(EVIDENCE, cells=[grid(3), grid(3)]),
        replace(EVIDENCE, controls_label="other"),
        replace(EVIDENCE, controls=replace(CONTROLS, effect=2.5)),
        replace(EVIDENCE, controls=replace(CONTROLS, interval=None)),
        replace(EVIDENCE, controls=replace(CONTROLS, groups=CONTROLS.groups[:1])),
        replace(EVIDENCE, controls=replace(CONTROLS, groups=[*CONTROLS.groups[:1], ControlGroup("shuffled", [0.2])])),
    ],
    ids=[
        "prompting",
        "chosen",
        "no band",
        "points",
        "broken",
        "cells",
        "maps",
        "label",
        "effect",
        "no interval",
        "fewer kinds",
        "a control",
    ],
)
def test_the_evidence_shows_each_of_its_parts(other: Overview) -> None:
    assert overview(EVIDENCE, title="t") == overview(EVIDENCE, title="t")
    assert overview(other, title="t") != overview(EVIDENCE, title="t")


def labels_beyond(axis: Axis) -> list[Text]:
    """Return the labels of ticks that are not drawn, since they lie beyond what is shown."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]


def test_no_words_of_a_full_picture_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = with_first(with_first(grid(8), is_damaged=True), is_chosen=True)
    shown = replace(shown, cells=[*shown.cells[:-1], replace(shown.cells[-1], effect=None, is_in_window=True)])
    shown = replace(
        shown, title="8 choosing prompts, positions: generated", strength_label="strength, in residual norms"
    )
    shown = replace(shown, marks=Marks("enough effect, and texts pass", "texts do not pass", "not written: too late"))
    curve = Curve("mean of the 8 prompts that chose", [-0.4, 0, 0.4], [-1, 0, 1], broken=[0.4])
    points = [
        Points("the 16 prompts that judge", 0.4, [0.1, 0.9]),
        Points("the same at the opposite strength", -0.4, [-1]),
    ]
    doses = DosePanel(
        "Layer 14, positions: generated", curve, chosen=0.4, reference=("a prompt that asks for it", 0.7), points=points
    )
    kinds = ["random", "random, spread like the activations", "shuffled labels"]
    controls = Controls([ControlGroup(kind, [0.01, 0.2]) for kind in kinds], 0.6, (0.5, 0.7))
    drawn: list[Figure] = []

    def kept(figure: Figure) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr("steer_tools.figures.doses.png", kept)

    overview(Overview(doses, [shown, shown], controls, "19 control directions", "effect of both signs"), title="t" * 60)

    (figure,) = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    beyond = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in labels_beyond(axis)}
    texts = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in beyond
    ]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    assert len(boxes) > 180
    for (first, one), (second, other) in combinations(boxes, 2):
        assert not one.overlaps(other), (first, second)
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for _, box in boxes)


def test_labels_that_look_like_formulas_are_drawn_as_they_are() -> None:
    hostile = r"$\frac{$ a_b ^ \ % {"

    for shown in (
        heat_maps([grid(1)], title=hostile),
        overview(replace(EVIDENCE, controls_title=hostile), title=hostile),
    ):
        assert min(size_of_png(shown)) > 400
