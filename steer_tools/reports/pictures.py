"""Sweeps, experiments and inspections → what the figures draw of them. It must not know how it is drawn."""

from collections.abc import Mapping, Sequence

from steer_tools.core.site import Site
from steer_tools.evaluation.intervals import Floats
from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_sweeps import TextSweep
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, Matrix, heat_map, matrix
from steer_tools.figures.strips import readable
from steer_tools.inspection.ablation import Component
from steer_tools.inspection.patching import Patches
from steer_tools.inspection.readings import Projection, Readings
from steer_tools.reports.json_documents import Facts, means_by_kind
from steer_tools.reports.words import CONTROL_KINDS, UNITS

_EFFECT = "change of log-odds (nats)"
# Prompts that get a picture.
_DRAWN = 8


def overview_picture(experiment: Experiment, facts: Facts) -> bytes:
    """Return the picture of a report: doses, cells, controls."""
    swept, null, judgement = experiment.swept, experiment.null, experiment.swept.judgement
    groups = [ControlGroup(CONTROL_KINDS.get(kind, kind), own.tolist()) for kind, own in means_by_kind(null).items()]
    shown = Overview(
        doses=_doses(swept),
        cells=_cells(swept),
        cells_title=f"All cells, {_choosing(swept)}",
        controls=Controls(groups, judgement.effect, judgement.interval),
        controls_title=f"{len(null.kinds)} control directions",
    )
    subject = _subject(experiment.evaluation_set.behavior.name, facts)
    return overview(shown, title=f"{subject}: {experiment.ruling.verdict}")


def heat_map_picture(swept: Sweep, behavior: str, facts: Facts) -> bytes:
    """Return the picture of a grid."""
    return heat_map(_cells(swept), title=f"{_subject(behavior, facts)}, {_choosing(swept)}")


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
    return heat_map(shown, title=f"{metric} of the texts to {len(swept.choosing)} prompts")


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


def _doses(swept: Sweep) -> DosePanel:
    judgement = swept.judgement
    intervals = [dose.interval for dose in judgement.doses if dose.interval is not None]
    curve = Curve(
        "the vector" + (", 95 % interval" if intervals else ""),
        [dose.strength for dose in judgement.doses],
        [dose.effect for dose in judgement.doses],
        intervals,
    )
    asking = judgement.prompting
    return DosePanel(
        f"Layer {swept.cell.layer}, {len(judgement.effects)} judging items",
        curve,
        chosen=swept.cell.strength,
        reference=None if asking is None else ("a prompt that asks for it", asking),
    )


def _cells(swept: Sweep) -> HeatMap:
    grid, chosen = swept.grid, (swept.cell.layer, swept.cell.strength)
    cells = [HeatCell(cell.layer, -cell.strength, cell.opposite_effect) for cell in grid.cells]
    for cell in grid.cells:
        is_damaged, is_chosen = not cell.damage.is_within(grid.budget), (cell.layer, cell.strength) == chosen
        cells.append(HeatCell(cell.layer, cell.strength, cell.effect, is_damaged, cell in grid.enough, is_chosen))
    return HeatMap(cells, _EFFECT, f"strength, in {UNITS[swept.placed.unit].plural}")
