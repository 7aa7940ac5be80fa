"""Sweeps, experiments and inspections → what the figures draw of them. It must not know how it is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from steer_tools.core.site import Site
from steer_tools.evaluation.intervals import Floats
from steer_tools.experiments.experiment import Experiment, Spot
from steer_tools.experiments.exploration import ENOUGH
from steer_tools.experiments.grids import magnitudes
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_choice import SIGNS, TextChoice
from steer_tools.experiments.text_judgement import TextJudgement
from steer_tools.experiments.text_sweeps import TextSweep
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, Points, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, Marks, Matrix, heat_maps, matrix
from steer_tools.figures.strips import readable
from steer_tools.inspection.ablation import Component
from steer_tools.inspection.patching import Patches
from steer_tools.inspection.readings import Projection, Readings
from steer_tools.reports.json_documents import Facts, by_kind
from steer_tools.reports.words import CONTROL_KINDS, UNITS

_EFFECT, _TEXT_EFFECT = "change of log-odds (nats)", "change of the text's score"
_SIZE, _ASKING = "effect of both signs (half the difference)", "a prompt that asks for it"
_TEXT_MARKS = Marks("enough effect, and texts pass", "texts do not pass", "not written: could not be chosen any more")
# Prompts that get a picture.
_DRAWN = 8


def overview_picture(experiment: Experiment, facts: Facts) -> bytes:
    """Return the picture of a report: doses, cells, controls."""
    subject = _subject(experiment.evaluation_set.behavior.name, facts)
    return overview(_overview(experiment), title=f"{subject}: {experiment.ruling.verdict}")


def cells_picture(experiment: Experiment, facts: Facts) -> bytes:
    """Return the cells of an experiment alone."""
    return heat_maps(_overview(experiment).cells, title=_subject(experiment.evaluation_set.behavior.name, facts))


def _overview(experiment: Experiment) -> Overview:
    choice, texts, swept, spot = experiment.choice, experiment.texts, experiment.swept, experiment.spot
    controls, title, label = _controls(experiment)
    if choice is not None and texts is not None:
        cells = _text_cells(choice, magnitudes(experiment.options.strengths), spot)
        return Overview(_text_doses(choice, texts, spot), cells, controls, title, label)
    assert swept is not None
    cells = replace(_cells(swept, spot.strength), title=f"All cells, {_choosing(swept)}")
    return Overview(_doses(experiment.log_odds, spot), [cells], controls, title, label)


def heat_map_picture(swept: Sweep, behavior: str, facts: Facts) -> bytes:
    """Return the picture of a grid."""
    return heat_maps([_cells(swept, swept.cell.strength)], title=f"{_subject(behavior, facts)}, {_choosing(swept)}")


def text_heat_map_picture(swept: TextSweep, metric: str) -> bytes:
    """Return the picture of what texts score at each layer and strength."""
    unit = next(iter(swept.placed_at.values())).unit
    cells = [
        HeatCell(
            cell.layer,
            cell.strength,
            cell.effect,
            is_damaged=not cell.damage.is_within(swept.budget),
            is_chosen=cell is swept.cell,
        )
        for cell in swept.cells
    ]
    shown = HeatMap(cells, f"change of {metric}", f"strength, in {UNITS[unit].plural}")
    return heat_maps([shown], title=f"{metric} of the texts to {len(swept.choosing)} prompts")


def ablation_picture(parts: Sequence[Component], effects: Floats, behavior: str, label: str) -> bytes:
    """Return the effect of taking each part out, a head a column."""
    rows = list(dict.fromkeys(part.place for part in parts))
    most = max((part.head or 0) for part in parts) + 1
    table: list[list[float | None]] = [[None] * most for _ in rows]
    for part, effect in zip(parts, effects.tolist(), strict=True):
        table[rows.index(part.place)][part.head or 0] = effect
    kind = parts[0].kind
    columns = [str(head) for head in range(most)] if kind == "head" else [kind]
    title = f"{behavior} without {'the' if kind == 'direction' else 'each'} {kind}"
    return matrix(Matrix(table, rows, columns, kind, label), title=title)


def patch_picture(found: Patches, component: str) -> bytes:
    """Return what each token's activation recovers at each layer."""
    names = [readable(source if source == own else f"{source}→{own}") for source, own in found.tokens.texts]
    rows, label = [str(site.layer) for site in found.sites], "share of the way to the source"
    shown = Matrix(found.recovered.tolist(), rows, names, "token (source→target)", label)
    return matrix(shown, title=f"Patching the {component}")


def projection_pictures(found: Readings, name: str, folder: str) -> dict[str, bytes]:
    """Return by path the first prompts' projections at each layer, in the typical norms there."""
    return {
        f"{folder}/prompt_{i}.png": _projection_picture(reading.projection, found.norms, f"Prompt {i} along {name}")
        for i, reading in enumerate(found.prompts[:_DRAWN])
    }


def _projection_picture(projection: Projection, norms: Mapping[Site, float], title: str) -> bytes:
    effects = [
        [value / norms[site] if counts else None for value, counts in zip(values, projection.counts, strict=True)]
        for site, values in projection.values.items()
    ]
    rows, columns = [str(site.layer) for site in projection.values], [*map(readable, projection.texts)]
    label = "projection in typical norms; special tokens left out"
    return matrix(Matrix(effects, rows, columns, "token", label), title=title)


