"""What the tools promise, through Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import steer_tools
from helpers.oracle import blocks_of, outputs_by_hand
from helpers.small_models import HARD, LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    check_steering,
    compare_generations,
    create_steering_vector,
    generate,
    load_vector,
    remove_all_steering_vectors,
    remove_steering_vector,
    save_vector,
    show_tokens,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.prompts import NEUTRAL_PROMPTS, TextPrompt, parse_prompts
from steer_tools.session.session import Session

CHAT = [{"role": "user", "content": "baba keke"}]


# Creating


def test_a_created_vector_has_the_length_of_its_contrast(session: Session) -> None:
    result = create_steering_vector(POSITIVE, NEGATIVE, 2, "vectors/v")

    assert result["magnitude"] == result["contrast_norm"] > 0
    assert load_vector(result["vector_path"]).directions[2].norm() == pytest.approx(result["magnitude"], rel=1e-5)


def test_the_vector_points_from_the_negative_to_the_positive_prompts(session: Session, family: str) -> None:
    by_hand, tokenizer = make_model(family), make_tokenizer()
    sides = [
        [outputs_by_hand(by_hand, tokenizer(t)["input_ids"])[2][-1] for t in side] for side in (POSITIVE, NEGATIVE)
    ]
    expected = torch.stack(sides[0]).mean(dim=0) - torch.stack(sides[1]).mean(dim=0)

    result = create_steering_vector(POSITIVE, NEGATIVE, 2, "v", method="paired_mean_difference")

    torch.testing.assert_close(load_vector(result["vector_path"]).directions[2], expected, atol=1e-4, rtol=1e-4)


def test_a_normalised_vector_has_length_one_and_remembers_its_contrast(session: Session) -> None:
    full = create_steering_vector(POSITIVE, NEGATIVE, 2, "full")
    unit = create_steering_vector(POSITIVE, NEGATIVE, 2, "unit", normalize=True)

    assert unit["magnitude"] == 1.0
    assert unit["contrast_norm"] == full["contrast_norm"] != 1.0


def test_creating_several_layers_answers_with_lists(session: Session) -> None:
    every = create_steering_vector(POSITIVE, NEGATIVE, "all", "all")
    some = create_steering_vector(POSITIVE, NEGATIVE, [-1, 0, 3], "some")

    assert every["layer"] == list(range(LAYERS))
    assert every["shape"] == [LAYERS, WIDTH]
    assert some["layer"] == [0, 3]
    assert some["magnitude"] == [every["magnitude"][0], every["magnitude"][3]]
    assert load_vector(some["vector_path"]).layers == (0, 3)


def test_swapping_the_prompt_sets_negates_the_vector(session: Session) -> None:
    one = load_vector(create_steering_vector(POSITIVE, NEGATIVE, 2, "one")["vector_path"])
    other = load_vector(create_steering_vector(NEGATIVE, POSITIVE, 2, "other")["vector_path"])

    assert torch.equal(one.directions[2], -other.directions[2])


def test_a_vector_is_never_extracted_from_a_steered_model(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector(0)
    before = load_vector(path).directions[0]
    deep = load_vector(make_vector(3, "deep")).directions[3]

    apply_steering_vector(path, 0, 20.0, positions="all")

    assert torch.equal(load_vector(make_vector(0, "again")).directions[0], before)
    assert torch.equal(load_vector(make_vector(3, "deep again")).directions[3], deep)


def test_the_residual_norm_is_the_median_over_text_tokens_without_the_first(session: Session, model: Any) -> None:
    by_hand = make_model(session.engine.info.family)
    tokenizer = make_tokenizer()
    norms = []
    for prompt in NEUTRAL_PROMPTS:
        assert isinstance(prompt, TextPrompt)
        norms.append(outputs_by_hand(by_hand, tokenizer(prompt.text)["input_ids"])[1][1:].norm(dim=1))

    result = create_steering_vector(POSITIVE, NEGATIVE, 1, "v")

    assert result["residual_norm"] == pytest.approx(float(torch.cat(norms).median()), rel=1e-4)


def test_the_typical_norm_leaves_the_first_token_out_where_no_special_one_stands_there(session: Session) -> None:
    session.engine.neutral_prompts = parse_prompts([[20 + i, 30 + i] for i in range(5)])
    traces = session.engine.trace(session.engine.neutral_prompts, [Site(2)])
    norms = [trace[Site(2)].norm(dim=1) for trace in traces]

    found = session.typical_norm(Site(2))

    assert found == pytest.approx(float(torch.cat([n[1:] for n in norms]).median()))
    assert found != pytest.approx(float(torch.cat(norms).median()))


def test_creating_warns_of_few_prompts_and_of_the_last_block(session: Session) -> None:
    few = create_steering_vector(POSITIVE, NEGATIVE, LAYERS - 1, "few")
    endings = [f"{p} {end}" for p in PROMPTS for end in ("lili", "mora")]
    many = create_steering_vector([f"baba {e}" for e in endings], [f"zuzu {e}" for e in endings], 1, "many")

    told = ("Only 4", "last block", "plain texts")
    assert [word in text for word, text in zip(told, few["warnings"], strict=True)] == [True] * 3
    assert few["separation"] is None
    assert ["plain texts" in text for text in many["warnings"]] == [True]
    assert 0 <= many["separation"] <= 1


def test_prompts_may_be_texts_chats_or_token_ids(session: Session) -> None:
    ids = [1, 8, 19]
    by_text = create_steering_vector(["baba keke"], [CHAT], 1, "v")
    by_ids = create_steering_vector([ids], [[1, 4, 7, 8, 19, 3, 5, 7]], 1, "w")

    assert by_ids["magnitude"] == pytest.approx(by_text["magnitude"], rel=1e-4)


# Applying


def test_strength_units_say_the_same_strength_in_three_ways(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector(2, "unit", normalize=True)
    info = load_vector(path).info
    contrast, residual = info.contrast_norms[2], info.residual_norms[2]

    results = [
        apply_steering_vector(path, 2, strength, unit=unit)
        for strength, unit in ((3.0, "vector"), (3.0 / contrast, "contrast"), (3.0 / residual, "residual"))
    ]

    for result in results:
        assert result["residual_strength"] == pytest.approx(3.0 / residual, rel=1e-4)
    placed = [float(p.strength) for p in session.registry.plan()]
    assert placed == pytest.approx([3.0, 3.0, 3.0], rel=1e-4)


def test_a_residual_strength_is_that_of_the_edited_layer(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector(2)
    norms = [session.typical_norm(Site(layer)) for layer in range(LAYERS)]

    result = apply_steering_vector(path, 0, 0.5, unit="residual")

    (placement,) = session.registry.plan()
    added = placement.strength * load_vector(path).magnitude(2)
    assert added == pytest.approx(0.5 * norms[0], rel=1e-5)
    assert result["residual_strength"] == pytest.approx(0.5, rel=1e-5)
    assert norms[0] != pytest.approx(norms[2], rel=0.05)


def test_layer_chooses_among_the_directions_of_the_file(session: Session, make_vector: Callable[..., str]) -> None:
    several, single = make_vector([1, 3], "several"), make_vector(2, "single")

    all_at_once = apply_steering_vector(several)
    assert all_at_once["layer"] == [1, 3]
    assert "at once" in all_at_once["warnings"][0]
    assert apply_steering_vector(several, [1, 3])["warnings"] != all_at_once["warnings"]
    assert apply_steering_vector(several, 3)["layer"] == 3
    assert apply_steering_vector(several, -1)["layer"] == 3
    assert apply_steering_vector(several, [3, 1])["layer"] == [3, 1]
    elsewhere = apply_steering_vector(single, 0)
    assert elsewhere["layer"] == 0
    assert "made at layer 2" in elsewhere["warnings"][0]
    with pytest.raises(steer_tools.SteeringError, match=r"\[1, 3\]"):
        apply_steering_vector(several, 2)


def test_a_bare_array_is_applied_at_the_layer_that_is_given(llama_session: Session) -> None:
    path = llama_session.workspace.root / "bare.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.linspace(-1, 1, WIDTH))

    result = apply_steering_vector("bare.npy", 2, 2.0)

    assert result["layer"] == 2
    assert ["which model" in text for text in result["warnings"]] == [True]


def test_applying_the_same_vector_twice_says_that_it_stacks(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector()

    first, second = (apply_steering_vector(path, strength=0.2) for _ in range(2))

    assert first["warnings"] == []
    assert first["steering_id"] in second["warnings"][0]
    assert second["active"] == 2


def test_updating_and_removing_act_on_one_handle(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector([1, 2])
    one = apply_steering_vector(path, 1, 5.0)["steering_id"]
    two = apply_steering_vector(path, None, 1.0)["steering_id"]

    updated = update_steering_vector(two, -3.0)
    assert (updated["strength"], updated["layer"]) == (-3.0, [1, 2])
    assert [p.strength for p in session.registry.plan()] == [5.0, -3.0, -3.0]

    assert remove_steering_vector(one) == {"removed": 1, "active": 1}
    assert [p.strength for p in session.engine.ambient()] == [-3.0, -3.0]
    assert remove_all_steering_vectors() == {"removed": 1, "active": 0}
    assert remove_all_steering_vectors() == {"removed": 0, "active": 0}


def test_the_result_says_unit_and_positions_and_the_file_as_it_is_listed(
    session: Session, make_vector: Callable[..., str]
) -> None:
    make_vector(save_path="vectors/named")

    result = apply_steering_vector("vectors/named", 2, 0.5, unit="residual", positions="last")

    assert (result["unit"], result["positions"]) == ("residual", "generated")
    status = steering_status()
    assert [entry["vector_path"] for entry in status["applied"]] == [entry["vector_path"] for entry in status["saved"]]


def test_a_removed_id_is_never_given_again(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector()
    first = apply_steering_vector(path)["steering_id"]
    remove_all_steering_vectors()

    assert apply_steering_vector(path)["steering_id"] != first


@HARD
def test_a_vector_steers_inside_a_with_block_only_also_when_it_raises(session: Session) -> None:
    direction = torch.linspace(-1, 2, WIDTH)
    vector = SteeringVector.from_directions({1: direction, 2: direction.flip(0)})
    before = generate(PROMPTS, max_new_tokens=6)["texts"]

    with pytest.raises(KeyError), steering(vector, strength=4.0) as applied:
        inside = generate(PROMPTS, max_new_tokens=6)["texts"]
        assert applied.layers == (1, 2)
        raise KeyError
    after_the_error = generate(PROMPTS, max_new_tokens=6)["texts"], len(session.registry)
    with steering(vector, 1, 0.5, unit="residual"):
        remove_all_steering_vectors()

    assert inside != before
    assert after_the_error == (before, 0)
    assert generate(PROMPTS, max_new_tokens=6)["texts"] == before
    assert len(session.registry) == 0


# Comparing


def test_comparing_a_vector_leaves_what_is_applied_and_ignores_it(
    session: Session, make_vector: Callable[..., str]
) -> None:
    path, other = make_vector(2), make_vector(1, "other")
    undisturbed = compare_generations(PROMPTS, path, strengths=[-3.0, 0.0, 3.0], max_new_tokens=8)
    apply_steering_vector(other, 1, 10.0, positions="all")
    plan = session.engine.ambient()

    result = compare_generations(PROMPTS, path, strengths=[-3.0, 0.0, 3.0], max_new_tokens=8)

    assert result == undisturbed
    assert session.engine.ambient() == plan
    baseline, (low, zero, high) = result["baseline"], result["variants"]
    assert baseline["texts"] != generate(PROMPTS, max_new_tokens=8)["texts"]
    assert zero["texts"] == baseline["texts"]
    assert zero["metrics"] == baseline["metrics"]
    assert low["texts"] != baseline["texts"] != high["texts"]
    assert low["metrics"]["changed"] > 0
    assert (low["residual_strength"], high["residual_strength"]) == (
        -high["residual_strength"],
        high["residual_strength"],
    )


def test_comparing_what_is_applied_shows_what_generate_gives(session: Session, make_vector: Callable[..., str]) -> None:
    apply_steering_vector(make_vector(), 2, 4.0)

    result = compare_generations(PROMPTS, max_new_tokens=8)

    (variant,) = result["variants"]
    assert variant["strength"] == 4.0
    assert variant["texts"] == generate(PROMPTS, max_new_tokens=8)["texts"]
    remove_all_steering_vectors()
    assert result["baseline"]["texts"] == generate(PROMPTS, max_new_tokens=8)["texts"]


def test_baseline_and_variants_are_rows_of_one_batch(session: Session, model: Any, make_vector: Any) -> None:
    batches: list[int] = []
    path = make_vector()
    hook = blocks_of(model)[0].register_forward_hook(
        lambda m, a, o: batches.append((o[0] if isinstance(o, tuple) else o).shape[0])
    )

    compare_generations(PROMPTS, path, strengths=[-1.0, 1.0], max_new_tokens=5)

    hook.remove()
    assert batches[:5] == [len(PROMPTS) * 3] * 5


def test_texts_are_the_new_tokens_only(session: Session, make_vector: Callable[..., str]) -> None:
    result = compare_generations(["baba keke", CHAT], make_vector(), max_new_tokens=6)

    for text in (*result["baseline"]["texts"], *result["variants"][0]["texts"]):
        assert "baba keke" not in text
    assert result["prompts"] == ["baba keke", CHAT]


def test_perplexity_is_that_of_the_unsteered_model(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector()

    result = compare_generations(PROMPTS, path, strengths=[6.0], max_new_tokens=8)
    steered = result["variants"][0]

    assert steered["metrics"]["perplexity"] > 1.5 * result["baseline"]["metrics"]["perplexity"]


def test_sampled_comparisons_share_their_random_numbers(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector()

    one = compare_generations(PROMPTS, path, strengths=[0.0], temperature=1.0, seed=3, max_new_tokens=8)
    two = compare_generations(PROMPTS[1:], path, strengths=[0.0], temperature=1.0, seed=3, max_new_tokens=8)
    other = compare_generations(PROMPTS, path, strengths=[0.0], temperature=1.0, seed=4, max_new_tokens=8)

    assert one["variants"][0]["texts"] == one["baseline"]["texts"]
    assert two["baseline"]["texts"] == one["baseline"]["texts"][1:]
    assert other["baseline"]["texts"] != one["baseline"]["texts"]


# Status and checks


def test_the_status_tells_model_applied_and_saved(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector([1, 2])
    (session.workspace.root / "vectors" / "broken.npy").write_bytes(b"no array")
    applied = apply_steering_vector(path, None, 1.5, positions="all")

    status = steering_status()

    assert status["model"] == {
        "name": "tiny",
        "family": session.engine.info.family,
        "layer_count": LAYERS,
        "hidden_size": WIDTH,
        "dtype": "float32",
        "device": "cpu",
        "engine": "huggingface",
        "chat_template": True,
        "template_options": {},
        "context_length": None if session.engine.info.family == "bloom" else 96,
    }
    assert status["in_force"]
    assert status["applied"] == [
        {
            "steering_id": applied["steering_id"],
            "vector_path": path,
            "layer": [1, 2],
            "strength": 1.5,
            "unit": "vector",
            "residual_strength": applied["residual_strength"],
            "component": "residual",
            "intervention": "add",
            "target": None,
            "positions": "all",
            "condition": None,
            "file_changed": False,
            "badge": None,
        }
    ]
    broken, good = status["saved"]
    assert (good["vector_path"], good["layer"], good["method"], good["problem"]) == (
        path,
        [1, 2],
        "mean_difference",
        None,
    )
    assert "no .npy file" in broken["problem"]


def test_the_status_sees_hooks_that_somebody_took_off(session: Session, model: Any, make_vector: Any) -> None:
    apply_steering_vector(make_vector())

    blocks_of(model)[2]._forward_hooks.clear()

    assert not steering_status()["in_force"]


@pytest.mark.parametrize("positions", ["generated", "prompt", "all", "last_prompt", "first", "0:2"])
def test_every_check_passes_on_a_right_model(session: Session, make_vector: Callable[..., str], positions: str) -> None:
    apply_steering_vector(make_vector([1, 3]), None, 1.5, positions=positions)
    apply_steering_vector(make_vector(1, "w"), 1, 0.5, positions=positions)
    plan = session.engine.ambient()

    result = check_steering(PROMPTS)

    assert result["passed"], result
    assert [check["name"] for check in result["checks"] if not check["passed"]] == []
    assert len(result["checks"]) == 8
    assert result["warnings"] == []
    moved = {check["name"]: check["figure"] for check in result["checks"]}
    assert moved["steering_moves_the_next_token"] > 0.01
    assert session.engine.ambient() == plan
    assert steering_status()["in_force"]


@pytest.mark.parametrize(
    ("options", "reason"), [({"strength": 0.0}, "every applied strength is 0"), ({"positions": "50:60"}, "'50:60'")]
)
def test_checks_of_what_edits_nothing_say_so(
    session: Session, make_vector: Callable[..., str], options: dict[str, Any], reason: str
) -> None:
    apply_steering_vector(make_vector(), 2, **options)

    result = check_steering(PROMPTS)

    assert [reason in text for text in result["warnings"]] == [True]


@pytest.mark.parametrize(
    ("placements", "moves"),
    [
        ([(LAYERS - 1, 3.0, "0:1")], False),  # The last block's other tokens reach no later token.
        ([(1, 3.0, "all"), (1, -3.0, "all")], False),  # They cancel.
        ([(LAYERS - 1, 3.0, "generated")], True),
    ],
)
def test_the_checks_know_which_edits_can_reach_the_next_token(
    session: Session, make_vector: Callable[..., str], placements: list[tuple[int, float, str]], moves: bool
) -> None:
    path = make_vector("all")
    for layer, strength, positions in placements:
        apply_steering_vector(path, layer, strength, positions=positions)

    result = check_steering(PROMPTS)

    assert result["passed"], result
    (figure,) = [check["figure"] for check in result["checks"] if check["name"] == "steering_moves_the_next_token"]
    assert (figure > 0) == moves


def test_repeated_prompts_count_once(llama_session: Session) -> None:
    result = create_steering_vector(["baba"] * 9, ["zuzu"] * 9, 1, "v")

    assert result["separation"] is None
    assert ["Only 1 different" in text for text in result["warnings"]] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_checks_do_not_cry_wolf_in_half_precision(empty_session: Session, family: str, dtype: torch.dtype) -> None:
    empty_session.attach(make_model(family, dtype=dtype), make_tokenizer())
    apply_steering_vector(create_steering_vector(POSITIVE, NEGATIVE, 1, "v")["vector_path"], 1, 2.0)

    result = check_steering(PROMPTS)

    assert result["passed"], result


@pytest.mark.parametrize(
    ("token", "failing"),
    [(-1, {"output_is_the_edit_of_the_input"}), (0, {"only_the_scope_is_edited"})],
)
def test_an_edit_of_another_size_or_place_fails_the_checks(
    session: Session, model: Any, make_vector: Callable[..., str], token: int, failing: set[str]
) -> None:
    apply_steering_vector(make_vector(), 2)

    def spoil(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if hidden.shape[1] > 1:  # The prompt's pass, of which only the last token is in scope.
            hidden[:, token, 0] += 1e-3
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks_of(model)[2].register_forward_hook(spoil)
    failed = {check["name"] for check in check_steering(PROMPTS)["checks"] if not check["passed"]}
    handle.remove()

    assert failing <= failed
    assert ("only_the_scope_is_edited" in failed) == (token == 0)
    assert check_steering(PROMPTS)["passed"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("law", ["cached_equals_uncached", "batch_equals_alone"])
def test_a_way_that_forgets_the_edit_fails_the_checks_in_half_precision_too(
    law: str, dtype: torch.dtype, empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_session.attach(make_model("llama", dtype=dtype), make_tokenizer(), "tiny")
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "v")["vector_path"]
    apply_steering_vector(path, strength=3.0)
    assert check_steering(PROMPTS)["passed"]
    engine: Any = empty_session.engine
    generate, replay = engine.generate, engine.replay

    def forgets(*, use_cache: bool, batched: bool) -> bool:
        return not use_cache if law == "cached_equals_uncached" else not batched

    def forgetful(rows: Any, completions: Any, *, use_cache: bool, batched: bool) -> Any:
        bare = [Row(row.prompt) for row in rows] if forgets(use_cache=use_cache, batched=batched) else rows
        return replay(bare, completions, use_cache=use_cache, batched=batched)

    def forgetful_texts(rows: Any, sampling: Any) -> Any:
        alone = forgets(use_cache=sampling.use_cache, batched=len(rows) > 1)
        return generate([Row(row.prompt) for row in rows] if alone else rows, sampling)

    monkeypatch.setattr(engine, "replay", forgetful)
    monkeypatch.setattr(engine, "generate", forgetful_texts)

    assert law in {check["name"] for check in check_steering(PROMPTS)["checks"] if not check["passed"]}


@pytest.mark.parametrize("positions", ["generated", "0:1"])
def test_a_model_that_changes_under_the_checks_fails_them_also_where_nothing_must_move(
    session: Session, model: Any, make_vector: Callable[..., str], positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_steering_vector(make_vector(LAYERS - 1), LAYERS - 1, 3.0, positions=positions)
    restoration = session.engine.restoration  # type: ignore[attr-defined]  # It has the facet.

    def changed() -> None:
        with torch.no_grad():
            next(iter(blocks_of(model)[1].parameters())).mul_(1.1)

    # What was changed before the checks is taken up by them.
    changed()
    assert check_steering(PROMPTS)["passed"]

    monkeypatch.setattr(session.engine, "restoration", lambda: changed() or restoration())
    assert "removal_restores_the_logits" in {c["name"] for c in check_steering(PROMPTS)["checks"] if not c["passed"]}


def test_lost_hooks_fail_the_checks(session: Session, model: Any, make_vector: Callable[..., str]) -> None:
    apply_steering_vector(make_vector(), 2)
    blocks_of(model)[2]._forward_hooks.clear()

    failed = {check["name"] for check in check_steering(PROMPTS)["checks"] if not check["passed"]}

    assert "hooks_fire_once_a_pass" in failed


def test_every_result_is_plain_json(session: Session, make_vector: Callable[..., str]) -> None:
    path = make_vector()
    results: list[Any] = [
        create_steering_vector(POSITIVE, NEGATIVE, "all", "all"),
        apply_steering_vector(path),
        compare_generations(PROMPTS, max_new_tokens=3),
        generate(PROMPTS, max_new_tokens=3),
        check_steering(max_new_tokens=2),
        steering_status(),
        remove_all_steering_vectors(),
    ]

    for result in results:
        assert isinstance(result, dict)
        assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_saved_vectors_can_be_made_in_python_too(llama_session: Session) -> None:
    vector = SteeringVector.from_directions({1: torch.ones(WIDTH)})

    path = save_vector(vector, llama_session.workspace.root / "mine")

    assert apply_steering_vector(str(path))["layer"] == 1


# show_tokens


@pytest.mark.parametrize(
    ("positions", "steered", "takes_new"),
    [("generated", [8], True), ("after_user", [5, 6, 7, 8], True), ("first,0:1", [0, 1], False)],
)
def test_show_tokens_says_what_the_model_is_given_and_what_would_be_steered(
    llama_session: Session, positions: str, steered: list[int], takes_new: bool
) -> None:
    chat = [{"role": "user", "content": "baba keke"}, {"role": "assistant", "content": "lili"}]

    shown = show_tokens([chat], positions)

    tokens = ["<s>", "user", ":", "baba", "keke", "<end>", "assistant", ":", "lili"]
    assert shown["prompts"][0]["tokens"] == tokens
    assert shown["prompts"][0]["ids"] == make_tokenizer().convert_tokens_to_ids(tokens)
    assert shown["prompts"][0]["steered_positions"] == steered
    assert shown["new_tokens_steered"] is takes_new
