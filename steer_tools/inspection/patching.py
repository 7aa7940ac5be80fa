"""Two prompts of one length → what of one must be put into the other, at which layer and token, to change an answer.

Activation patching (Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262), and its estimate by
gradients (Nanda 2023, attribution patching). It must not know pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.interventions import Add, Intervention, Replace
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import PromptSlice, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.engines.facets import Gradients, require
from steer_tools.engines.pooling import TokenizedPrompt
from steer_tools.errors import ArgumentError, PromptError, quoted
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.evaluation.scorers import finite_number
from steer_tools.progress import Work
from steer_tools.prompts import Prompt

# In nats: shares of a smaller way would be those of rounding.
_LEAST_DIFFERENCE = 0.01
# Of a metric's own values, since its unit is unknown.
_LEAST_SHARE = 1e-3
# Rows whose whole distributions are held at a time.
_ROWS_HELD = 256
# Midpoints of the way from the target to the source, and in how many turns the tokens go it.
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_TURNS = 4

# Tokens of the target: one, several, or all; negative ones count from the end.
Position: TypeAlias = int | Sequence[int] | None


@dataclass(frozen=True)
class LogOdds:
    """An answer as log p(positive completion) − log p(negative completion), in nats."""

    positive: str
    negative: str

    def values(self, engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan]) -> Floats:
        """Return (plans, prompts) the log-odds."""
        asked = [Question(prompt, self.positive, self.negative, "") for prompt in prompts]
        return propensities(engine, asked, plans)

    def require_apart(self, source: float, target: float) -> None:
        """Refuse prompts with the same log-odds.

        Raises:
            PromptError: They have.
        """
        if abs(source - target) < _LEAST_DIFFERENCE:
            raise PromptError(
                f"Source and target have the same log-odds of the completions ({source:+.4g} and {target:+.4g} nats)",
                valid="completions that the two prompts decide between",
            )


@dataclass(frozen=True)
class LogitMetric:
    """An answer as what a caller's function says of the next token: its log-probabilities (1, 1, vocabulary)."""

    function: Callable[[Tensor], object]

    def values(self, engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan]) -> Floats:
        """Return (plans, prompts) the metric.

        What the function raises passes, with a note that says what it was given.

        Raises:
            ArgumentError: It returned what is no finite number.
        """
        rows = [Row(prompt, plan) for prompt in prompts for plan in plans]
        parts = [rows[start : start + _ROWS_HELD] for start in range(0, len(rows), _ROWS_HELD)]
        work = Work({f"measuring, part {number} of {len(parts)}": len(own) for number, own in enumerate(parts, 1)})
        found: list[float] = []
        for number, own in enumerate(parts, 1):
            with work.stage(f"measuring, part {number} of {len(parts)}"):
                found += [self._value(log_probs) for log_probs in engine.distributions(own)]
        return np.array(found).reshape(len(prompts), len(plans)).T

    def require_apart(self, source: float, target: float) -> None:
        """Refuse prompts of which the metric says the same.

        Raises:
            PromptError: It does.
        """
        if abs(source - target) <= _LEAST_SHARE * max(abs(source), abs(target)):
            raise PromptError(
                f"{self} gives source and target the same value ({source:+.4g} and {target:+.4g})",
                valid="a metric of tokens that the two prompts decide between",
            )

    def _value(self, log_probs: Tensor) -> float:
        given = f"of the next token's log-probabilities, a tensor (1, 1, {len(log_probs)})"
        try:
            value = self.function(log_probs[None, None])
        except Exception as error:
            error.add_note(f"{self} raised this {given}.")
            raise
        return finite_number(value, str(self), given)

    def __str__(self) -> str:
        return f"The metric {getattr(self.function, '__name__', type(self.function).__name__)}"