def _subject(behavior: str, facts: Facts) -> str:
    return " ".join(f"{behavior:.60} in {facts.short_model:.60}".split())


def _choosing(swept: Sweep) -> str:
    return f"{len(swept.cell.effects)} choosing items; damage measured for + only"


def _doses(judgement: Judgement, spot: Spot) -> DosePanel:
    intervals = [dose.interval for dose in judgement.doses if dose.interval is not None]
    curve = Curve(
        "the vector" + (", 95 % interval" if intervals else ""),
        [dose.strength for dose in judgement.doses],
        [dose.effect for dose in judgement.doses],
        intervals,
    )
    asking = judgement.prompting
    return DosePanel(
        f"Layer {spot.layer}, {len(judgement.effects)} judging items",
        curve,
        chosen=spot.strength,
        reference=None if asking is None else (_ASKING, asking),
    )


def _cells(swept: Sweep, chosen: float) -> HeatMap:
    """Return a grid's cells; `chosen` is the strength that was, or its opposite, at the chosen layer."""
    grid, place = swept.grid, (swept.cell.layer, chosen)
    cells = [
        HeatCell(cell.layer, -cell.strength, cell.opposite_effect, is_chosen=(cell.layer, -cell.strength) == place)
        for cell in grid.cells
    ]
    for cell in grid.cells:
        is_damaged, is_chosen = not cell.damage.is_within(grid.budget), (cell.layer, cell.strength) == place
        cells.append(HeatCell(cell.layer, cell.strength, cell.effect, is_damaged, cell in grid.enough, is_chosen))
    return HeatMap(cells, _EFFECT, f"strength, in {UNITS[swept.placed.unit].plural}")


def _text_doses(choice: TextChoice, texts: TextJudgement, spot: Spot) -> DosePanel:
    """Return the chosen layer's strengths on the prompts that chose, and both signs of the chosen one on the others."""
    own = {cell.strength: cell for cell in choice.cells if cell.place == choice.cell.place}
    effects = {0.0: 0.0} | {strength: cell.effect for strength, cell in own.items()}
    strengths = sorted(effects)
    curve = Curve(
        f"mean of the {len(choice.prompts)} prompts that chose",
        strengths,
        [effects[strength] for strength in strengths],
        broken=[strength for strength in strengths if strength in own and own[strength].failures],
    )
    points = [
        Points(f"the {len(texts.prompts)} prompts that judge", spot.strength, texts.steered.effects.tolist()),
        Points("the same at the opposite strength", -spot.strength, texts.opposite.effects.tolist()),
    ]
    return DosePanel(
        f"Layer {spot.layer}, positions: {_positions(spot.positions)}",
        curve,
        chosen=spot.strength,
        reference=None if texts.prompting is None else (_ASKING, texts.prompting),
        points=points,
    )


def _text_cells(choice: TextChoice, strengths: Sequence[float], spot: Spot) -> list[HeatMap]:
    """Return a map of each kind of steered tokens, all with the same columns."""
    sign, chosen = SIGNS[choice.direction], choice.cell
    columns = {sign * strength for strength in strengths} | {cell.strength for cell in choice.cells}
    known = {(*cell.place, cell.strength): cell for cell in choice.cells}
    largest = max((sign * cell.effect for cell in choice.cells if not cell.failures), default=0.0)
    label, maps = f"strength, in {UNITS[spot.placed.unit].plural}", list[HeatMap]()
    for positions in dict.fromkeys(cell.positions for cell in choice.cells):
        layers = dict.fromkeys(cell.layer for cell in choice.cells if cell.positions == positions)
        cells: list[HeatCell] = []
        for layer, strength in product(layers, columns):
            cell = known.get((layer, positions, strength))
            if cell is None:
                cells.append(HeatCell(layer, strength, None))
                continue
            is_enough = not cell.failures and 0 < sign * cell.effect >= ENOUGH * largest
            cells.append(HeatCell(layer, strength, cell.effect, bool(cell.failures), is_enough, cell == chosen))
        title = f"{len(choice.prompts)} choosing prompts, positions: {_positions(positions)}"
        maps.append(HeatMap(cells, _TEXT_EFFECT, label, title, _TEXT_MARKS))
    return maps


def _controls(experiment: Experiment) -> tuple[Controls, str, str]:
    """Return the controls, of texts where there are such, with title and label."""
    texts, null, log_odds = experiment.texts, experiment.null, experiment.log_odds
    if texts is not None and (texts.controls is not None or null is None):
        sizes = {} if texts.controls is None else by_kind(texts.controls.sizes, texts.controls.kinds)
        groups, effect, interval, label = _groups(sizes), texts.effect, texts.interval, _SIZE
    else:
        means = {} if null is None else by_kind(null.means, null.kinds)
        groups, effect, interval, label = _groups(means), log_odds.effect, log_odds.interval, _EFFECT
    count = sum(len(group.effects) for group in groups)
    return Controls(groups, effect, interval), f"{count} control directions", label


def _groups(values: Mapping[str, Floats]) -> list[ControlGroup]:
    return [ControlGroup(CONTROL_KINDS.get(kind, kind), own.tolist()) for kind, own in values.items()]


def _positions(name: str) -> str:
    return f"{name:.24}"
