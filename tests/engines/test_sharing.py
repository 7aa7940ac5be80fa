"""Rows that begin alike share what they begin with: the same as alone, in fewer tokens and blocks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, Row, Sampling
from steer_tools.engines.huggingface import branch_passes, branches, prompt_caches, sharing_trial
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import Prompt, TokenPrompt, parse_prompt

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


@pytest.fixture
def shares(engine: HuggingFaceEngine) -> HuggingFaceEngine:
    """The engine, made to share however little that saves."""
    engine._branches._passes.pass_cost = 0
    engine.score([Row(PROMPT)] * 3, [(9,), (8,), (7,)])  # It tries first what its model allows.
    allowed = engine._branches._passes.sharing
    assert allowed is not None and allowed.pads and allowed.resumes and allowed.generates
    return engine


def same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def alone(engine: HuggingFaceEngine, rows: Sequence[Row], completions: Sequence[Completion]) -> list[torch.Tensor]:
    return [engine.score([row], [completion])[0] for row, completion in zip(rows, completions, strict=True)]


def test_rows_that_share_a_prompt_score_as_they_do_alone(shares: HuggingFaceEngine) -> None:
    rows, completions = mixed_rows()

    together = shares.score(rows, completions)

    same(together, alone(shares, rows, completions))
    assert all(float((together[i] - together[i + 4]).abs().max()) > 1e-3 for i in range(0, len(rows) - 4, 4))


def test_every_kind_of_site_resumes_where_it_is_first_edited(shares: HuggingFaceEngine) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    sites = [Site(0, "embedding"), Site(0, "mlp"), Site(1, "mlp"), Site(2, "attention"), Site(0), Site(3)]
    both = [*plan("generated", layer=2), *plan("all", layer=1)]
    plans: list[Plan] = [(Placement(Add(direction), site, 1.0, Scope.parse("all")),) for site in sites] + [tuple(both)]
    rows = [Row(PROMPT, own) for own in plans for _ in range(2)]
    completions: list[Completion] = [(9, 14, 6), (25, 7)] * len(plans)

    together = shares.score(rows, completions)

    same(together, alone(shares, rows, completions))
    (unsteered,) = shares.score([Row(PROMPT)], [(9, 14, 6)])
    assert all(float((own - unsteered).abs().max()) > 1e-3 for own in together[::2])


def passes_of(engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """Return a list to which each later pass adds its (rows, tokens), and how many blocks it ran."""
    seen: list[tuple[tuple[int, ...], int]] = []
    forward, ran = branch_passes.forward, [0]

    def counted(architecture: Any, ids: Any, real: Any, **options: Any) -> Any:
        ran[0] = 0
        try:
            return forward(architecture, ids, real, **options)
        finally:
            seen.append((tuple(ids.shape), ran[0]))

    def count(module: object, args: object, kwargs: object) -> None:
        ran[0] += 1

    # What is inside a block runs only where the block does.
    for block in engine.architecture.blocks:
        next(block.children()).register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr(branch_passes, "forward", counted)
    return seen


def test_a_shared_prompt_is_run_once_and_blocks_below_an_edit_once_a_text(
    shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes_of(shares, monkeypatch)
    head, blocks = len(shares.tokenize(PROMPT).tokens) - 1, shares.info.layers

    shares.score([Row(PROMPT, plan("generated", s)) for s in (0.5, 1.0, 2.0)], [(9, 14)] * 3)
    spared, seen[:] = list(seen), []
    edited = plan("all", 0.5)
    shares.score([Row(PROMPT, own) for own in (edited, edited, plan("all", 2.0))], [(9, 14), (8, 14), (9, 14)])

    # The prompt; its last token and the completion's first up to the edit behind block 1; then the rows from there on.
    assert spared == [((1, head), blocks), ((1, 2), 2), ((3, 2), blocks - 2)]
    # Two of these rows edit the prompt alike.
    assert seen == [((1, head), blocks), ((2, head), blocks - 2), ((2, 2), 2), ((3, 2), blocks - 2)]


def test_prompts_that_begin_alike_run_their_beginning_once(
    shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = (9, 14, 6, 7, 30, 12)
    prompts: list[Prompt] = [TokenPrompt((*beginning, *end)) for end in ((8, 5, 4), (7, 4), (31, 8, 5))]
    rows = [Row(prompt) for prompt in prompts for _ in range(3)]
    completions: list[Completion] = [(9,), (25,), (31,)] * 3
    seen = passes_of(shares, monkeypatch)

    together = shares.score(rows, completions)

    assert [shape for shape, _ in seen] == [(1, 6), (3, 2), (3, 1), (9, 1)]
    same(together, alone(shares, rows, completions))


def test_what_is_kept_serves_later_calls_and_is_gone_behind_the_block(
    shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(layer: int) -> list[torch.Tensor]:
        rows = [Row(PROMPT), *(Row(PROMPT, plan("generated", s, layer)) for s in (0.5, 2.0))]
        return shares.score(rows, [(9, 14)] * 3)

    expected = [ask(layer) for layer in (0, 1, 2)]
    seen = passes_of(shares, monkeypatch)
    with shares.keeping():
        found = [ask(layer) for layer in (0, 1, 2)]
        kept = len(seen)
        assert len(shares._branches._passes._kept.traces) == 2

    # The prompt and the text once; then a pass a layer, and one of no block for the unsteered row.
    assert kept == 2 + 2 * 3
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    assert not shares._branches._passes._kept.traces
    ask(0)
    assert len(seen) == kept + 4


def test_no_more_is_kept_than_the_budget(shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(prompt) for prompt in (PROMPT, OTHER) for _ in range(3)]
    completions: list[Completion] = [(9, 14), (25, 7), (31, 8)] * 2
    expected = shares.score(rows, completions)
    monkeypatch.setattr(shares._memory, "keeping_bytes", lambda: 1)

    with shares.keeping():
        same(shares.score(rows, completions), expected)
        assert len(shares._branches._passes._kept.traces) == 1


def test_few_rows_or_short_prompts_are_not_worth_a_pass_of_their_own(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes_of(engine, monkeypatch)

    engine.score([Row(OTHER), Row(OTHER)], [(9, 14), (25,)])
    few = len(seen)
    engine.score([Row(PROMPT, plan("generated", s)) for s in range(1, 60)], [(9, 14)] * 59)

    assert few == 0 and len(seen) > 0


def test_a_model_whose_cache_cannot_be_divided_scores_without_sharing(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, completions = mixed_rows()
    engine._branches._passes.pass_cost = 0
    monkeypatch.setattr(sharing_trial, "is_divisible", lambda cache, layers: False)

    unshared = engine.score(rows, completions)

    assert engine._branches._passes.sharing is None
    same(unshared, alone(engine, rows, completions))


@pytest.mark.parametrize("fault", ["cache", "resumption", "padding"])
def test_a_model_that_shares_wrongly_is_told_by_its_trial(
    fault: str, engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a model makes of a cache, a pass behind a block, or padding: where logits differ, it is not done."""
    rows, completions = mixed_rows()
    engine._branches._passes.pass_cost = 0
    rows_of = prompt_caches._rows_of
    if fault == "cache":
        patched = lambda parts, of_row: rows_of([part.flip(0) for part in parts], of_row)  # noqa: E731
        monkeypatch.setattr(prompt_caches, "_rows_of", patched)
    elif fault == "padding":
        patched = lambda parts, of_row: rows_of(parts, of_row) + (len({len(p[0]) for p in parts}) > 1)  # noqa: E731
        monkeypatch.setattr(prompt_caches, "_rows_of", patched)
    else:
        monkeypatch.setattr(branch_passes, "_put", lambda found, layer, hidden: found.update({layer: hidden * 1.5}))

    found = engine.score(rows, completions)

    allowed = engine._branches._passes.sharing
    if fault == "cache":
        assert allowed is None
    elif fault == "padding":
        assert allowed is not None and not allowed.pads
    else:
        assert allowed is not None and allowed.pads and not allowed.resumes
    same(found, alone(engine, rows, completions))


