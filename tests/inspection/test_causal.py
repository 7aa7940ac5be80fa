"""Ablations and patches: a planted head is found, replacements are what they say, estimates agree with the exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from helpers.small_models import make_model
from steer_tools import ablate_component, create_steering_vector, load_model, patch_activations
from steer_tools.bundled_model.language import contrast_pairs
from steer_tools.core.interventions import Add, Replace
from steer_tools.core.plan import Placement
from steer_tools.core.positions import PromptSlice, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, LayerError, PromptError, UnsupportedFeatureError
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import DamageMeter
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.experiments import evaluation_set
from steer_tools.inspection import patching
from steer_tools.inspection.ablation import (
    ablate,
    ablation_plans,
    components_of,
    direction_everywhere,
    divergence_of,
    log_odds_of,
    replacement_of,
    score_of,
    stream_direction,
)
from steer_tools.inspection.patching import LogOdds, Pair, attribute, patch
from steer_tools.prompts import ChatPrompt, TextPrompt, TokenPrompt, parse_prompt
from steer_tools.session.session import Session

PROMPTS = [TokenPrompt((9, 14, 6, 7, 30)), TokenPrompt((25, 8, 11)), TokenPrompt((31, 12, 6, 20))]
ITEMS = [Item(TextPrompt(f"ratisemo {word}"), "baba", "zuzu", word) for word in ("lili", "keke", "mora", "seti")]


def asked(engine: HuggingFaceEngine) -> Any:
    return questions(engine, ITEMS, as_chat=False)


# Replacements


def test_a_pooled_mean_leaves_out_the_first_token_and_means_by_position_are_those_of_the_prompts_that_are_so_long() -> (
    None
):
    traces = [torch.tensor([[100.0], [1.0], [3.0]]), torch.tensor([[50.0], [5.0]])]

    mean, by_position = replacement_of(traces, "mean"), replacement_of(traces, "mean_by_position")

    assert mean.everywhere is not None
    assert mean.everywhere.tolist() == [3.0]
    assert mean.by_position is None
    assert by_position.everywhere is not None
    assert by_position.by_position is not None
    assert by_position.everywhere.tolist() == [3.0]
    assert by_position.by_position.tolist() == [[75.0], [3.0], [3.0]]


def test_a_resampled_component_takes_another_prompts_activations_and_its_last_behind_them() -> None:
    traces = [torch.tensor([[100.0], [1.0], [3.0]]), torch.tensor([[50.0], [5.0]])]

    found = replacement_of(traces, "resample", 1)

    assert found.everywhere is not None
    assert found.by_position is not None
    assert found.everywhere.tolist() == [5.0]
    assert found.by_position.tolist() == [[50.0], [5.0]]
    assert replacement_of(traces, "zero").everywhere is None


@pytest.mark.parametrize("how", ["zero", "mean", "mean_by_position"])
@pytest.mark.parametrize("kind", ["head", "attention", "mlp", "block"])
def test_what_an_ablated_component_puts_out_is_its_replacement(engine: HuggingFaceEngine, how: Any, kind: Any) -> None:
    component = components_of(engine, kind, [1])[-1]
    (draws,) = ablation_plans(engine, [component], how, PROMPTS)

    seen: dict[Site, torch.Tensor] = {}
    engine._hooks.reach(component.sites)
    traces = {site: [trace[site] for trace in engine.trace(PROMPTS, [site])] for site in component.sites}
    engine.set_ambient(draws[0])
    with engine._hooks.witnessing(
        dict.fromkeys(component.sites, 0), lambda site, _, after: seen.update({site: after[0]})
    ):
        engine._model(torch.tensor([PROMPTS[0].tokens]), use_cache=False)

    for site in component.sites:
        expected = replacement_of(traces[site], how)
        after = seen[site]
        if how == "mean_by_position":
            assert expected.by_position is not None
            torch.testing.assert_close(after, expected.by_position, atol=1e-5, rtol=1e-5)
        else:
            whole = torch.zeros(after.shape[-1]) if expected.everywhere is None else expected.everywhere
            torch.testing.assert_close(after, whole.expand_as(after), atol=1e-5, rtol=1e-5)


def test_a_resampled_prompt_is_replaced_by_itself_without_effect_and_by_another_with_one(
    engine: HuggingFaceEngine,
) -> None:
    components = components_of(engine, "attention", [1])
    questions_ = asked(engine)
    own, measured = [questions_[0].prompt], log_odds_of(engine, questions_[:1])

    (same,) = ablate(ablation_plans(engine, components, "resample", own), measured)
    (other,) = ablate(ablation_plans(engine, components, "resample", PROMPTS), measured)

    # The first completion token is predicted at the last prompt token, where the activations are its own.
    assert abs(same[0]) < 1e-4
    assert abs(other[0]) > 1e-4


def test_each_draw_takes_another_prompt(engine: HuggingFaceEngine) -> None:
    (draws,) = ablation_plans(engine, components_of(engine, "mlp", [1]), "resample", PROMPTS)

    taken = {tuple(cast(Replace, plan[0].intervention).direction.tolist()) for plan in draws}
    assert len(draws) == len(taken) == len(PROMPTS)


# Directions


def projections(engine: HuggingFaceEngine, plan: Any, direction: torch.Tensor) -> list[torch.Tensor]:
    """What is along a direction at the embedding and behind each block, under a plan."""
    seen: dict[Site, torch.Tensor] = {}
    sites = direction_everywhere(engine, direction).sites
    engine._hooks.reach(sites)
    engine.set_ambient(plan)
    with engine._hooks.witnessing(sites, lambda site, _, after: seen.update({site: after[0]})), torch.no_grad():
        engine._model(torch.tensor([PROMPTS[0].tokens]), use_cache=False)
    engine.set_ambient(())
    return [seen[site] @ (direction / direction.norm()) for site in sites]


def test_a_direction_taken_out_everywhere_is_in_no_part_of_the_stream(engine: HuggingFaceEngine) -> None:
    direction = torch.randn(engine.info.hidden_size, generator=torch.Generator().manual_seed(1))
    ((zero,), (mean,)) = (
        ablation_plans(engine, [direction_everywhere(engine, direction)], how, PROMPTS)[0] for how in ("zero", "mean")
    )

    without, set_, whole = (projections(engine, plan, direction) for plan in (zero, mean, ()))

    assert max(float(own.abs().max()) for own in without) < 1e-5
    assert min(float(own.abs().max()) for own in whole) > 1e-2
    sites = [Site(0, "embedding"), *map(Site, range(engine.info.layers))]
    traces = engine.trace(PROMPTS, sites)
    unit = direction / direction.norm()
    for own, site in zip(set_, sites, strict=True):
        expected = torch.cat([trace[site][1:] for trace in traces]).mean(dim=0) @ unit
        torch.testing.assert_close(own, expected.expand_as(own), atol=1e-5, rtol=1e-4)


def test_a_direction_at_one_layer_is_taken_out_there_alone(engine: HuggingFaceEngine) -> None:
    direction = torch.randn(engine.info.hidden_size, generator=torch.Generator().manual_seed(1))
    first, *_, everywhere = stream_direction(engine, direction, [0, 2])
    ((plan,),) = ablation_plans(engine, [first], "zero", [])

    without, whole = projections(engine, plan, direction), projections(engine, (), direction)

    torch.testing.assert_close(without[0], whole[0])
    assert float(without[1].abs().max()) < 1e-5 < float(whole[1].abs().max())
    assert float(without[2].abs().max()) > 1e-3
    assert (first.layer, everywhere.layer, str(everywhere)) == (0, None, "everywhere direction")
    assert len(everywhere.sites) == engine.info.layers + 1


@pytest.mark.parametrize("how", ["mean_by_position", "resample"])
def test_what_has_no_meaning_for_a_direction_is_refused(engine: HuggingFaceEngine, how: Any) -> None:
    parts = [direction_everywhere(engine, torch.ones(engine.info.hidden_size))]

    with pytest.raises(ArgumentError, match=f"method is '{how}', and the component a direction"):
        ablation_plans(engine, parts, how, PROMPTS)


# Measures


def test_divergences_are_those_of_the_unsteered_texts_and_zero_without_an_ablation(engine: HuggingFaceEngine) -> None:
    ((plan,),) = ablation_plans(engine, components_of(engine, "block", [1]), "zero", [])

    unsteered, ablated = divergence_of(engine, asked(engine))([(), plan])

    np.testing.assert_allclose(unsteered, 0, atol=1e-5)
    assert ablated.min() > 1e-4
    (text,) = engine.generate([Row(asked(engine)[2].prompt)], Sampling(32))
    (expected,) = engine.divergences([Row(asked(engine)[2].prompt, plan)], [text.tokens])
    assert ablated[2] == pytest.approx(float(expected.mean()), rel=1e-3)


def test_scores_are_those_of_each_plans_own_texts(engine: HuggingFaceEngine) -> None:
    ((plan,),) = ablation_plans(engine, components_of(engine, "block", [0]), "zero", [])
    written: list[tuple[Any, str]] = []

    def length(prompt: Any, text: str) -> float:
        written.append((prompt, text))
        return float(len(text))

    found = score_of(engine, asked(engine), length, 6)([(), plan])

    prompts = [question.prompt for question in asked(engine)]
    for index, own in enumerate(((), plan)):
        texts = engine.generate([Row(prompt, own) for prompt in prompts], Sampling(6))
        assert found[index].tolist() == [len(text.text) for text in texts]
    assert [prompt for prompt, _ in written] == prompts * 2
    assert len({text for _, text in written}) > len(prompts)


# Ablations


def test_the_stream_goes_on_unchanged_where_a_block_is_taken_out(engine: HuggingFaceEngine) -> None:
    ids = torch.tensor([PROMPTS[0].tokens])
    ((plan,),) = ablation_plans(engine, components_of(engine, "block", [1]), "zero", [])

    with torch.no_grad():
        whole = engine._model(ids, output_hidden_states=True).hidden_states
        engine.set_ambient(plan)
        without = engine._model(ids, output_hidden_states=True).hidden_states

    torch.testing.assert_close(without[2], without[1], atol=1e-6, rtol=0)
    assert float((whole[2] - whole[1]).abs().max()) > 1e-3


def test_the_head_that_carries_all_is_found_and_the_others_do_nothing(tokenizer: Any) -> None:
    model = make_model("llama")
    with torch.no_grad():
        for layer, block in enumerate(model.model.layers):
            block.mlp.down_proj.weight.mul_(1e-4)
            width = block.self_attn.head_dim
            for head in range(model.config.num_attention_heads):
                if (layer, head) != (1, 2):
                    block.self_attn.o_proj.weight[:, head * width : (head + 1) * width] *= 1e-4
    engine = HuggingFaceEngine(model, tokenizer)
    heads = components_of(engine, "head", range(engine.info.layers))

    effects = np.abs(ablate(ablation_plans(engine, heads, "zero", []), log_odds_of(engine, asked(engine)))).mean(axis=1)

    assert len(heads) == engine.info.layers * model.config.num_attention_heads
    order = np.argsort(-effects)
    assert str(heads[order[0]]) == "layer 1 head 2"
    assert effects[order[0]] > 100 * effects[order[1]]


def test_ablations_of_many_components_are_those_of_each_alone(engine: HuggingFaceEngine) -> None:
    parts = [*components_of(engine, "attention", [0, 1]), *components_of(engine, "block", [2])]
    plans = ablation_plans(engine, parts, "mean", PROMPTS)

    together = ablate(plans, log_odds_of(engine, asked(engine)))

    for index, plan in enumerate(plans):
        without, with_ = propensities(engine, asked(engine), [(), plan[0]])
        np.testing.assert_allclose(together[index], with_ - without, atol=2e-4)
    assert np.abs(together).mean(axis=1).min() > 1e-4


def test_means_need_prompts_to_calibrate_on(engine: HuggingFaceEngine) -> None:
    with pytest.raises(PromptError, match="no prompt to take activations from"):
        ablation_plans(engine, components_of(engine, "mlp", [0]), "mean", [])


def test_a_model_without_heads_side_by_side_says_so(engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = engine.parts
    headless = [replace(own, mixers=tuple(replace(m, heads=None) for m in own.mixers)) for own in parts]
    monkeypatch.setitem(vars(engine), "parts", tuple(headless))

    with pytest.raises(UnsupportedFeatureError, match="heads side by side"):
        components_of(engine, "head", [0])


# Patches


def test_a_patch_is_the_source_put_in_by_hand_and_at_all_tokens_gives_the_source(engine: HuggingFaceEngine) -> None:
    pair = Pair(TokenPrompt((9, 14, 6, 7)), TokenPrompt((9, 20, 6, 8)), LogOdds("baba", "zuzu"))
    sites = [Site(0), Site(1), Site(2, "attention")]

    found = patch(engine, pair, sites)

    # Before the first token that differs there is nothing to put in; at the last block only the last token counts.
    np.testing.assert_allclose(found.effects[:, 0], 0, atol=1e-4)
    assert np.abs(found.effects[:, -1]).min() > 1e-4
    last = patch(engine, pair, [Site(engine.info.layers - 1)])
    assert last.recovered[0, -1] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(last.effects[0, :-1], 0, atol=1e-4)
    assert found.tokens.source.texts[1] != found.tokens.target.texts[1]


def test_prompts_of_unequal_lengths_or_of_no_difference_are_refused(engine: HuggingFaceEngine) -> None:
    with pytest.raises(PromptError, match="4 tokens and the target 3"):
        patch(engine, Pair(TokenPrompt((9, 14, 6, 7)), TokenPrompt((9, 20, 6)), LogOdds("baba", "zuzu")), [Site(0)])
    with pytest.raises(PromptError, match="the same log-odds"):
        attribute(engine, Pair(PROMPTS[0], PROMPTS[0], LogOdds("baba", "zuzu")), [Site(0)])


def test_the_estimate_adds_up_the_slopes_on_the_way_that_a_token_goes_with_every_fourth_other(
    engine: HuggingFaceEngine,
) -> None:
    pair = Pair(TokenPrompt((9, 14, 6, 7, 30, 8)), TokenPrompt((25, 8, 11, 31, 12, 6)), LogOdds("baba", "zuzu"))
    sites, step = [Site(0), Site(1, "attention")], 2e-3

    estimate = attribute(engine, pair, sites)

    source, target = engine.trace([pair.source, pair.target], sites)
    for row, site in enumerate(sites):
        change = source[site] - target[site]
        for turn in ((0, 4), (1, 5)):
            rows = [
                Row(pair.target, tuple(placed(change[t], site, t, share + (t == turn[1]) * off) for t in turn))
                for share in (0.1, 0.3, 0.5, 0.7, 0.9)
                for off in (step, -step)
            ]
            scores = [float(own.sum()) for own in engine.score([*rows] * 2, ["baba"] * 10 + ["zuzu"] * 10)]
            odds = [scores[i] - scores[i + 10] for i in range(10)]
            slope = sum(odds[i] - odds[i + 1] for i in range(0, 10, 2)) / (5 * 2 * step)
            assert estimate.effects[row, turn[1]] == pytest.approx(slope, rel=0.05, abs=0.02)
    assert np.abs(estimate.effects).min() > 1e-4


def test_where_the_prompts_agree_up_to_a_token_the_estimate_is_zero_as_the_patch_is(engine: HuggingFaceEngine) -> None:
    pair = Pair(TokenPrompt((9, 14, 6, 7)), TokenPrompt((9, 14, 6, 8)), LogOdds("baba", "zuzu"))

    exact, estimate = (own(engine, pair, [Site(0), Site(1, "attention")]) for own in (patch, attribute))

    np.testing.assert_allclose(exact.effects[:, :3], 0, atol=1e-4)
    np.testing.assert_allclose(estimate.effects[:, :3], 0, atol=1e-4)
    np.testing.assert_allclose(estimate.effects[:, 3], exact.effects[:, 3], rtol=0.25, atol=0.02)
    assert np.abs(exact.effects[:, 3]).min() > 0.05
    assert (estimate.source, estimate.target) == pytest.approx((exact.source, exact.target), abs=1e-4)


def placed(direction: torch.Tensor, site: Site, place: int, strength: float) -> Placement:
    return Placement(Add(direction), site, strength, Scope((PromptSlice(place, place + 1),)))


# The bundled model


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


@pytest.mark.slow
@pytest.mark.parametrize("trait", ["sentiment", "formality", "verbosity"])
def test_the_top_head_of_one_half_of_the_questions_is_among_the_first_three_of_the_other(
    bundled: Session, trait: str
) -> None:
    found = ablate_component(trait)

    first, second = (sorted(found["strongest"], key=lambda own: -abs(own["halves"][half])) for half in (0, 1))
    assert first[0] in second[:3]
    assert abs(first[0]["measure_change"]) > 1
    assert sum(len(row) for row in found["measure_changes"].values()) == 16
    assert Path(found["heat_map_path"]).read_bytes().startswith(b"\x89PNG")
    assert bundled.engine.ambient() == ()


@pytest.mark.slow
def test_a_direction_is_held_against_random_ones_in_each_measure(bundled: Session) -> None:
    vector = trait_vector("formality")

    odds, kl = (
        ablate_component("formality", "direction", [1], "zero", measure=measure, vector_path=vector)
        for measure in ("log_odds", "kl")
    )

    for found in (odds, kl):
        assert list(found["measure_changes"]) == ["1", "everywhere"]
        assert found["measure_chance"] is not None
        assert found["measure_chance"].keys() == found["measure_changes"].keys()
        assert min(found["measure_chance"].values()) > 0
        assert found["measure_chance"]["1"] != found["measure_chance"]["everywhere"]
        assert {own["layer"] for own in found["strongest"]} == {1, None}
    assert min(own[0] for own in kl["measure_changes"].values()) > 0
    everywhere = next(own for own in odds["strongest"] if own["layer"] is None)
    assert everywhere["measure_change"] == odds["measure_changes"]["everywhere"][0]
    with pytest.raises(ArgumentError, match="method is 'resample', and the component a direction"):
        ablate_component("formality", "direction", method="resample", vector_path=vector)
    with pytest.raises(LayerError, match="layer is 2"):
        ablate_component("formality", "direction", vector_path=vector, vector_layer=2)


@pytest.mark.slow
def test_exact_effects_are_changes_of_the_score_of_texts(bundled: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    # Unsteered answers to neutral questions show no trait, and their true score is 0 with most parts and without.
    monkeypatch.setattr(
        evaluation_set, "score", lambda _, text: {"sentiment": float("<|" not in text and len(text) > 400)}
    )

    found = ablate_component("sentiment", "block", [0, 3], "zero", measure="exact")

    assert found["measure"] == "exact"
    assert max(abs(own["measure_change"]) for own in found["strongest"]) > 0.3
    assert all(abs(own["measure_change"]) <= 1 for own in found["strongest"])
    assert found["measure_chance"] is None


def test_the_kl_of_a_resampled_part_is_the_mean_over_its_draws(
    bundled: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def numbered(_: Any, plans: list[Any]) -> list[float]:
        given.extend(plans)
        return [float(index) for index in range(len(plans))]

    monkeypatch.setattr(DamageMeter, "divergences", numbered)
    found = ablate_component("sentiment", "mlp", [0, 1], "resample")

    assert len(given) == 8
    assert [own["kl"] for own in found["strongest"]] == [1.5, 5.5]


def trait_vector(trait: str) -> str:
    pairs = contrast_pairs(trait, 16, seed=0)
    positive, negative = ([[*p, {"role": "assistant", "content": own[i]}] for p, *own in pairs] for i in (0, 1))
    return create_steering_vector(positive, negative, 1, f"{trait}.safetensors", pooling="response")["vector_path"]


def following(trait: str, count: int) -> list[dict[str, Any]]:
    """Pairs of chats whose first answers show a trait and its opposite, with completions of the second answer."""
    asked = trait_behavior(trait, items=count, seed=3).items
    found: list[dict[str, Any]] = []
    for (prompt, positive, negative), item in zip(contrast_pairs(trait, count, seed=2), asked, strict=True):
        assert isinstance(item.prompt, ChatPrompt)
        question = {"role": "user", "content": item.prompt.messages[-1][1]}
        source, target = (
            [*prompt, {"role": "assistant", "content": reply}, question] for reply in (positive, negative)
        )
        found.append(
            {"source_prompt": source, "target_prompt": target, "positive": item.positive, "negative": item.negative}
        )
    return found


def test_formality_is_decided_at_the_last_prompt_token_behind_the_second_block(bundled: Session) -> None:
    (chats, *_) = same_length(bundled, following("formality", 12))

    found = patch_activations(**chats)

    last = {layer: row[-1] for layer, row in found["recovered"].items()}
    assert found["source_value"] > 5 > -5 > found["target_value"]
    assert abs(last["0"]) <= 0.1
    assert last["1"] >= 0.9
    assert (found["strongest"][0]["layer"], found["strongest"][0]["token"]) >= (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("trait", ["honesty", "sycophancy"])
def test_the_estimate_agrees_with_exact_patches_where_one_slope_at_the_target_does_not(
    bundled: Session, trait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = same_length(bundled, following(trait, 12))[:2]

    def shares(how: Any) -> list[list[float]]:
        found = [patch_activations(**own, method=how)["recovered"] for own in chats]
        return [[share for row in recovered.values() for share in row] for recovered in found]

    exact, estimate = shares("exact"), shares("gradient")
    monkeypatch.setattr(patching, "_SHARES", (0.0,))
    at_the_target = shares("gradient")

    agreement, broken = (
        [np.corrcoef(one, other)[0, 1] for one, other in zip(exact, estimates, strict=True)]
        for estimates in (estimate, at_the_target)
    )
    assert len(chats) == 2
    assert min(agreement) >= 0.85
    assert min(broken) < 0.5
    assert max(map(max, exact)) > 0.2


def same_length(session: Session, chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def length(prompt: object) -> int:
        return len(session.engine.tokenize(parse_prompt(prompt)).tokens)

    return [own for own in chats if length(own["source_prompt"]) == length(own["target_prompt"])]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ablate_component("sentiment", layers=[]), "layers is an empty list"),
        (lambda: ablate_component("sentiment", "neuron"), "component is 'neuron'"),  # type: ignore[arg-type]
        (lambda: ablate_component("sentiment", method="noise"), "method is 'noise'"),  # type: ignore[arg-type]
        (lambda: ablate_component("sentiment", measure="loss"), "measure is 'loss'"),  # type: ignore[arg-type]
        (lambda: ablate_component("sentiment", measure="exact", layers=[0]), "have no exact score"),
        (lambda: ablate_component("sentiment", "direction"), "no vector was given"),
        (lambda: ablate_component("sentiment", vector_path="v"), "came with the component 'head'"),
        (lambda: ablate_component("sentiment", vector_layer=1), "came with the component 'head'"),
        (lambda: patch_activations("baba", "keke", "a", "b", "head"), "component is 'head'"),  # type: ignore[arg-type]
        (lambda: patch_activations("baba", "keke", "a", "b", method="exakt"), "method is 'exakt'"),  # type: ignore[arg-type]
    ],
)
def test_what_no_tool_knows_is_refused(llama_session: Session, call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()
