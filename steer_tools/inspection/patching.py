"""Two prompts of one length → what of one must be put into the other, at which layer and token, to change an answer.

Activation patching (Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262), and its estimate by
gradients (Nanda 2023, attribution patching). It must not know pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.interventions import Add, Intervention, Replace
from steer_tools.core.plan import Placement
from steer_tools.core.positions import PromptSlice, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.engines.facets import Gradients, require
from steer_tools.engines.pooling import TokenizedPrompt
from steer_tools.errors import PromptError
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.prompts import Prompt

# In nats: shares of a smaller way would be those of rounding.
_LEAST_DIFFERENCE = 0.01
# Midpoints of the way from the target to the source, and in how many turns the tokens go it.
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_TURNS = 4


@dataclass(frozen=True)
class Pair:
    """A prompt whose activations are taken, one that they are put into, and completions that tell the answers apart.

    Whether that denoises or adds noise is a question of which prompt is which.
    """

    source: Prompt
    target: Prompt
    positive: str
    negative: str

    def aligned(self, engine: Engine) -> tuple[TokenizedPrompt, TokenizedPrompt]:
        """Return the tokens of both prompts, which stand side by side.

        Raises:
            PromptError: One has more tokens than the other.
        """
        source, target = engine.tokenize(self.source), engine.tokenize(self.target)
        if len(source.tokens) != len(target.tokens):
            raise PromptError(
                f"The source has {len(source.tokens)} tokens and the target {len(target.tokens)}",
                valid="prompts of equally many tokens, so that each one has a partner",
                fix="show_tokens shows them; exchange words for others of as many tokens.",
            )
        return source, target

    def asked(self, prompt: Prompt) -> Question:
        """Return one of the prompts with the completions."""
        return Question(prompt, self.positive, self.negative, "")


@dataclass(frozen=True)
class Patches:
    """What patches do.

    Attributes:
        sites: The rows.
        source_prompt: The columns; `target_prompt` has as many.
        source: Log-odds of the source prompt, in nats.
        target: Those of the target prompt.
        effects: (sites, tokens) change of the target's log-odds, in nats.
    """

    sites: tuple[Site, ...]
    source_prompt: TokenizedPrompt
    target_prompt: TokenizedPrompt
    source: float
    target: float
    effects: Floats

    @property
    def recovered(self) -> Floats:
        """(sites, tokens) the effects as shares of the way from the target to the source."""
        return self.effects / (self.source - self.target)


def patch(engine: Engine, pair: Pair, sites: Sequence[Site]) -> Patches:
    """Put the source's activation at each site and token into the target, one at a time.

    Raises:
        PromptError: The prompts have different numbers of tokens, or the same log-odds.
    """
    prompts = pair.aligned(engine)
    source, target = _told_apart(engine, pair)
    (trace,) = engine.trace([pair.source], sites)
    places = range(len(prompts[0].tokens))
    plans = [(_placed(Replace(trace[site][place]), site, place, 1.0),) for site in sites for place in places]
    patched = propensities(engine, [pair.asked(pair.target)], plans)
    effects = patched.reshape(len(sites), len(places)) - target
    return Patches(tuple(sites), *prompts, source, target, effects)


def attribute(engine: Engine, pair: Pair, sites: Sequence[Site]) -> Patches:
    """Estimate what `patch` measures: (source − target) · the gradient, averaged on the way from target to source.

    The way is that of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365; for models' parts Hanna et al.
    2024, arXiv 2403.17806), at each site by itself, since an answer that is sure has no slope left at its own end. The
    tokens go it in turns, each with every fourth other one: an exact patch leaves all others at the target, and what
    all tokens do together is not what one does.

    Raises:
        PromptError: As `patch` does.
        UnsupportedFeatureError: The engine has no gradients.
    """
    engine = require(engine, Gradients, "patch_activations with method='gradient'")
    prompts = pair.aligned(engine)
    source, target = _told_apart(engine, pair)
    source_trace, target_trace = engine.trace([pair.source, pair.target], sites)
    effects = [_slopes(engine, pair, site, source_trace[site] - target_trace[site]) for site in sites]
    found = np.stack([own.double().numpy() for own in effects])
    return Patches(tuple(sites), *prompts, source, target, found)


def _slopes(engine: Gradients, pair: Pair, site: Site, change: Tensor) -> Tensor:
    """Return (tokens,) change · mean gradient, each token's on its own turn's way; `change` is (tokens, width)."""
    differ = change.any(dim=1).nonzero().squeeze(1).tolist()
    if not differ:
        return torch.zeros(len(change))
    turns = [differ[turn::_TURNS] for turn in range(min(_TURNS, len(differ)))]
    rows = [
        Row(pair.target, tuple(_placed(Add(change[place]), site, place, share) for place in turn))
        for turn in turns
        for share in _SHARES
    ]
    completions = [pair.positive] * len(rows) + [pair.negative] * len(rows)
    gradients = [own.by_site[site][: len(change)] for own in engine.gradients([*rows, *rows], completions, [site])]
    slopes = torch.zeros(len(change))
    for number, (positive, negative) in enumerate(zip(gradients[: len(rows)], gradients[len(rows) :], strict=True)):
        own = turns[number // len(_SHARES)]
        slopes[own] += (change * (positive - negative)).sum(dim=1)[own] / len(_SHARES)
    return slopes


def _placed(intervention: Intervention, site: Site, place: int, strength: float) -> Placement:
    return Placement(intervention, site, strength, Scope((PromptSlice(place, place + 1),)))


def _told_apart(engine: Engine, pair: Pair) -> tuple[float, float]:
    """Return the log-odds of the source and of the target, which must not be the same."""
    source, target = propensities(engine, [pair.asked(pair.source), pair.asked(pair.target)], [()])[0].tolist()
    if abs(source - target) < _LEAST_DIFFERENCE:
        raise PromptError(
            f"Source and target have the same log-odds of the completions ({source:+.4g} and {target:+.4g} nats)",
            valid="completions that the two prompts decide between",
        )
    return source, target
