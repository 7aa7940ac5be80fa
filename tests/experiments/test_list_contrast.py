"""Whether a contrast acts: shams are found as seldom as p says, lengths are not, and gradients are steering's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from helpers.places import STORIES
from helpers.small_models import PROMPTS, WORDS, make_model, make_tokenizer
from steer_tools import load_model
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.fake import FakeEngine
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import DirectionError, PromptError, UnsupportedFeatureError
from steer_tools.evaluation.behaviors.behavior import Item, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.experiments import list_contrast
from steer_tools.experiments.list_contrast import (
    ContrastTest,
    Effects,
    Labeling,
    Lists,
    contrast_acts,
    contrast_test,
    first_order,
    lists_of_items,
    lists_of_prompts,
)
from steer_tools.prompts import ContrastPrompts, TextPrompt
from steer_tools.session.session import Session

SIDE = 8
SIGNS = np.repeat([1.0, -1.0], SIDE)


def effects(random: np.random.Generator, shift: Any = 0.0, places: int = 4, texts: int = 2 * SIDE) -> list[Effects]:
    """Effects of texts whose gradients and activations are random, and shifted alike along one axis (texts,)."""
    made: list[Effects] = []
    for layer in range(places):
        gradients, activations = random.normal(size=(2, texts, 24))
        gradients[:, 0] += shift
        activations[:, 0] += shift
        made.append((layer, "mean", gradients @ activations.T))
    return made


def lengths(random: np.random.Generator, texts: int = 2 * SIDE) -> Any:
    return random.integers(10, 30, texts)


def share_found(tests: Sequence[ContrastTest]) -> float:
    return sum(test.p <= 0.05 for test in tests) / len(tests)


@pytest.mark.parametrize("groups", [None, [str(i % SIDE) for i in range(2 * SIDE)]], ids=["lists", "pairs"])
def test_lists_without_a_contrast_are_found_as_often_as_p_says(groups: list[str] | None) -> None:
    random = np.random.default_rng(0)
    topics = np.tile(random.normal(size=SIDE), 2)  # What pairs share is no contrast.

    tests = [
        contrast_test(effects(random, 2 * topics if groups else 0.0), Labeling(SIGNS, lengths(random), groups, seed=n))
        for n in range(400)
    ]

    # Within three standard errors.
    assert 0.02 <= share_found(tests) <= 0.083
    assert np.mean([test.p for test in tests]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("groups", [None, [str(i % SIDE) for i in range(2 * SIDE)]], ids=["lists", "pairs"])
def test_a_contrast_is_found_and_where_it_is(groups: list[str] | None) -> None:
    random = np.random.default_rng(1)

    tests = [
        contrast_test(
            [*effects(random), (7, "last", effects(random, 1.5 * SIGNS)[0][2])],
            Labeling(SIGNS, lengths(random), groups, seed=number),
        )
        for number in range(50)
    ]

    assert share_found(tests) >= 0.9
    assert sum((test.layer, test.pooling) == (7, "last") for test in tests) >= 45
    assert all(test.z > 2 and test.counts == (SIDE, SIDE) for test in tests if test.p <= 0.01)


def test_what_lengths_do_is_found_only_without_blocks() -> None:
    random = np.random.default_rng(2)
    with_blocks: list[ContrastTest] = []
    without: list[ContrastTest] = []
    for number in range(60):
        tokens = lengths(random, 32)
        # Most of the longer texts are on the first side.
        order = np.argsort(-tokens, kind="stable")
        signs = np.empty(32)
        signs[random.permutation(order[:16])] = [*[1.0] * 13, *[-1.0] * 3]
        signs[random.permutation(order[16:])] = [*[-1.0] * 13, *[1.0] * 3]
        made = effects(random, (tokens - tokens.mean()) / 2, texts=32)
        labeling = Labeling(signs, tokens, seed=number)
        with_blocks.append(contrast_test(made, labeling))
        without.append(contrast_test(made, replace(labeling, tokens=np.zeros(32, dtype=int))))

    assert share_found(without) >= 0.8
    assert share_found(with_blocks) <= 0.1
    assert all(test.longer > 0.6 for test in with_blocks)


def test_where_no_text_can_change_places_p_is_1() -> None:
    random = np.random.default_rng(3)
    made = effects(random, 3 * SIGNS)

    apart = contrast_test(made, Labeling(SIGNS, np.repeat([30, 10], SIDE)))
    alike = contrast_test(made, Labeling(SIGNS, np.repeat([10], 2 * SIDE)))

    assert (apart.p, apart.z, apart.mixed, apart.blocks, apart.longer) == (1.0, 0.0, 0, 2, 1.0)
    assert apart.least_p == 1
    assert "cannot be told" in apart.in_words()
    assert alike.p <= 0.01
    assert alike.least_p == 0.001
    assert f"p = {alike.p:.3f}" in alike.in_words()


@pytest.mark.parametrize("counts", [(8, 8), (12, 12), (7, 17), (17, 7)])
def test_where_one_side_has_all_the_longer_texts_no_labels_change(counts: tuple[int, int]) -> None:
    random, signs = np.random.default_rng(8), np.repeat([1.0, -1.0], counts)
    tokens = np.arange(sum(counts))

    labels = [Labeling(signs, own, seed=1).relabeled() for own in (tokens, tokens[::-1], random.permutation(tokens))]

    assert [bool((own == signs).all()) for own in labels] == [True, True, False]


def test_one_text_a_side_is_never_found() -> None:
    found = contrast_test(effects(np.random.default_rng(4), texts=2), Labeling(np.array([1.0, -1.0]), np.array([5, 5])))

    assert (found.p, found.different, found.least_p) == (1.0, 1, 1.0)


def test_p_depends_neither_on_which_list_is_positive_nor_on_what_all_texts_share() -> None:
    random = np.random.default_rng(5)
    # As many of both would hide what is shared.
    signs = np.repeat([1.0, -1.0], [5, 11])
    labeling = Labeling(signs, lengths(random))
    made = effects(random, 0.7 * signs)
    shared: list[Effects] = [
        (layer, pooling, own + 1e3 * random.normal(size=(1, 16)) + 7.0) for layer, pooling, own in made
    ]
    scaled: list[Effects] = [(layer, pooling, own * 10.0**layer) for layer, pooling, own in made]

    first, turned = contrast_test(made, labeling), contrast_test(made, replace(labeling, signs=-signs))

    assert 0.001 < first.p < 0.5
    assert (turned.p, turned.z, turned.layer) == (first.p, pytest.approx(first.z), first.layer)
    assert contrast_test(made, labeling) == first
    assert contrast_test(made, replace(labeling, seed=1)).p == pytest.approx(first.p, abs=0.05)
    for other in (shared, scaled):
        found = contrast_test(other, labeling)
        assert (found.p, found.z, found.layer) == (first.p, pytest.approx(first.z, rel=1e-6), first.layer)


def test_labels_change_places_within_blocks_of_like_length_only() -> None:
    random = np.random.default_rng(6)
    signs = random.permutation(np.repeat([1.0, -1.0], [8, 12]))
    labeling = Labeling(signs, lengths(random, 20))

    labels = labeling.relabeled()

    assert [len(own) for own in labeling.blocks] == [8, 4, 8]
    longest = [int(labeling.tokens[own].max()) for own in labeling.blocks]
    assert all(
        int(labeling.tokens[own].min()) >= before for own, before in zip(labeling.blocks[1:], longest, strict=False)
    )
    for own in labeling.blocks:
        assert set(labels[:, own].sum(axis=1)) == {signs[own].sum()}
    assert np.array_equal(labels[0], signs)
    assert all(0 < np.mean(labels[1:, text] > 0) < 1 for text in range(20))


def test_groups_change_sides_as_a_whole_and_make_no_vectors_for_their_own() -> None:
    groups = ["a", "a", "b", "c", "c", "c"] * 2
    signs = np.repeat([1.0, -1.0], 6)
    labeling = Labeling(signs, np.arange(12), groups)
    within = np.array([[own == other for other in groups] for own in groups])
    made = effects(np.random.default_rng(7), texts=12)

    flips = labeling.relabeled() * signs

    assert {tuple(own) for own in flips[:, [0, 2, 3]]} == set(product([1.0, -1.0], repeat=3))
    assert all(np.array_equal(flips[:, i], flips[:, groups.index(own)]) for i, own in enumerate(groups))
    assert np.array_equal(labeling.apart, ~within)
    # Flips of whole groups never change what is within them.
    assert contrast_test([(0, "last", within * 1.0)], labeling).p == 1.0
    assert contrast_test(made, labeling).different == 4


@pytest.mark.parametrize(
    ("signs", "tokens", "groups"),
    [
        ([1, 1, 1, -1, -1, -1], [5, 5, 5, 5, 5, 5], None),
        ([1, 1, -1, -1, -1], [5, 5, 5, 5, 5], None),
        ([1, 1, 1, -1, -1, -1], [1, 2, 9, 3, 8, 7], None),
        ([1, 1, 1, 1, -1, -1], [1, 2, 9, 3, 8, 7], None),
        ([1, 1, 1, -1, -1, -1], [5, 5, 5, 5, 5, 5], list("abcabc")),
    ],
)
def test_different_labellings_are_counted_right(signs: list[int], tokens: list[int], groups: list[str] | None) -> None:
    labeling = Labeling(np.array(signs, dtype=float), np.array(tokens), groups, block=4)

    seen = {max(tuple(own), tuple(-own)) for own in labeling.relabeled().tolist() for own in [np.array(own)]}

    assert labeling.different == len(seen)


def nudged(engine: Any, lists: Lists, site: Site, scope: str, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The slope of each text's mean log-probability along a direction, by gradients and by real steering."""
    direction = torch.randn(engine.width(site), generator=torch.Generator().manual_seed(1))
    placed = (Placement(Add(direction), site, 1.0, Scope.parse(scope)),)
    plans = [tuple(replace(own, strength=way * step) for own in placed) for way in (-2, -1, 1, 2)]
    rows = [Row(text.prompt, plan) for plan in plans for text in lists.texts]
    scores = engine.score(rows, [text.completion for _ in plans for text in lists.texts])
    a, b, c, d = torch.stack([score.double().mean() for score in scores]).reshape(4, -1)
    measured = first_order(engine, lists.texts, [site.layer])
    assert measured.tokens.tolist() == [len(score) for score in scores[: len(lists.texts)]]
    # Four points, so that the curvature takes no part.
    return measured.gradients[0].double() @ direction.double(), (8 * (c - b) - (d - a)) / (12 * step)


