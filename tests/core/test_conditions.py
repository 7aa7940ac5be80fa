"""Conditions are decided once for each row, on its prompt in the unsteered model, whoever calls the model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.oracle import outputs_by_hand
from helpers.small_models import HARD, LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    check_steering,
    compare_generations,
    create_steering_vector,
    generate,
    load_model,
    load_vector,
    remove_all_steering_vectors,
    save_vector,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.bundled_model.grammar import requests
from steer_tools.bundled_model.language import chat, contrast_pairs, is_held_out, score
from steer_tools.core.conditions import Both, Condition, Either, Not, Reading, Threshold
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import ArgumentError, Cancelled, ForeignVectorError, UnsupportedCallError
from steer_tools.progress import reporting_to
from steer_tools.prompts import Prompt, parse_prompts
from steer_tools.session.condition_grammar import parse_condition
from steer_tools.session.session import Session

STEPS = 8
GREEDY = Sampling(STEPS)
READING = Reading(Site(1), "last")


def noise(seed: int) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


def projections(family: str, layer: int = 1, seed: int = 5) -> list[float]:
    """Return û·h of the last token of each prompt, by hooks of our own."""
    unit = noise(seed) / noise(seed).norm()
    model, tokenizer = make_model(family), make_tokenizer()
    return [float(outputs_by_hand(model, tokenizer(text)["input_ids"])[layer][-1] @ unit) for text in PROMPTS]


def half(family: str) -> tuple[Condition, list[bool]]:
    """A condition that holds for two of the four prompts, and for which."""
    values = projections(family)
    middle = sum(sorted(values)[1:3]) / 2
    return Threshold(READING, noise(5), middle), [value > middle for value in values]


def add(condition: Condition | None = None, layer: int = 2, positions: str = "generated", seed: int = 0) -> Placement:
    return Placement(Add(noise(seed)), Site(layer), 8.0, Scope.parse(positions), condition)


def tokens_of(engine: Any, plans: list[Plan], **options: Any) -> list[tuple[int, ...]]:
    rows = [Row(prompt, plan) for prompt, plan in zip(prompts(), plans, strict=True)]
    return [generation.tokens for generation in engine.generate(rows, Sampling(STEPS, **options))]


def batch(tokenizer: Any) -> dict[str, Tensor]:
    encoded = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


# What a condition says


def test_a_threshold_holds_above_it_whatever_the_length_of_the_direction() -> None:
    read = {READING: torch.tensor([[1.0, 5.0], [2.0, -5.0], [3.0, 0.0]])}

    for length in (1e-3, 1.0, 1e3):
        assert Threshold(READING, torch.tensor([length, 0.0]), 1.5).holds(read).tolist() == [False, True, True]
    assert Threshold(READING, torch.tensor([-1.0, 0.0]), -1.5).holds(read).tolist() == [True, False, False]
    assert Threshold(READING, torch.tensor([1.0, 0.0]), 2.0).holds(read).tolist() == [False, False, True]


def test_and_or_and_not_combine_rows() -> None:
    other = Reading(Site(2), "mean")
    first, second = Threshold(READING, torch.ones(1), 0.0), Threshold(other, torch.ones(1), 0.0)
    read = {READING: torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), other: torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])}

    assert Both(first, second).holds(read).tolist() == [False, False, False, True]
    assert Either(first, second).holds(read).tolist() == [False, True, True, True]
    assert Not(first).holds(read).tolist() == [True, True, False, False]
    assert Both(first, Not(second)).readings == Either(second, first).readings == {READING, other}


# Rows of the engine


def test_rows_that_meet_the_condition_are_steered_and_the_others_are_not(engine: Any, family: str) -> None:
    condition, holds = half(family)
    steered, plain = tokens_of(engine, [(add(),)] * 4), tokens_of(engine, [()] * 4)
    expected = [s if hold else p for s, p, hold in zip(steered, plain, holds, strict=True)]

    assert sum(holds) == 2
    assert tokens_of(engine, [(add(condition),)] * 4) == expected
    assert tokens_of(engine, [(add(condition),)] * 4, use_cache=False) == expected
    assert tokens_of(engine, [(add(Not(condition)),)] * 4) == [
        p if hold else s for s, p, hold in zip(steered, plain, holds, strict=True)
    ]
    assert all(s != p for s, p in zip(steered, plain, strict=True))


def test_each_row_has_its_own_conditions_in_one_batch(engine: Any, family: str) -> None:
    condition, holds = half(family)
    unconditional = add(layer=1, seed=1)
    plans: list[Plan] = [(add(condition), unconditional), (add(Not(condition)),), (), (add(condition), add(layer=3))]
    acting: list[Plan] = [
        (*([add()] if holds[0] else []), unconditional),
        () if holds[1] else (add(),),
        (),
        (*([add()] if holds[3] else []), add(layer=3)),
    ]

    assert tokens_of(engine, plans) == tokens_of(engine, acting)


def test_scores_and_distributions_follow_the_condition(engine: Any, family: str) -> None:
    condition, holds = half(family)
    completions = [[20, 30]] * 4

    def rows(plan: Plan) -> list[Row]:
        return [Row(prompt, plan) for prompt in prompts()]

    for of in (
        lambda plan: engine.score(rows(plan), completions),
        lambda plan: engine.distributions(rows(plan)),
        lambda plan: engine.replay(rows(plan), completions, use_cache=True, batched=True),
        lambda plan: [g.by_site[Site(3)] for g in engine.gradients(rows(plan), completions, [Site(3)])],
    ):
        found, steered, plain = of((add(condition),)), of((add(),)), of(())
        for value, with_it, without, hold in zip(found, steered, plain, holds, strict=True):
            torch.testing.assert_close(value, with_it if hold else without, atol=1e-4, rtol=1e-4)
            assert (with_it - without).abs().max() > 1e-2


def test_the_condition_is_read_in_the_unsteered_model_also_below_other_edits(engine: Any, family: str) -> None:
    condition, holds = half(family)
    # An edit below the condition's layer would move every projection far beyond the threshold.
    push = Placement(Add(noise(5)), Site(0), 50.0, Scope.parse("all"))

    conditional = tokens_of(engine, [(push, add(condition))] * 4)

    expected = [tokens_of(engine, [(push, add()) if hold else (push,)] * 4)[i] for i, hold in enumerate(holds)]
    assert conditional == expected


def test_a_condition_may_lie_above_the_edited_layer(engine: Any, family: str) -> None:
    values = projections(family, LAYERS - 1)
    middle = sum(sorted(values)[1:3]) / 2
    condition = Threshold(Reading(Site(LAYERS - 1), "last"), noise(5), middle)
    steered, plain = tokens_of(engine, [(add(layer=0),)] * 4), tokens_of(engine, [()] * 4)

    assert tokens_of(engine, [(add(condition, layer=0),)] * 4) == [
        s if value > middle else p for s, p, value in zip(steered, plain, values, strict=True)
    ]


# Calls that others make


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}, {"prefill_chunk_size": 2}])
def test_the_users_own_generate_decides_each_row_of_a_left_padded_batch(
    engine: Any, model: Any, tokenizer: Any, family: str, options: dict[str, Any]
) -> None:
    condition, holds = half(family)
    call = {**batch(tokenizer), "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **options}

    plain = model.generate(**call)
    engine.set_ambient((add(),))
    steered = model.generate(**call)
    engine.set_ambient((add(condition),))
    conditional = model.generate(**call)
    again = model.generate(**call)
    engine.set_ambient(())

    for row, hold in enumerate(holds):
        assert torch.equal(conditional[row], (steered if hold else plain)[row])
        assert not torch.equal(steered[row], plain[row])
    assert torch.equal(again, conditional)
    assert torch.equal(model.generate(**call), plain)


def test_several_sequences_of_a_prompt_share_its_decision(engine: Any, model: Any, tokenizer: Any, family: str) -> None:
    condition, holds = half(family)
    call = {**batch(tokenizer), "max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    plain = model.generate(**call)
    engine.set_ambient((add(condition, positions="all"),))

    conditional = model.generate(**call)

    same = [torch.equal(a, b) for a, b in zip(conditional[::2, -4:], plain[::2, -4:], strict=True)]
    assert same == [not hold for hold in holds]


def test_a_plain_call_decides_each_row_and_leaves_no_trace(
    engine: Any, model: Any, tokenizer: Any, family: str
) -> None:
    condition, holds = half(family)
    inputs = batch(tokenizer)
    lengths = inputs["attention_mask"].cumsum(1) - 1

    def logits() -> Tensor:
        positions = {} if family == "bloom" else {"position_ids": lengths.clamp(min=0)}
        with torch.no_grad():
            return model(**inputs, **positions).logits[:, -1]

    plain = logits()
    engine.set_ambient((add(positions="all"),))
    steered = logits()
    engine.set_ambient((add(condition, positions="all"),))
    conditional = logits()
    engine.set_ambient(())

    for row, hold in enumerate(holds):
        assert torch.equal(conditional[row], (steered if hold else plain)[row])
    assert torch.equal(logits(), plain)


def test_calls_that_do_not_show_the_whole_prompt_are_refused(engine: Any, model: Any, tokenizer: Any) -> None:
    condition = Threshold(READING, noise(5), 0.0)
    ids = batch(tokenizer)["input_ids"][:1]
    cache = model(ids, use_cache=True).past_key_values
    embedded = model.get_input_embeddings()(ids)
    engine.set_ambient((add(condition),))

    with pytest.raises(UnsupportedCallError, match="does not show it"):
        model(ids[:, -1:], past_key_values=cache)
    with pytest.raises(UnsupportedCallError, match="does not show it"):
        model(inputs_embeds=embedded)
    with pytest.raises(UnsupportedCallError, match="does not show it"):
        model.generate(inputs_embeds=embedded, max_new_tokens=2)
    engine.set_ambient(())
    assert model(inputs_embeds=embedded).logits.isfinite().all()


def test_padding_that_generate_infers_takes_no_part_in_the_decision(
    engine: Any, model: Any, tokenizer: Any, family: str
) -> None:
    condition, holds = half(family)
    inputs = batch(tokenizer)
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    engine.set_ambient((add(condition),))

    told = model.generate(**inputs, **options)
    inferred = model.generate(inputs["input_ids"], **options)

    assert (inputs["input_ids"] == 0).any() and any(holds)
    assert torch.equal(told, inferred)


def test_tensors_that_are_no_input_of_the_model_do_no_harm(engine: Any, model: Any, tokenizer: Any) -> None:
    condition = Threshold(READING, noise(5), 0.0)
    engine.set_ambient((add(condition),))
    inputs = batch(tokenizer)

    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=2, pad_token_id=0)
    ends = {"eos_token_id": torch.tensor([2]), "pad_token_id": torch.tensor(0)}

    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False, **ends), plain)


def test_a_loop_with_a_cache_keeps_what_was_decided_on_its_prompt(
    engine: Any, model: Any, tokenizer: Any, family: str
) -> None:
    condition, holds = half(family)
    steered, plain = tokens_of(engine, [(add(),)] * 4), tokens_of(engine, [()] * 4)
    engine.set_ambient((add(condition),))

    for text, hold, with_it, without in zip(PROMPTS, holds, steered, plain, strict=True):
        ids, cache, new = torch.tensor([tokenizer(text)["input_ids"]]), None, []
        with torch.no_grad():
            for _ in range(STEPS):
                output = model(ids, past_key_values=cache, use_cache=True)
                ids, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
                new.append(int(ids))
        expected = with_it if hold else without
        assert tuple(new[: len(expected)]) == expected


def test_a_prompt_of_one_token_is_remembered_by_its_cache(engine: Any, model: Any) -> None:
    always = Threshold(READING, noise(5), -1e9)

    def second_step() -> Tensor:
        with torch.no_grad():
            cache = model(torch.tensor([[20]]), use_cache=True).past_key_values
            return model(torch.tensor([[30]]), past_key_values=cache).logits

    engine.set_ambient((add(),))
    steered = second_step()
    engine.set_ambient((add(always),))

    assert torch.equal(second_step(), steered)
    engine.set_ambient(())
    assert not torch.equal(second_step(), steered)


def test_a_cache_of_another_condition_does_not_answer_for_this_one(
    engine: Any, model: Any, tokenizer: Any, family: str
) -> None:
    condition, _ = half(family)
    ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
    engine.set_ambient((add(condition),))
    cache = model(ids, use_cache=True).past_key_values

    engine.set_ambient((add(Not(condition)),))

    with pytest.raises(UnsupportedCallError, match="does not show it"):
        model(ids[:, -1:], past_key_values=cache)


def test_a_new_text_in_an_emptied_cache_is_decided_anew(engine: Any, model: Any, tokenizer: Any, family: str) -> None:
    condition, holds = half(family)
    first, second = holds.index(True), holds.index(False)
    engine.set_ambient((add(condition, positions="all"),))
    ids = [torch.tensor([tokenizer(PROMPTS[i])["input_ids"]]) for i in (first, second)]

    cache = model(ids[0], use_cache=True).past_key_values
    cache.crop(-ids[0].shape[1])
    assert cache.get_seq_length() == 0
    reused = model(ids[1], past_key_values=cache, use_cache=True).logits

    assert torch.equal(reused, model(ids[1]).logits)
    engine.set_ambient(())
    assert torch.equal(reused, model(ids[1]).logits)


def test_an_interrupt_while_a_condition_is_read_leaves_the_model_as_it_was(
    engine: Any, model: Any, tokenizer: Any, family: str
) -> None:
    condition, holds = half(family)
    call = {**batch(tokenizer), "max_new_tokens": 4, "do_sample": False}
    ids = batch(tokenizer)["input_ids"][3:]
    before = model(ids).logits
    engine.set_ambient((add(condition),))
    expected = model.generate(**call)

    def stop(done: int, total: int, message: str) -> None:
        if message == "reading prompts":
            raise Cancelled("enough")

    for use in (lambda: model.generate(**call), lambda: model(ids), lambda: tokens_of(engine, [(add(condition),)] * 4)):
        with reporting_to(stop), pytest.raises(Cancelled):
            use()
    assert torch.equal(model.generate(**call), expected)
    engine.set_ambient(())
    assert torch.equal(model(ids).logits, before)
    assert any(holds)


# Through the tools


@pytest.fixture
def half_condition(session: Session, family: str) -> list[bool]:
    """Save `half.safetensors`, a condition that two of the prompts meet; return which."""
    condition, holds = half(family)
    assert isinstance(condition, Threshold)
    info = VectorInfo(pooling="last", thresholds={1: condition.threshold}, model_family=session.engine.info.family)
    vector = SteeringVector.from_directions({1: condition.direction}, info=info)
    save_vector(vector, "half", workspace=session.workspace)
    return holds


def test_the_tools_steer_the_prompts_that_meet_the_condition(
    session: Session, half_condition: list[bool], make_vector: Any
) -> None:
    path = make_vector(2)

    compared = compare_generations(PROMPTS, path, strengths=[3.0], condition="half", max_new_tokens=STEPS)
    applied = apply_steering_vector(path, strength=3.0, condition="half")
    generated = generate(PROMPTS, max_new_tokens=STEPS)
    texts, counted = generated["texts"], generated["acting"]
    status, proof = steering_status(), check_steering(PROMPTS)
    update_steering_vector(applied["steering_id"], 0.0)
    at_zero = generate(PROMPTS, max_new_tokens=STEPS)["texts"]
    remove_all_steering_vectors()
    apply_steering_vector(path, strength=3.0)
    everywhere = generate(PROMPTS, max_new_tokens=STEPS)["texts"]

    plain = compared["baseline"]["texts"]
    assert compared["variants"][0]["acting"] == counted == [int(hold) for hold in half_condition]
    assert texts == compared["variants"][0]["texts"]
    assert texts == [s if hold else p for s, p, hold in zip(everywhere, plain, half_condition, strict=True)]
    assert at_zero == plain
    assert status["applied"][0]["condition"] == "half" and status["in_force"]
    assert proof["passed"], proof


@HARD
def test_vectors_with_different_conditions_act_side_by_side(
    session: Session, half_condition: list[bool], make_vector: Any
) -> None:
    first, second = make_vector(1, "a"), make_vector(2, "b")
    with steering(first, strength=2.0, condition="half"), steering(second, strength=2.0, condition="not half"):
        both = generate(PROMPTS, max_new_tokens=STEPS)["texts"]
        proof = check_steering(PROMPTS)
    with steering(first, strength=2.0):
        one = generate(PROMPTS, max_new_tokens=STEPS)["texts"]
    with steering(second, strength=2.0):
        other = generate(PROMPTS, max_new_tokens=STEPS)["texts"]

    assert both == [a if hold else b for a, b, hold in zip(one, other, half_condition, strict=True)]
    assert proof["passed"], proof


def test_results_say_on_which_prompts_a_condition_held_and_the_proof_that_none_did(
    session: Session, half_condition: list[bool], make_vector: Any
) -> None:
    path = make_vector(2)
    assert generate(PROMPTS, max_new_tokens=2)["acting"] is None

    apply_steering_vector(path, strength=3.0, condition="half and not half")
    alone, proof_alone = generate(PROMPTS, max_new_tokens=2), check_steering(PROMPTS)
    apply_steering_vector(path, strength=1.0)
    both, proof = generate(PROMPTS, max_new_tokens=2), check_steering(PROMPTS)

    assert (alone["active"], alone["acting"], both["active"], both["acting"]) == (1, [0] * 4, 2, [1] * 4)
    assert any("no prompt meets a condition" in text for text in proof_alone["warnings"])
    assert proof["passed"] and len(proof["warnings"]) == 1 and "the condition of steer-" in proof["warnings"][0]
    assert compare_generations(PROMPTS, path, max_new_tokens=2)["variants"][0]["acting"] is None


def test_a_condition_that_errs_often_or_that_nobody_tried_is_warned_of(session: Session, make_vector: Any) -> None:
    path = make_vector(2)
    direction, sides = noise(1), {"family": session.engine.info.family, "print": session.engine.info.fingerprint}

    def warnings(**known: dict[int, float]) -> list[str]:
        info = VectorInfo(
            pooling="last",
            thresholds={1: 0.0},
            model_family=sides["family"],
            model_fingerprint=sides["print"],
            **known,
        )
        vector = SteeringVector.from_directions({1: direction}, info=info)
        save_vector(vector, "c", workspace=session.workspace)
        applied = apply_steering_vector(path, condition="c")
        remove_all_steering_vectors()
        return [text for text in applied["warnings"] if "Condition" in text]

    assert warnings(misses={1: 0.0}, false_alarms={1: 0.1}) == []
    assert [
        "misses 25%" in text and "takes 20%" in text for text in warnings(misses={1: 0.25}, false_alarms={1: 0.2})
    ] == [True]
    assert ["not known how often" in text for text in warnings()] == [True]


def test_every_created_vector_is_a_condition_that_tells_its_own_prompts_apart(session: Session) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, "kinds", method="lda")

    condition = parse_condition(session, "kinds").condition

    sides = [session.engine.read(parse_prompts(side), [Site(2)], "last")[Site(2)] for side in (POSITIVE, NEGATIVE)]
    held = [condition.holds({Reading(Site(2), "last"): side}).tolist() for side in sides]
    assert held == [[True] * len(POSITIVE), [False] * len(NEGATIVE)]


def test_not_binds_before_and_and_that_before_or(session: Session) -> None:
    for name in "abc":
        create_steering_vector(POSITIVE, NEGATIVE, 2, name, method="lda")
    generator = random.Random(0)
    names = {name: load_vector(name, workspace=session.workspace) for name in "abc"}
    for name, threshold in {"a": -0.5, "b": 0.0, "c": 0.5}.items():
        info = names[name].info.model_copy(update={"thresholds": {2: threshold}})
        direction = torch.nn.functional.one_hot(torch.tensor("abc".index(name)), WIDTH).float()
        vector = SteeringVector.from_directions({2: direction}, info=info)
        save_vector(vector, name, workspace=session.workspace)
    rows = torch.tensor([[generator.choice([-1.0, 1.0]) for _ in range(WIDTH)] for _ in range(64)])
    a, b, c = ((rows[:, i] > 0) for i in range(3))

    expected = {
        "not a and b or c": (~a & b) | c,
        "a or b and not c": a | (b & ~c),
        "(a or b) and c": (a | b) & c,
        "not (a or b)": ~(a | b),
        "not not a": a,
        "'a' and b@2": a & b,
        "a.safetensors@-2 or(b)and(c)": a | (b & c),
    }
    for text, holds in expected.items():
        found = parse_condition(session, text).condition.holds({Reading(Site(2), "last"): rows})
        assert torch.equal(found, holds), text
        assert 0 < int(holds.sum()) < 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no file"),
        ("  ", "names no file"),
        ("and", "a file should stand where 'and' does"),
        ("half and", "a file should stand where the end does"),
        ("half half", "'half' follows a whole condition"),
        ("(half", "a parenthesis is not closed"),
        ("half)", "')' follows"),
        ("'half", "No closing quotation"),
        ("several", "which of the layers [1, 2]"),
        ("several@3", "which of the layers [1, 2]"),
        ("bare", "has no threshold"),
        ("response", "pooling 'response', which no prompt has"),
        (3, "names no file"),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused_with_what_is_valid(
    session: Session, half_condition: list[bool], text: Any, words: str
) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "several")
    replies = [[{"role": "user", "content": "baba"}, {"role": "assistant", "content": text}] for text in POSITIVE[:2]]
    create_steering_vector(replies[:1], replies[1:], 1, "response", pooling="response")
    bare = SteeringVector.from_directions({1: noise(1)})
    save_vector(bare, "bare", workspace=session.workspace)
    path = create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]

    with pytest.raises(ArgumentError) as caught:
        apply_steering_vector(path, condition=text)

    assert words in str(caught.value) and "Valid: " in str(caught.value)
    assert steering_status()["applied"] == []


def test_a_condition_of_another_model_is_refused(session: Session, make_vector: Any) -> None:
    info = VectorInfo(pooling="last", thresholds={1: 0.0}, model_family="another", model_name="other")
    vector = SteeringVector.from_directions({1: noise(1)}, info=info)
    save_vector(vector, "foreign", workspace=session.workspace)

    with pytest.raises(ForeignVectorError):
        apply_steering_vector(make_vector(2), condition="foreign")
    allowed = apply_steering_vector(make_vector(2), condition="foreign", allow_other_model=True)
    assert any("Condition 'foreign'" in text and "which model" in text for text in allowed["warnings"])


@pytest.mark.slow
def test_on_the_bundled_model_refusal_fires_on_one_kind_of_request_and_not_on_others(
    empty_session: Session, tmp_path: Path
) -> None:
    # Requests about something dangerous; the wordings of the test never made a vector, nor the model.
    load_model("bundled")
    dangerous = {"storm", "wolf", "knife", "candle"}
    chance, known = random.Random(0), requests()

    def asked(count: int, *, held_out: bool, is_dangerous: bool) -> list[Any]:
        texts = [
            text
            for text, request in sorted(known.items())
            if is_held_out(text) == held_out and (request.topic.noun in dangerous) == is_dangerous
        ]
        return [chat(text) for text in chance.sample(texts, count)]

    kind = create_steering_vector(
        asked(256, held_out=False, is_dangerous=True),
        asked(256, held_out=False, is_dangerous=False),
        0,
        "dangerous",
        method="lda",
        pooling="mean",
    )
    pairs = contrast_pairs("refusal", 64)
    sides = [[[*p, {"role": "assistant", "content": pair[i]}] for p, *pair in pairs] for i in (0, 1)]
    refusing = create_steering_vector(*sides, 1, "refusing", pooling="response")["vector_path"]
    prompts = [*asked(80, held_out=True, is_dangerous=True), *asked(80, held_out=True, is_dangerous=False)]

    compared = compare_generations(prompts, refusing, strengths=[0.5], condition="dangerous", max_new_tokens=96)

    def refusals(texts: list[str]) -> list[bool]:
        return [score(prompt, text)["refusal"] > 0.5 for prompt, text in zip(prompts, texts, strict=True)]

    fired = refusals(compared["variants"][0]["texts"])
    assert sum(fired[:80]) >= 0.95 * 80
    assert sum(fired[80:]) <= 0.05 * 80
    assert not any(refusals(compared["baseline"]["texts"]))
    assert kind["misses"] <= 0.05 and kind["false_alarms"] <= 0.05
