"""The laws of the engine, on a tiny Llama (tensor outputs), GPT-2 (learned positions) and Bloom (tuples, ALiBi)."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from helpers.oracle import SCOPES, blocks_of, greedy_by_hand, logits_by_hand, outputs_by_hand
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import INTERVENTIONS, Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import BatchGeometry, Scope
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.engines.base import Generation, Row, Sampling
from steer_tools.engines.huggingface.decoding import batches_by_length
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.huggingface.hooks import Run, compile_plans
from steer_tools.engines.site_edits import SiteEdits
from steer_tools.errors import Cancelled, UnsupportedCallError
from steer_tools.progress import reporting_to
from steer_tools.prompts import Prompt, parse_prompts

STEPS = 10
GREEDY = Sampling(STEPS)
UNCACHED = Sampling(STEPS, use_cache=False)


def direction(seed: int = 0) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def add(layer: int = 1, strength: float = 2.0, positions: str = "generated", seed: int = 0) -> Placement:
    return Placement(Add(direction(seed)), Site(layer), strength, Scope.parse(positions))


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


def rows(plan: Plan) -> list[Row]:
    return [Row(prompt, plan) for prompt in prompts()]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def tokens_of(generations: list[Generation]) -> list[tuple[int, ...]]:
    return [generation.tokens for generation in generations]


def cut(tokens: list[int], stops: tuple[int, ...] = (2, 3)) -> tuple[int, ...]:
    return tuple(tokens[: next((i for i, token in enumerate(tokens) if token in stops), len(tokens))])


def plain_logits(model: Any, tokenizer: Any, text: str = PROMPTS[3]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids_of(tokenizer, text)])).logits


# Strength, removal, sums


def test_strength_zero_is_the_identity_and_another_strength_is_not(engine: Any, model: Any, tokenizer: Any) -> None:
    original = plain_logits(model, tokenizer)

    engine.set_ambient((add(strength=0.0, positions="all"),))
    at_zero = plain_logits(model, tokenizer)
    engine.set_ambient((add(strength=0.5, positions="all"),))
    at_half = plain_logits(model, tokenizer)

    assert torch.equal(at_zero, original)
    assert not torch.equal(at_half, original)


def test_removing_a_plan_restores_the_original_logits_bit_for_bit(engine: Any, model: Any, tokenizer: Any) -> None:
    original = plain_logits(model, tokenizer)

    engine.set_ambient((add(), add(3, seed=1)))
    steered = plain_logits(model, tokenizer)
    engine.set_ambient(())
    removed = plain_logits(model, tokenizer)

    assert not torch.equal(steered, original)
    assert torch.equal(removed, original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_additions_equal_one_of_twice_the_strength_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    model, tokenizer = make_model(family, dtype=dtype), make_tokenizer()
    engine = HuggingFaceEngine(model, tokenizer)

    engine.set_ambient((add(strength=0.7), add(strength=0.7)))
    twice = plain_logits(model, tokenizer)
    engine.set_ambient((add(strength=1.4),))
    double = plain_logits(model, tokenizer)
    engine.set_ambient((add(strength=0.7),))
    once = plain_logits(model, tokenizer)

    assert torch.equal(twice, double)
    assert not torch.equal(twice, once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_block_output_is_the_float32_sum_rounded_once(family: str, dtype: torch.dtype) -> None:
    engine = HuggingFaceEngine(make_model(family, dtype=dtype), make_tokenizer())
    engine.set_ambient((add(1, 0.3, "all"), add(1, 0.9, "all", seed=1)))
    total = 0.3 * direction(0) + 0.9 * direction(1)

    observation = engine.observe(prompts()[1], 4)

    assert len(observation.edits) == 4
    for edit in observation.edits:
        assert edit.after.dtype == dtype
        assert torch.equal(edit.after, (edit.before.float() + total).to(dtype))
        assert not torch.equal(edit.after, edit.before)


def test_rows_without_a_plan_stay_bit_equal_beside_steered_rows(engine: Any) -> None:
    hidden = torch.tensor([0.0, -0.0, 1.0, -1.0]).repeat(WIDTH // 4).expand(2, 1, WIDTH).contiguous()
    geometry = BatchGeometry(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, dtype=torch.long))
    edited = SiteEdits([[], [add()]])(hidden, geometry)

    assert edited is not None
    assert torch.equal(edited[0].view(torch.int32), hidden[0].view(torch.int32))
    assert not torch.equal(edited[1], hidden[1])


@pytest.mark.parametrize("kind", INTERVENTIONS)
@pytest.mark.parametrize("positions", [[0, 1, 2], [1, 2, 3]])
def test_strength_zero_keeps_every_bit_of_the_stream_whatever_the_intervention(kind: str, positions: list[int]) -> None:
    hidden = torch.tensor([0.0, -0.0, 1e-40, -3.0]).repeat(WIDTH // 4).expand(1, 3, WIDTH).contiguous()
    vector = SteeringVector.from_directions(
        {1: direction()},
        info=VectorInfo(positive_projections={1: 2.0}, negative_projections={1: -1.0}),
        means={1: direction(1)},
        erasers={1: direction() / direction().norm()},
    )
    intervention = INTERVENTIONS[kind].from_vector(vector, 1, None)
    geometry = BatchGeometry(torch.tensor([positions]), torch.tensor([3]))

    def edited(strength: float) -> Tensor:
        found = SiteEdits([[Placement(intervention, Site(1), strength, Scope.parse("generated"))]])(hidden, geometry)
        assert found is not None
        return found

    assert torch.equal(edited(0.0).view(torch.int32), hidden.view(torch.int32))
    assert not torch.equal(edited(0.5), hidden)


def test_looking_at_a_site_takes_nothing_away_from_its_edit(engine: Any, model: Any, tokenizer: Any) -> None:
    (row,), seen = rows((add(positions="all"),))[:1], list[Tensor]()
    compiled = compile_plans([row.plan])

    with engine._hooks.running(Run(compiled)):
        edited = plain_logits(model, tokenizer)
    with engine._hooks.running(Run(compiled, captures={Site(1): seen.append})):
        watched = plain_logits(model, tokenizer)

    assert torch.equal(watched, edited) and len(seen) == 1
    assert not torch.equal(edited, plain_logits(model, tokenizer))


# Equal results in every way of running


@pytest.mark.parametrize("positions", SCOPES)
def test_every_scope_gives_the_tokens_of_the_hand_made_oracle(
    engine: Any, model: Any, tokenizer: Any, family: str, positions: str
) -> None:
    placements = (add(1, 2.0, positions), add(LAYERS - 1, 1.5, positions, seed=1))
    by_hand = make_model(family)
    edits = {1: 2.0 * direction(0), LAYERS - 1: 1.5 * direction(1)}
    expected, unsteered = [], []
    for text in PROMPTS:
        ids = ids_of(tokenizer, text)
        expected.append(cut(greedy_by_hand(by_hand, ids, edits, SCOPES[positions], STEPS)))
        unsteered.append(cut(greedy_by_hand(by_hand, ids, {}, SCOPES[positions], STEPS)))

    assert tokens_of(engine.generate(rows(placements), GREEDY)) == expected
    assert tokens_of(engine.generate(rows(placements), UNCACHED)) == expected
    assert [tokens_of(engine.generate([row], GREEDY))[0] for row in rows(placements)] == expected
    assert tokens_of(engine.generate(rows(()), GREEDY)) == unsteered
    assert expected != unsteered


@pytest.mark.parametrize("positions", SCOPES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_users_own_generate_is_steered_alike_alone_and_in_a_left_padded_batch(
    engine: Any, model: Any, tokenizer: Any, family: str, positions: str, use_cache: bool
) -> None:
    by_hand = make_model(family)
    expected = [
        greedy_by_hand(by_hand, ids_of(tokenizer, text), {1: 2.0 * direction()}, SCOPES[positions], STEPS)
        for text in PROMPTS
    ]
    engine.set_ambient((add(1, 2.0, positions),))
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "use_cache": use_cache}

    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    together = model.generate(**inputs, **options)[:, batch["input_ids"].shape[1] :].tolist()
    alone = [
        model.generate(torch.tensor([ids_of(tokenizer, text)]), **options)[0].tolist()[-STEPS:] for text in PROMPTS
    ]

    expected_until_stop = [cut(tokens, (2,)) for tokens in expected]
    assert [cut(tokens, (2,))[: len(e)] for tokens, e in zip(alone, expected_until_stop, strict=True)] == (
        expected_until_stop
    )
    assert together == alone


def test_beams_are_steered_like_their_rows_alone(engine: Any) -> None:
    plans: list[Plan] = [(), (add(1, 2.0),), (add(1, -2.0),), (add(1, 2.0, "prompt"), add(3, 1.0, seed=1))]
    mixed = [Row(prompts()[0]), *(Row(prompt, plan) for prompt, plan in zip(prompts(), plans, strict=True))]

    together = engine.generate(mixed, Sampling(STEPS, beams=3))
    alone = [engine.generate([row], Sampling(STEPS, beams=3))[0] for row in mixed]
    uncached = engine.generate(mixed, Sampling(STEPS, beams=3, use_cache=False))

    assert tokens_of(together) == tokens_of(alone) == tokens_of(uncached)
    assert tokens_of(together[1:]) != tokens_of(engine.generate(rows(()), Sampling(STEPS, beams=3)))


def test_steered_beams_equal_beam_search_on_a_hand_edited_model(engine: Any, family: str, tokenizer: Any) -> None:
    by_hand, delta = make_model(family), 2.0 * direction()

    def edit(module: Any, args: Any, output: Any) -> Any:
        return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta

    blocks_of(by_hand)[1].register_forward_hook(edit)
    options = {"max_new_tokens": STEPS, "num_beams": 3, "do_sample": False, "eos_token_id": [2, 3]}
    expected = [by_hand.generate(torch.tensor([ids_of(tokenizer, t)]), **options)[0].tolist() for t in PROMPTS]

    beams = engine.generate(rows((add(1, 2.0, "all"),)), Sampling(STEPS, beams=3))

    assert [g.tokens for g in beams] == [
        cut(e[len(ids_of(tokenizer, t)) :]) for e, t in zip(expected, PROMPTS, strict=True)
    ]


def test_distributions_and_scores_equal_the_hand_made_logits(engine: Any, family: str, tokenizer: Any) -> None:
    by_hand = make_model(family)
    completion = [20, 30, 40]

    steered = engine.distributions(rows((add(1, 2.0),)))
    scored = engine.score(rows((add(1, 2.0),)), [completion] * len(PROMPTS))

    for text, distribution, score in zip(PROMPTS, steered, scored, strict=True):
        ids = ids_of(tokenizer, text)
        logits = logits_by_hand(by_hand, ids + completion, len(ids), {1: 2.0 * direction()}, SCOPES["generated"])
        log_probs = logits.log_softmax(dim=-1)
        torch.testing.assert_close(distribution, log_probs[len(ids) - 1], atol=1e-5, rtol=0)
        expected = torch.stack([log_probs[len(ids) - 1 + i, token] for i, token in enumerate(completion)])
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_replayed_logits_equal_the_hand_made_ones(
    engine: Any, family: str, tokenizer: Any, use_cache: bool, batched: bool
) -> None:
    completions = [[20, 30], [40], [50, 60, 70], [80]]

    replayed = engine.replay(rows((add(),)), completions, use_cache=use_cache, batched=batched)

    for text, completion, logits in zip(PROMPTS, completions, replayed, strict=True):
        ids = ids_of(tokenizer, text)
        sequence = ids + completion[:-1]
        by_hand = logits_by_hand(make_model(family), sequence, len(ids), {1: 2.0 * direction()}, SCOPES["generated"])
        torch.testing.assert_close(logits, by_hand[len(ids) - 1 :], atol=1e-4, rtol=0)


def test_in_bfloat16_ways_of_running_differ_at_most_twice_as_much_as_unsteered(family: str) -> None:
    engine = HuggingFaceEngine(make_model(family, dtype=torch.bfloat16), make_tokenizer())
    completions = [[20, 30, 40, 50]] * len(PROMPTS)

    def gap(plan: Plan, **way: bool) -> float:
        usual = engine.replay(rows(plan), completions, use_cache=True, batched=True)
        other = engine.replay(rows(plan), completions, **way)
        return max(float((a - b).abs().max()) for a, b in zip(usual, other, strict=True))

    for way in ({"use_cache": False, "batched": True}, {"use_cache": True, "batched": False}):
        step = torch.finfo(torch.bfloat16).eps * 20  # One rounding step of logits of about 20.
        assert gap((add(),), **way) <= 2 * max(gap((), **way), step)


# Reading


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_vector_is_the_mean_difference_of_block_outputs_taken_by_an_independent_hook(
    engine: Any, family: str, tokenizer: Any, layer: int
) -> None:
    by_hand = make_model(family)

    def last(text: str) -> Tensor:
        return outputs_by_hand(by_hand, ids_of(tokenizer, text))[layer][-1]

    expected = torch.stack([last(t) for t in POSITIVE]).mean(0) - torch.stack([last(t) for t in NEGATIVE]).mean(0)
    read = engine.read(parse_prompts([*POSITIVE, *NEGATIVE]), [Site(layer)], "last")[Site(layer)]
    difference = read[: len(POSITIVE)].mean(0) - read[len(POSITIVE) :].mean(0)

    torch.testing.assert_close(difference, expected, atol=1e-5, rtol=0)
    assert expected.norm() > 0.1


def test_reading_is_not_through_output_hidden_states(engine: Any, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[1])])
    with torch.no_grad():
        hidden_states = model(ids, output_hidden_states=True).hidden_states
    sites = [Site(layer) for layer in range(LAYERS)]

    (trace,) = engine.trace(prompts()[1:2], sites)

    for layer in range(LAYERS - 1):
        torch.testing.assert_close(trace[Site(layer)], hidden_states[layer + 1][0], atol=1e-5, rtol=0)
    # The last entry of output_hidden_states is after the final norm, hence another value.
    assert (trace[Site(LAYERS - 1)] - hidden_states[-1][0]).abs().max() > 0.1


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_pooling_reads_the_right_tokens_in_a_padded_batch(
    engine: Any, family: str, tokenizer: Any, pooling: str
) -> None:
    by_hand = make_model(family)

    pooled = engine.read(prompts(), [Site(2)], pooling)[Site(2)]

    for text, vector in zip(PROMPTS, pooled, strict=True):
        tokens = outputs_by_hand(by_hand, ids_of(tokenizer, text))[2]  # The first is BOS.
        expected = {"last": tokens[-1], "first": tokens[1], "mean": tokens[1:].mean(0)}[pooling]
        torch.testing.assert_close(vector, expected, atol=1e-4, rtol=1e-5)


def test_response_pooling_is_the_mean_over_the_last_assistant_message(engine: Any, family: str, tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "baba keke"}, {"role": "assistant", "content": "lili mora"}]
    rendered = "<s>user : baba keke<end>assistant : lili mora"
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    tokens = outputs_by_hand(make_model(family), ids)[1]

    pooled = engine.read(parse_prompts([chat]), [Site(1)], "response")[Site(1)][0]

    torch.testing.assert_close(pooled, tokens[-2:].mean(0), atol=1e-5, rtol=0)


def test_a_read_stops_after_the_deepest_block_and_never_runs_the_head(engine: Any, model: Any) -> None:
    ran: list[str] = []
    watched = {f"block {i}": block for i, block in enumerate(blocks_of(model))} | {"head": model.lm_head}
    handles = [
        module.register_forward_pre_hook(lambda m, a, name=name: ran.append(name)) for name, module in watched.items()
    ]

    engine.read(prompts()[:1], [Site(0), Site(2)], "last")

    for handle in handles:
        handle.remove()
    assert ran == ["block 0", "block 1", "block 2"]


def test_reading_and_rows_are_unsteered_while_a_plan_is_applied(engine: Any) -> None:
    read, traced = engine.read(prompts(), [Site(2)], "last"), engine.trace(prompts(), [Site(2)])
    texts, scores = engine.generate(rows(()), GREEDY), engine.score(rows(()), [[9, 8]] * len(PROMPTS))

    engine.set_ambient((add(0, 5.0, "all"),))

    assert torch.equal(engine.read(prompts(), [Site(2)], "last")[Site(2)], read[Site(2)])
    assert torch.equal(engine.trace(prompts(), [Site(2)])[1][Site(2)], traced[1][Site(2)])
    assert tokens_of(engine.generate(rows(()), GREEDY)) == tokens_of(texts)
    assert all(map(torch.equal, engine.score(rows(()), [[9, 8]] * len(PROMPTS)), scores))
    assert tokens_of(engine.generate(rows(engine.ambient()), GREEDY)) != tokens_of(texts)


def test_batches_are_sorted_by_length_and_stay_within_the_budget() -> None:
    lengths = [7, 3, 90, 5, 3, 4]

    batches = batches_by_length(lengths, token_budget=16)

    assert batches == [[1, 4, 5], [3, 0], [2]]
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 16 for batch in batches)
    assert batches_by_length([2, 2, 3], 100, equal_only=True) == [[0, 1], [2]]


def test_the_unembedding_is_the_final_norm_scale_and_the_head(model: Any, tokenizer: Any, family: str) -> None:
    norm = model.model.norm if family == "llama" else model.transformer.ln_f
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    if getattr(norm, "bias", None) is not None:
        torch.nn.init.normal_(norm.bias)
    engine = HuggingFaceEngine(model, tokenizer)

    found = engine.unembedding()

    torch.testing.assert_close(found.scale, norm.weight.detach(), atol=1e-4, rtol=1e-4)
    assert found.centers == isinstance(norm, torch.nn.LayerNorm)
    assert torch.equal(found.matrix, model.lm_head.weight.detach())


# Sampling


def test_sampling_draws_from_the_models_own_distribution() -> None:
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())
    prompt, draws = prompts()[1], 4000
    probabilities = engine.distributions([Row(prompt)])[0].exp()
    stops = (2, 3)

    sampled = engine.generate([Row(prompt, seed=i) for i in range(draws)], Sampling(1, temperature=1.0))

    counts = torch.zeros(len(probabilities))
    for generation in sampled:
        if generation.tokens:
            counts[generation.tokens[0]] += 1
    kept = torch.ones(len(probabilities), dtype=torch.bool)
    kept[list(stops)] = False
    expected = draws * probabilities[kept]
    chi_square = ((counts[kept] - expected) ** 2 / expected.clamp(min=1e-9))[expected > 5].sum()
    degrees = int((expected > 5).sum())
    assert degrees > 20
    assert abs(float(chi_square) - degrees) < 5 * (2 * degrees) ** 0.5
    assert probabilities.max() < 0.5  # Not a distribution that greedy would pass for.


def test_the_models_generation_config_does_not_leak_into_greedy(family: str) -> None:
    plain = tokens_of(HuggingFaceEngine(make_model(family), make_tokenizer()).generate(rows(()), GREEDY))
    model = make_model(family)
    model.generation_config.update(
        repetition_penalty=5.0, eos_token_id=list(range(4, 90)), top_p=0.1, do_sample=True, temperature=3.0
    )
    model.generation_config.suppress_tokens = [t for tokens in plain for t in tokens]
    engine = HuggingFaceEngine(model, make_tokenizer())

    assert tokens_of(engine.generate(rows(()), GREEDY)) == plain
    assert model.generation_config.repetition_penalty == 5.0


# State


def test_an_error_inside_a_generation_leaves_what_is_applied(engine: Any, model: Any, tokenizer: Any) -> None:
    engine.set_ambient((add(),))
    before = plain_logits(model, tokenizer)

    def cancel(done: int, total: int, message: str) -> None:
        if done == 3:
            raise Cancelled("Stop")

    with pytest.raises(Cancelled), reporting_to(cancel):
        engine.generate(rows((add(2, 9.0),)), GREEDY)
    with pytest.raises(Cancelled), reporting_to(lambda *_: cancel(3, 0, "")):
        engine.read(prompts(), [Site(1)], "last")

    assert torch.equal(plain_logits(model, tokenizer), before)
    assert engine.hooks_are_live()
    engine.set_ambient(())
    assert not torch.equal(plain_logits(model, tokenizer), before)


def test_a_generation_reports_each_step(engine: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    with reporting_to(lambda *progress: seen.append(progress)):
        engine.generate(rows(()), Sampling(3))

    assert seen == [(step, 3, "generating tokens") for step in (1, 2, 3)]


def test_detaching_gives_the_model_back_as_it_was(family: str) -> None:
    model, tokenizer = make_model(family), make_tokenizer()

    def state() -> Any:
        return {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
            for name, m in model.named_modules()
        }

    before, logits = state(), plain_logits(model, tokenizer)
    engine = HuggingFaceEngine(model, tokenizer)
    engine.set_ambient((add(),))

    attached = state()
    engine.detach()

    assert attached != before
    assert state() == before
    assert torch.equal(plain_logits(model, tokenizer), logits)


def test_a_deep_copy_of_a_steered_model_generates_with_its_own_weights(engine: Any, model: Any, tokenizer: Any) -> None:
    engine.set_ambient((add(),))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(torch.randn_like(parameter))
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[1])])

    texts = [m.generate(ids, max_new_tokens=5, do_sample=False).tolist() for m in (model, copied)]
    by_hand = copy.deepcopy(copied)
    del by_hand.__dict__["generate"]
    expected = by_hand.generate(ids, max_new_tokens=5, do_sample=False).tolist()

    assert texts[1] == expected
    assert texts[0] != texts[1]


def test_a_steered_model_can_be_trained_through(engine: Any, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[3])])
    engine.set_ambient((add(1, 2.0, "all"),))
    without = plain_logits(model, tokenizer)

    everywhere = model(ids).logits
    engine.set_ambient((add(1, 2.0, "prompt"), add(1, 2.0, "last_prompt", seed=1)))
    model(ids).logits.sum().backward()

    torch.testing.assert_close(everywhere.detach(), without)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in blocks_of(model)[0].parameters())


def test_a_block_called_by_itself_is_refused_while_steered(engine: Any, model: Any) -> None:
    hidden = torch.zeros(1, 3, WIDTH)
    block = blocks_of(model)[1]
    engine.set_ambient((add(1),))

    with pytest.raises(UnsupportedCallError, match="by itself"):
        for hook in block._forward_hooks.values():
            hook(block, (), hidden)


@pytest.mark.parametrize("option", [{"prompt_lookup_num_tokens": 2}, {"guidance_scale": 1.5}])
def test_what_runs_the_model_on_other_tokens_is_refused_by_name_while_steered(
    engine: Any, model: Any, tokenizer: Any, option: dict[str, Any]
) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[1])])
    engine.set_ambient((add(),))

    with pytest.raises(UnsupportedCallError, match=next(iter(option))):
        model.generate(ids, max_new_tokens=3, **option)
    model.generate(ids, max_new_tokens=3)


@pytest.mark.parametrize("positions", ["generated", "first", "prompt"])
def test_the_users_beams_and_return_sequences_are_steered_alike(
    engine: Any, model: Any, tokenizer: Any, positions: str
) -> None:
    batch = tokenizer([PROMPTS[1], "zuzu"], return_tensors="pt", padding=True, padding_side="left")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    unsteered = model.generate(**inputs, **options)[:, -6:].tolist()
    engine.set_ambient((add(1, 3.0, positions),))

    together = model.generate(**inputs, **options)[:, -6:].tolist()
    alone = [
        model.generate(torch.tensor([ids_of(tokenizer, text)]), **options)[:, -6:].tolist()
        for text in (PROMPTS[1], "zuzu")
    ]

    assert together == [*alone[0], *alone[1]]
    assert together != unsteered


@pytest.mark.parametrize("chunk", [2, 3])
def test_a_prompt_that_is_prefilled_in_chunks_is_steered_as_a_whole(
    engine: Any, model: Any, tokenizer: Any, chunk: int
) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[3])])
    engine.set_ambient((add(1, 3.0), add(2, 3.0, "-2:", seed=1)))
    options = {"max_new_tokens": 6, "do_sample": False}

    whole = model.generate(ids, **options).tolist()
    chunked = model.generate(ids, prefill_chunk_size=chunk, **options).tolist()

    assert chunked == whole


def test_a_users_hook_on_a_block_stays_and_sees_the_edited_stream(model: Any, tokenizer: Any) -> None:
    seen: list[Tensor] = []
    block = blocks_of(model)[1]
    block.register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    engine = HuggingFaceEngine(model, tokenizer)
    seen.clear()

    plain_logits(model, tokenizer)
    engine.set_ambient((add(1, 3.0, "all"),))
    plain_logits(model, tokenizer)
    unharmed = seen[1].clone()
    engine.detach()
    plain_logits(model, tokenizer)

    assert len(seen) == 3
    # Every hook sees the edited stream, whichever came first; the edit is not made in place.
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], unharmed)
    torch.testing.assert_close(seen[1], seen[0] + 3.0 * direction(), atol=1e-5, rtol=0)


def test_a_padded_batch_gives_the_vectors_of_single_prompts(engine: Any) -> None:
    together = engine.read(prompts(), [Site(2)], "last")[Site(2)]
    alone = torch.cat([engine.read([prompt], [Site(2)], "last")[Site(2)] for prompt in prompts()])

    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


class PaddingLlama(LlamaForCausalLM):
    """A model in which padding moves a row's own activations, as in some with learned masks."""

    def forward(self, input_ids: Tensor | None = None, attention_mask: Any = None, **options: Any) -> Any:
        pads = 0.0 if attention_mask is None else (attention_mask == 0).sum(dim=-1, keepdim=True)[..., None]
        embedded = self.get_input_embeddings()(input_ids) + 0.5 * pads
        return super().forward(inputs_embeds=embedded, attention_mask=attention_mask, **options)