@dataclass(frozen=True)
class Aligned:
    """Two tokenised prompts, and the places in the source and the target of the tokens that stand side by side."""

    source: TokenizedPrompt
    target: TokenizedPrompt
    places: tuple[tuple[int, int], ...]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Return those tokens as text."""
        return [(self.source.texts[theirs], self.target.texts[own]) for theirs, own in self.places]

    @property
    def ids(self) -> list[tuple[int, int]]:
        """Return the ids of those tokens."""
        return [(self.source.tokens[theirs], self.target.tokens[own]) for theirs, own in self.places]


@dataclass(frozen=True)
class Pair:
    """A prompt whose activations are taken, one that they are put into, and what is measured of the answer.

    Whether that denoises or adds noise is a question of which prompt is which.
    """

    source: Prompt
    target: Prompt
    answer: LogOdds | LogitMetric

    def aligned(self, engine: Engine, position: Position = None) -> Aligned:
        """Return the tokens of both prompts, and which of them stand side by side.

        Raises:
            ArgumentError: A position is none of the target's tokens, or there is none.
            PromptError: The prompts differ in length, and a position does not count from the end of both.
        """
        source, target = engine.tokenize(self.source), engine.tokenize(self.target)
        lengths = len(source.tokens), len(target.tokens)
        several = position if isinstance(position, Sequence) else [position]
        given = range(lengths[1]) if position is None else cast(Sequence[int], several)
        for place in given or [None]:
            if isinstance(place, bool) or not isinstance(place, int) or not -lengths[1] <= place < lengths[1]:
                raise ArgumentError(
                    f"position is {quoted(position)}, and the target has {lengths[1]} tokens",
                    valid=f"0 to {lengths[1] - 1}, or -{lengths[1]} to -1 counted from the end, or a list of these",
                )
        if lengths[0] != lengths[1] and not all(-lengths[0] <= place < 0 for place in given):
            raise PromptError(
                f"The source has {lengths[0]} tokens and the target {lengths[1]}",
                valid="prompts of equally many tokens, so that each one has a partner",
                fix="show_tokens shows them; exchange words for others of as many tokens. In Python position=-1 "
                "patches the last token alone, whatever the lengths.",
            )
        behind = lengths[0] - lengths[1]
        places = sorted({place % lengths[1] for place in given})
        return Aligned(source, target, tuple((place + behind, place) for place in places))


@dataclass(frozen=True)
class Patches:
    """What patches do.

    Attributes:
        sites: The rows.
        tokens: Their places are the columns.
        source: The answer to the source prompt: log-odds in nats, or the metric.
        target: That to the target prompt.
        effects: (sites, places) change of the answer to the target.
    """

    sites: tuple[Site, ...]
    tokens: Aligned
    source: float
    target: float
    effects: Floats

    @property
    def recovered(self) -> Floats:
        """(sites, places) the effects as shares of the way from the target to the source."""
        return self.effects / (self.source - self.target)


def patch(engine: Engine, pair: Pair, sites: Sequence[Site], position: Position = None) -> Patches:
    """Put the source's activation at each site and token into the target, one at a time.

    Raises:
        ArgumentError: A position is none of the target's, or a metric gave no number.
        PromptError: The prompts have different numbers of tokens, or the same answer.
    """
    tokens = pair.aligned(engine, position)
    source, target = _answers(engine, pair)
    (trace,) = engine.trace([pair.source], sites)
    plans = [
        (_placed(Replace(trace[site][theirs]), site, own, 1.0),) for site in sites for theirs, own in tokens.places
    ]
    patched = pair.answer.values(engine, [pair.target], plans)
    effects = patched.reshape(len(sites), len(tokens.places)) - target
    return Patches(tuple(sites), tokens, source, target, effects)


def attribute(engine: Engine, pair: Pair, sites: Sequence[Site], position: Position = None) -> Patches:
    """Estimate what `patch` measures: (source − target) · the gradient, averaged on the way from target to source.

    The way is that of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365; for models' parts Hanna et al.
    2024, arXiv 2403.17806), at each site by itself, since an answer that is sure has no slope left at its own end. The
    tokens go it in turns, each with every fourth other one: an exact patch leaves all others at the target, and what
    all tokens do together is not what one does.

    Raises:
        ArgumentError: The answer is no log-odds, or as `patch` does.
        PromptError: As `patch` does.
        UnsupportedFeatureError: The engine has no gradients.
    """
    if not isinstance(pair.answer, LogOdds):
        raise ArgumentError(
            "method is 'gradient', and a metric was given, of which there are no gradients",
            valid="positive and negative, the log-odds of two completions",
            fix="Give these instead of the metric, or leave out method for exact patches.",
        )
    engine = require(engine, Gradients, "patch_activations with method='gradient'")
    tokens = pair.aligned(engine, position)
    source, target = _answers(engine, pair)
    source_trace, target_trace = engine.trace([pair.source, pair.target], sites)
    theirs, places = map(list, zip(*tokens.places, strict=True))
    effects: list[Tensor] = []
    for site in sites:
        change = torch.zeros_like(target_trace[site])
        change[places] = source_trace[site][theirs] - target_trace[site][places]
        effects.append(_slopes(engine, pair.target, pair.answer, site, change)[places])
    found = np.stack([slopes.double().numpy() for slopes in effects])
    return Patches(tuple(sites), tokens, source, target, found)


def _slopes(engine: Gradients, target: Prompt, answer: LogOdds, site: Site, change: Tensor) -> Tensor:
    """Return (tokens,) change · mean gradient, each token's on its own turn's way; `change` is (tokens, width)."""
    differ = change.any(dim=1).nonzero().squeeze(1).tolist()
    if not differ:
        return torch.zeros(len(change))
    turns = [differ[turn::_TURNS] for turn in range(min(_TURNS, len(differ)))]
    rows = [
        Row(target, tuple(_placed(Add(change[place]), site, place, share) for place in turn))
        for turn in turns
        for share in _SHARES
    ]
    completions = [answer.positive] * len(rows) + [answer.negative] * len(rows)
    gradients = [own.by_site[site][: len(change)] for own in engine.gradients([*rows, *rows], completions, [site])]
    slopes = torch.zeros(len(change))
    for number, (positive, negative) in enumerate(zip(gradients[: len(rows)], gradients[len(rows) :], strict=True)):
        own = turns[number // len(_SHARES)]
        slopes[own] += (change * (positive - negative)).sum(dim=1)[own] / len(_SHARES)
    return slopes


def _placed(intervention: Intervention, site: Site, place: int, strength: float) -> Placement:
    return Placement(intervention, site, strength, Scope((PromptSlice(place, place + 1),)))


def _answers(engine: Engine, pair: Pair) -> tuple[float, float]:
    """Return the answers to the source and to the target, which must not be the same."""
    source, target = pair.answer.values(engine, [pair.source, pair.target], [()])[0].tolist()
    pair.answer.require_apart(source, target)
    return source, target
