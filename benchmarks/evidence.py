"""Holds experiments to the truth of the bundled model: `python benchmarks/evidence.py choice|resamples [TRAIT ...]`.

`choice` compares the chosen cell, and the ranking of cells by log-odds, with exact scores of generated texts.
`resamples` counts verdicts over fresh pairs and splits, for real vectors and for two kinds of control.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from scipy.stats import spearmanr

from steer_tools import bundled_model
from steer_tools.bundled_model.language import TRAITS
from steer_tools.core.site import Site
from steer_tools.directions.extraction import Where, extract
from steer_tools.directions.methods import Method, method_named
from steer_tools.directions.statistics import Examples
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, DamageMeter, write
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.experiments.evaluation_set import EvaluationSet, Splits, evaluation_set_of
from steer_tools.experiments.experiment import run_experiment
from steer_tools.experiments.grids import STRENGTHS, Grid, measure_layer
from steer_tools.experiments.null_distribution import CONTROLS, control_directions, control_plans
from steer_tools.experiments.sweeps import SweepOptions, sweep
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import current_session
from steer_tools.tools import load_model
from steer_tools.workspace import Workspace

LAYERS = (0, 1, 2)
# Items enough for 100 in each part of the split, which is by topic.
ITEMS, EACH = 300, 100
METHODS = ("paired_mean_difference", "random", "balanced_shuffle")
# Controls that are measured before it is asked whether one of them has settled the verdict.
_AT_ONCE = 11


def material_for(trait: str, seed: int) -> EvaluationSet:
    """Return a trait's evaluation set with EACH items that choose and as many that judge."""
    evaluation_set = evaluation_set_of(current_session().engine, trait_behavior(trait, items=ITEMS, seed=seed), seed)
    choosing, judging = evaluation_set.splits.choosing[:EACH], evaluation_set.splits.judging[:EACH]
    assert len(choosing) == len(judging) == EACH, (len(choosing), len(judging))
    return replace(evaluation_set, splits=Splits(choosing, judging))


def measure_choice(trait: str) -> None:
    """Print how far the chosen cell is from the best one within the budget, in exact score on the judging prompts."""
    session, evaluation_set = current_session(), material_for(trait, 0)
    engine, budget = session.engine, Budget()
    contrast = contrast_prompts(evaluation_set.behavior.pairs, as_chat=True)
    vector = extract(session, contrast, Where(LAYERS, pooling="response"), method_named(METHODS[0])).vector
    placed = {layer: place(session, vector, layer, PlacementOptions("residual")) for layer in LAYERS}
    choosing, judging = (
        questions(engine, items) for items in (evaluation_set.splits.choosing, evaluation_set.splits.judging)
    )
    meter = DamageMeter(
        engine, evaluation_set.neutral[::2], [q.prompt for q in choosing[:8]], evaluation_set.text_tokens
    )
    cells = [cell for layer in LAYERS for cell in measure_layer(engine, placed[layer], choosing, STRENGTHS, meter)]
    grid = Grid(tuple(cells), budget)
    signed = [(cell, sign) for cell in cells for sign in (1, -1)]
    plans = [placed[cell.layer].plan(sign * cell.strength) for cell, sign in signed]
    prompts = [question.prompt for question in judging]
    exact = [
        fmean(
            evaluation_set.scorers["exact"](p, t.text) or 0.0 for p, t in zip(prompts, texts.generations, strict=True)
        )
        for texts in write(engine, prompts, plans, evaluation_set.text_tokens)
    ]
    unsteered, *steered = propensities(engine, judging, [(), *plans])
    judge_meter = DamageMeter(engine, evaluation_set.neutral[1::2], prompts[:16], evaluation_set.text_tokens)
    within = [i for i, damage in enumerate(judge_meter.damages(plans)) if damage.is_within(budget)]
    ranks = spearmanr([float((steered[i] - unsteered).mean()) for i in within], [exact[i] for i in within]).statistic
    chosen, by_cell = grid.choose(), {id(cell): exact[2 * i] for i, cell in enumerate(cells)}
    best = max(by_cell[id(cell)] for cell in grid.within)
    print(
        f"{trait:12} {len(choosing)} choose, {len(judging)} judge: layer {chosen.layer} at {chosen.strength:g}, exact "
        f"{by_cell[id(chosen)]:+.3f}, best within the budget {best:+.3f}, gap {best - by_cell[id(chosen)]:.3f}; "
        f"Spearman {ranks:.3f} over {len(within)} cells",
        flush=True,
    )


