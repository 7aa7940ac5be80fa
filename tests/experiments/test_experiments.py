"""The laws of experiments: what is measured, how a cell is chosen, what it is held against, and what goes on again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.small_models import NEGATIVE, POSITIVE, make_tokenizer
from steer_tools import create_steering_vector, load_vector, reporting_to
from steer_tools.bundled_model.language import TRAITS, is_grammatical, score
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Row
from steer_tools.errors import ArgumentError, Cancelled, PromptError, StrengthError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, Damage, DamageMeter
from steer_tools.evaluation.questions import Question, control_questions, propensities, questions
from steer_tools.experiments import sweeps
from steer_tools.experiments.calibration import calibrate
from steer_tools.experiments.evaluation_set import EvaluationSet, evaluation_set_named, neutral_for, split
from steer_tools.experiments.grids import Cell, Grid, Window, magnitudes, spread_layers
from steer_tools.experiments.judgement import judge, shifts_of_others
from steer_tools.experiments.null_distribution import KINDS, control_directions, control_plans
from steer_tools.experiments.robustness import evaluate, with_prompts
from steer_tools.experiments.sweeps import SweepOptions, sweep
from steer_tools.progress import Work, report
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, parse_prompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session

HARMLESS = Damage(divergence=0.1, surprisal=1.1, perplexity=1.1, distinct=1.0, length=1.0)
LOOPING = replace(HARMLESS, distinct=0.1)
WORDS = ["baba", "keke", "lili", "momo", "nunu", "rara", "sese", "titi", "vovo", "zuzu", "bake", "lira"]


def cell(strength: float, effect: float, damage: Damage = HARMLESS, layer: int = 1) -> Cell:
    return Cell(layer, strength, np.array([effect, effect]), np.array([-effect, -effect]), damage)


def grid(*cells: Cell) -> Grid:
    return Grid(cells, Budget())


def items(count: int = 24, each: int = 1) -> list[Item]:
    return [
        Item(
            TextPrompt(f"{WORDS[i % 12]} {WORDS[(i * 5 + 1) % 12]} keke"),
            "baba mora seti",
            "zuzu mora seti",
            f"g{i // each}",
        )
        for i in range(count)
    ]


def evaluation_set(session: Session, count: int = 24) -> EvaluationSet:
    behavior = Behavior("made up", "", ("a", "b"), None, "", items(8), items(count))
    return EvaluationSet(behavior, split(behavior.items, 0), neutral_for(session.engine), (), {}, {}, 6)


@pytest.fixture
def vector(llama_session: Session) -> Any:
    path = create_steering_vector(POSITIVE, NEGATIVE, [0, 1, 2], "v.safetensors")["vector_path"]
    return load_vector(path)


# Measures


def test_propensity_is_the_difference_of_the_completions_scores_under_each_plan(
    llama_session: Session, vector: Any
) -> None:
    engine, asked = llama_session.engine, questions(llama_session.engine, items(3), as_chat=False)
    plan = place(llama_session, vector, 1).plan(1.0)

    found = propensities(engine, asked, [(), plan])
    per_token = propensities(engine, [replace(own, per_token=True) for own in asked], [(), plan])

    for place_, own in enumerate([(), plan]):
        for index, question in enumerate(asked):
            sides = [engine.score([Row(question.prompt, own)], [c])[0] for c in (question.positive, question.negative)]
            assert found[place_, index] == pytest.approx(float(sides[0].sum() - sides[1].sum()), abs=1e-4)
            assert per_token[place_, index] == pytest.approx(float(sides[0].mean() - sides[1].mean()), abs=1e-4)
    assert np.abs(found[0] - found[1]).min() > 0.01


def test_control_completions_come_from_two_other_groups_and_show_the_behaviour_alike() -> None:
    asked = [Question(TextPrompt(f"p{i}"), f"yes {i}", f"no {i}", f"g{i // 2}", per_token=True) for i in range(8)]

    controls = control_questions(asked)

    assert all(control.per_token for control in controls)

    by_completion = {question.positive: question.group for question in asked}
    for own, control in zip(asked, controls, strict=True):
        assert control.prompt == own.prompt
        groups = [by_completion[control.positive], by_completion[control.negative]]
        assert own.group not in groups
        assert groups[0] != groups[1]


def test_no_plan_does_no_damage_and_a_strong_one_does(llama_session: Session, vector: Any) -> None:
    engine = llama_session.engine
    meter = DamageMeter(engine, neutral_for(engine)[:4], [parse_prompt("baba keke"), parse_prompt("nura tili")], 8)
    placed = place(llama_session, vector, 1, PlacementOptions("residual"))

    nothing, little, much = meter.damages([(), placed.plan(0.01), placed.plan(3.0)])

    assert (nothing.surprisal, nothing.perplexity) == pytest.approx((1, 1), abs=1e-5)
    assert replace(nothing, surprisal=1.0, perplexity=1.0) == Damage(0.0, 1.0, 1.0, 1.0, 1.0)
    assert nothing.is_within(Budget())
    assert 0 < little.divergence < much.divergence
    assert much.surprisal > 1.2
    assert not much.is_within(Budget())


@pytest.mark.parametrize("excess", [{"divergence": 0.51}, {"surprisal": 1.6}, {"distinct": 0.7}, {"length": 0.2}])
def test_each_part_of_the_damage_alone_breaks_the_budget(excess: dict[str, float]) -> None:
    assert HARMLESS.is_within(Budget())
    assert not replace(HARMLESS, **excess).is_within(Budget())


# EvaluationSet


def test_no_group_is_on_both_sides_of_a_split_and_the_seed_decides_it() -> None:
    held_out = items(60, each=3)

    splits = [split(held_out, seed) for seed in (0, 0, 1)]

    choosing, judging = ({item.group for item in side} for side in (splits[0].choosing, splits[0].judging))
    assert not choosing & judging
    assert len(splits[0].choosing) + len(splits[0].judging) == 60
    assert len(choosing) == 8
    assert splits[0] == splits[1] != splits[2]


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(PromptError, match="at least 4"):
        split(items(9, each=3), 0)


def test_each_trait_is_a_behaviour_whose_items_differ_in_that_trait_alone() -> None:
    for trait in TRAITS:
        behavior = trait_behavior(trait, pairs=8, items=12)

        for item in [*behavior.pairs, *behavior.items]:
            assert isinstance(item.prompt, ChatPrompt)
            ((_, question),) = item.prompt.messages
            assert item.positive != item.negative
            assert all(is_grammatical(question, side) for side in (item.positive, item.negative))
        for pair in behavior.pairs:
            question = pair.prompt.messages[0][1]  # type: ignore[union-attr]  # Seen to be a chat above.
            shown, opposite = score(question, pair.positive), score(question, pair.negative)
            assert (shown[trait], opposite[trait]) == (1.0, -1.0)
            assert {name for name in TRAITS if shown[name] != opposite[name]} == {trait}
        assert not {item.prompt for item in behavior.pairs} & {item.prompt for item in behavior.items}


def test_the_bundled_model_has_its_traits_and_others_have_the_built_in_behaviours(
    empty_session: Session, llama_session: Session
) -> None:
    found = evaluation_set_named(llama_session, "honesty")

    assert len(found.behavior.pairs) >= 60
    assert "exact" not in found.scorers
    assert len(found.others) == 15
    with pytest.raises(ArgumentError, match="honesty"):
        evaluation_set_named(llama_session, "honestly")


def test_one_list_without_the_other_is_refused(llama_session: Session) -> None:
    with pytest.raises(ArgumentError, match="both, or neither"):
        evaluation_set_named(llama_session, "mine", positive=["baba"])


# Grids


def test_the_gentlest_cell_with_most_of_the_largest_effect_is_chosen() -> None:
    found = grid(cell(0.1, 3.0), cell(0.2, 8.5), cell(0.4, 10.0), cell(0.2, 9.0, layer=2), cell(0.4, 7.9, layer=2))

    assert found.choose() is found.cells[3]
    assert found.window == [Window(1, 0.2, 0.4), Window(2, 0.2, 0.2)]


def test_cells_outside_the_budget_count_for_nothing() -> None:
    found = grid(cell(0.1, 3.0), cell(0.2, 3.5), cell(0.4, 100.0, LOOPING))

    assert found.choose() is found.cells[0]
    assert [window.largest for window in found.window] == [0.2]


def test_without_a_cell_within_the_budget_the_largest_effect_is_shown() -> None:
    found = grid(cell(0.1, -3.0), cell(0.2, 5.0, LOOPING))

    assert found.within == []
    assert found.window == []
    assert found.choose() is found.cells[1]


def test_strengths_are_magnitudes() -> None:
    assert magnitudes([-0.4, 0.2, 0.4]) == [0.2, 0.4]
    assert len(magnitudes(None)) == 5
    for wrong in ([], [0.0], [float("nan")], [float("inf")]):
        with pytest.raises(StrengthError):
            magnitudes(wrong)


def test_all_layers_but_the_last_are_tried_and_of_many_some(llama_session: Session) -> None:
    assert spread_layers(llama_session.engine) == [0, 1, 2]
    assert spread_layers(llama_session.engine, most=2) == [0, 2]


def test_a_cell_holds_the_effects_that_are_measured_one_by_one(llama_session: Session, vector: Any) -> None:
    found = evaluation_set(llama_session)
    options = SweepOptions(strengths=[0.2, 0.5])

    swept = sweep(llama_session, vector, [0, 2], found, options, "cells.json")

    asked = questions(llama_session.engine, found.splits.choosing)
    assert [(own.layer, own.strength) for own in swept.grid.cells] == [(0, 0.2), (0, 0.5), (2, 0.2), (2, 0.5)]
    for own in swept.grid.cells:
        placed = place(llama_session, vector, own.layer, PlacementOptions("residual"))
        for sign, effects in ((1, own.effects), (-1, own.opposite_effects)):
            unsteered, steered = propensities(llama_session.engine, asked, [(), placed.plan(sign * own.strength)])
            np.testing.assert_allclose(effects, steered - unsteered, atol=1e-4)
        assert abs(own.effect - own.opposite_effect) > 1e-3
    judged = {question.group for question in swept.judgement.asked}
    assert judged == {item.group for item in found.splits.judging}
    assert [dose.strength for dose in swept.judgement.doses] == [-0.5, -0.2, 0.0, 0.2, 0.5]
    assert swept.judgement.doses[2].effect == 0


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_steerability_is_the_slope_up_to_the_judged_strength(
    llama_session: Session, vector: Any, strength: float
) -> None:
    placed = place(llama_session, vector, 1, PlacementOptions("residual"))
    material = evaluation_set(llama_session, 10)

    found = judge(llama_session.engine, placed, strength, [0.2, 0.5], material)

    tried = [-0.5, -0.2, 0.0, 0.2, 0.5] if strength == 0.5 else [-0.2, 0.0, 0.2]
    plans = [placed.plan(s) if s else () for s in tried]
    held_out = questions(llama_session.engine, material.splits.judging)
    measured = propensities(llama_session.engine, held_out, plans)
    np.testing.assert_allclose(found.slopes, np.polyfit(tried, measured, 1)[0], atol=1e-3)


# Resuming


def test_a_sweep_that_was_cancelled_goes_on_where_it_was(
    llama_session: Session, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, options = evaluation_set(llama_session), SweepOptions(strengths=[0.2])
    whole = sweep(llama_session, vector, [0, 1, 2], found, options, "whole.json")

    def cancel(done: int, total: int, message: str) -> None:
        if message.startswith("measuring layer 1"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled), reporting_to(cancel):
        sweep(llama_session, vector, [0, 1, 2], found, options, "cells.json")
    measured: list[int] = []
    measure = sweeps.measure_layer

    def counted(engine: Any, placed: Any, *rest: Any) -> Any:
        measured.append(placed.layers[0])
        return measure(engine, placed, *rest)

    monkeypatch.setattr(sweeps, "measure_layer", counted)
    resumed = sweep(llama_session, vector, [0, 1, 2], found, options, "cells.json")

    assert measured == [1, 2]
    for one, other in zip(whole.grid.cells, resumed.grid.cells, strict=True):
        np.testing.assert_allclose(one.effects, other.effects, atol=1e-6)
        assert one.damage == other.damage
    assert llama_session.engine.ambient() == ()


def test_per_token_divides_every_effect_by_the_completions_tokens(llama_session: Session, vector: Any) -> None:
    engine, found = llama_session.engine, evaluation_set(llama_session)
    found = replace(found, behavior=replace(found.behavior, choices=items(4)))
    tokens = len(engine.score([Row(TextPrompt("keke"))], [items(1)[0].positive])[0])
    whole, by_token = (
        sweep(llama_session, vector, [1], found, SweepOptions([0.2], per_token=own), f"{own}.json")
        for own in (False, True)
    )
    robust, robust_by_token = (
        evaluate(engine, whole.placed, 0.2, found.splits.judging, per_token=own) for own in (False, True)
    )
    plan = whole.placed.plan(0.2)
    other, other_by_token = (
        shifts_of_others(engine, plan, {"other": items(3)}, per_token=own)["other"] for own in (False, True)
    )

    assert tokens > 1
    for one, other_one in [
        (whole.grid.cells[0].effects, by_token.grid.cells[0].effects),
        (whole.grid.cells[0].opposite_effects, by_token.grid.cells[0].opposite_effects),
        (whole.judgement.effects, by_token.judgement.effects),
        (whole.judgement.slopes, by_token.judgement.slopes),
        (whole.judgement.choices, by_token.judgement.choices),
        (robust.effects, robust_by_token.effects),
        (robust.without_template, robust_by_token.without_template),
        (other, other_by_token),
    ]:
        assert one is not None
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, np.asarray(other_one) * tokens, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("change", ["strengths", "vector", "items", "per_token", "template", "spoiled", "empty"])
def test_cells_of_another_grid_are_measured_anew(
    llama_session: Session, vector: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    found, options = evaluation_set(llama_session), SweepOptions(strengths=[0.2])
    sweep(llama_session, vector, [0, 1], found, options, "cells.json")
    measured: list[int] = []
    measure = sweeps.measure_layer

    def counted(engine: Any, placed: Any, *rest: Any) -> Any:
        measured.append(placed.layers[0])
        return measure(engine, placed, *rest)

    monkeypatch.setattr(sweeps, "measure_layer", counted)
    file = llama_session.workspace.resolve("cells.json")
    match change:
        case "strengths":
            options = SweepOptions(strengths=[0.3])
        case "vector":
            vector = vector * 2.0
            options = SweepOptions(strengths=[0.2], unit="vector")
        case "items":
            found = evaluation_set(llama_session, 20)
        case "per_token":
            options = SweepOptions(strengths=[0.2], per_token=True)
        case "template":
            tokenizer = make_tokenizer()
            tokenizer.chat_template = (tokenizer.chat_template or "").replace(": {{", "{{")
            llama_session.attach(llama_session.engine.architecture.model, tokenizer)  # type: ignore[attr-defined]
        case "spoiled":
            key = json.loads(file.read_text(encoding="utf-8"))["key"]
            file.write_text(json.dumps({"key": key, "cells": [{"layer": 0}]}), encoding="utf-8")
        case _:
            file.write_bytes(b"")

    sweep(llama_session, vector, [0, 1], found, options, "cells.json")
    first = list(measured)
    sweep(llama_session, vector, [0, 1], found, options, "cells.json")

    assert first == measured == [0, 1]


def test_work_of_several_stages_is_told_as_one_that_only_grows() -> None:
    told: list[tuple[int, int, str]] = []
    work = Work({"first": 1.0, "second": 3.0, "third": 4.0})

    with reporting_to(lambda *own: told.append(own)):
        with work.stage("first"):
            report(1, 2, "inside")
            report(2, 2, "inside")
        with work.stage("second"):
            report(1, 3, "inside")
        with work.stage("third"):
            report(1, 4, "inside")

    assert [done for done, _, _ in told] == [0, 62, 125, 125, 250, 500, 625]
    assert {total for _, total, _ in told} == {1000}
    assert [message for _, _, message in told] == ["first"] * 3 + ["second"] * 2 + ["third"] * 2


def test_a_reporter_hears_nothing_more_after_an_error_ended_its_block() -> None:
    told: list[str] = []

    with pytest.raises(KeyError), reporting_to(lambda done, total, message: told.append(message)):
        report(0, 1, "inside")
        raise KeyError
    report(1, 1, "outside")

    assert told == ["inside"]


def test_the_time_that_is_left_is_told_once_it_can_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("steer_tools.progress.time.monotonic", lambda: now[0])
    told: list[str] = []
    work = Work({"all": 4.0})

    with reporting_to(lambda done, total, message: told.append(message)), work.stage("all"):
        now[0] += 10
        report(1, 4, "inside")

    assert told == ["all", "all, about 30 s left"]


# The null


def test_controls_have_the_vectors_norm_place_and_strength_and_take_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    examples = Examples(*(torch.randn(20, 32, generator=generator) for _ in range(2)))
    placement = Placement(Add(torch.randn(32, generator=generator) * 7), Site(2), 0.3, Scope.parse("all"))

    drawn = control_directions(examples, 99, seed=0)
    plans = control_plans(placement, [direction for _, direction in drawn])

    assert [kind for kind, _ in drawn[:4]] == [*KINDS, KINDS[0]]
    directions = torch.stack([plan[0].intervention.direction for plan in plans])  # type: ignore[attr-defined]  # Additions.
    torch.testing.assert_close(
        directions.norm(dim=1), torch.full((99,), float(placement.intervention.direction.norm()))
    )  # type: ignore[attr-defined]
    assert len({tuple(row) for row in directions.tolist()}) == 99
    assert {(plan[0].site, plan[0].strength, plan[0].positions) for plan in plans} == {
        (Site(2), 0.3, Scope.parse("all"))
    }
    assert not torch.equal(drawn[0][1], control_directions(examples, 99, seed=1)[0][1])


def test_too_few_examples_give_random_directions_alone() -> None:
    few = Examples(*(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) for _ in range(2)))

    drawn = control_directions(few, 20, seed=0)

    assert {kind for kind, _ in drawn} == {"random"}
    assert all(float(direction.norm()) > 0 for _, direction in drawn)


# Budgets


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(ArgumentError, match="damage_budget"):
        Budget(budget)


# What it is held against


def test_a_template_that_takes_no_system_message_is_asked_in_the_users(llama_session: Session, vector: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        tokenizer.chat_template or ""
    )
    llama_session.attach(llama_session.engine.architecture.model, tokenizer)  # type: ignore[attr-defined]
    placed = place(llama_session, vector, 1, PlacementOptions("residual"))
    material = evaluation_set(llama_session, 10)
    material = replace(material, behavior=replace(material.behavior, instruction="zuzu zuzu"))

    found = judge(llama_session.engine, placed, 0.5, [0.5], material)

    assert found.prompting is not None
    assert abs(found.prompting) > 1e-4


# Robustness


def test_robustness_is_measured_at_the_strength_and_its_opposite(llama_session: Session, vector: Any) -> None:
    placed = place(llama_session, vector, 1, PlacementOptions("residual"))
    held_out = items(12, each=2)

    found = evaluate(llama_session.engine, placed, 0.5, held_out)

    asked = questions(llama_session.engine, held_out)
    low, middle, high = propensities(llama_session.engine, asked, [placed.plan(-0.5), (), placed.plan(0.5)])
    np.testing.assert_allclose(found.effects, high - middle, atol=1e-4)
    assert found.anti_steerable == pytest.approx(float((high - low < 0).mean()))
    assert found.failing == sorted(np.flatnonzero(found.effects <= 0).tolist(), key=lambda i: found.effects[i])
    assert found.without_template is not None
    assert np.abs(found.without_template - found.effects).max() > 1e-3
    assert 0 <= found.score <= 1
    opposite = evaluate(llama_session.engine, placed, -0.5, held_out)
    np.testing.assert_allclose(opposite.effects, low - middle, atol=1e-4)
    assert opposite.anti_steerable == pytest.approx(found.anti_steerable)
    assert opposite.failing == sorted(
        np.flatnonzero(opposite.effects >= 0).tolist(), key=lambda i: -opposite.effects[i]
    )


def test_test_prompts_take_the_completions_in_turn_and_equal_ones_are_one_group() -> None:
    prompts: Sequence[Prompt] = [TextPrompt("a"), TextPrompt("b"), TextPrompt("a")]
    held_out = [replace(item, positive=f"yes {i}") for i, item in enumerate(items(2))]

    found = with_prompts(held_out, prompts)

    assert [item.positive for item in found] == ["yes 0", "yes 1", "yes 0"]
    assert [item.prompt for item in found] == list(prompts)
    assert found[0].group == found[2].group != found[1].group


# Calibration


@pytest.mark.parametrize("target", [1e-9, 0.001, 0.1, 0.5, 3.9])
def test_calibration_finds_the_least_strength_to_a_hundredth(target: float) -> None:
    tries: list[int] = []

    def square(strengths: Sequence[float]) -> list[float]:
        tries.append(len(strengths))
        return [strength**2 for strength in strengths]

    found = calibrate(square, target, largest=2.0)

    assert found.reached == found.strength**2 >= target
    assert found.strength == pytest.approx(target**0.5, rel=0.011)
    assert len(tries) <= 6


def test_a_target_that_no_strength_reaches_is_refused_with_what_can_be_had() -> None:
    with pytest.raises(ArgumentError, match=r"the most is 4, at 2"):
        calibrate(lambda strengths: [s**2 for s in strengths], 5.0, largest=2.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="above 0"):
            calibrate(lambda strengths: [1.0] * len(strengths), wrong, largest=2.0)