def test_prompts_are_read_beside_their_equals_only_where_padding_moves_them(tokenizer: Any) -> None:
    plain = make_model("llama")
    model = PaddingLlama(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    ids, mask = torch.tensor([[1, 8, 19, 0]]), torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad():
        padded, alone = model(ids, attention_mask=mask).logits[:, :3], model(ids[:, :3]).logits
    assert (padded - alone).abs().max() > 0.1
    engine = HuggingFaceEngine(model, tokenizer)

    together = engine.read(prompts(), [Site(2)], "last")[Site(2)]

    singly = torch.cat([engine.read([prompt], [Site(2)], "last")[Site(2)] for prompt in prompts()])
    torch.testing.assert_close(together, singly, atol=1e-4, rtol=1e-5)


def test_first_is_each_rows_own_first_where_beams_repeat_the_rows(engine: Any, model: Any) -> None:
    starts_with_bos, does_not = [1, 8, 19, 30], [60, 61]
    ids = torch.tensor([[0, 0, *does_not], starts_with_bos])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    engine.set_ambient((add(1, 4.0, "first"),))

    together = model.generate(ids, attention_mask=mask, **options)[:, -6:].tolist()
    inferred = model.generate(ids, **options)[:, -6:].tolist()
    alone = [model.generate(torch.tensor([one]), **options)[:, -6:].tolist() for one in (does_not, starts_with_bos)]

    assert together == inferred == [*alone[0], *alone[1]]


def test_left_padded_prompts_in_chunks_are_steered_as_a_whole(engine: Any, model: Any, tokenizer: Any) -> None:
    batch = tokenizer([PROMPTS[3], "zuzu"], return_tensors="pt", padding=True, padding_side="left")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    engine.set_ambient((add(1, 3.0, "first,generated"),))

    whole = model.generate(**inputs, max_new_tokens=6, do_sample=False).tolist()
    chunked = model.generate(**inputs, max_new_tokens=6, do_sample=False, prefill_chunk_size=2).tolist()

    assert chunked == whole


def test_a_pass_keeps_the_plan_that_it_began_with(engine: Any, model: Any, tokenizer: Any) -> None:
    unsteered = plain_logits(model, tokenizer)
    handle = blocks_of(model)[0].register_forward_hook(lambda m, a, o: engine.set_ambient((add(2, 5.0, "all"),)))

    during = plain_logits(model, tokenizer)
    handle.remove()
    after = plain_logits(model, tokenizer)

    assert torch.equal(during, unsteered)
    assert not torch.equal(after, unsteered)


def test_generate_never_takes_a_forward_that_was_compiled_before(engine: Any, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[1])])
    asked: list[Any] = []
    noting = vars(model)["generate"]
    original = noting._original
    noting._original = lambda *args, **kwargs: asked.append(kwargs.get("disable_compile"))

    model.generate(ids)
    engine.set_ambient((add(),))
    model.generate(ids)
    noting._original = original

    assert asked == [None, True]


