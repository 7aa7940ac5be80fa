"""What sweeps and experiments found → what their tools give back: numbers, paths and warnings, rounded."""

from collections.abc import Sequence

from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.grids import Grid, by_layer
from steer_tools.experiments.sweeps import Sweep, SweepOptions
from steer_tools.parameters import (
    ControlsStatus,
    ExperimentResult,
    LayerCells,
    SideEffectsStatus,
    SweepResult,
    WindowStatus,
)
from steer_tools.tools.results import rounded, short, short_interval

# Fewer questions than these say little, whatever the interval.
_FEW_GROUPS = 12


def swept_result(swept: Sweep, options: SweepOptions, heat_map: str, data: str, warnings: list[str]) -> SweepResult:
    """Return what sweep_steering gives."""
    layers = by_layer(swept.grid.cells)
    strengths = [cell.strength for cell in next(iter(layers.values()))]
    return SweepResult(
        unit=options.unit,
        strengths=strengths,
        cells=[
            LayerCells(
                layer=layer,
                effects=[short(cell.effect) for cell in cells],
                opposite_effects=[short(cell.opposite_effect) for cell in cells],
                kl=[short(cell.damage.divergence) for cell in cells],
                within_budget=[cell.damage.is_within(options.budget) for cell in cells],
            )
            for layer, cells in layers.items()
        ],
        window=_window(swept.grid),
        best_layer=swept.cell.layer,
        best_strength=swept.cell.strength,
        effect=short(swept.judgement.effect),
        interval=short_interval(swept.judgement.interval),
        items=len(swept.judgement.effects),
        anti_steerable=short(swept.judgement.anti_steerable),
        heat_map_path=heat_map,
        data_path=data,
        warnings=[*warnings, *_warnings(swept, strengths)],
    )


def experiment_result(
    found: Experiment, options: SweepOptions, vector_path: str, dataset: str, report_path: str
) -> ExperimentResult:
    """Return what steering_experiment gives."""
    swept, judgement, null, side_effects = found.swept, found.swept.judgement, found.null, found.side_effects
    damage = side_effects.damage
    strengths = sorted({cell.strength for cell in swept.grid.cells})
    return ExperimentResult(
        verdict=found.ruling.verdict,
        reasons=list(found.ruling.reasons),
        vector_path=vector_path,
        dataset=dataset,
        best_layer=swept.cell.layer,
        best_strength=swept.cell.strength,
        unit=options.unit,
        effect=short(judgement.effect),
        interval=short_interval(judgement.interval),
        items=len(judgement.effects),
        prompting=None if judgement.prompting is None else short(judgement.prompting),
        controls=ControlsStatus(
            count=len(null.means),
            reached=int((null.means >= judgement.effect).sum()),
            largest=short(float(null.means.max())),
            anti_steerable=short(float((null.effects < 0).mean())),
        ),
        side_effects=SideEffectsStatus(
            kl=short(damage.divergence),
            perplexity=short(damage.perplexity),
            distinct_2=short(damage.distinct),
            length=short(damage.length),
            others={name: short(shift) for name, shift in side_effects.others.items()},
            text_scores={name: [rounded(score) for score in own] for name, own in side_effects.text_scores.items()},
        ),
        window=_window(swept.grid),
        report_path=report_path,
        warnings=[*found.extraction.warnings, *_warnings(swept, strengths)],
    )


def _warnings(swept: Sweep, strengths: Sequence[float]) -> list[str]:
    warnings: list[str] = []
    groups = len({question.group for question in swept.judgement.asked})
    if groups < _FEW_GROUPS:
        warnings.append(f"Only {groups} different questions judged the choice, so the interval is rough.")
    if not swept.grid.within:
        warnings.append("No cell has a positive effect within the damage budget; the best one is only the largest.")
    elif swept.cell.strength == max(strengths):
        warnings.append("The chosen strength is the largest that was tried: try larger ones.")
    return warnings


def _window(grid: Grid) -> list[WindowStatus]:
    return [WindowStatus(layer=own.layer, least=own.least, largest=own.largest) for own in grid.window]