def test_gradients_are_those_of_steering_at_the_generated_positions() -> None:
    engine = HuggingFaceEngine(make_model("llama", dtype=torch.float64), make_tokenizer())
    items = [
        Item(TextPrompt(prompt), " ".join(WORDS[i : i + 3]), WORDS[40 + i], prompt) for i, prompt in enumerate(PROMPTS)
    ]
    chats = contrast_prompts(items, as_chat=True)

    for lists in (lists_of_prompts(chats), lists_of_items(items, as_chat=True), lists_of_items(items, as_chat=False)):
        expected, measured = nudged(engine, lists, Site(1), "generated", 1e-3)
        _, everywhere = nudged(engine, lists, Site(1), "all", 1e-3)

        assert torch.allclose(expected, measured, rtol=2e-3, atol=1e-3)
        assert measured.abs().max() > 0.05
        assert not torch.allclose(expected, everywhere, rtol=0.05)
    engine.detach()


@pytest.mark.shared
def test_gradients_are_those_of_steering_in_a_real_model(empty_session: Session) -> None:
    load_model(str(STORIES), dtype="float32")
    items = load_behavior("sentiment", as_chat=False).pairs[:6]
    whole = contrast_prompts(items, as_chat=False)

    for lists in (lists_of_prompts(whole), lists_of_items(items, False)):
        for layer in (1, 4):
            expected, measured = nudged(empty_session.engine, lists, Site(layer), "generated", 1e-3)

            assert torch.allclose(expected, measured, rtol=0.01, atol=2e-3 * float(expected.abs().max()))