def count_verdicts(trait: str, method: str, strengths: Sequence[float], resamples: int) -> None:
    """Print the verdicts of so many experiments, each with pairs, items and splits of its own."""
    session, verdicts, margins, exact = current_session(), Counter[str](), list[float](), list[float]()
    started = time.monotonic()
    for seed in range(resamples):
        evaluation_set = replace(material_for(trait, seed), others={})
        way = method_named(method, {} if method == METHODS[0] else {"seed": seed})
        options, path = SweepOptions(strengths, seed=seed), f"{trait}/{method}/{seed}.json"
        if method != METHODS[0] and not _may_work(evaluation_set, way, options, path):
            verdicts["does not work"] += 1
            print(".", end="", file=sys.stderr, flush=True)
            continue
        found = run_experiment(session, evaluation_set, LAYERS, way, options, path)
        verdicts[found.ruling.verdict] += 1
        print(found.ruling.verdict[0], end="", file=sys.stderr, flush=True)
        margins.append(found.swept.judgement.effect - float(found.null.means.max()))
        unsteered, steered = found.side_effects.exact or (None, None)
        exact.append((steered or 0.0) - (unsteered or 0.0))
    spread = (
        f"; effect above the largest control by {min(margins):+.2f} to {max(margins):+.2f} nats, exact effect "
        f"{min(exact):+.2f} to {max(exact):+.2f}"
        if margins
        else ""
    )
    print(
        f"{trait:12} {method:22} works in {verdicts['works']} of {resamples}  {dict(verdicts)}{spread}; "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )


def _may_work(evaluation_set: EvaluationSet, way: Method, options: SweepOptions, path: str) -> bool:
    """Whether the verdict may be `works`, found out with as few of its controls as settle it.

    One control that reaches the effect is enough against it, and so is an interval that is not clear of 0.
    """
    session = current_session()
    contrast = contrast_prompts(evaluation_set.behavior.pairs, as_chat=True)
    vector = extract(session, contrast, Where(LAYERS, pooling="response"), way).vector
    swept = sweep(session, vector, LAYERS, evaluation_set, options, path)
    judgement, placement = swept.judgement, swept.placed.plan(swept.cell.strength)[0]
    if judgement.interval is None or judgement.interval.low <= 0:
        return False
    site = Site(swept.cell.layer)
    read = [session.engine.read(side, [site], "response")[site] for side in (contrast.positive, contrast.negative)]
    directions = [direction for _, direction in control_directions(Examples(*read), CONTROLS, options.seed)]
    for start in range(0, CONTROLS, _AT_ONCE):
        plans = control_plans(placement, directions[start : start + _AT_ONCE])
        unsteered, *steered = propensities(session.engine, judgement.asked, [(), *plans])
        if max(float((own - unsteered).mean()) for own in steered) >= judgement.effect:
            return False
    return True


def main() -> None:
    """Print a line a trait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choice", "resamples"))
    parser.add_argument("traits", nargs="*", default=list(TRAITS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--resamples", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        current_session().workspace = Workspace(folder)
        load_model(bundled_model.NAME)
        for trait in asked.traits:
            if asked.what == "choice":
                measure_choice(trait)
            else:
                for method in asked.methods:
                    count_verdicts(trait, method, (0.1, 0.2, 0.4), asked.resamples)


if __name__ == "__main__":
    main()