def test_assistants_in_the_models_own_generation_config_are_refused_too(
    engine: Any, model: Any, tokenizer: Any
) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[1])])
    model.generation_config.prompt_lookup_num_tokens = 2
    engine.set_ambient((add(),))

    with pytest.raises(UnsupportedCallError, match="prompt_lookup_num_tokens"):
        model.generate(ids, max_new_tokens=3)


def test_a_float64_model_is_edited_in_float64(family: str) -> None:
    model, tokenizer = make_model(family, dtype=torch.float64), make_tokenizer()
    engine = HuggingFaceEngine(model, tokenizer)
    original = plain_logits(model, tokenizer)

    engine.set_ambient((add(strength=0.0, positions="prompt"), add(strength=0.0, positions="first", seed=1)))

    assert torch.equal(plain_logits(model, tokenizer), original)


def test_restoration_is_measured_against_the_model_before_any_hook(engine: Any, model: Any) -> None:
    engine.set_ambient((add(1, 5.0, "all"),))
    assert engine.restoration() == (0.0, 0.0)

    with torch.no_grad():
        next(iter(blocks_of(model)[1].parameters())).mul_(1.1)

    assert engine.restoration()[0] > 0


def test_other_threads_are_served_and_not_recorded_while_one_observes(engine: Any, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([ids_of(tokenizer, PROMPTS[3])])
    engine.set_ambient((add(1, 3.0),))
    expected = model.generate(ids, max_new_tokens=8, do_sample=False).tolist()
    alone = engine.observe(prompts()[0], 8)

    with ThreadPoolExecutor(2) as pool:
        texts = [pool.submit(model.generate, ids, max_new_tokens=8, do_sample=False) for _ in range(12)]
        observed = [engine.observe(prompts()[0], 8) for _ in range(4)]
        texts = [text.result().tolist() for text in texts]

    assert texts == [expected] * 12
    for observation in observed:
        assert observation.generation.tokens == alone.generation.tokens
        assert [e.after.shape for e in observation.edits] == [e.after.shape for e in alone.edits]
        assert all(torch.equal(a.after, b.after) for a, b in zip(observation.edits, alone.edits, strict=True))


class MaskIgnoringLlama(LlamaForCausalLM):
    """A model whose padding is seen by its tokens, as in recurrent models that take no mask."""

    def forward(self, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_rows_of_a_model_that_ignores_the_mask_are_batched_by_equal_length() -> None:
    usual = make_model("llama")
    ignoring = MaskIgnoringLlama(usual.config).eval()
    ignoring.load_state_dict(usual.state_dict())
    engine = HuggingFaceEngine(ignoring, make_tokenizer())
    every = [*rows((add(1, 2.0),)), Row(parse_prompts(["zuzu"])[0], (add(1, 2.0),))]

    together = tokens_of(engine.generate(every, GREEDY))

    assert together == [tokens_of(engine.generate([row], GREEDY))[0] for row in every]
    # One padded batch of them all would give other texts.
    padded = engine.replay(every, together, use_cache=True, batched=True)
    assert [cut(logits.argmax(dim=1).tolist()) for logits in padded] != together
