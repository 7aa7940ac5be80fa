"""How much of a behaviour a text shows: the scale, what counts of a text, and what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.small_models import CHAT_TEMPLATE, WORDS, make_model, make_tokenizer
from steer_tools import load_model
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row, Sampling
from steer_tools.engines.fake import FakeEngine
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import DirectionError, PromptError
from steer_tools.evaluation.behaviors.behavior import Item, contrast_prompts
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.text_detector import FEWEST_GROUPS, TextDetector, fit_text_detector
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from steer_tools.session.session import Session

QUESTION = ChatPrompt((("user", "keke lili"),))


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


def pairs_of(prompt: str | None = "mora {}", groups: int = 12) -> list[Item]:
    """Pairs of the tiny tokenizer's words: answers with "baba" and with "zuzu"."""
    return [
        Item(
            None if prompt is None else TextPrompt(prompt.format(word)),
            f"{word} baba {WORDS[-i - 5]}",
            f"{word} zuzu {WORDS[-i - 5]}",
            word,
        )
        for i, word in enumerate(WORDS[5 : 5 + groups])
    ]


def fresh_answers(trait: str, count: int) -> tuple[list[Prompt], list[str], list[str]]:
    """Questions that the detectors here were not made of, with answers that show a trait and its opposite."""
    made = {pair.prompt for pair in trait_behavior(trait).pairs}
    fresh = [pair for pair in trait_behavior(trait, pairs=2 * count, seed=5).pairs if pair.prompt not in made][:count]
    prompts = [pair.prompt for pair in fresh if pair.prompt is not None]
    return prompts, [pair.positive for pair in fresh], [pair.negative for pair in fresh]


def opposite(pairs: Sequence[Item]) -> list[Item]:
    return [replace(pair, positive=pair.negative, negative=pair.positive) for pair in pairs]


def is_fitted_on(held_out: Sequence[int], detector: TextDetector, positive: Tensor, negative: Tensor) -> bool:
    """Whether the direction is that of the other pairs, and these pairs' class means are at +1 and −1."""
    is_held_out = torch.isin(torch.arange(len(positive)), torch.tensor(held_out))
    direction = (positive - negative)[~is_held_out].mean(dim=0)
    scores = [
        float((((side[is_held_out] @ direction) - detector.middle) / detector.half_distance).mean())
        for side in (positive, negative)
    ]
    return torch.allclose(direction, detector.direction, atol=1e-5) and np.allclose(scores, [1, -1], atol=1e-4)


@pytest.fixture
def llama() -> Iterator[HuggingFaceEngine]:
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())
    yield engine
    engine.detach()