def test_generation_runs_a_prompt_that_rows_share_once(
    shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(p, own) for own in ((), plan("generated"), plan("last_prompt")) for p in (PROMPT, OTHER)]
    expected = [shares.generate([row], Sampling(8))[0] for row in rows]
    seen = passes_of(shares, monkeypatch)

    found = shares.generate(rows, Sampling(8))

    # The first token of both, then what is left of each up to the last.
    assert [shape[0] for shape, _ in seen] == [1, 2]
    assert [own.tokens for own in found] == [own.tokens for own in expected]
    same([own.log_probs for own in found], [own.log_probs for own in expected])
    assert len({own.tokens for own in found[::2]}) > 1


def test_generation_runs_what_edits_a_prompt_from_its_first_edit_on(
    shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(p, own) for own in ((), plan("generated"), plan("all"), plan("0:3", 2.0)) for p in (PROMPT, OTHER)]
    expected = [shares.generate([row], Sampling(8))[0] for row in rows]
    heads, blocks = [len(shares.tokenize(p).tokens) - 1 for p in (PROMPT, OTHER)], shares.info.layers
    seen = passes_of(shares, monkeypatch)

    found = shares.generate(rows, Sampling(8))

    # Each prompt once unsteered, and with each of the two edits behind block 1.
    assert seen == [((2, max(heads)), blocks), ((4, max(heads)), blocks - 2)]
    assert [own.tokens for own in found] == [own.tokens for own in expected]
    same([own.log_probs for own in found], [own.log_probs for own in expected])
    assert len({tuple(own.log_probs.tolist()) for own in found[::2]}) == 4


