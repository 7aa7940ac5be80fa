"""What an experiment judges with: a detector, a meter of each half of its prompts, and control directions.

It must not know which cells are tried, or what verdict follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Engine
from steer_tools.engines.pooling import AnyPooling
from steer_tools.errors import DirectionError, PromptError
from steer_tools.evaluation.text_detector import RELIABLE_D_PRIME, TextDetector, fit_text_detector
from steer_tools.evaluation.text_guards import relevance_of_answers
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.null_distribution import control_directions
from steer_tools.experiments.text_meter import TextMeter
from steer_tools.prompts import ContrastPrompts, Prompt

# Prompts whose texts choose, and most of those whose texts judge; fewer of these have no interval.
CHOOSING_PROMPTS, JUDGING_PROMPTS, FEWEST_JUDGING = 8, 16, 5


@dataclass(frozen=True)
class Meters:
    """What measures the texts of the prompts that choose a cell, and of those that judge it."""

    detector: TextDetector
    choosing: TextMeter
    judging: TextMeter


def prepared_meters(engine: Engine, evaluation_set: EvaluationSet, seed: int) -> Meters | str:
    """Return what measures texts, or why nothing does."""
    prompts, tokens = evaluation_set.prompts, evaluation_set.text_tokens
    choosing = min(CHOOSING_PROMPTS, len(prompts) // 3)
    halves = prompts[:choosing], prompts[choosing:][:JUDGING_PROMPTS]
    if len(halves[1]) < FEWEST_JUDGING:
        return f"There are only {len(prompts)} prompts to write to: 8 at least are needed, and 24 are better."
    try:
        detector = fit_text_detector(engine, evaluation_set.behavior.pairs, seed=seed)
        if not detector.is_reliable:
            return _unreliable(detector)
        of_answers = relevance_of_answers(engine, evaluation_set.behavior.pairs, seed)
        meters = [TextMeter(engine, detector, half, tokens, of_answers=of_answers, seed=seed) for half in halves]
    except (PromptError, DirectionError) as error:
        return str(error)
    if len(meters[1].prompts) < FEWEST_JUDGING:
        return f"The model writes to {len(meters[1].prompts)} of {len(halves[1])} prompts only."
    return Meters(detector, *meters)


def judging_meter(
    engine: Engine, evaluation_set: EvaluationSet, seed: int, prompts: Sequence[Prompt] | None = None
) -> TextMeter | str:
    """Return what measures the texts of the prompts that judge, or of other prompts, or why nothing does."""
    if prompts is None:
        choosing = min(CHOOSING_PROMPTS, len(evaluation_set.prompts) // 3)
        prompts = evaluation_set.prompts[choosing:][:JUDGING_PROMPTS]
    try:
        detector = fit_text_detector(engine, evaluation_set.behavior.pairs, seed=seed)
        if not detector.is_reliable:
            return _unreliable(detector)
        of_answers = relevance_of_answers(engine, evaluation_set.behavior.pairs, seed)
        asked, tokens = list(dict.fromkeys(prompts)), evaluation_set.text_tokens
        return TextMeter(engine, detector, asked, tokens, of_answers=of_answers, seed=seed)
    except (PromptError, DirectionError) as error:
        return str(error)


def _unreliable(detector: TextDetector) -> str:
    return (
        f"In the model's middle held-out answers of the two kinds are {detector.d_prime:.1f} standard deviations "
        f"apart, and below {RELIABLE_D_PRIME:g} texts cannot be told by them."
    )


@dataclass(frozen=True)
class ControlDraw:
    """Control directions for a site; drawn when they are asked for, since that reads the pairs again."""

    engine: Engine
    contrast: ContrastPrompts
    site: Site
    pooling: AnyPooling
    controls: int
    seed: int

    @cached_property
    def directions(self) -> list[tuple[str, Tensor]]:
        """Each with how it was drawn."""
        sides = (self.contrast.positive, self.contrast.negative)
        read = [self.engine.read(side, [self.site], self.pooling)[self.site] for side in sides]
        return control_directions(Examples(*read), self.controls, self.seed)
