"""Rows of one prompt share its cache: the same scores as alone, in fewer tokens, and exact divergences."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, Row
from steer_tools.engines.huggingface import prefix_cache as sharing
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import Prompt, parse_prompt

PROMPT = parse_prompt("ratisemo lili keke baba zuzu mora seti vozu")
OTHER = parse_prompt("nura tili kemo")


def plan(positions: str, strength: float = 1.0, layer: int = 1) -> Plan:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(layer))
    return (Placement(Add(direction), Site(layer), strength, Scope.parse(positions)),)


def mixed_rows() -> tuple[list[Row], list[Completion]]:
    plans: list[Plan] = [(), plan("generated"), plan("all"), plan("first"), plan("last_prompt"), plan("0:3")]
    prompts: list[Prompt] = [PROMPT, OTHER]
    rows = [Row(prompt, own) for own in plans for prompt in prompts for _ in range(2)]
    completions: list[Completion] = [(9, 14, 6, 7), (25,)] * (len(rows) // 2)
    return rows, completions


def test_rows_that_share_a_prompt_score_as_they_do_alone(engine: HuggingFaceEngine) -> None:
    rows, completions = mixed_rows()

    together = engine.score(rows, completions)

    for row, completion, shared in zip(rows, completions, together, strict=True):
        (alone,) = engine.score([row], [completion])
        torch.testing.assert_close(shared, alone, atol=2e-5, rtol=1e-5)
    assert all(float((together[i] - together[i + 4]).abs().max()) > 1e-3 for i in range(0, len(rows) - 4, 4))


def passes_of(engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list to which each later pass adds its (rows, tokens)."""
    engine.score([Row(PROMPT), Row(PROMPT)], [(9,), (8,)])  # The engine first tries whether a cache can be repeated.
    seen: list[tuple[int, ...]] = []
    forward = sharing.forward

    def counted(architecture: Any, ids: Any, real: Any, **options: Any) -> Any:
        seen.append(tuple(ids.shape))
        return forward(architecture, ids, real, **options)

    monkeypatch.setattr(sharing, "forward", counted)
    return seen


def test_a_shared_prompt_is_run_once_for_all_rows_that_leave_it_alone(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes_of(engine, monkeypatch)
    length = len(engine.tokenize(PROMPT).tokens)

    engine.score([Row(PROMPT, plan("generated", s)) for s in (0.5, 1.0, 2.0)], [(9, 14)] * 3)
    spared, seen[:] = list(seen), []
    edited = plan("all", 0.5)
    engine.score([Row(PROMPT, own) for own in (edited, edited, plan("all", 2.0))], [(9, 14)] * 3)

    assert spared == [(1, length - 1), (3, 2)]
    # Two of these rows edit the prompt alike; the third goes by itself, without a cache.
    assert seen == [(1, length - 1), (2, 2)]


def test_rows_whose_plans_are_copies_of_one_share_its_prompt(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes_of(engine, monkeypatch)
    length = len(engine.tokenize(PROMPT).tokens)

    engine.score([Row(PROMPT, pickle.loads(pickle.dumps(plan("all")))) for _ in range(3)], [(9, 14)] * 3)

    assert seen == [(1, length - 1), (3, 2)]


def test_completions_of_one_plan_share_their_common_beginning(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = (9, 14, 6, 7, 30)
    plans: list[Plan] = [(), plan("generated", 0.5), plan("generated", 2.0), plan("generated", layer=0)]
    rows = [Row(PROMPT, own) for own in (*plans, *plans)]
    completions: list[Completion] = [(*beginning, 25)] * 4 + [(*beginning, 31, 8)] * 4
    with monkeypatch.context() as patch:
        seen = passes_of(engine, patch)
        together = engine.score(rows, completions)

    # The prompt once; its last token and four more of the beginning once a plan; then the ends of all.
    assert seen == [(1, len(engine.tokenize(PROMPT).tokens) - 1), (4, 5), (8, 2)]
    for row, completion, shared in zip(rows, completions, together, strict=True):
        (alone,) = engine.score([row], [completion])
        torch.testing.assert_close(shared, alone, atol=2e-5, rtol=1e-5)
    assert float((together[0][-1] - together[2][-1]).abs()) > 1e-3
    monkeypatch.setattr(sharing, "_TOKENS_ON_CPU", 6)  # Several batches take from each cache.
    for one, other in zip(together, engine.score(rows, completions), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_a_model_whose_cache_cannot_be_repeated_scores_without_sharing(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, completions = mixed_rows()
    shared = engine.score(rows, completions)
    monkeypatch.setattr(sharing, "_REPEATABLE", ())
    engine._scorer._shared._shares = None

    unshared = engine.score(rows, completions)

    assert engine._scorer._shared._shares is False
    for one, other in zip(shared, unshared, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_divergence_is_that_of_the_whole_distributions(engine: HuggingFaceEngine) -> None:
    steered, completion = plan("generated"), (9, 14, 6)

    (found,) = engine.divergences([Row(PROMPT, steered)], [completion])

    unsteered_logits, steered_logits = (
        engine.replay([Row(PROMPT, own)], [completion], use_cache=False, batched=True)[0] for own in ((), steered)
    )
    p, q = unsteered_logits.float().log_softmax(-1), steered_logits.float().log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert float(found.min()) > 1e-4


def test_an_unsteered_row_diverges_by_nothing_and_each_row_is_measured_on_its_own_text(
    engine: HuggingFaceEngine,
) -> None:
    rows = [Row(PROMPT), Row(OTHER, plan("generated")), Row(PROMPT, plan("generated")), Row(PROMPT, plan("all"))]
    completions: list[Completion] = [(9, 14), (9, 14), (25, 7, 8), (9, 14)]

    found = engine.divergences(rows, completions)

    assert [len(one) for one in found] == [2, 2, 3, 2]
    assert found[0].tolist() == [0.0, 0.0]
    for row, completion, together in list(zip(rows, completions, found, strict=True))[1:]:
        (alone,) = engine.divergences([row], [completion])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        assert float(together.max()) > 1e-4


def test_divergence_is_from_the_unsteered_row_also_where_others_share_an_edited_prompt(
    engine: HuggingFaceEngine,
) -> None:
    edited, completion = plan("all"), (9, 14)

    (alone,) = engine.divergences([Row(PROMPT, edited)], [completion])
    together = engine.divergences([Row(PROMPT, edited)] * 3, [completion] * 3)

    assert float(alone.min()) > 1e-4
    for one in together:
        torch.testing.assert_close(one, alone, atol=1e-5, rtol=1e-4)
