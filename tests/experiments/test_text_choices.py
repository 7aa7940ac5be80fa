"""On the bundled model: what is written at cells, which is chosen, what judges it, and what goes on again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from steer_tools import create_steering_vector, load_model, load_vector
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Row, Sampling
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.questions import instructed
from steer_tools.evaluation.text_detector import TextDetector, fit_text_detector
from steer_tools.experiments.cell_files import CellFile
from steer_tools.experiments.evaluation_set import evaluation_set_of
from steer_tools.experiments.null_distribution import control_directions
from steer_tools.experiments.text_choice import Direction, Place, TextChoice, choose_by_texts
from steer_tools.experiments.text_judgement import judge_texts, with_controls
from steer_tools.experiments.text_meter import TextMeter, Written
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt
from steer_tools.session.placement import Placed, PlacementOptions, place_at_each
from steer_tools.session.session import Session

TRAIT, TOKENS, STRENGTHS = "sentiment", 24, [0.1, 0.2, 0.8]


@dataclass(frozen=True)
class Bench:
    session: Session
    detector: TextDetector
    prompts: tuple[Prompt, ...]
    placed_at: dict[Place, Placed]

    def meter(self, start: int = 0, count: int = 6) -> TextMeter:
        return TextMeter(self.session.engine, self.detector, self.prompts[start : start + count], TOKENS)

    def choice(self, meter: TextMeter, direction: Direction = "more", path: str = "cells.json") -> TextChoice:
        file = CellFile(self.session.workspace, path, "key")
        return choose_by_texts(meter, self.placed_at, STRENGTHS, direction, file)


@pytest.fixture
def bench(empty_session: Session) -> Bench:
    load_model("bundled")
    behavior = trait_behavior(TRAIT)
    path = create_steering_vector(behavior=TRAIT, layer=[1, 2], save_path="v")["vector_path"]
    placed_at: dict[Place, Placed] = {}
    for positions in ("generated", "all"):
        options = PlacementOptions("residual", positions=positions)
        at_each = place_at_each(empty_session, load_vector(path), [1, 2], options)
        placed_at |= {(layer, positions): placed for layer, placed in at_each.items()}
    evaluation_set = evaluation_set_of(empty_session.engine, behavior)
    return Bench(
        empty_session, fit_text_detector(empty_session.engine, behavior.pairs), evaluation_set.prompts, placed_at
    )


def glad(texts: tuple[str, ...]) -> float:
    """Return what share of texts says so, less that which says the opposite."""
    return float(np.mean([("wonderful" in text) - ("dreadful" in text) for text in texts]))


def test_no_plan_has_no_effect_and_a_strong_one_has_that_which_its_texts_have(bench: Bench) -> None:
    meter = bench.meter()

    nothing, ahead, back = meter.measure([(), *(bench.placed_at[1, "all"].plan(s) for s in (0.2, -0.2))])

    assert nothing.texts == meter.unsteered.texts
    assert nothing.effect == 0
    assert ahead.effect > 0.5
    assert back.effect < -0.5
    assert [glad(own.texts) for own in (nothing, ahead, back)] == [0, 1, -1]


def test_texts_are_those_that_each_row_alone_has(bench: Bench) -> None:
    meter, plan = bench.meter(count=5), bench.placed_at[2, "generated"].plan(0.2)

    (written,) = meter.measure([plan])

    rows = [Row(prompt, plan) for prompt in meter.prompts]
    alone = [bench.session.engine.generate([row], Sampling(TOKENS))[0].text for row in rows]
    assert list(written.texts) == alone
    np.testing.assert_allclose(
        written.scores, bench.detector.scores(bench.session.engine, meter.prompts, alone), atol=1e-4
    )


def test_what_is_written_to_other_prompts_is_read_as_an_answer_to_the_meters_own(bench: Bench) -> None:
    meter = bench.meter()

    same, others = meter.answers(meter.prompts), meter.answers(bench.prompts[6:12])

    assert same.effect == 0
    assert others.texts != meter.unsteered.texts
    assert "irrelevant" in others.checked.failures
    assert not same.checked.failures


@pytest.mark.parametrize(("direction", "sign"), [("more", 1), ("less", -1)])
def test_the_chosen_cell_writes_what_is_wanted_and_what_breaks_texts_is_not_chosen(
    bench: Bench, direction: Direction, sign: int
) -> None:
    meter = bench.meter()

    found = bench.choice(meter, direction)

    assert found.does_enough
    assert not found.cell.failures
    assert sign * found.cell.strength > 0
    assert sign * found.cell.effect > 0.5
    assert sign * glad(found.cell.texts) > 0.5
    assert abs(found.cell.strength) < 0.8
    assert any(cell.failures for cell in found.cells if abs(cell.strength) == 0.8)
    assert len({(cell.place, cell.strength) for cell in found.cells}) == len(found.cells) <= 12


def test_a_choice_that_was_cut_off_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, calls = bench.meter(), list[int]()
    measure = TextMeter.measure

    def cut(self: TextMeter, plans: Any) -> list[Written]:
        calls.append(len(plans))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, plans)

    whole = bench.choice(meter, path="whole.json")
    monkeypatch.setattr(TextMeter, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        bench.choice(meter)
    found = bench.choice(meter)

    assert found.cell == whole.cell
    assert sorted(found.cells, key=repr) == sorted(whole.cells, key=repr)
    assert sum(calls) - calls[1] == len(whole.cells)
    calls[:] = [0, 0, 0]
    assert bench.choice(meter).cell == whole.cell
    assert calls == [0, 0, 0]


@pytest.mark.parametrize(("direction", "sign"), [("more", 1), ("less", -1)])
def test_a_cell_is_judged_by_both_signs(bench: Bench, direction: Direction, sign: int) -> None:
    meter, placed = bench.meter(6, 8), bench.placed_at[1, "all"]

    found = judge_texts(meter, placed, sign * 0.1, direction)

    ahead, back = meter.measure([placed.plan(0.1), placed.plan(-0.1)])
    np.testing.assert_allclose(found.effects, (ahead.effects - back.effects) / 2)
    assert found.interval is not None
    assert 0 < found.interval.low <= found.effect <= found.interval.high <= 1
    assert found.own_effect == pytest.approx(sign * (ahead if sign == 1 else back).effect)
    assert found.steered.texts == (ahead if sign == 1 else back).texts
    assert found.opposite.texts == (back if sign == 1 else ahead).texts


def test_controls_have_less_effect_and_one_that_has_it_ends_them(bench: Bench) -> None:
    meter, placed = bench.meter(6, 8), bench.placed_at[1, "all"]
    judged = judge_texts(meter, placed, 0.1, "more")
    width = bench.session.engine.info.hidden_size
    random = np.random.default_rng(0)
    examples = Examples(*(torch.tensor(random.standard_normal((20, width)), dtype=torch.float32) for _ in range(2)))
    drawn = control_directions(examples, 9, seed=0)
    own = placed.unit_placements[0].intervention.direction  # type: ignore[attr-defined]  # An addition.

    held = with_controls(judged, meter, placed.plan(0.1), drawn)
    nearly = replace(judged, effects=0.99 * judged.effects)  # Another batch rounds otherwise.
    ended = with_controls(nearly, meter, placed.plan(0.1), [("own", -own), *drawn])

    assert held.controls is not None
    assert ended.controls is not None
    assert held.controls.effects.shape == (9, 8)
    assert held.controls.reached(held.effect) == 0
    assert held.controls.p(held.effect) == pytest.approx(0.1)
    assert ended.controls.reached(ended.effect) == 1
    assert (len(ended.controls.kinds), ended.controls.wanted) == (7, 10)
    assert ended.controls.sizes[0] == pytest.approx(judged.effect, abs=1e-4)
    # What is far below after half of the prompts is not written to the others; what may reach the effect is.
    written = np.isfinite(held.controls.effects)
    assert written[:, :4].all()
    assert not written[:, 4:].all()
    assert np.isfinite(ended.controls.effects[0]).all()
    assert (written[:, 4:].all(axis=1) | ~written[:, 4:].any(axis=1)).all()


def test_effects_alone_are_those_that_are_measured(bench: Bench) -> None:
    meter, placed = bench.meter(6, 8), bench.placed_at[1, "all"]
    plans = [placed.plan(0.1), placed.plan(-0.8)]

    whole, some = meter.effects(plans), meter.effects(plans, slice(2, 5))

    measured = [own.effects for own in meter.measure(plans)]
    np.testing.assert_allclose(whole, measured, atol=1e-3)
    np.testing.assert_allclose(some, whole[:, 2:5], atol=1e-3)
    assert np.abs(whole).max() > 0.1


def test_an_instruction_comes_first_in_whatever_form_the_template_takes(llama_session: Session) -> None:
    chat = ChatPrompt((("user", "baba"),))

    assert instructed(llama_session.engine, [chat], None) is None
    for prompt in (chat, TextPrompt("baba")):
        found = instructed(llama_session.engine, [prompt], "keke")
        assert found == [ChatPrompt((("system", "keke"), ("user", "baba")))]


def test_neutral_prompts_are_written_to_where_items_are_whole_texts(llama_session: Session) -> None:
    behavior = trait_behavior(TRAIT, pairs=8, items=12)
    whole = replace(behavior, items=[replace(item, prompt=None) for item in behavior.items], questions=())

    found = evaluation_set_of(llama_session.engine, whole)

    assert set(found.prompts) == set(found.neutral)