@pytest.mark.parametrize("shared", [False, True])
def test_generation_of_many_rows_copies_no_cache(
    shared: bool, shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(PROMPT, plan("generated" if shared else "all", s)) for s in (0.5, 1.0, 2.0)] + [Row(OTHER)]
    expected = shares.generate(rows, Sampling(6))
    monkeypatch.setattr(branches, "_COPIED_BYTES", 0)
    rooms: list[torch.Tensor] = []
    update = prompt_caches._Reserved.update

    def noted(layer: Any, *given: Any, **options: Any) -> Any:
        found = update(layer, *given, **options)
        rooms.append(layer._room[0])
        return found

    monkeypatch.setattr(prompt_caches._Reserved, "update", noted)

    found = shares.generate(rows, Sampling(6))

    assert [own.tokens for own in found] == [own.tokens for own in expected]
    same([own.log_probs for own in found], [own.log_probs for own in expected])
    assert len({id(room) for room in rooms}) == shares.info.layers


@pytest.mark.parametrize("pooling", ["last", "mean", "response", -2])
def test_prompts_that_begin_alike_are_read_as_they_are_alone(
    pooling: Any, shares: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(5, 60, (4, 24), generator=torch.Generator().manual_seed(0)).tolist()
    ends = [(7, 8), (9,), (10, 11, 12), (13, 14)]
    prompts: list[Prompt] = [TokenPrompt((*begin, *end)) for begin in ids for end in ends]
    if pooling == "response":
        chat = [{"role": "user", "content": "ratisemo lili keke baba zuzu mora seti vozu lili keke baba"}]
        answers = ("baba", "zuzu mora", "lili", "keke keke")
        prompts = [parse_prompt([*chat, {"role": "assistant", "content": own}]) for own in answers]
    sites = [Site(1), Site(2, "mlp")]
    expected = [shares.read([prompt], sites, pooling) for prompt in prompts]
    tokens = sum(len(shares.tokenize(prompt).tokens) for prompt in prompts)
    seen = passes_of(shares, monkeypatch)

    found = shares.read(prompts, sites, pooling)

    for site in sites:
        torch.testing.assert_close(found[site], torch.cat([own[site] for own in expected]), atol=2e-5, rtol=1e-5)
    run = sum(shape[0] * shape[1] for shape, _ in seen)
    # A mean has to see every token behind what is shared.
    assert run == 0 if pooling == "mean" else 0 < run < tokens / 2


def test_detaching_gives_blocks_their_own_forward_back(shares: HuggingFaceEngine) -> None:
    blocks = shares.architecture.blocks
    assert all("forward" in vars(block) for block in blocks)
    copied = copy.deepcopy(shares.module)

    shares.detach()

    assert not any("forward" in vars(block) for block in blocks)
    ids = torch.tensor([[9, 14, 6]])
    with torch.no_grad():
        assert torch.equal(copied(ids).logits, shares.module(ids).logits)


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


def test_what_an_interrupt_left_kept_is_forgotten(shares: HuggingFaceEngine) -> None:
    rows, completions = mixed_rows()
    expected = shares.score(rows, completions)
    kept = shares._branches._passes._kept

    held = shares.keeping()  # Its end is never reached, not by the collector either.

    def interrupted() -> None:
        held.__enter__()
        shares.score(rows, completions)

    interrupted()
    assert kept.traces
    with torch.no_grad():
        for parameter in shares.module.parameters():
            parameter.mul_(1.1)
    found = shares.score(rows, completions)

    assert not kept.traces
    same(found, alone(shares, rows, completions))
    assert float((found[0] - expected[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("in_another_thread", [False, True])
def test_a_late_end_of_what_an_interrupt_left_ends_nothing_else(
    in_another_thread: bool, shares: HuggingFaceEngine
) -> None:
    """The garbage collector may end it while something else is under way, in any thread."""
    kept, late = shares._branches._passes._kept, shares.keeping()
    seen: list[bool] = []

    def interrupted() -> None:
        late.__enter__()

    def ask(*, ends_late: bool) -> None:
        with shares.keeping():
            shares.score([Row(PROMPT)] * 3, [(9,), (8,), (7,)])
            if ends_late:
                late.__exit__(None, None, None)
            seen.append(bool(kept.traces))
        seen.append(bool(kept.traces))

    def work() -> None:
        ask(ends_late=True)
        ask(ends_late=False)

    interrupted()
    if in_another_thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()

    assert seen == [True, False, True, False]
