"""Which texts are broken and which sets say nothing: all known ways to fool the score, beside what is genuine."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest

from steer_tools import load_model
from steer_tools.bundled_model.language import held_out_prompts
from steer_tools.engines.base import Engine, Generation, Row, Sampling
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Item, contrast_prompts
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.text_guards import (
    TextGuards,
    TextSet,
    fit_text_guards,
    mean_effect,
    relevance_of_answers,
    text_effects,
    two_signed_effects,
)
from steer_tools.prompts import ChatPrompt, Prompt, parse_prompt
from steer_tools.session.session import current_session

TRAIT, TOKENS, COUNT = "formality", 128, 12


class Written(NamedTuple):
    """The bundled model with what it writes to some prompts, and the guards of that."""

    engine: Engine
    prompts: list[Prompt]
    texts: list[Generation]
    guards: TextGuards

    @property
    def unsteered(self) -> list[tuple[int, ...]]:
        return [text.tokens for text in self.texts]

    def answers(self, *, shows: bool = True) -> list[tuple[int, ...]]:
        """Other questions' answers that show the trait, or its opposite."""
        pairs = trait_behavior(TRAIT, pairs=len(self.prompts), seed=5).pairs
        return [self.tokens(pair.positive if shows else pair.negative) for pair in pairs]

    def tokens(self, text: str) -> tuple[int, ...]:
        encoded: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]  # Of one engine.
        return tuple(encoded)

    def asked_for(self, *, shows: bool = True) -> list[tuple[int, ...]]:
        """What the model writes behind an answer that shows it, or its opposite: it goes on as it began."""
        begun = contrast_prompts(trait_behavior(TRAIT, pairs=len(self.prompts), seed=5).pairs, as_chat=True)
        rows = [
            Row(ChatPrompt((*earlier.messages, *prompt.messages)))
            for earlier, prompt in zip(begun.positive if shows else begun.negative, self.prompts, strict=True)
            if isinstance(earlier, ChatPrompt) and isinstance(prompt, ChatPrompt)
        ]
        return [text.tokens for text in self.engine.generate(rows, Sampling(TOKENS))]

    def drawn(self, temperature: float, seed: int) -> list[tuple[int, ...]]:
        rows = [Row(prompt, (), 100 * seed + i) for i, prompt in enumerate(self.prompts)]
        return [text.tokens for text in self.engine.generate(rows, Sampling(TOKENS, temperature=temperature))]


@pytest.fixture(scope="module")
def written() -> Any:
    session = current_session()
    session.detach()
    load_model("bundled")
    engine = session.engine
    prompts = [parse_prompt(chat) for chat in held_out_prompts(TRAIT, COUNT, seed=7)]
    texts = engine.generate([Row(prompt) for prompt in prompts], Sampling(TOKENS))
    yield Written(engine, prompts, texts, fit_text_guards(engine, prompts, [text.tokens for text in texts], TOKENS))
    session.detach()


def shuffled(tokens: Sequence[int], seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).sample(tokens, len(tokens)))


def turned(texts: TextSet) -> TextSet:
    return [*texts[3:], *texts[:3]]


FOOLING: dict[str, tuple[Callable[[Written], TextSet], str]] = {
    "answers of pairs": (lambda w: w.answers(), "irrelevant"),
    "answers of pairs, shuffled": (lambda w: [shuffled(own) for own in w.answers()], "broken"),
    "unsteered texts, shuffled": (lambda w: [shuffled(own) for own in w.unsteered], "broken"),
    "random words": (lambda w: [tuple(random.Random(i).choices(range(6, 200), k=20)) for i in range(COUNT)], "broken"),
    "one word again and again": (lambda w: [own[-3:-2] * 20 for own in w.answers()], "broken"),
    "words of the class": (lambda w: [shuffled(sum(w.answers(), ()), i)[:20] for i in range(COUNT)], "broken"),
    "beginnings again and again": (lambda w: [(own[:4] * 9)[:30] for own in w.unsteered], "broken"),
    "one answer to all": (lambda w: w.answers()[:1] * COUNT, "alike"),
    "one written answer to all": (lambda w: w.asked_for()[:1] * COUNT, "alike"),
    "what was written to other prompts": (lambda w: turned(w.unsteered), "irrelevant"),
    "what was asked for, to other prompts": (lambda w: turned(w.asked_for()), "irrelevant"),
    "the question": (lambda w: [w.engine.tokenize(own).tokens[1:-1] for own in w.prompts], "broken"),
    "half a text, then another's end": (
        lambda w: [(*own[:10], *other[10:]) for own, other in zip(w.unsteered, w.answers(), strict=True)],
        "broken",
    ),
    "nothing": (lambda w: [()] * COUNT, "broken"),
    "nothing to every other prompt": (lambda w: [own if i % 2 else () for i, own in enumerate(w.unsteered)], "broken"),
}

