"""A trained direction does what it was trained for, stays in its budget, and is refused where it cannot be trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.small_models import LAYERS
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.directions.training import CompletionPair, TrainingOptions, _slope, completion_pairs, train_direction
from steer_tools.engines.base import Row
from steer_tools.errors import ArgumentError, Cancelled, DirectionError, PromptError
from steer_tools.progress import reporting_to
from steer_tools.prompts import ContrastPrompts, TokenPrompt

PROMPTS = [[1, 20 + i, 30 + 3 * i, 40] for i in range(6)]
PAIRS = [CompletionPair(tuple(prompt), (60, 61), (70, 71)) for prompt in PROMPTS]
OPTIONS = TrainingOptions(steps=12, batch=4)


def margins(engine: Any, site: Site, direction: torch.Tensor, strength: float = 1.0) -> list[float]:
    plan = (Placement(Add(direction), site, strength),)
    count = len(PAIRS)
    tokens = [TokenPrompt(pair.prompt) for pair in PAIRS]
    rows = [Row(prompt, plan) for prompt in tokens]
    sides = [engine.score(rows, [completion] * count) for completion in ((60, 61), (70, 71))]
    return [float(shown.sum() - opposite.sum()) for shown, opposite in zip(*sides, strict=True)]


@pytest.mark.parametrize("site", [Site(1), Site(0, "embedding"), Site(2, "mlp"), Site(1, "attention", 1)], ids=str)
def test_a_trained_direction_raises_the_log_odds_of_every_pair_and_its_negative_lowers_the_mean(
    engine: Any, site: Site
) -> None:
    direction = train_direction(engine, PAIRS, site, 4.0, OPTIONS)

    before, after = margins(engine, site, direction, 0.0), margins(engine, site, direction)
    assert all(trained > plain for plain, trained in zip(before, after, strict=True))
    assert sum(margins(engine, site, direction, -1.0)) < sum(before)
    assert float(direction.norm()) <= 4.0 * (1 + 1e-5)


def test_training_beats_a_random_direction_of_the_same_norm_by_far(engine: Any) -> None:
    trained = train_direction(engine, PAIRS, Site(2), 4.0, OPTIONS)
    generator = torch.Generator().manual_seed(0)

    gains = []
    for _ in range(20):
        random = torch.randn(len(trained), generator=generator)
        gains.append(sum(margins(engine, Site(2), random * trained.norm() / random.norm())))

    assert sum(margins(engine, Site(2), trained)) > max(gains)


def test_the_budget_counts_in_contrasts(engine: Any) -> None:
    short = train_direction(engine, PAIRS, Site(1), 4.0, TrainingOptions(budget=0.25, steps=8))
    long = train_direction(engine, PAIRS, Site(1), 4.0, TrainingOptions(budget=2.0, steps=8))

    assert float(short.norm()) == pytest.approx(1.0, rel=1e-4)
    assert 1.5 < float(long.norm()) <= 8.0 * (1 + 1e-5)


def test_the_slope_is_along_that_of_the_mean_log_sigmoid_of_the_log_odds(engine: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    direction, *nudges = torch.randn(4, engine.width(Site(1)), generator=generator)

    def objective(nudge: torch.Tensor) -> float:
        odds = torch.tensor(margins(engine, Site(1), direction + nudge), dtype=torch.float64)
        return float(torch.nn.functional.logsigmoid(odds).mean())

    found = _slope(engine, PAIRS, Site(1), direction)
    ratios = []
    for nudge in nudges:
        measured = (objective(5e-3 * nudge) - objective(-5e-3 * nudge)) / 1e-2
        ratios.append(float(found @ nudge.double()) / measured)
        assert abs(measured) > 0.02
    assert ratios == pytest.approx([ratios[0]] * 3, rel=0.1)
    assert ratios[0] > 0


def test_completions_that_are_told_by_hundreds_of_nats_are_trained_on_all_the_same(engine: Any) -> None:
    # The unembedding makes the suppressed tokens all but impossible, so that σ(−log-odds) is 0 in floating point.
    head = engine.architecture.model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda m, a, out: out - 400.0 * torch.nn.functional.one_hot(torch.tensor(70), 128)
    )
    assert min(margins(engine, Site(1), torch.zeros(engine.width(Site(1))))) > 150

    direction = train_direction(engine, PAIRS, Site(1), 4.0, OPTIONS)
    handle.remove()

    before, after = margins(engine, Site(1), direction, 0.0), margins(engine, Site(1), direction)
    assert sum(after) > sum(before)
    assert direction.isfinite().all() and 0 < float(direction.norm()) <= 4.0 * (1 + 1e-5)


def test_the_same_seed_trains_the_same_direction_and_another_another(engine: Any) -> None:
    first, same = (train_direction(engine, PAIRS, Site(1), 4.0, OPTIONS) for _ in range(2))
    other = train_direction(engine, PAIRS, Site(1), 4.0, TrainingOptions(steps=12, batch=4, seed=1))

    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_what_is_applied_takes_no_part_in_training_and_stays(engine: Any) -> None:
    alone = train_direction(engine, PAIRS, Site(1), 4.0, OPTIONS)
    applied = (Placement(Add(torch.ones(engine.width(Site(0)))), Site(0), 5.0),)
    engine.set_ambient(applied)

    steered = train_direction(engine, PAIRS, Site(1), 4.0, OPTIONS)

    assert torch.equal(alone, steered)
    assert engine.ambient() == applied


def test_pairs_are_split_where_their_tokens_part(engine: Any) -> None:
    contrast = ContrastPrompts.parse([[1, 20, 30, 60, 61]], [[1, 20, 30, 70]])

    assert completion_pairs(engine, contrast) == [CompletionPair((1, 20, 30), (60, 61), (70,))]


@pytest.mark.parametrize(
    ("positive", "negative"),
    [([[20, 30]], [[21, 30]]), ([[1, 20]], [[1, 20, 30]])],
)
def test_pairs_that_do_not_begin_alike_and_then_part_are_refused(engine: Any, positive: Any, negative: Any) -> None:
    with pytest.raises(PromptError, match="begin alike"):
        completion_pairs(engine, ContrastPrompts.parse(positive, negative))


def test_a_site_that_the_completions_do_not_depend_on_is_refused(engine: Any) -> None:
    # The unembedding is zero, so that every token is as likely whatever the stream.
    model = engine.architecture.model
    weight = model.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        with pytest.raises(DirectionError, match="do not depend"):
            train_direction(engine, PAIRS, Site(LAYERS - 1), 4.0, OPTIONS)
        weight.copy_(kept)
    assert train_direction(engine, PAIRS, Site(LAYERS - 1), 4.0, OPTIONS).any()


@pytest.mark.parametrize(
    "wrong", [{"budget": 0.0}, {"steps": 0}, {"batch": 0}, {"seed": -1}, {"steps": 2.5}, {"budget": "1"}]
)
def test_options_out_of_range_are_refused_with_the_valid_ones(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="budget > 0"):
        TrainingOptions(**wrong)


def test_training_tells_its_progress_and_can_be_cancelled(engine: Any) -> None:
    seen: list[tuple[int, int]] = []

    def reporter(done: int, total: int, message: str) -> None:
        seen.append((done, total))
        if done == 3:
            raise Cancelled("enough")

    with reporting_to(reporter), pytest.raises(Cancelled):
        train_direction(engine, PAIRS, Site(1), 4.0, OPTIONS)

    assert seen == [(1, 12), (2, 12), (3, 12)]
    assert engine.distributions([Row(TokenPrompt((1, 20)))])[0].isfinite().all()
