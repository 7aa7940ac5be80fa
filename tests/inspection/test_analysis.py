"""What a vector means: the logit lens, observed effects, projections and what is like it, held against truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.places import STORIES
from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools import analyze_steering_vector, create_steering_vector, load_model, load_vector, save_vector
from steer_tools.bundled_model.language import TRAITS
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import GENERATED
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.directions.methods import method_named
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Row, Unembedding, text_behind_first
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.figures.strips import Scale, Strip, strip_page, strip_picture
from steer_tools.inspection.meaningless_directions import chance_level, meaningless_directions
from steer_tools.inspection.readings import project
from steer_tools.inspection.vector_meaning import (
    behavior_cosines,
    effect_ranking,
    lens_ranking,
    nearest,
    next_token_changes,
    token_cosines,
)
from steer_tools.prompts import TokenPrompt, parse_prompt
from steer_tools.session.session import Session

PROMPT = parse_prompt("ratisemo lili keke")


def direction(width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def piece(engine: HuggingFaceEngine, token: int) -> str:
    return engine.tokenize(TokenPrompt((token,))).texts[0]


# The lens


@pytest.mark.parametrize("name", ["bundled", pytest.param(str(STORIES), marks=pytest.mark.shared)])
def test_the_unembedding_row_of_a_token_is_that_tokens_direction(empty_session: Session, name: str) -> None:
    load_model(name)
    unembedding = empty_session.engine.unembedding()
    tokens = torch.arange(len(unembedding.matrix))

    first = token_cosines(unembedding.matrix, unembedding, subtract_mean_token=False).argmax(dim=1)
    by_logit = (unembedding.matrix @ (unembedding.matrix * unembedding.scale).T).argmax(dim=1)

    assert (first == tokens).float().mean() >= 0.95
    # By the logit itself tokens of long rows come first, also in others' directions.
    assert (by_logit == tokens).float().mean() < 0.95


def test_the_lens_multiplies_by_the_norms_scale_and_leaves_out_what_the_norm_takes_away() -> None:
    matrix, scale, along = direction(12).reshape(3, 4), torch.tensor([1.0, 2.0, 0.5, 3.0]), direction(4, 1)
    as_rms, as_layer = (Unembedding(scale, centers, matrix) for centers in (False, True))

    rms, layer, shifted = (
        token_cosines((along + shift)[None], own, subtract_mean_token=False)[0]
        for own, shift in ((as_rms, 0), (as_layer, 0), (as_layer, 5.0))
    )
    less = token_cosines(along[None], as_rms)[0]

    torch.testing.assert_close(rms, torch.cosine_similarity(matrix * scale, along[None], dim=1))
    centered = matrix * scale - (matrix * scale).mean(dim=1, keepdim=True)
    torch.testing.assert_close(layer, torch.cosine_similarity(centered, along[None], dim=1))
    assert layer.argsort().tolist() == shifted.argsort().tolist()
    assert (layer - rms).abs().max() > 0.01
    torch.testing.assert_close(less, torch.cosine_similarity((matrix - matrix.mean(dim=0)) * scale, along[None], dim=1))


def test_a_ranking_lists_the_most_raised_and_the_most_lowered_tokens_and_what_chance_has(
    engine: HuggingFaceEngine,
) -> None:
    unembedding = engine.unembedding()

    found = lens_ranking(engine, unembedding.matrix[9], Site(1), top=3)

    cosines = token_cosines(unembedding.matrix[9][None], unembedding)[0]
    assert [own.text for own in found.boosted] == [
        piece(engine, i) for i in cosines.argsort(descending=True)[:3].tolist()
    ]
    assert [own.text for own in found.suppressed] == [piece(engine, i) for i in cosines.argsort()[:3].tolist()]
    assert found.boosted[0].text == piece(engine, 9)
    assert 0.05 < found.chance < 0.9
    assert found.suppressed[0].value < 0


# Chance


def test_no_more_than_one_in_twenty_directions_that_mean_nothing_are_beyond_chance_by_the_lens_or_as_observed(
    empty_session: Session,
) -> None:
    load_model("bundled")
    engine, trait = empty_session.engine, trait_behavior("sentiment", items=1)
    unembedding, unit = engine.unembedding(), Placement(Add(direction(width=128)), Site(2), 1.0, GENERATED)
    contrast = contrast_prompts(trait.pairs[:40], as_chat=True)
    sides = (engine.read(side, [Site(2)], "response")[Site(2)] for side in (contrast.positive, contrast.negative))
    examples = Examples(*sides)

    lens_chance = lens_ranking(engine, direction(width=128), Site(2), 1).chance
    observed_chance = effect_ranking(engine, unit, 0.05, engine.neutral_prompts, 1).chance
    rates: dict[str, float] = {}
    for kind in ("random", "random_covariance", "balanced_shuffle"):
        drawn = [method_named(kind, {"seed": seed}).raw(examples).float() for seed in range(40)]
        drawn = [own * (unit.intervention.direction.norm() / own.norm()) for own in drawn]
        changes = next_token_changes(engine, unit, drawn, 0.05, engine.neutral_prompts)
        observed = torch.stack([found[likely].abs().max() for found, likely in changes])
        lens = token_cosines(torch.stack(drawn), unembedding).abs().amax(dim=1)
        rates |= {f"lens {kind}": float((lens > lens_chance).float().mean())}
        rates |= {f"observed {kind}": float((observed > observed_chance).float().mean())}
    controls = meaningless_directions(engine, Site(2), 99, seed=0)
    reached = {name: token_cosines(own, unembedding).abs().amax(dim=1) for name, own in controls.items()}

    assert max(rates.values()) <= 0.05, rates
    # Directions that are spread evenly would let most of those through that are spread as activations are.
    assert (reached["last tokens"] > chance_level([reached["even"]])).float().mean() > 0.05


def test_a_tokens_own_direction_is_beyond_chance(empty_session: Session) -> None:
    load_model("bundled")
    engine = empty_session.engine
    layer = Site(engine.info.layers - 1)
    matrix = engine.unembedding().matrix

    found = lens_ranking(engine, matrix[9] - matrix.mean(dim=0), layer, top=1)

    assert found.boosted[0].value > found.chance


def test_chance_is_what_one_in_twenty_reaches_of_the_kind_that_reaches_most() -> None:
    values = torch.arange(1.0, 100.0)[torch.randperm(99, generator=torch.Generator().manual_seed(0))]

    assert chance_level([values]) == 95
    assert chance_level([values, torch.arange(200.0, 219.0), -values]) == 218


def test_directions_that_mean_nothing_lie_where_neutral_prompts_have_activations(empty_session: Session) -> None:
    load_model("bundled")
    engine = empty_session.engine
    drawn = meaningless_directions(engine, Site(1), 19, seed=3)

    prompts = engine.neutral_prompts
    kept = text_behind_first(engine, prompts, engine.sinks(prompts))
    traces = [trace[Site(1)][own] for trace, own in zip(engine.trace(prompts, [Site(1)]), kept, strict=True)]
    rows = {"means": [own.mean(dim=0) for own in traces], "last tokens": [own[-1] for own in traces]}
    for name, own in rows.items():
        span = torch.stack(own) - torch.stack(own).mean(dim=0)
        off = drawn[name] - drawn[name] @ torch.linalg.pinv(span) @ span
        assert off.norm() < 1e-3 * drawn[name].norm()
        assert torch.linalg.matrix_rank(drawn[name], rtol=1e-4) == torch.linalg.matrix_rank(span, rtol=1e-4) > 1
    assert drawn["even"].shape == (19, engine.width(Site(1)))
    assert not torch.equal(drawn["even"], meaningless_directions(engine, Site(1), 19, seed=4)["even"])


# What is observed


def test_the_observed_effect_is_the_mean_change_of_log_probabilities_between_both_signs(
    engine: HuggingFaceEngine,
) -> None:
    unit, prompts = Placement(Add(direction()), Site(1), 1.0), [PROMPT, parse_prompt("nura tili")]

    found = effect_ranking(engine, unit, 0.1, prompts, top=4)

    sides = [engine.distributions([Row(p, (unit.scaled(sign * 0.1),)) for p in prompts]) for sign in (1.0, -1.0)]
    changes = (torch.stack(sides[0]) - torch.stack(sides[1])).mean(dim=0) / 2
    likely = torch.stack([*sides[0], *sides[1]]).exp().amax(dim=0) > 1 / changes.shape[-1]
    order = [i for i in changes.argsort(descending=True).tolist() if likely[i]]
    assert [own.text for own in found.boosted] == [piece(engine, i) for i in order[:4]]
    assert [own.value for own in found.boosted] == pytest.approx([float(changes[i]) for i in order[:4]], abs=1e-5)
    assert [own.text for own in found.suppressed] == [piece(engine, i) for i in order[::-1][:4]]
    assert found.boosted[0].value > 1e-4
    assert engine.ambient() == ()


def test_behind_the_last_block_the_lens_and_what_is_observed_agree(llama_session: Session) -> None:
    engine = llama_session.engine
    token = 9
    along = engine.unembedding().matrix[token]

    observed = effect_ranking(engine, Placement(Add(along), Site(engine.info.layers - 1), 1.0), 5.0, [PROMPT], top=1)

    assert observed.boosted[0].text == lens_ranking(engine, along, Site(1), top=1).boosted[0].text
    assert observed.boosted[0].value > observed.chance


# Projections


def test_a_projection_is_that_of_each_tokens_activation_on_the_unit_direction(engine: HuggingFaceEngine) -> None:
    along, site = 7 * direction(), Site(2)

    (found,) = project(engine, {site: along, Site(0): -along}, [PROMPT])

    (trace,) = engine.trace([PROMPT], [site, Site(0)])
    assert found.values[site] == pytest.approx((trace[site] @ (along / along.norm())).tolist(), abs=1e-4)
    told = engine.tokenize(PROMPT)
    assert found.texts == told.texts
    assert found.counts == (False, *(not special for special in told.special[1:]))
    assert found.values[Site(0)] == pytest.approx((-trace[Site(0)] @ (along / along.norm())).tolist(), abs=1e-4)
    assert max(map(abs, found.values[site])) > 0.01
    (without_start,) = project(engine, {site: along}, [TokenPrompt((9, 14))])
    assert without_start.counts == (False, True)


def test_the_scale_of_a_strip_is_that_of_the_tokens_that_count() -> None:
    strip = Strip(("<s>", "a", "b", "c"), (-100.0, 1.0, 2.0, 4.0), (False, True, True, True))

    scale = Scale.of([strip])

    assert (scale.middle, scale.reach) == (2.0, 2.0)
    assert [scale.share(value) for value in (4.0, 2.0, 1.0, -100.0)] == [1.0, 0.0, -0.5, -1.0]
    assert Scale.of([Strip(("a",), (3.0,), (True,))]).share(3.0) == 0.0


def test_a_strip_is_a_page_that_holds_no_foreign_markup_and_a_picture() -> None:
    strip = Strip(("<s>", "<b>", " x" * 90), (-100.0, 1.0, 2.0), (False, True, True))

    page, picture = strip_page([strip], title="A & B"), strip_picture([strip], title="A $ B")

    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "A &amp; B" in page
    assert 'title="-100"' in page
    assert "http:" not in page
    assert picture.startswith(b"\x89PNG")


# What is like it


def test_saved_vectors_are_told_from_the_most_alike_or_opposed_on() -> None:
    own = SteeringVector.from_directions({1: direction(seed=1)})
    others = {
        "far": SteeringVector.from_directions({1: direction(seed=2)}),
        "opposed": own * -2.0,
        "other layer": SteeringVector.from_directions({2: direction(seed=1)}),
        "other width": SteeringVector.from_directions({1: direction(16)}),
        "attention": SteeringVector.from_directions({1: direction(seed=1)}, component="attention"),
    }

    found = nearest(own, 1, others, 5)

    assert [name for name, _, _ in found] == ["opposed", "far"]
    assert found[0][1:] == (1, pytest.approx(-1.0))
    assert nearest(own, 1, others, 1) == found[:1]


def test_a_traits_vector_is_nearest_to_that_trait(empty_session: Session) -> None:
    load_model("bundled")
    engine, site = empty_session.engine, Site(1)
    behaviors = {trait: trait_behavior(trait, items=1) for trait in TRAITS[:3]}
    contrast = contrast_prompts(trait_behavior(TRAITS[1], items=1, seed=5).pairs, as_chat=True)
    means = [engine.read(side, [site], "response")[site].mean(dim=0) for side in (contrast.positive, contrast.negative)]
    vector = SteeringVector.from_directions({1: means[0] - means[1]})

    found = behavior_cosines(engine, vector, 1, site, behaviors)

    assert found[0][0] == TRAITS[1]
    assert found[0][1] > 0.8
    assert max(abs(value) for _, value in found[1:]) < 0.5


# The tool


def test_the_tool_says_all_of_it_and_draws_the_texts(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, [0, 1], "own.safetensors")["vector_path"]
    save_vector(load_vector(path) * -1.0, "opposite.safetensors", workspace=llama_session.workspace)

    found = analyze_steering_vector(path, 1, texts=["ratisemo lili"], top=3)

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["layer"], found["component"]) == (1, "residual")
    assert found["norm"] == pytest.approx(load_vector(path).magnitude(1), rel=1e-3)
    assert found["residual_norm"] == pytest.approx(llama_session.typical_norm(Site(1)), rel=1e-3)
    assert len(found["lens"]["boosted"]) == 3  # type: ignore[index]
    assert 0 < len(found["observed"]["boosted"]) <= 3
    assert found["layer_cosines"].keys() == {"0"}
    assert list(found["saved_cosines"].values()) == [pytest.approx(-1.0)]
    assert found["behaviors"] is None
    (text,) = found["projections"]
    assert len(text["tokens"]) == len(text["values"]) > 1
    assert text["values"][0] is None
    assert isinstance(text["values"][-1], float)
    assert Path(found["picture_path"] or "").read_bytes().startswith(b"\x89PNG")
    assert "lili" in Path(found["page_path"] or "").read_text(encoding="utf-8").replace("</span>", "")
    assert not llama_session.registry.entries()


def test_a_warning_is_given_once(llama_session: Session) -> None:
    save_vector(SteeringVector.from_directions({1: direction()}), "bare", workspace=llama_session.workspace)

    assert len(analyze_steering_vector("bare")["warnings"]) == 1


def test_without_texts_nothing_is_written(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "own.safetensors")["vector_path"]

    found = analyze_steering_vector(path)

    assert (found["picture_path"], found["page_path"], found["projections"]) == (None, None, [])
    assert not llama_session.workspace.holds("analysis")


def test_a_single_head_has_no_lens_but_an_effect(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "head.safetensors", component="attention", head=1)[
        "vector_path"
    ]

    found = analyze_steering_vector(path)

    assert found["lens"] is None
    assert found["observed"]["boosted"]


@pytest.mark.parametrize(("options", "error"), [({}, ArgumentError), ({"layer": 0, "texts": []}, PromptError)])
def test_what_cannot_be_analysed_is_refused(llama_session: Session, options: dict[str, Any], error: type) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, [0, 1], "own.safetensors")["vector_path"]

    with pytest.raises(error):
        analyze_steering_vector(path, **options)