GENUINE: dict[str, Callable[[Written], TextSet]] = {
    "unsteered": lambda w: w.unsteered,
    "asked for": lambda w: w.asked_for(),
    "asked for, the opposite": lambda w: w.asked_for(shows=False),
    "drawn at 0.7": lambda w: w.drawn(0.7, 1),
    "drawn at 1": lambda w: w.drawn(1.0, 1),
    "drawn at 1 again": lambda w: w.drawn(1.0, 2),
}


@pytest.mark.parametrize("kind", FOOLING)
def test_what_only_fools_the_score_is_rejected_and_why_is_said(written: Written, kind: str) -> None:
    make, reason = FOOLING[kind]

    (checked,) = written.guards.check(written.engine, [make(written)])

    assert not checked.passes
    assert reason in checked.failures


@pytest.mark.parametrize("kind", GENUINE)
def test_what_the_model_writes_passes(written: Written, kind: str) -> None:
    (checked,) = written.guards.check(written.engine, [GENUINE[kind](written)])

    assert checked.failures == ()


def test_unsteered_texts_are_whole_and_the_measure_of_the_others(written: Written) -> None:
    (checked,) = written.guards.check(written.engine, [written.unsteered])

    assert checked.is_whole.all()
    assert checked.variety == pytest.approx(1)
    assert checked.relevance == pytest.approx(1, abs=1e-5)
    halves = [text.log_probs.tensor_split([len(text.tokens) // 2]) for text in written.texts]
    assert checked.surprisals == pytest.approx([-min(float(half.mean()) for half in own) for own in halves], abs=1e-4)


@pytest.fixture(scope="module")
def others(written: Written) -> list[TextSet]:
    """Samples that are none of those that the limits are of."""
    return [written.drawn(1.0, seed) for seed in (3, 4, 5)]


def surprising(written: Written, sets: Sequence[TextSet]) -> float:
    """The share of texts that are more surprising than they may be."""
    checked = written.guards.check(written.engine, sets)
    surprisals = [own.surprisals for own in checked]
    limits = [[written.guards.most_surprisal(len(text)) for text in texts] for texts in sets]
    return float((np.array(surprisals) > np.array(limits)).mean())


def test_about_one_in_ten_of_other_samples_is_more_surprising_than_the_limit(
    written: Written, others: list[TextSet]
) -> None:
    assert 0 < surprising(written, others) < 0.25


def test_beginnings_are_held_to_the_beginnings_of_samples(written: Written, others: list[TextSet]) -> None:
    """A model is less sure of its first words, so that one limit for all lengths would break nearly all short texts."""
    for length in (1, 2, 5):
        assert surprising(written, [[text[:length] for text in texts] for texts in others]) < 0.3

    (first_words,) = written.guards.check(written.engine, [[text[:1] for text in others[0]]])
    assert (first_words.surprisals > written.guards.most_surprisal(TOKENS)).mean() > 0.5


def test_the_seed_settles_the_samples() -> None:
    engine, prompts, texts = toy("baba", "mora seti")

    one, again, other = (fit_text_guards(engine, prompts, texts, 8, seed=seed).surprisals for seed in (0, 0, 9))

    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()


def test_sets_are_checked_together_as_alone(written: Written) -> None:
    sets = [written.unsteered, turned(written.unsteered), written.answers()]

    together = written.guards.check(written.engine, sets)

    for texts, found in zip(sets, together, strict=True):
        (alone,) = written.guards.check(written.engine, [texts])
        assert found.surprisals == pytest.approx(alone.surprisals, abs=1e-4)
        assert found.relevance == pytest.approx(alone.relevance, abs=1e-4)
        assert found.failures == alone.failures


# Few texts, odd texts


class CountingEngine(FakeEngine):
    """The toy, which remembers what it was asked to score."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[Any] = []

    def score(self, rows: Any, completions: Any) -> Any:
        self.scored.append([(row.prompt, tuple(own)) for row, own in zip(rows, completions, strict=True)])
        return super().score(rows, completions)


def toy(*questions: str) -> tuple[CountingEngine, list[Prompt], list[tuple[int, ...]]]:
    engine = CountingEngine()
    prompts: list[Prompt] = [ChatPrompt((("user", question),)) for question in questions]
    return engine, prompts, [text.tokens for text in engine.generate([Row(p) for p in prompts], Sampling(8))]


def test_equal_texts_are_scored_once_and_those_whose_scores_are_known_only_behind_other_prompts() -> None:
    engine, prompts, texts = toy("baba", "mora seti", "keke lili")
    guards = fit_text_guards(engine, prompts, texts, 8)
    engine.scored.clear()

    guards.check(engine, [texts, texts, [*texts[:2], (7, 8, 9)]])

    own, behind_others = engine.scored
    assert len(own) == len(set(own)) == 3 + 1
    assert len(behind_others) == len(set(behind_others)) == 3 + 1
    known = [engine.score([Row(prompt) for prompt in prompts], texts)]
    engine.scored.clear()
    (checked,) = guards.check(engine, [texts], known)
    assert [len(rows) for rows in engine.scored] == [3]
    assert checked.surprisals == pytest.approx(guards.check(engine, [texts])[0].surprisals)


def test_each_text_is_scored_behind_its_prompt_and_one_that_differs() -> None:
    engine, prompts, _ = toy("baba", "mora seti", "baba")
    texts = [(7, 8), (9, 10), (11, 12)]

    fit_text_guards(engine, prompts, texts, 8)

    asked = {text: {prompt for prompt, own in chain(*engine.scored) if own == text} for text in texts}
    assert all(behind == set(prompts) for behind in asked.values())


def test_between_prompts_that_are_all_alike_relevance_cannot_be_told() -> None:
    engine, prompts, texts = toy("mora seti", "mora seti")

    guards = fit_text_guards(engine, prompts, texts, 8)

    assert guards.relevance is None
    same, swapped = guards.check(engine, [texts, [(7, 8, 9), (9, 8, 7)]])
    assert same.relevance is None
    assert same.passes
    assert "irrelevant" not in swapped.failures


def test_a_text_of_one_token_is_no_loop_and_an_empty_one_is_broken(written: Written) -> None:
    texts = [written.unsteered[0][:1], (), *written.unsteered[2:]]

    (checked,) = written.guards.check(written.engine, [texts])

    assert checked.is_whole.tolist() == [True, False, *[True] * (COUNT - 2)]
    assert np.isnan(checked.distinct[:2]).all()
    assert np.isnan(checked.surprisals[1])


def test_one_word_answers_can_be_the_measure() -> None:
    engine, prompts, texts = toy("baba", "mora seti", "keke lili")
    words = [text[:1] for text in texts]

    guards = fit_text_guards(engine, prompts, words, 1)
    (checked,) = guards.check(engine, [words])

    assert np.isnan(guards.distinct)
    assert guards.variety is None
    assert checked.variety is None
    assert "alike" not in checked.failures


def test_a_model_that_writes_nothing_is_refused() -> None:
    engine, prompts, _ = toy("baba", "mora seti")

    with pytest.raises(PromptError, match="before the first token"):
        fit_text_guards(engine, prompts, [(), ()], 8)


def test_an_echo_of_the_prompt_is_broken_however_likely_it_is() -> None:
    engine, prompts, texts = toy("baba mora seti keke", "zuzu lili vozu nura")
    guards = replace(fit_text_guards(engine, prompts, texts, 8), surprisals=np.full(8, np.inf))
    echoes = [engine.tokenize(prompt).tokens for prompt in prompts]

    checked, swapped = guards.check(engine, [echoes, echoes[::-1]])

    assert checked.own.tolist() == [0, 0]
    assert not checked.is_whole.any()
    assert swapped.is_whole.all()


def test_a_loop_is_broken_however_likely_it_is() -> None:
    engine, prompts, texts = toy("baba mora seti keke", "zuzu lili vozu nura")
    guards = replace(fit_text_guards(engine, prompts, texts, 8), surprisals=np.full(8, np.inf))

    loops, others = guards.check(engine, [[(7, 8) * 4, (9,) * 8], [range(7, 15), range(17, 25)]])

    assert loops.distinct == pytest.approx([2 / 7, 1 / 7])
    assert not loops.is_whole.any()
    assert others.is_whole.all()


# Effects


def test_a_broken_text_has_no_effect_and_not_the_score_zero() -> None:
    unsteered, steered = np.array([0.8, 0.8]), np.array([-1.0, -1.0])

    effects = text_effects(steered, unsteered, np.array([False, True]))

    assert effects == pytest.approx([0, -1.8])


def test_a_text_without_a_score_has_no_effect_and_one_without_a_baseline_does_not_count() -> None:
    effects = text_effects(np.array([np.nan, 0.5, 0.5]), np.array([0.1, np.nan, 0.1]), np.array([True, True, True]))

    assert effects[0] == 0
    assert np.isnan(effects[1])
    assert mean_effect(effects) == pytest.approx(0.2)
    assert mean_effect(np.array([np.nan])) is None


def test_what_both_signs_do_alike_is_no_effect_of_the_direction() -> None:
    plus, minus = np.array([0.5, 0.5, 0.0]), np.array([0.5, -0.3, -0.4])

    assert two_signed_effects(plus, minus) == pytest.approx([0, 0.4, 0.2])


def test_of_single_texts_the_same_are_whole_as_of_their_set(written: Written) -> None:
    prompts, texts = written.prompts, [*written.unsteered[:6], *(shuffled(own) for own in written.unsteered[6:])]
    log_probs = written.engine.score([Row(prompt) for prompt in prompts], texts)
    (checked,) = written.guards.check(written.engine, [texts])

    some = written.guards.whole(written.engine, prompts[3:9], texts[3:9], log_probs[3:9])

    assert some.tolist() == checked.is_whole[3:9].tolist() == [True] * 3 + [False] * 3


def test_where_a_behaviours_answers_depend_less_on_prompts_less_is_asked_of_texts(written: Written) -> None:
    engine, prompts = written.engine, written.prompts
    half = [
        own if i % 2 else other
        for i, (own, other) in enumerate(zip(written.unsteered, turned(written.unsteered), strict=True))
    ]
    assert written.guards.relevance is not None

    guards = [
        fit_text_guards(engine, prompts, written.unsteered, TOKENS, of_answers=share * written.guards.relevance)
        for share in (2.0, 0.7, 0.1)
    ]

    asked_of = [own.relevance / written.guards.relevance for own in guards if own.relevance is not None]
    assert asked_of == pytest.approx([1, 0.7, 0.5])
    (checked,), (gently,) = (own.check(engine, [half]) for own in (written.guards, guards[2]))
    assert checked.relevance is not None
    assert gently.relevance == pytest.approx(2 * checked.relevance)
    (others,) = guards[2].check(engine, [turned(written.unsteered)])
    assert "irrelevant" in others.failures


def test_answers_relevance_is_that_of_the_kind_which_depends_less_on_its_prompts() -> None:
    engine = CountingEngine()
    prompts = [ChatPrompt((("user", f"{a} {b}"),)) for a in ("baba", "mora", "keke") for b in ("lili", "zuzu", "vozu")]
    pairs = [Item(prompt, "seti nura", f"nura {prompt.messages[0][1]}", str(i)) for i, prompt in enumerate(prompts)]

    found = relevance_of_answers(engine, pairs)

    (rows,) = engine.scored
    assert len(rows) == 4 * len(pairs)
    behind = {kind: [r for r in rows if (r[1] == rows[0][1]) is kind] for kind in (True, False)}
    means = []
    for own in behind.values():
        scores = [float(s.mean()) for s in FakeEngine().score([Row(p) for p, _ in own], ["".join(t) for _, t in own])]
        means.append(np.mean(scores[: len(pairs)]) - np.mean(scores[len(pairs) :]))
    assert found == pytest.approx(min(means), abs=1e-6)
    assert relevance_of_answers(engine, [replace(pair, prompt=None) for pair in pairs]) is None
    assert relevance_of_answers(engine, [replace(pair, prompt=prompts[0]) for pair in pairs]) is None
