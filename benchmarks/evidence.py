"""Holds experiments to the truth of the bundled model: `python benchmarks/evidence.py choice|resamples [TRAIT ...]`.

`shams MODEL` counts what works of vectors that should not, on any model: of random directions, of shuffled labels, and
of another behaviour's pairs under a wrong name.

`choice` compares the chosen cell with the best one of the whole grid, by exact scores of the texts that chose.
`resamples` counts verdicts over fresh pairs and prompts, for real vectors and for two kinds of control.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar, cast

from torch import Tensor

from steer_tools import bundled_model
from steer_tools.bundled_model.language import TRAITS
from steer_tools.core.site import Site
from steer_tools.directions.methods import Method, method_named
from steer_tools.directions.session_methods import GivenDirection, ReadyMethod, ReadyMethods
from steer_tools.evaluation.behaviors.behavior import Item, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import write
from steer_tools.evaluation.questions import pooling_of
from steer_tools.experiments.evaluation_set import evaluation_set_named, evaluation_set_of
from steer_tools.experiments.experiment import Experiment, ExperimentOptions, run_experiment
from steer_tools.experiments.grids import spread_layers
from steer_tools.experiments.null_distribution import KINDS
from steer_tools.prompts import ContrastPrompts
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session, current_session
from steer_tools.tools import load_model
from steer_tools.workspace import Workspace

LAYERS, STRENGTHS = (0, 1, 2), (0.1, 0.2, 0.4)
METHODS = ("paired_mean_difference", "random", "balanced_shuffle")
# Behaviours, each with one whose vector should not pass for it.
WRONG_NAMES = {
    "formality": "sentiment",
    "sentiment": "technical_depth",
    "refusal": "sentiment",
    "creativity": "refusal",
    "confidence": "empathy",
}


def experiment(trait: str, method: str, seed: int) -> Experiment:
    """Run an experiment with pairs, items and prompts of its own."""
    session, options = current_session(), {} if method == METHODS[0] else {"seed": seed}
    material = replace(evaluation_set_of(session.engine, trait_behavior(trait, seed=seed), seed), others={})
    ways = method_named(method, options), ExperimentOptions(STRENGTHS, seed=seed)
    return run_experiment(session, material, LAYERS, *ways, f"{trait}/{method}/{seed}.json")


def measure_choice(trait: str) -> None:
    """Print how far the chosen cell is from the best one, in exact score."""
    session, found = current_session(), experiment(trait, METHODS[0], 0)
    assert found.choice is not None
    prompts, exact = found.choice.prompts, found.evaluation_set.scorers["exact"]
    spots = [(layer, scope, s) for layer in LAYERS for scope in found.options.positions for s in STRENGTHS]
    plans = [
        place(session, found.extraction.vector, layer, PlacementOptions("residual", positions=scope)).plan(strength)
        for layer, scope, strength in spots
    ]
    written = write(session.engine, prompts, plans, found.evaluation_set.text_tokens)
    scores = {
        spot: fmean(exact(p, t.text) or 0.0 for p, t in zip(prompts, texts.generations, strict=True))
        for spot, texts in zip(spots, written, strict=True)
    }
    own, best = scores[found.spot.layer, found.spot.positions, found.spot.strength], max(scores.values())
    print(
        f"{trait:12} layer {found.spot.layer} at {found.spot.strength:g}, {found.spot.positions}: exact {own:+.3f}, "
        f"best {best:+.3f}, gap {best - own:.3f}; {len(found.choice.cells)} of {len(spots)} cells were written",
        flush=True,
    )


def count_verdicts(trait: str, method: str, resamples: int) -> None:
    """Print the verdicts of so many experiments."""
    verdicts, effects, exact, started = Counter[str](), list[float](), list[float](), time.monotonic()
    for seed in range(resamples):
        found = experiment(trait, method, seed)
        verdicts[found.ruling.verdict] += 1
        print(found.ruling.verdict[0], end="", file=sys.stderr, flush=True)
        effects.append(0.0 if found.texts is None else found.texts.effect)
        unsteered, steered = found.side_effects.text_scores["exact"]
        exact.append((steered or 0.0) - (unsteered or 0.0))
    print(
        f"{trait:12} {method:22} works in {verdicts['works']} of {resamples}  {dict(verdicts)}; effect "
        f"{min(effects):+.2f} to {max(effects):+.2f}, exact {min(exact):+.2f} to {max(exact):+.2f}; "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )


@dataclass(frozen=True)
class Borrowed:
    """The mean difference of other pairs, in place of what was asked for."""

    name: ClassVar[str] = "borrowed"
    is_paired: ClassVar[bool] = False
    pairs: Sequence[Item]

    def find(self, session: Session, contrast: ContrastPrompts, contrasts: Mapping[Site, Tensor]) -> ReadyMethods:
        """Read the pairs where the others were read."""
        engine = session.engine
        other, pooling = contrast_prompts(self.pairs, engine.info.has_chat_template), pooling_of(engine, self.pairs)
        positive, negative = (engine.read(side, [*contrasts], pooling) for side in (other.positive, other.negative))
        means = {site: (positive[site] - negative[site]).mean(dim=0) for site in contrasts}
        return {site: ReadyMethod(GivenDirection(own)) for site, own in means.items()}


def count_shams() -> None:
    """Print the verdict of each sham, and how many work."""
    session, working = current_session(), 0
    shams = [(name, kind) for name in WRONG_NAMES for kind in (*KINDS, WRONG_NAMES[name])]
    for seed, (name, kind) in enumerate(shams):
        material = evaluation_set_named(session, name, seed=seed).shortened()
        layers = spread_layers(session.engine)[3:6]
        way = method_named(kind, {"seed": seed}) if kind in KINDS else Borrowed(load_behavior(kind, as_chat=True).pairs)
        options = ExperimentOptions(STRENGTHS, controls=9, seed=seed)
        found = run_experiment(session, material, layers, cast(Method, way), options, f"shams/{name}/{kind}.json")
        working += found.ruling.verdict == "works"
        told = (
            "no texts"
            if found.texts is None
            else f"effect {found.texts.effect:+.2f}, own {found.texts.own_effect:+.2f}"
        )
        print(f"{name:16} of {kind:18} {found.ruling.verdict:28} {told}", flush=True)
    print(f"{working} of {len(shams)} work")


def main() -> None:
    """Print a line a trait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choice", "resamples", "shams"))
    parser.add_argument("traits", nargs="*", default=list(TRAITS), help="of shams: the model's name or path")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--resamples", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        current_session().workspace = Workspace(folder)
        load_model(asked.traits[0] if asked.what == "shams" else bundled_model.NAME)
        if asked.what == "shams":
            count_shams()
            return
        for trait in asked.traits:
            if asked.what == "choice":
                measure_choice(trait)
            else:
                for method in asked.methods:
                    count_verdicts(trait, method, asked.resamples)


if __name__ == "__main__":
    main()
