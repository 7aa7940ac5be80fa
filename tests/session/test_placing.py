"""How a vector acts: every intervention, component, unit and weight through the tools, proved and taken off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.small_models import HARD, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    check_steering,
    combine_steering_vectors,
    compare_generations,
    create_steering_vector,
    generate,
    load_vector,
    remove_all_steering_vectors,
    remove_steering_vector,
    save_vector,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.core.plan import Placement
from steer_tools.core.positions import GENERATED, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import ArgumentError, LayerError, SteeringError, StrengthError
from steer_tools.prompts import parse_prompts
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session

STEPS = 8
SITES: dict[str, dict[str, Any]] = {
    "residual": {"layer": 2},
    "embedding": {"layer": 0, "component": "embedding", "pooling": "mean"},  # The last words are the same.
    "attention": {"layer": 1, "component": "attention"},
    "head": {"layer": 1, "component": "attention", "head": 2},
    "mlp": {"layer": 2, "component": "mlp"},
}


def texts() -> list[str]:
    return generate(PROMPTS, max_new_tokens=STEPS)["texts"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_every_intervention_at_every_site_is_proved_and_taken_off(llama_session: Session, kind: Any, site: str) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, save_path="v", **SITES[site])["vector_path"]
    plain = texts()

    applied = apply_steering_vector(path, intervention=kind, positions="all")
    steered, proof = texts(), check_steering(PROMPTS)
    live = llama_session.registry.plan()
    at_zero = update_steering_vector(applied["steering_id"], 0.0)
    zero = texts()
    remove_all_steering_vectors()

    vector = load_vector(path)
    intervention = INTERVENTIONS[kind].from_vector(vector, vector.layers[0], None)
    at = Site(vector.layers[0], vector.component, vector.head)
    by_hand = (Placement(intervention, at, 1.0, Scope.parse("all")),)
    rows = [Row(prompt, by_hand) for prompt in parse_prompts(PROMPTS)]
    assert [g.text for g in llama_session.engine.generate(rows, Sampling(STEPS))] == steered
    assert proof["passed"], proof
    assert [placement.site for placement in live] == [at]
    scales = INTERVENTIONS[kind].scales_direction
    assert (applied["residual_strength"] is not None) == scales == (at_zero["residual_strength"] is not None)
    assert zero == plain == texts()
    logits = llama_session.engine.distributions([rows[0], Row(rows[0].prompt)])
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", [kind for kind, of in INTERVENTIONS.items() if not of.scales_direction])
def test_a_share_of_a_whole_edit_has_no_unit_of_length(llama_session: Session, make_vector: Any, kind: Any) -> None:
    path = make_vector()

    for unit in ("contrast", "residual"):
        with pytest.raises(ArgumentError, match=r"1\.0 for the whole"):
            apply_steering_vector(path, intervention=kind, unit=unit)
    assert apply_steering_vector(path, intervention=kind)["success"]


@pytest.mark.parametrize(
    ("kind", "target", "projection"),
    [("clamp", 3.5, 3.5), ("clamp", -2.0, -2.0), ("affine", 0.0, "negative"), ("affine", 1.0, "positive")],
)
def test_a_target_is_what_the_projection_becomes(
    session: Session, make_vector: Any, kind: Any, target: float, projection: Any
) -> None:
    path = make_vector(2)
    vector = load_vector(path)
    unit = vector.directions[2] / vector.directions[2].norm()
    expected = {
        "negative": vector.info.negative_projections[2],
        "positive": vector.info.positive_projections[2],
    }.get(projection, projection)

    apply_steering_vector(path, intervention=kind, target=target, positions="all")
    observation = session.engine.observe(parse_prompts(PROMPTS)[1], 2)

    for edit in observation.edits:
        torch.testing.assert_close(edit.after @ unit, torch.full((len(edit.after),), expected), atol=1e-4, rtol=1e-4)
        assert float((edit.before @ unit - expected).abs().max()) > 0.1


def test_the_reference_projections_are_those_of_the_prompts_that_made_the_vector(session: Session) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v")
    vector = load_vector("v", workspace=session.workspace)
    unit = vector.directions[2] / vector.directions[2].norm()

    means = [
        session.engine.read(parse_prompts(side), [Site(2)], "last")[Site(2)].mean(0) for side in (POSITIVE, NEGATIVE)
    ]

    assert vector.info.positive_projections[2] == pytest.approx(float(means[0] @ unit), abs=1e-4)
    assert vector.info.negative_projections[2] == pytest.approx(float(means[1] @ unit), abs=1e-4)
    torch.testing.assert_close(vector.means[2], (means[0] + means[1]) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["affine", "clamp", "rotate", "mean", "erase"])
def test_an_intervention_that_a_bare_vector_cannot_do_says_what_could(llama_session: Session, kind: Any) -> None:
    bare = SteeringVector.from_directions({2: torch.ones(WIDTH)})
    save_vector(bare, "bare", workspace=llama_session.workspace)

    with pytest.raises(ArgumentError, match="create_steering_vector made from prompts"):
        apply_steering_vector("bare", intervention=kind)
    for enough in ("add", "add_keeping_norm", "project_out", "replace", "zero"):
        assert apply_steering_vector("bare", intervention=enough)["success"]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["add", "add_keeping_norm", "project_out", "replace", "zero", "mean", "erase"])
def test_a_target_for_an_intervention_without_one_is_refused(
    llama_session: Session, make_vector: Any, kind: Any
) -> None:
    with pytest.raises(ArgumentError, match="no target"):
        apply_steering_vector(make_vector(), intervention=kind, target=1.0)


def test_an_unknown_intervention_is_refused_with_all_that_are_known(llama_session: Session, make_vector: Any) -> None:
    wrong: Any = "subtract"

    with pytest.raises(ArgumentError) as caught:
        apply_steering_vector(make_vector(), intervention=wrong)

    assert all(repr(kind) in str(caught.value) for kind in INTERVENTIONS)


# Strengths


@pytest.mark.parametrize("site", SITES)
def test_one_residual_unit_is_the_typical_norm_at_the_site(llama_session: Session, site: str) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, save_path="v", **SITES[site])["vector_path"]

    applied = apply_steering_vector(path, strength=0.25, unit="residual")

    (placement,) = llama_session.registry.plan()
    added = placement.strength * load_vector(path).directions[placement.site.layer]
    assert applied["residual_strength"] == pytest.approx(0.25)
    assert float(added.norm()) == pytest.approx(0.25 * llama_session.typical_norm(placement.site), rel=1e-4)


@HARD
def test_layer_weights_multiply_the_strength_layer_by_layer(session: Session, make_vector: Any) -> None:
    path = make_vector([1, 2, 3])
    vector = load_vector(path)

    apply_steering_vector(path, [1, 3], 2.0, layer_weights=[0.5, -1.0])
    live = session.registry.plan()
    applied = texts()
    remove_all_steering_vectors()
    with steering(vector, 1, 1.0), steering(vector, 3, -2.0):
        one_by_one = texts()

    assert [(p.site.layer, p.strength) for p in live] == [(1, 1.0), (3, -2.0)]
    assert applied == one_by_one
    for weights in ([0.5], [1, 2, 3], "ab", [1, None]):
        with pytest.raises((ArgumentError, StrengthError), match="weight"):
            apply_steering_vector(path, [1, 3], layer_weights=weights)  # pyright: ignore[reportArgumentType]


def test_a_direction_used_at_another_layer_is_warned_of_with_the_ratio_of_the_norms(
    session: Session, make_vector: Any
) -> None:
    path = make_vector(1)
    ratio = session.typical_norm(Site(3)) / session.typical_norm(Site(1))

    moved = apply_steering_vector(path, 3)
    own = apply_steering_vector(path, 1)

    assert any(f"by a factor of {ratio:.3g}" in text for text in moved["warnings"])
    assert not any("factor" in text for text in own["warnings"])


# Several at once


@HARD
def test_different_vectors_on_one_layer_add_up_and_each_comes_off_by_itself(session: Session) -> None:
    first = create_steering_vector(POSITIVE, NEGATIVE, 2, "a")["vector_path"]
    second = create_steering_vector(PROMPTS, NEGATIVE, 2, "b", method="mean_difference")["vector_path"]
    total = 1.5 * load_vector(first) - 0.5 * load_vector(second)

    one = apply_steering_vector(first, strength=1.5)
    apply_steering_vector(second, strength=-0.5)
    both = texts()
    remove_steering_vector(one["steering_id"])
    rest = texts()
    remove_all_steering_vectors()

    with steering(total):
        assert texts() == both
    with steering(second, strength=-0.5):
        assert texts() == rest != both


def test_interventions_of_several_kinds_act_in_the_order_they_were_applied(session: Session, make_vector: Any) -> None:
    path = make_vector(2)
    vector = load_vector(path)
    unit = vector.directions[2] / vector.directions[2].norm()

    def after(*kinds: str) -> list[float]:
        for kind in kinds:
            apply_steering_vector(path, intervention=kind, positions="all")  # pyright: ignore[reportArgumentType]
        (edit, *_) = session.engine.observe(parse_prompts(PROMPTS)[1], 1).edits
        proof = check_steering(PROMPTS)
        remove_all_steering_vectors()
        assert proof["passed"], proof
        return (edit.after @ unit).tolist()

    norm = vector.magnitude(2)
    assert after("add", "project_out") == pytest.approx([0.0] * len(after("add")), abs=1e-3)
    assert after("project_out", "add") == pytest.approx([norm] * len(after("add")), abs=1e-3)


@HARD
def test_a_combined_vector_does_what_its_parts_do_together(session: Session) -> None:
    a = create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "a")["vector_path"]
    b = create_steering_vector(PROMPTS, NEGATIVE, [1, 2], "b")["vector_path"]

    combined = combine_steering_vectors([a, b], "both", [1.0, -0.5])
    with steering(a, strength=1.0), steering(b, strength=-0.5):
        expected = texts()
    with steering(combined["vector_path"]):
        assert texts() == expected

    assert combined["layer"] == [1, 2] and len(combined["magnitude"]) == 2
    assert combined["cosines"][0][0] == pytest.approx(1.0) and combined["cosines"][0][1] == combined["cosines"][1][0]
    assert -1 < combined["cosines"][0][1] < 1
    assert expected != texts()


def test_opposed_vectors_are_warned_of_as_they_are_weighted(session: Session, make_vector: Any) -> None:
    a = make_vector(1, "a")
    b = create_steering_vector(NEGATIVE[:-1], POSITIVE, 1, "b")["vector_path"]

    opposed = combine_steering_vectors([a, b], "c")
    alike = combine_steering_vectors([a, b], "c", [1.0, -1.0])

    assert any("undo each other" in text for text in opposed["warnings"])
    assert alike["warnings"] == []


def test_what_is_orthogonal_to_a_vector_has_nothing_of_it(session: Session, make_vector: Any) -> None:
    a = make_vector(1, "a")
    b = create_steering_vector(PROMPTS, NEGATIVE, 1, "b")["vector_path"]
    before = load_vector(a).directions[1] @ load_vector(b).directions[1]

    rest = load_vector(combine_steering_vectors([a], "c", orthogonal_to=[b])["vector_path"])

    assert abs(float(before)) > 0.1
    assert float(rest.directions[1] @ load_vector(b).directions[1]) == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(SteeringError, match="span of the others"):
        combine_steering_vectors([a], "c", orthogonal_to=[a])


def test_vectors_that_do_not_fit_together_are_refused(session: Session, make_vector: Any) -> None:
    one, other = make_vector(1, "a"), make_vector(2, "b")
    part = create_steering_vector(POSITIVE, NEGATIVE, 1, "c", component="mlp")["vector_path"]

    with pytest.raises(LayerError, match="layers"):
        combine_steering_vectors([one, other], "d")
    with pytest.raises(ArgumentError, match="component"):
        combine_steering_vectors([one, part], "d")
    with pytest.raises(ArgumentError, match="one weight for each"):
        combine_steering_vectors([one], "d", [1.0, 2.0])
    assert len(steering_status()["saved"]) == 3


def test_comparing_takes_the_interventions_too_and_leaves_nothing(session: Session, make_vector: Any) -> None:
    path = make_vector(2)

    compared = compare_generations(
        PROMPTS, path, strengths=[0.0, 1.0], intervention="project_out", positions="all", max_new_tokens=STEPS
    )
    placed = place(session, path, None, PlacementOptions(intervention="project_out", positions="all"))
    rows = [Row(prompt, placed.plan(1.0)) for prompt in parse_prompts(PROMPTS)]

    none, whole = compared["variants"]
    assert none["texts"] == compared["baseline"]["texts"] != whole["texts"]
    assert whole["texts"] == [g.text for g in session.engine.generate(rows, Sampling(STEPS))]
    assert none["residual_strength"] is None
    assert placed.unit_placements[0].positions != GENERATED and len(session.registry) == 0


# What a hostile reader found


@pytest.mark.parametrize(
    ("dtype", "kind", "strength", "target"),
    [
        (torch.float16, "add", 1e5, None),
        (torch.float16, "replace", 1e5, None),
        (torch.float16, "project_out", 1e6, None),
        (torch.float16, "clamp", 1.0, 1e6),
        (torch.float16, "affine", 1.0, 1e6),
        (torch.float32, "replace", 1e39, None),
        (torch.float32, "add", 1e39, None),
    ],
)
def test_an_edit_that_the_dtype_cannot_hold_is_refused_before_it_acts(
    empty_session: Session, dtype: torch.dtype, kind: Any, strength: float, target: float | None
) -> None:
    empty_session.attach(make_model("llama", dtype=dtype), make_tokenizer())
    path = create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]

    with pytest.raises(StrengthError, match="can hold"):
        apply_steering_vector(path, strength=strength, intervention=kind, target=target)

    assert steering_status()["applied"] == []
    assert apply_steering_vector(path, intervention=kind, target=target and 1.0)["success"]


def test_adding_far_more_than_the_stream_keeps_the_norm_all_the_same(session: Session, make_vector: Any) -> None:
    apply_steering_vector(make_vector(2), strength=1e25, intervention="add_keeping_norm", positions="all")

    (edit,) = session.engine.observe(parse_prompts(PROMPTS)[1], 1).edits

    torch.testing.assert_close(edit.after.norm(dim=1), edit.before.norm(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["3", True, float("nan"), 1e39, None])
def test_a_target_is_a_finite_number_or_left_out(llama_session: Session, make_vector: Any, target: Any) -> None:
    path = make_vector()

    if target is None:
        assert apply_steering_vector(path, intervention="clamp", target=target)["success"]
        return
    with pytest.raises(ArgumentError, match="target is"):
        apply_steering_vector(path, intervention="clamp", target=target)


@pytest.mark.parametrize(
    "given",
    [
        {"layer": 1},
        {"strengths": [1.0]},
        {"unit": "residual"},
        {"positions": "all"},
        {"intervention": "zero"},
        {"target": 1.0},
        {"condition": "v"},
        {"allow_other_model": True},
    ],
)
def test_how_a_vector_acts_cannot_be_said_of_what_is_applied(
    llama_session: Session, make_vector: Any, given: dict[str, Any]
) -> None:
    apply_steering_vector(make_vector())

    with pytest.raises(ArgumentError, match="Give vector_path"):
        compare_generations(PROMPTS, max_new_tokens=2, **given)
    assert compare_generations(PROMPTS, max_new_tokens=2)["variants"][0]["strength"] == 1.0


def test_results_say_which_part_of_the_model_is_edited_and_how(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "v", component="attention", head=2)["vector_path"]

    applied = apply_steering_vector(path, intervention="clamp", target=2)
    again = apply_steering_vector(path, intervention="zero")
    added = apply_steering_vector(path)
    entry = steering_status()["applied"][0]

    assert applied["vector_shape"] == [WIDTH // 4]
    assert (entry["component"], entry["intervention"], entry["target"]) == ("attention head 2", "clamp", 2.0)
    assert any("one edit follows the other" in text for text in again["warnings"])
    assert any("strengths at one layer add up" in text for text in added["warnings"])


def test_a_whole_edit_moved_to_another_layer_is_warned_of_as_such(llama_session: Session, make_vector: Any) -> None:
    (warning,) = apply_steering_vector(make_vector(1), 3, intervention="mean")["warnings"]

    assert "measured where it was made" in warning and "unit" not in warning
