"""Sweeps and experiments → what the figures draw of them. It must not know how it is drawn."""

from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.sweeps import Sweep
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, heat_map
from steer_tools.reports.json_documents import Facts, means_by_kind
from steer_tools.reports.words import CONTROL_KINDS, UNITS

_EFFECT = "change of log-odds (nats)"


def overview_picture(experiment: Experiment, facts: Facts) -> bytes:
    """Return the picture of a report: doses, cells, controls."""
    swept, null = experiment.swept, experiment.null
    groups = [ControlGroup(CONTROL_KINDS.get(kind, kind), own.tolist()) for kind, own in means_by_kind(null).items()]
    judgement = swept.judgement
    shown = Overview(
        doses=_doses(swept),
        cells=_cells(swept),
        cells_title=f"All cells, {_choosing(swept)}",
        controls=Controls(groups, judgement.effect, judgement.interval),
        controls_title=f"{len(null.kinds)} control directions",
    )
    return overview(
        shown, title=f"{_subject(experiment.evaluation_set.behavior.name, facts)}: {experiment.ruling.verdict}"
    )


def heat_map_picture(swept: Sweep, behavior: str, facts: Facts) -> bytes:
    """Return the picture of a grid."""
    return heat_map(_cells(swept), title=f"{_subject(behavior, facts)}, {_choosing(swept)}")


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
    enough = {(cell.layer, cell.strength) for cell in grid.enough}
    cells: list[HeatCell] = []
    for cell in grid.cells:
        cells += [
            HeatCell(
                cell.layer,
                cell.strength,
                cell.effect,
                is_damaged=not cell.damage.is_within(grid.budget),
                is_in_window=(cell.layer, cell.strength) in enough,
                is_chosen=(cell.layer, cell.strength) == chosen,
            ),
            HeatCell(cell.layer, -cell.strength, cell.opposite_effect),
        ]
    return HeatMap(cells, _EFFECT, f"strength, in {UNITS[swept.placed.unit].plural}")