def test_a_trait_is_found_in_the_bundled_model_and_halves_of_it_are_not(empty_session: Session) -> None:
    load_model("bundled")
    pairs = trait_behavior("sentiment").pairs
    lists = lists_of_items(pairs[:8], as_chat=True)
    halves = [replace(item, positive=item.negative, negative=item.positive) for item in pairs[:8:2]]
    apart = ContrastPrompts(contrast_prompts(pairs[:8], True).positive, contrast_prompts(pairs[8:16], True).negative)

    found = contrast_acts(empty_session.engine, lists, [0, 1, 2])
    sham = contrast_acts(empty_session.engine, lists_of_items([*halves, *pairs[1:8:2]], as_chat=True), [0, 1, 2])
    strangers = contrast_acts(empty_session.engine, lists_of_prompts(apart), [0, 1, 2])

    assert found.p <= 0.02
    assert found.are_pairs
    assert (found.different, found.blocks) == (64, 7)
    assert sham.p > 0.2
    assert strangers.p <= 0.02
    assert not strangers.are_pairs


def test_texts_are_measured_in_parts_where_memory_is_short(
    empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model("bundled")
    texts = lists_of_items(trait_behavior("formality").pairs[:4], as_chat=True).texts
    whole = first_order(empty_session.engine, texts, [1])
    monkeypatch.setattr(list_contrast, "_MOST_HELD", 1)

    parts = first_order(empty_session.engine, texts, [1])

    assert torch.allclose(parts.gradients, whole.gradients, atol=1e-8)
    assert whole.gradients.abs().max() > 1e-4
    assert parts.tokens.tolist() == whole.tokens.tolist()


def test_items_without_prompts_are_two_lists_in_which_repeated_texts_count_once() -> None:
    items = [Item(None, text, "zuzu", f"group {text}") for text in WORDS[:3]]
    whole = lists_of_prompts(ContrastPrompts.parse([*WORDS[:3], WORDS[0]], ["zuzu", "zuzu"]))

    lists, grouped = lists_of_items(items, True), lists_of_items([replace(own, group="one") for own in items], True)

    assert lists == whole
    assert [text.completion for text in lists.texts] == [*WORDS[:3], "zuzu"]
    assert (lists.signs.tolist(), lists.groups) == ([1, 1, 1, -1], None)
    assert (len(grouped.texts), grouped.groups) == (6, ("one",) * 6)
    assert lists_of_items([replace(items[0], prompt=TextPrompt("keke"))], False).groups == ("group baba",) * 2


def test_what_cannot_be_measured_is_refused() -> None:
    lists = lists_of_items([Item(TextPrompt("baba"), "keke", "nura", "baba")], as_chat=False)
    model = make_model("llama")
    engine = HuggingFaceEngine(model, make_tokenizer())

    with pytest.raises(PromptError, match="no text that can be scored"):
        lists_of_prompts(ContrastPrompts.parse([[5, 6]], ["keke"]))
    with pytest.raises(PromptError, match="no text that can be scored"):
        lists_of_prompts(ContrastPrompts.parse([[{"role": "user", "content": "baba"}]], ["keke"]))
    with pytest.raises(UnsupportedFeatureError, match="gradients"):
        contrast_acts(FakeEngine(), lists, [1])
    model.lm_head.weight.data.fill_(torch.inf)
    with pytest.raises(DirectionError, match="not finite"):
        contrast_acts(engine, lists, [1])
    engine.detach()
