"""Gradients of completions are those that finite differences give, for every row of a padded batch by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small_models import LAYERS, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import Prompt, parse_prompts

COMPLETIONS = ([20, 30, 40], [50], [60, 70], [80, 90, 100, 110])
SITES = (Site(0, "embedding"), Site(1), Site(1, "attention", 2), Site(2, "mlp"), Site(LAYERS - 1))
STEP = 2e-3


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


@pytest.fixture
def precise(family: str) -> Iterator[HuggingFaceEngine]:
    """In float64, so that a finite difference has some digits."""
    engine = HuggingFaceEngine(make_model(family, dtype=torch.float64), make_tokenizer())
    yield engine
    engine.detach()


def noise(width: int, seed: int) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def plans() -> list[Plan]:
    steered = (Placement(Add(noise(WIDTH, 7)), Site(1), 1.5),)
    return [(), steered, (), (*steered, Placement(Add(noise(WIDTH, 8)), Site(2), 1.0, Scope.parse("prompt")))]


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("positions", ["generated", "all", "last_prompt"])
def test_the_gradient_along_a_direction_is_the_slope_of_the_log_probability(
    precise: HuggingFaceEngine, site: Site, positions: str
) -> None:
    engine = precise
    scope, direction = Scope.parse(positions), noise(engine.width(site), 3)
    rows = [Row(prompt, plan) for prompt, plan in zip(prompts(), plans(), strict=True)]

    gradients = engine.gradients(rows, COMPLETIONS, SITES)

    def nudged(strength: float) -> list[float]:
        nudge = (Placement(Add(direction), site, strength, scope),)
        moved = [Row(row.prompt, (*row.plan, *nudge)) for row in rows]
        return [float(score.double().sum()) for score in engine.score(moved, COMPLETIONS)]

    # Four points, so that the curvature takes no part.
    values = zip(*(nudged(steps * STEP) for steps in (-2, -1, 1, 2)), strict=True)
    slopes = [(8 * (c - b) - (d - a)) / (12 * STEP) for a, b, c, d in values]
    for row, completion, found, slope in zip(rows, COMPLETIONS, gradients, slopes, strict=True):
        tokens = found.by_site[site]
        prompt = len(engine.tokenize(row.prompt).tokens)
        assert tokens.shape == (prompt + len(completion) - 1, engine.width(site))
        steered = {"generated": slice(prompt - 1, None), "all": slice(None), "last_prompt": slice(prompt - 1, prompt)}
        assert float((tokens[steered[positions]] @ direction).sum()) == pytest.approx(slope, rel=0.02, abs=0.015)
    assert max(map(abs, slopes)) > 0.05


def test_gradients_come_with_the_scores_and_change_no_parameter(engine: Any) -> None:
    rows = [Row(prompt, plan) for prompt, plan in zip(prompts(), plans(), strict=True)]
    model = engine.architecture.model

    with torch.no_grad():
        gradients = engine.gradients(rows, COMPLETIONS, [Site(1)])

    scores = [float(score.sum()) for score in engine.score(rows, COMPLETIONS)]
    assert [found.log_prob for found in gradients] == pytest.approx(scores, abs=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_token_that_the_completion_does_not_see_has_no_gradient(engine: Any) -> None:
    (found,) = engine.gradients([Row(prompts()[3])], [[20, 30]], [Site(LAYERS - 1), Site(0)])

    prompt = len(engine.tokenize(prompts()[3]).tokens)
    assert not found.by_site[Site(LAYERS - 1)][: prompt - 1].any()
    assert found.by_site[Site(LAYERS - 1)][prompt - 1 :].any(dim=1).all()
    assert found.by_site[Site(0)].any(dim=1).all()