def halves_of(engine: Engine, detector: TextDetector, pairs: Sequence[Item], groups: int) -> int:
    """Count the halves of the groups, each of as many pairs, that a detector may have held out."""
    contrast, site, size = contrast_prompts(pairs, as_chat=True), Site(detector.layer), len(pairs) // groups
    pooling = "response" if detector.reads_prompts else "mean"
    sides = [engine.read(side, [site], pooling)[site] for side in (contrast.positive, contrast.negative)]
    halves = combinations(range(groups), groups // 2)
    return sum(
        is_fitted_on([i for group in half for i in range(size * group, size * group + size)], detector, *sides)
        for half in halves
    )


@pytest.mark.parametrize("prompt", ["mora {}", None])
def test_the_direction_is_of_one_half_of_the_pairs_and_the_other_halfs_means_are_one(
    llama: HuggingFaceEngine, prompt: str | None
) -> None:
    pairs = pairs_of(prompt, groups=8)

    detector = fit_text_detector(llama, pairs)

    assert halves_of(llama, detector, pairs, groups=8) == 1


def test_pairs_of_one_group_are_in_one_half(llama: HuggingFaceEngine) -> None:
    pairs = [replace(pair, group=str(i // 2)) for i, pair in enumerate(pairs_of(groups=16))]

    detector = fit_text_detector(llama, pairs)

    assert halves_of(llama, detector, pairs, groups=8) == 1


def test_the_seed_settles_the_halves(llama: HuggingFaceEngine) -> None:
    engine, pairs = llama, pairs_of()

    one, again, other = (fit_text_detector(engine, pairs, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(one.direction, again.direction)
    assert not torch.equal(one.direction, other.direction)


@pytest.mark.parametrize("trait", ["formality", "refusal", "honesty"])
def test_answers_that_made_no_detector_are_told_apart_by_their_sign(bundled: Session, trait: str) -> None:
    engine = bundled.engine
    detector = fit_text_detector(engine, trait_behavior(trait).pairs)
    prompts, *answers = fresh_answers(trait, 24)

    positive, negative = (detector.scores(engine, prompts, side) for side in answers)

    assert detector.is_reliable
    assert (positive > 0).mean() > 0.95
    assert (negative < 0).mean() > 0.95
    assert positive.max() == 1
    assert negative.min() == -1


def test_swapped_classes_swap_the_sign() -> None:
    engine, pairs = FakeEngine(), pairs_of()
    texts = [pair.positive for pair in pairs]

    scores, swapped = (
        fit_text_detector(engine, own).scores(engine, [QUESTION] * len(texts), texts)
        for own in (pairs, opposite(pairs))
    )

    assert swapped == pytest.approx(-scores, abs=1e-5)
    assert np.abs(scores).max() > 0.5


def test_another_prompt_changes_a_score_less_than_the_answer_does(bundled: Session) -> None:
    engine, trait = bundled.engine, "formality"
    detector = fit_text_detector(engine, trait_behavior(trait).pairs)
    prompts, positive, negative = fresh_answers(trait, 16)

    behind_theirs = detector.scores(engine, prompts, positive)
    behind_others = detector.scores(engine, [*prompts[5:], *prompts[:5]], positive)
    opposite_ones = detector.scores(engine, prompts, negative)

    assert np.abs(behind_theirs - behind_others).mean() < np.abs(behind_theirs - opposite_ones).mean() / 8


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_of_a_text_only_what_was_written_behind_the_prompt_is_read(family: str) -> None:
    engine = HuggingFaceEngine(make_model(family), make_tokenizer(chat=False))
    detector = fit_text_detector(engine, pairs_of())

    (score,) = detector.scores(engine, [TextPrompt("mora seti keke")], [" vozu nura tili"])

    site = Site(detector.layer)
    (trace,) = engine.trace([TextPrompt("mora seti keke vozu nura tili")], [site])
    projection = float(trace[site][-3:].mean(dim=0) @ detector.direction)
    expected = (projection - detector.middle) / detector.half_distance
    assert score == pytest.approx(np.clip(expected, -1, 1), abs=1e-4)
    assert abs(score) < 1
    engine.detach()


def test_where_pairs_have_no_prompts_texts_are_read_without_theirs(bundled: Session) -> None:
    engine = FakeEngine()
    detector = fit_text_detector(engine, pairs_of(prompt=None))

    first, second = detector.scores(engine, [QUESTION, ChatPrompt((("user", "baba baba"),))], ["keke baba lili"] * 2)

    assert first == second
    assert not detector.reads_prompts
    behind = fit_text_detector(engine, pairs_of()).scores(
        engine, [QUESTION, ChatPrompt((("user", "baba baba"),))], ["keke baba lili"] * 2
    )
    assert behind[0] != behind[1]


def test_a_blank_text_has_no_score_and_changes_no_others() -> None:
    engine = FakeEngine()
    detector = fit_text_detector(engine, pairs_of())

    scores = detector.scores(engine, [QUESTION] * 4, ["", "keke baba", " \n", "keke zuzu"])

    assert np.isnan(scores[[0, 2]]).all()
    assert scores[[1, 3]] == pytest.approx(detector.scores(engine, [QUESTION] * 2, ["keke baba", "keke zuzu"]))
    assert scores[1] > scores[3]
    assert np.isnan(detector.scores(engine, [QUESTION], [""])).all()


def test_a_text_is_read_as_it_was_written_whatever_the_template_makes_of_answers(llama: HuggingFaceEngine) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("m.content", "m.content.split('zuzu')[-1]")
    cutting = HuggingFaceEngine(make_model("llama"), tokenizer)
    detector, said = fit_text_detector(llama, pairs_of()), ["keke zuzu baba", "keke baba"]

    cut, whole = (detector.scores(engine, [QUESTION] * 2, said) for engine in (cutting, llama))

    assert cut == pytest.approx(whole, abs=1e-4)
    assert abs(whole[0] - whole[1]) > 0.01
    cutting.detach()


def test_what_was_written_has_the_score_of_its_text_and_its_own_log_probabilities(bundled: Session) -> None:
    engine, trait = bundled.engine, "formality"
    detector = fit_text_detector(engine, trait_behavior(trait).pairs)
    prompts, *_ = fresh_answers(trait, 6)
    written = engine.generate([Row(prompt) for prompt in prompts], Sampling(128))
    blank = replace(written[0], tokens=(), text="")

    scores, log_probs = detector.read(engine, [*prompts, prompts[0]], [*written, blank])

    assert scores[:-1] == pytest.approx(detector.scores(engine, prompts, [own.text for own in written]), abs=1e-3)
    assert np.isnan(scores[-1])
    assert len(log_probs[-1]) == 0
    for own, text in zip(log_probs, written, strict=False):
        assert torch.allclose(own, text.log_probs, atol=1e-3)


def test_the_clearest_of_the_layers_is_taken() -> None:
    engine, pairs = FakeEngine(), pairs_of()

    free, told = fit_text_detector(engine, pairs), fit_text_detector(engine, pairs, layers=[0, 3])

    assert set(free.d_primes) <= {1, 2}
    assert set(told.d_primes) == {0, 3}
    for detector in (free, told):
        assert detector.d_prime == max(detector.d_primes.values()) == detector.d_primes[detector.layer]


def test_pairs_that_differ_in_nothing_common_make_no_reliable_detector(bundled: Session) -> None:
    engine, pairs = bundled.engine, trait_behavior("formality").pairs
    mixed = [pair if i % 2 else opposite([pair])[0] for i, pair in enumerate(pairs)]

    assert fit_text_detector(engine, pairs).is_reliable
    assert not fit_text_detector(engine, mixed).is_reliable


def test_too_few_independent_pairs_are_refused() -> None:
    engine, few = FakeEngine(), pairs_of(groups=FEWEST_GROUPS - 1)

    with pytest.raises(PromptError, match="7 independent pairs"):
        fit_text_detector(engine, [*few, *few])
    fit_text_detector(engine, pairs_of(groups=FEWEST_GROUPS))


def test_answers_that_are_read_alike_are_refused() -> None:
    alike = [replace(pair, negative=pair.positive) for pair in pairs_of()]

    with pytest.raises(DirectionError, match="alike"):
        fit_text_detector(FakeEngine(), alike)


def test_texts_are_read_behind_token_ids_as_behind_the_prompt_that_they_are() -> None:
    engine = FakeEngine()
    detector, said = fit_text_detector(engine, pairs_of()), ["keke baba", "keke zuzu"]

    behind_ids = detector.scores(engine, [TokenPrompt(engine.tokenize(QUESTION).tokens)] * 2, said)

    assert behind_ids == pytest.approx(detector.scores(engine, [QUESTION] * 2, said))
    assert behind_ids[0] != behind_ids[1]
