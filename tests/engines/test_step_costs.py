"""What steering adds to a decode step, counted: operations of torch, masks, and numbers in what is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.oracle import SCOPES
from helpers.small_models import CHAT_TEMPLATE, LAYERS, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import BatchGeometry, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface import decoding
from steer_tools.engines.huggingface.decoding import ChoosingProcessor
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import parse_prompts

FEW, MORE = 3, 8
EVERY_SCOPE = {name: taken(9, 4, 0) for name, taken in SCOPES.items()} | {"after_user": True}
# What waits for a device to be done with all that it was given.
WAITING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default"}
CHATS = [[{"role": "user", "content": text}] for text in PROMPTS]


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, and how large the largest thing is that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.counts[str(func)] += 1
        if isinstance(made, Tensor) and not made._is_view():
            self.largest = max(self.largest, made.numel())
        return made


def operations_of(call: Callable[[], object]) -> Counter[str]:
    with Operations() as operations:
        call()
    return operations.counts


def added(plain: Callable[[int], object], steered: Callable[[int], object]) -> Counter[str]:
    """Return what five decode steps do more under `steered`: the difference of a long and a short generation."""
    plain(FEW), steered(FEW)
    counts = {(way, n): operations_of(lambda way=way, n=n: way(n)) for way in (plain, steered) for n in (FEW, MORE)}
    surplus = counts[steered, MORE]
    for key, is_more in (((steered, FEW), False), ((plain, MORE), False), ((plain, FEW), True)):
        surplus = surplus.copy()
        surplus.update(counts[key]) if is_more else surplus.subtract(counts[key])
    return Counter({name: count for name, count in surplus.items() if count})


def plan(*scopes: str) -> Plan:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    return tuple(
        Placement(Add(direction), Site(layer), 0.1, Scope.parse(scope)) for layer in range(LAYERS) for scope in scopes
    )


def models(dtype: torch.dtype = torch.float32) -> tuple[Any, Any, HuggingFaceEngine]:
    """Return a plain model and one with an engine, alike; neither ends a text, so that all have as many steps."""
    plain, steered = (make_model("llama", dtype=dtype) for _ in range(2))
    for model in (plain, steered):
        model.generation_config.eos_token_id = None
    return plain, steered, HuggingFaceEngine(steered, endless_tokenizer())


def endless_tokenizer() -> Any:
    tokenizer: Any = make_tokenizer()
    tokenizer.eos_token, tokenizer.padding_side = None, "left"
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<end>", " : ")
    return tokenizer


def generating(model: Any, rows: int) -> Callable[[int], object]:
    inputs = endless_tokenizer().apply_chat_template(
        CHATS[:rows], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    return lambda n: model.generate(**inputs, max_new_tokens=n, do_sample=False)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_a_step_under_additions_does_one_sum_a_touched_block_more_and_nothing_else(scope: str, rows: int) -> None:
    plain, steered, engine = models()
    engine.set_ambient(plan(scope))

    surplus = added(generating(plain, rows), generating(steered, rows))

    sums = (MORE - FEW) * LAYERS
    assert surplus == ({"aten.add.Tensor": sums} if EVERY_SCOPE[scope] else {})


@pytest.mark.parametrize(("scope", "is_touched"), [("prompt", False), ("all", True)])
def test_a_prompt_of_one_token_is_none_of_the_new_ones(scope: str, is_touched: bool) -> None:
    plain, steered, engine = models()
    engine.set_ambient(plan(scope))
    ids = torch.tensor([[20]])

    surplus = added(*(lambda n, m=m: m.generate(ids, max_new_tokens=n, do_sample=False) for m in (plain, steered)))

    assert surplus == ({"aten.add.Tensor": (MORE - FEW) * LAYERS} if is_touched else {})


def test_in_half_precision_a_sum_is_written_where_it_is_rounded() -> None:
    plain, steered, engine = models(torch.bfloat16)
    engine.set_ambient(plan("all"))

    surplus = added(generating(plain, 4), generating(steered, 4))

    sums = (MORE - FEW) * LAYERS
    assert surplus == {"aten.add.out": sums, "aten.empty_like.default": sums}


@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_a_step_of_the_engines_rows_adds_the_choice_and_waits_for_nothing(scope: str) -> None:
    plain, _, engine = models()
    rows = [Row(prompt, plan(scope) if i else ()) for i, prompt in enumerate(parse_prompts(CHATS))]

    surplus = added(generating(plain, 4), lambda n: engine.generate(rows, Sampling(n)))

    sums = (MORE - FEW) * LAYERS * EVERY_SCOPE[scope]
    assert surplus["aten.add.Tensor"] == sums
    assert surplus.total() - sums <= 8 * (MORE - FEW)
    assert WAITING.isdisjoint(surplus)


def test_waiting_would_be_counted() -> None:
    plain, steered, _ = models()
    steered.model.layers[1].register_forward_hook(lambda module, args, output: output if output.any() else None)

    assert added(generating(plain, 2), generating(steered, 2))["aten._local_scalar_dense.default"] == MORE - FEW


@contextmanager
def masks_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    term = BatchGeometry._term

    def counting(self: BatchGeometry, name: Any) -> Tensor:
        counts[str(name)] += 1
        return term(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(BatchGeometry, "_term", counting)
        yield counts


def test_masks_are_made_for_the_prompt_and_once_for_all_new_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    _, steered, engine = models()
    engine.set_ambient(plan("all", "generated"))
    rows = [Row(prompt, plan("all", "generated")) for prompt in parse_prompts(CHATS)]

    with masks_counted(monkeypatch) as by_the_user:
        generating(steered, 4)(MORE)
    with masks_counted(monkeypatch) as by_rows:
        engine.generate(rows, Sampling(MORE))

    assert by_the_user == by_rows == {"all": 2, "generated": 2}


def test_what_is_touched_is_worked_out_once_a_pass_for_all_layers() -> None:
    model, _, engine = models()
    ids = torch.tensor([[1, 20, 30]])

    def noted(layers: int) -> Counter[str]:
        engine.set_ambient(tuple(p for p in plan("last_prompt") if p.site.layer < layers))
        return operations_of(lambda: engine.module(ids, use_cache=False))

    plain, one, two, three = operations_of(lambda: model(ids, use_cache=False)), *map(noted, (1, 2, 3))

    # Gather, add, copy, put back, and the shapes before and behind.
    assert (two - one).total() == (three - two).total() <= 6
    assert (one - plain).total() > (two - one).total()


def test_a_users_own_loop_makes_masks_once_a_pass_whatever_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, steered, engine = models()
    engine.set_ambient(plan("all"))
    ids, cache = torch.tensor([[1, 20, 30]]), None

    with masks_counted(monkeypatch) as counts, torch.no_grad():
        for _ in range(MORE):
            output = steered(ids, past_key_values=cache, use_cache=True)
            ids, cache = output.logits[:, -1:].argmax(dim=-1), output.past_key_values

    assert counts == {"all": MORE}


def test_what_is_added_stays_in_one_place_while_the_rows_do() -> None:
    # A graph of a device's launches holds addresses.
    _, steered, engine = models()
    engine.set_ambient(plan("generated"))
    run = engine._hooks.ambient
    assert run is not None

    def places() -> list[Any]:
        return [edits._dense and edits._dense[2].data_ptr() for edits in run.edits.values()]

    generating(steered, 2)(FEW)
    first = places()
    generating(steered, 2)(MORE)
    same = places()
    generating(steered, 3)(FEW)

    assert len(set(first)) == LAYERS and None not in first
    assert same == first
    assert not set(places()) & set(first)


def logits(rows: int, vocabulary: int) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * 4


def chooser(sampling: Sampling, rows: int) -> ChoosingProcessor:
    return ChoosingProcessor(sampling, range(rows), torch.ones(rows, 3, dtype=torch.bool))


@pytest.mark.parametrize("room", [1, 40, 100, 10_000])
@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, temperature=0.7), Sampling(1, repetition_penalty=9.0)])
def test_the_largest_score_is_the_choice_and_its_log_probability_is_the_models(
    monkeypatch: pytest.MonkeyPatch, sampling: Sampling, room: int
) -> None:
    monkeypatch.setattr(decoding, "_IN_CACHE", room)
    given, processor = logits(5, 50), chooser(sampling, 5)

    chosen = processor(given.topk(3).indices, given.clone()).argmax(dim=-1)

    expected = given.double().log_softmax(dim=-1)[range(5), chosen]
    assert torch.allclose(processor.log_probs[0].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(chosen, given.argmax(dim=-1)) == (sampling == Sampling(1))


def test_a_greedy_choice_makes_nothing_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = logits(8, 500)
    input_ids = torch.zeros(8, 3, dtype=torch.long)
    monkeypatch.setattr(decoding, "_IN_CACHE", 1000)

    with Operations() as greedy:
        chooser(Sampling(1), 8)(input_ids, given)
    with Operations() as drawn:
        chooser(Sampling(1, temperature=1.0), 8)(input_ids, given)

    assert greedy.largest == 1000
    assert drawn.largest == given.numel()
