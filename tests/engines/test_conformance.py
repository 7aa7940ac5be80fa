"""What every engine is held to: the laws of its contract and of each facet, or the facet's refusal by name."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.engine_makers import FACETS, MAKERS, Subject
from helpers.small_models import PROMPTS
from steer_tools.core.conditions import Not, Reading, Threshold
from steer_tools.core.interventions import Add, ProjectOut, Zero
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import NOWHERE, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Generation, Row, Sampling
from steer_tools.engines.facets import (
    AmbientPlans,
    EditableWeights,
    Gradients,
    Heads,
    LiveModel,
    Replay,
    has,
    require,
)
from steer_tools.errors import (
    ArgumentError,
    Cancelled,
    LayerError,
    PromptError,
    StrengthError,
    UnsupportedFeatureError,
)
from steer_tools.progress import reporting_to
from steer_tools.prompts import Prompt, parse_prompt, parse_prompts

STEPS = 8
GREEDY = Sampling(STEPS)
COMPLETION = (20, 30, 40)


@pytest.fixture(params=MAKERS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    subject = MAKERS[request.param].make()
    yield subject
    subject.engine.detach()


@pytest.fixture
def engine(subject: Subject) -> Engine:
    return subject.engine


def with_facet(facet: type[Any]) -> pytest.MarkDecorator:
    """Run a test on the engines that have a facet; that the others refuse it is a test of its own."""
    return pytest.mark.parametrize(
        "subject", [n for n, maker in MAKERS.items() if facet in maker.facets], indirect=True
    )


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


def rows(plan: Plan) -> list[Row]:
    return [Row(prompt, plan) for prompt in prompts()]


def direction(engine: Engine, seed: int = 0) -> Tensor:
    return torch.randn(engine.info.hidden_size, generator=torch.Generator().manual_seed(seed))


def add(
    engine: Engine, layer: int = 1, strength: float = 2.0, positions: str = "generated", seed: int = 0
) -> Placement:
    return Placement(Add(direction(engine, seed)), Site(layer), strength, Scope.parse(positions))


def tokens_of(generations: list[Generation]) -> list[tuple[int, ...]]:
    return [generation.tokens for generation in generations]


def gap(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


# Layers and prompts


def test_negative_layers_count_from_the_end_and_layers_that_are_not_there_are_refused(engine: Engine) -> None:
    layers = engine.info.layers

    assert [engine.resolve_layer(layer) for layer in (0, layers - 1, -1, -layers)] == [0, layers - 1, layers - 1, 0]
    for layer in (layers, -layers - 1, True, 1.0, "1"):
        with pytest.raises(LayerError, match=f"{layers} decoder blocks"):
            engine.resolve_layer(layer)
    with pytest.raises(LayerError):
        engine.read(prompts(), [Site(layers)], "last")
    with pytest.raises(LayerError):
        engine.width(Site(1, "embedding"))


def test_a_prompt_is_described_token_by_token(engine: Engine) -> None:
    text, chat = (
        engine.tokenize(prompts()[1]),
        engine.tokenize(parse_prompt([{"role": "user", "content": "baba keke"}])),
    )

    assert len(text.tokens) == len(text.texts) == len(text.special) == 5
    assert text.first == 1 and text.special == (True, False, False, False, False)
    assert text.texts == engine.texts(text.tokens)
    assert text.after_user == NOWHERE and 0 < chat.after_user < len(chat.tokens)
    assert engine.tokenize(parse_prompt(list(text.tokens))).tokens == text.tokens


@pytest.mark.parametrize("subject", [n for n, maker in MAKERS.items() if maker.has_limit], indirect=True)
def test_what_does_not_fit_into_the_context_is_refused_and_nothing_is_truncated(engine: Engine) -> None:
    assert engine.info.context_length is not None
    long = parse_prompt("baba " * engine.info.context_length)

    for call in (lambda: engine.read([long], [Site(1)], "last"), lambda: engine.generate([Row(long)], GREEDY)):
        with pytest.raises(PromptError, match="context"):
            call()


def test_empty_completions_and_prompts_outside_the_vocabulary_are_refused(engine: Engine) -> None:
    with pytest.raises(PromptError):
        engine.score([Row(prompts()[0])], [""])
    with pytest.raises(PromptError):
        engine.tokenize(parse_prompt([10**6]))


# Reading


@pytest.mark.parametrize("component", ["residual", "attention", "mlp"])
def test_one_activation_is_the_one_of_its_tokens_in_the_trace(engine: Engine, component: Any) -> None:
    site = Site(1, component)
    traces = engine.trace(prompts(), [site])

    for pooling, tokens in (("last", slice(-1, None)), ("first", slice(1, 2)), ("mean", slice(1, None))):
        found = engine.read(prompts(), [site], pooling)[site]
        expected = torch.stack([trace[site][tokens].mean(dim=0) for trace in traces])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert found.dtype == torch.float32 and found.device.type == "cpu"
        assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_a_pooling_function_says_which_tokens_are_read(engine: Engine) -> None:
    chosen = engine.read(prompts(), [Site(2)], lambda prompt: [i == 1 for i in range(len(prompt.tokens))])[Site(2)]

    torch.testing.assert_close(chosen, engine.read(prompts(), [Site(2)], "first")[Site(2)], atol=1e-5, rtol=1e-5)
    with pytest.raises(PromptError):
        engine.read(prompts(), [Site(2)], lambda prompt: [False] * len(prompt.tokens))
    with pytest.raises(ArgumentError):
        engine.read(prompts(), [Site(2)], "middle")  # type: ignore[arg-type]  # what is refused


def test_the_response_is_the_last_assistant_message(engine: Engine) -> None:
    chat = parse_prompt([{"role": "user", "content": "baba"}, {"role": "assistant", "content": "lili mora"}])

    (trace,) = engine.trace([chat], [Site(1)])

    found = engine.read([chat], [Site(1)], "response")[Site(1)][0]
    torch.testing.assert_close(found, trace[Site(1)][-2:].mean(dim=0), atol=1e-5, rtol=1e-5)
    with pytest.raises(PromptError):
        engine.read(prompts(), [Site(1)], "response")


def test_the_width_of_a_site_is_that_of_what_is_read_there(engine: Engine) -> None:
    sites = [Site(0, "embedding"), Site(0), Site(1, "attention"), Site(1, "mlp")]

    (trace, *_) = engine.trace(prompts(), sites)

    assert [engine.width(site) for site in sites] == [trace[site].shape[1] for site in sites]


# Steering


def test_strength_zero_is_the_identity_and_another_strength_is_not(engine: Engine) -> None:
    plain = engine.distributions(rows(()))

    assert gap(engine.distributions(rows((add(engine, strength=0.0, positions="all"),))), plain) == 0
    assert gap(engine.distributions(rows((add(engine, strength=0.5, positions="all"),))), plain) > 1e-3


@pytest.mark.parametrize("positions", ["generated", "all", "first", "-2:"])
def test_two_additions_equal_one_of_twice_the_strength_bit_for_bit(engine: Engine, positions: str) -> None:
    once, double = (add(engine, strength=s, positions=positions) for s in (0.7, 1.4))

    twice = engine.score(rows((once, once)), [COMPLETION] * len(PROMPTS))

    assert gap(twice, engine.score(rows((double,)), [COMPLETION] * len(PROMPTS))) == 0
    assert gap(twice, engine.score(rows((once,)), [COMPLETION] * len(PROMPTS))) > 1e-4


def test_each_scope_touches_its_tokens_and_no_others(engine: Engine) -> None:
    def score(*positions: str, layer: int = 1) -> Tensor:
        plan = tuple(add(engine, layer, positions=own) for own in positions)
        return engine.score([Row(prompts()[3], plan)], [COMPLETION])[0]

    unsteered, last_layer = score(), engine.info.layers - 1

    # At the last layer a token's edit reaches its own logits alone.
    assert torch.allclose(score("last_prompt", layer=last_layer)[1:], unsteered[1:], atol=1e-5)
    assert abs(score("last_prompt", layer=last_layer)[0] - unsteered[0]) > 1e-2
    assert torch.allclose(score("first", layer=last_layer), unsteered, atol=1e-5)
    assert abs(score("first", layer=0) - unsteered).max() > 1e-3
    assert torch.allclose(score("prompt", layer=last_layer)[:1], score("all", layer=last_layer)[:1], atol=1e-5)
    assert not torch.allclose(score("prompt", layer=last_layer)[1:], score("all", layer=last_layer)[1:], atol=1e-2)
    assert torch.allclose(score("generated"), score("-1:,generated"), atol=1e-5)
    assert torch.allclose(score("prompt"), score("0:"), atol=1e-5)
    assert not torch.allclose(score("prompt"), score("1:"), atol=1e-3)


def test_after_user_begins_behind_the_last_user_message(engine: Engine) -> None:
    chat = parse_prompt([{"role": "user", "content": "baba keke"}])
    start = engine.tokenize(chat).after_user

    def score(positions: str) -> Tensor:
        return engine.score([Row(chat, (add(engine, positions=positions),))], [COMPLETION])[0]

    assert torch.allclose(score("after_user"), score(f"{start}:,generated"), atol=1e-5)
    assert not torch.allclose(score("after_user"), score("all"), atol=1e-3)
    with pytest.raises(PromptError):
        engine.score([Row(prompts()[0], (add(engine, positions="after_user"),))], [COMPLETION])


def test_mixed_plans_in_one_batch_equal_each_row_alone(engine: Engine) -> None:
    plans: list[Plan] = [
        (),
        (add(engine),),
        (add(engine, 1, -2.0, "all"), add(engine, 2, 1.0, seed=1)),
        (Placement(ProjectOut(direction(engine)), Site(3), 1.0, Scope.parse("prompt")),),
    ]
    mixed = [Row(prompt, plan) for prompt, plan in zip(prompts(), plans, strict=True)]

    together, scores = engine.generate(mixed, GREEDY), engine.score(mixed, [COMPLETION] * 4)

    assert tokens_of(together) == [tokens_of(engine.generate([row], GREEDY))[0] for row in mixed]
    assert gap(scores, [engine.score([row], [COMPLETION])[0] for row in mixed]) < 1e-4
    assert tokens_of(together) != tokens_of(engine.generate(rows(()), GREEDY))


def test_a_pickled_plan_does_what_the_original_does(engine: Engine) -> None:
    plan = (add(engine, 1, 1.0, "all"), Placement(ProjectOut(direction(engine, 1)), Site(2), 1.0, Scope.parse("all")))
    copies = [Row(prompt, pickle.loads(pickle.dumps(plan))) for prompt in (prompts()[1], prompts()[1], prompts()[2])]
    originals = [Row(row.prompt, plan) for row in copies]

    found, expected = (engine.score(own, [COMPLETION] * 3) for own in (copies, originals))

    assert gap(found, expected) == 0
    assert engine.decided(copies) == engine.decided(originals) == originals


@pytest.mark.parametrize("component", ["embedding", "attention", "mlp"])
def test_the_parts_of_a_block_are_edited_where_they_are_read(engine: Engine, component: Any) -> None:
    layer = 0 if component == "embedding" else 1
    plan = (Placement(Zero(), Site(layer, component), 1.0, Scope.parse("all")),)

    assert gap(engine.distributions(rows(plan)), engine.distributions(rows(()))) > 1e-3


def test_a_condition_is_decided_on_each_rows_own_prompt(engine: Engine) -> None:
    site, along = Site(1), direction(engine, 3)
    projections = engine.read(prompts(), [site], "last")[site].double() @ (along.double() / along.double().norm())
    middle = float(projections.sort().values[1:3].mean())
    condition = Threshold(Reading(site, "last"), along, middle)
    steered = Placement(Add(direction(engine)), Site(2), 2.0, Scope.parse("generated"), condition)

    asked = rows((steered, Placement(steered.intervention, Site(3), 1.0, steered.positions, Not(condition))))

    acting = [tuple(p.site.layer for p in row.plan) for row in engine.decided(asked)]
    assert acting == [(2,) if above else (3,) for above in (projections > middle).tolist()]
    assert {(2,), (3,)} == set(acting)
    assert all(p.condition is None for row in engine.decided(asked) for p in row.plan)
    assert gap(engine.distributions(asked), engine.distributions(engine.decided(asked))) < 1e-5


def test_strengths_that_no_activation_survives_are_refused(engine: Engine) -> None:
    with pytest.raises(StrengthError):
        engine.generate(rows((add(engine, strength=1e39),)), GREEDY)


# Scores and texts


def test_scores_of_a_greedy_text_are_its_step_log_probabilities(engine: Engine) -> None:
    plan = (add(engine, 1, 2.0), add(engine, 2, 1.0, "prompt", seed=1))
    generations = engine.generate(rows(plan), GREEDY)
    written = [(row, g) for row, g in zip(rows(plan), generations, strict=True) if g.tokens]

    scores = engine.score([row for row, _ in written], [g.tokens for _, g in written])
    unsteered = engine.score([Row(row.prompt) for row, _ in written], [g.tokens for _, g in written])

    assert len(written) >= 3
    assert gap(scores, [generation.log_probs for _, generation in written]) < 1e-4
    assert gap(scores, unsteered) > 0.1


def test_a_score_is_read_off_the_distribution_before_its_token(engine: Engine) -> None:
    row = Row(prompts()[1], (add(engine),))

    (scores,) = engine.score([row], [COMPLETION])

    (before_first,) = engine.distributions([row])
    assert float(before_first.exp().sum()) == pytest.approx(1, abs=1e-4)
    assert float(scores[0]) == pytest.approx(float(before_first[COMPLETION[0]]), abs=1e-4)
    (one,) = engine.score([row], [COMPLETION[:1]])
    torch.testing.assert_close(one, scores[:1], atol=1e-4, rtol=0)


def test_a_divergence_is_that_from_the_unsteered_distribution(engine: Engine) -> None:
    steered = Row(prompts()[1], (add(engine),))

    first, none = engine.divergences([steered, Row(prompts()[1])], [COMPLETION, COMPLETION])

    p, q = (engine.distributions([row])[0] for row in (Row(prompts()[1]), steered))
    assert float(first[0]) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-2)
    assert len(first) == len(none) == len(COMPLETION)
    assert float(first.min()) > 1e-5 and float(none.abs().max()) < 1e-6


@pytest.mark.parametrize("rows_a_prompt", [1, 12])
def test_completions_are_read_at_their_own_tokens_and_scored_by_the_same_pass(
    engine: Engine, rows_a_prompt: int
) -> None:
    asked, layers = list(prompts()) * rows_a_prompt, (1, engine.info.layers - 1)
    said = [(20 + i % 7, 30, 40 + i % 5)[: 1 + i % 3] for i in range(len(asked))]

    found = engine.read_completions(asked, said, layers)

    scores = engine.score([Row(prompt) for prompt in asked], said)
    whole = [parse_prompt([*engine.tokenize(prompt).tokens, *own]) for prompt, own in zip(asked, said, strict=True)]
    traces = engine.trace(whole, [Site(layer) for layer in layers])
    for own, tokens, score, trace in zip(found, said, scores, traces, strict=True):
        assert torch.allclose(own.log_probs, score, atol=1e-4)
        for layer in layers:
            assert torch.allclose(own.means[layer], trace[Site(layer)][-len(tokens) :].mean(dim=0), atol=1e-4)
    with pytest.raises(PromptError, match="no token"):
        engine.read_completions(asked[:1], [()], layers)
    with pytest.raises(LayerError):
        engine.read_completions(asked[:1], said[:1], [99])


def test_a_text_and_its_ids_score_alike(engine: Engine) -> None:
    ids = engine.tokenize(parse_prompt("keke lili mora")).tokens[1:]

    by_text, by_ids = engine.score([Row(prompts()[0])] * 2, [" keke lili mora", ids])

    torch.testing.assert_close(by_text, by_ids, atol=1e-5, rtol=0)


def test_a_sampled_row_does_not_depend_on_its_batch_or_its_neighbours_plans(engine: Engine) -> None:
    sampling = Sampling(STEPS, temperature=1.3, top_k=50, top_p=0.95)
    target = Row(prompts()[2], (add(engine),), seed=7)

    (alone,) = engine.generate([target], sampling)
    beside = engine.generate([Row(prompts()[3], (add(engine, 2, 3.0),), seed=1), target, Row(prompts()[0])], sampling)
    others = [engine.generate([Row(target.prompt, target.plan, seed)], sampling)[0].tokens for seed in (8, 9, 10)]

    assert beside[1].tokens == alone.tokens
    assert set(others) != {alone.tokens}
    # Step log-probabilities are the model's own, before temperature, top_k and top_p.
    (scored,) = engine.score([target], [alone.tokens])
    torch.testing.assert_close(alone.log_probs, scored, atol=1e-4, rtol=0)


def test_greedy_is_the_likeliest_token_and_so_is_sampling_among_one(engine: Engine) -> None:
    greedy, drawn = engine.generate(rows(()), GREEDY), engine.generate(rows(()), Sampling(STEPS, 1.0, top_k=1))

    assert tokens_of(greedy) == tokens_of(drawn)
    for distribution, generation in zip(engine.distributions(rows(())), greedy, strict=True):
        assert generation.ended or generation.tokens[0] == int(distribution.argmax())


def test_a_repetition_penalty_counts_the_tokens_of_each_row_by_itself(engine: Engine) -> None:
    mixed = [Row(prompt, plan) for prompt in prompts() for plan in ((), (add(engine),))]
    penalized, drawn = Sampling(STEPS, repetition_penalty=1e6), Sampling(STEPS, 1.0, top_k=1, repetition_penalty=1e6)

    together = engine.generate(mixed, penalized)
    alone = [engine.generate([row], penalized)[0] for row in mixed]

    assert tokens_of(together) == tokens_of(alone) == tokens_of(engine.generate(mixed, drawn))
    assert not any(map(repeats, together))
    assert any(map(repeats, engine.generate(mixed, GREEDY)))
    first, rewarded = (engine.generate(mixed, Sampling(1, repetition_penalty=penalty)) for penalty in (1.0, 1e-6))
    assert sum(map(repeats, rewarded)) > sum(map(repeats, first))
    # Step log-probabilities are the model's own, without the penalty.
    for row, generation in zip(mixed, together, strict=True):
        torch.testing.assert_close(generation.log_probs, engine.score([row], [generation.tokens])[0], atol=1e-4, rtol=0)


def repeats(generation: Generation) -> bool:
    """Return whether a text has a token that was in its row before."""
    seen = [*generation.prompt_tokens]
    return any(token in [*seen, *generation.tokens[:i]] for i, token in enumerate(generation.tokens))


def test_every_call_reports_progress_and_can_be_cancelled(engine: Engine) -> None:
    seen: list[tuple[int, int, str]] = []
    with reporting_to(lambda *progress: seen.append(progress)):
        engine.generate(rows(()), Sampling(3))
        engine.read(prompts(), [Site(1)], "last")
        engine.score(rows(()), [[5]] * len(PROMPTS))

    def stop(*progress: object) -> None:
        raise Cancelled("Stopped")

    assert {p[2] for p in seen} == {"generating tokens", "reading prompts", "scoring completions"}
    assert all(done <= total for done, total, _ in seen)
    before = engine.distributions(rows(()))
    with reporting_to(stop), pytest.raises(Cancelled):
        engine.generate(rows((add(engine),)), GREEDY)
    assert gap(engine.distributions(rows(())), before) == 0


def test_the_unembedding_has_a_line_a_token_and_a_scale_a_dimension(engine: Engine) -> None:
    unembedding = engine.unembedding()

    assert unembedding.matrix.shape == (len(engine.distributions(rows(()))[0]), engine.info.hidden_size)
    assert unembedding.scale.shape == (engine.info.hidden_size,)


# Facets


@pytest.mark.parametrize("name", MAKERS)
def test_each_facet_is_had_or_refused_by_the_names_of_feature_and_engine(name: str) -> None:
    engine = MAKERS[name].make().engine

    for facet in MAKERS[name].facets:
        assert has(engine, facet) and require(engine, facet, "some_tool") is engine
    for facet in set(FACETS) - set(MAKERS[name].facets):
        assert not has(engine, facet)
        with pytest.raises(UnsupportedFeatureError, match=f"some_tool needs .* '{engine.info.engine}'"):
            require(engine, facet, "some_tool")


@with_facet(AmbientPlans)
def test_what_is_applied_is_seen_by_others_and_by_no_row_of_ours(subject: Subject) -> None:
    engine = require(subject.engine, AmbientPlans, "this test")
    before, read = subject.seen_by_others(), engine.read(prompts(), [Site(2)], "last")[Site(2)]
    texts, scores = engine.generate(rows(()), GREEDY), engine.score(rows(()), [COMPLETION] * len(PROMPTS))

    engine.set_ambient((add(engine, 0, 9.0, "all"),))

    assert engine.hooks_are_live()
    assert not torch.equal(subject.seen_by_others(), before)
    assert torch.equal(engine.read(prompts(), [Site(2)], "last")[Site(2)], read)
    assert tokens_of(engine.generate(rows(()), GREEDY)) == tokens_of(texts)
    assert gap(engine.score(rows(()), [COMPLETION] * len(PROMPTS)), scores) == 0
    assert tokens_of(engine.generate(rows(engine.ambient()), GREEDY)) != tokens_of(texts)
    engine.set_ambient(())
    assert torch.equal(subject.seen_by_others(), before)


@with_facet(AmbientPlans)
def test_a_refused_plan_leaves_what_is_applied(subject: Subject) -> None:
    engine = require(subject.engine, AmbientPlans, "this test")
    applied: Plan = (add(engine),)
    engine.set_ambient(pickle.loads(pickle.dumps(applied)))

    with pytest.raises(LayerError):
        engine.set_ambient((add(engine, engine.info.layers),))
    with pytest.raises(StrengthError):
        engine.set_ambient((add(engine, strength=1e39),))

    assert engine.ambient() == applied


@with_facet(Gradients)
def test_gradients_are_the_slope_of_the_score(subject: Subject) -> None:
    engine = require(subject.engine, Gradients, "this test")
    site, along = Site(1), direction(subject.engine)

    def score(strength: float) -> float:
        plan = (Placement(Add(along), site, strength, Scope.parse("all")),)
        return float(engine.score([Row(prompts()[1], plan)], [COMPLETION])[0].double().sum())

    (found,) = engine.gradients([Row(prompts()[1])], [COMPLETION], [site])

    step = 2e-3
    slope = (score(step) - score(-step)) / (2 * step)
    assert found.log_prob == pytest.approx(score(0.0), abs=1e-4)
    assert float((found.by_site[site] @ along).sum()) == pytest.approx(slope, rel=0.05, abs=0.02)


@with_facet(Replay)
@pytest.mark.parametrize("use_cache", [True, False])
def test_replayed_logits_give_the_scores(subject: Subject, use_cache: bool) -> None:
    engine = require(subject.engine, Replay, "this test")
    asked = rows((add(engine),))

    replayed = engine.replay(asked, [COMPLETION] * len(PROMPTS), use_cache=use_cache, batched=True)

    chosen = [logits.log_softmax(-1).gather(1, torch.tensor(COMPLETION)[:, None])[:, 0] for logits in replayed]
    assert gap(chosen, engine.score(asked, [COMPLETION] * len(PROMPTS))) < 1e-4
    assert engine.restoration() == (0.0, 0.0)


@with_facet(Replay)
def test_what_is_observed_is_what_was_applied(subject: Subject) -> None:
    engine = require(subject.engine, Replay, "this test")
    engine.set_ambient((add(engine),))

    observation = engine.observe(prompts()[1], STEPS)

    assert observation.plan == engine.ambient()
    assert observation.generation.tokens == engine.generate([Row(prompts()[1], engine.ambient())], GREEDY)[0].tokens
    assert all(not torch.equal(edit.before[-1], edit.after[-1]) for edit in observation.edits)
    assert observation.firings[Site(1)] == len(observation.edits) > 0


@with_facet(Heads)
def test_heads_lie_side_by_side_and_each_can_be_taken_out(subject: Subject) -> None:
    engine = require(subject.engine, Heads, "this test")
    sites = [Site(1, "attention", head) for head in range(engine.heads(1))]
    plain = engine.distributions(rows(()))

    removed = [engine.distributions(rows((Placement(Zero(), site, 1.0, Scope.parse("all")),))) for site in sites]

    assert len(sites) > 1 and len({engine.width(site) for site in sites}) == 1
    assert all(gap(own, plain) > 1e-4 for own in removed)
    with pytest.raises(ArgumentError):
        engine.width(Site(1, "attention", len(sites)))


@with_facet(EditableWeights)
def test_each_writers_parameters_are_in_the_module(subject: Subject) -> None:
    engine = require(subject.engine, EditableWeights, "this test")

    writers = engine.find_writers()

    shapes = {name: parameter.shape for name, parameter in engine.module.named_parameters(remove_duplicate=False)}
    assert {writer.site for writer in writers} >= {Site(1, "attention"), Site(1, "mlp")}
    for parameter in (parameter for writer in writers for parameter in writer.parameters):
        assert shapes[parameter.name][parameter.axis] == engine.info.hidden_size


@with_facet(LiveModel)
def test_a_live_model_knows_its_own_object(subject: Subject) -> None:
    engine = require(subject.engine, LiveModel, "this test")

    assert not engine.holds(object())
    assert callable(engine.tokenizer)
