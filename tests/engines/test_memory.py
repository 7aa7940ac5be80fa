"""A batch that runs out of memory is halved with the same results; what cannot fit is refused with numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small_models import LAYERS, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface import engine as engine_module
from steer_tools.engines.huggingface import memory
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.huggingface.memory import Memory
from steer_tools.errors import OutOfMemoryError, SteeringError
from steer_tools.progress import reporting_to
from steer_tools.prompts import parse_prompt

SITES = [Site(0), Site(2)]
COMPLETIONS = [(9, 14, 6), (25, 8), (7,), (30, 31, 32, 33)]


@pytest.fixture(scope="module")
def engine() -> HuggingFaceEngine:
    """One model for all: what runs out of memory is the same in each family."""
    return HuggingFaceEngine(make_model("llama"), make_tokenizer())


def plan(positions: str) -> Plan:
    return (Placement(Add(torch.linspace(-1, 1, WIDTH)), Site(1), 2.0, Scope.parse(positions)),)


def rows() -> list[Row]:
    """Rows that share prompts and rows that do not, with plans and without."""
    prompts = [parse_prompt(text) for text in (*PROMPTS, PROMPTS[1], PROMPTS[1], PROMPTS[3], PROMPTS[3])]
    plans: list[Plan] = [(), plan("generated"), plan("all"), ()]
    return [Row(prompt, plans[i % 4], seed=i) for i, prompt in enumerate(prompts)]


def generated(engine: HuggingFaceEngine) -> list[Tensor]:
    made = engine.generate(rows(), Sampling(6, temperature=0.9))
    return [part for own in made for part in (torch.tensor(own.tokens), own.log_probs)]


def differentiated(engine: HuggingFaceEngine) -> list[Tensor]:
    made = engine.gradients(rows(), COMPLETIONS * 2, SITES)
    return [tensor for own in made for tensor in (torch.tensor(own.log_prob), *own.by_site.values())]


CALLS: dict[str, Callable[[HuggingFaceEngine], list[Tensor]]] = {
    "generate": generated,
    "read": lambda engine: [*engine.read([row.prompt for row in rows()], SITES, "mean").values()],
    "trace": lambda engine: [t for own in engine.trace([row.prompt for row in rows()], SITES) for t in own.values()],
    "score": lambda engine: engine.score(rows(), COMPLETIONS * 2),
    "distributions": lambda engine: engine.distributions(rows()),
    "divergences": lambda engine: engine.divergences(rows(), [COMPLETIONS[0]] * 8),
    "gradients": differentiated,
    "replay": lambda engine: engine.replay(rows(), COMPLETIONS * 2, use_cache=True, batched=True),
}
FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@dataclass
class Allocator:
    """Fails in some passes of a model: `fails` is given how many of several rows came before, and the rows."""

    fails: Callable[[int, int], bool]
    failure: BaseException
    passes: int = 0
    failed: int = 0

    def __call__(self, block: Any, arguments: Any, named: Any) -> None:
        hidden: Tensor = arguments[0] if arguments else named["hidden_states"]
        count = len(hidden)
        self.passes += count > 1
        if self.fails(self.passes, count):
            self.failed += 1
            raise self.failure


@contextmanager
def failing(
    engine: HuggingFaceEngine, fails: Callable[[int, int], bool], failure: BaseException = FAILURES[0]
) -> Iterator[Allocator]:
    allocator = Allocator(fails, failure)
    hook = engine.architecture.blocks[0].register_forward_pre_hook(allocator, with_kwargs=True)
    try:
        yield allocator
    finally:
        hook.remove()


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("call", CALLS)
def test_memory_that_runs_out_in_any_pass_changes_no_result(engine: HuggingFaceEngine, call: str) -> None:
    expected = CALLS[call](engine)
    assert any(bool(tensor.count_nonzero()) for tensor in expected)

    for n in itertools.count(1):
        failure = FAILURES[n % len(FAILURES)]
        with failing(engine, lambda passes, count, n=n: count > 1 and passes == n, failure) as allocator:
            assert_alike(CALLS[call](engine), expected)
        if not allocator.failed:
            break

    assert n > 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("most", [1, 2])
def test_memory_for_few_rows_is_enough_for_many(engine: HuggingFaceEngine, call: str, most: int) -> None:
    expected = CALLS[call](engine)

    with failing(engine, lambda passes, count: count > most) as allocator:
        assert_alike(CALLS[call](engine), expected)

    assert allocator.failed


@pytest.mark.parametrize("call", CALLS)
def test_a_row_that_does_not_fit_alone_is_refused_and_leaves_the_model_as_it_was(
    engine: HuggingFaceEngine, call: str
) -> None:
    expected = CALLS[call](engine)

    with (
        failing(engine, lambda passes, count: True),
        pytest.raises(OutOfMemoryError, match=r"One row alone .*2\.00 GiB.*MB are free.*Lower max_new_tokens"),
    ):
        CALLS[call](engine)

    assert_alike(CALLS[call](engine), expected)


UNDIVIDED: dict[str, Callable[[HuggingFaceEngine], object]] = {
    "observe": lambda engine: engine.observe(rows()[0].prompt, 3).generation.tokens,
    "parts": lambda engine: len(engine.parts[0].mixers),
    "find_writers": lambda engine: [writer.name for writer in engine.find_writers()],
    "restoration": lambda engine: engine.restoration(),
    "attach": lambda engine: HuggingFaceEngine(engine.module, make_tokenizer()).behaviour,
}


@pytest.mark.parametrize("call", UNDIVIDED)
def test_what_cannot_be_halved_is_refused_at_any_pass_and_leaves_the_model_as_it_was(call: str) -> None:
    def fresh() -> HuggingFaceEngine:
        return HuggingFaceEngine(make_model("llama"), make_tokenizer())

    expected = UNDIVIDED[call](fresh())
    assert expected

    for n in itertools.count():
        engine, before = fresh(), itertools.count()
        if call == "attach":
            engine.detach()
        hooks = [len(module._forward_hooks) for module in engine.module.modules()]
        failure = FAILURES[n % len(FAILURES)]
        with failing(engine, lambda passes, count, n=n, before=before: next(before) == n, failure) as allocator:
            try:
                found = UNDIVIDED[call](engine)
            except OutOfMemoryError as error:
                assert allocator.failed
                assert "more memory than there is" in str(error)
                assert [len(module._forward_hooks) for module in engine.module.modules()] == hooks
                found = UNDIVIDED[call](engine)
        assert found == expected
        if not allocator.failed:
            break

    assert n > 0


def test_an_unembedding_that_does_not_fit_is_refused(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(architecture: object) -> object:
        raise FAILURES[0]

    monkeypatch.setattr(engine_module, "measure_unembedding", fail)

    with pytest.raises(OutOfMemoryError, match=r"The output matrix takes .*2\.00 GiB"):
        engine.unembedding()


def test_memory_that_runs_out_once_does_not_end_the_sharing_of_prompts() -> None:
    engine, fresh, unshared = (HuggingFaceEngine(make_model("llama"), make_tokenizer()) for _ in range(3))
    for sharing in (engine, fresh):
        sharing._branches._passes.pass_cost = 0
    expected = fresh.score(rows(), COMPLETIONS * 2)

    with failing(engine, lambda passes, count: passes == 1) as allocator:
        scores = engine.score(rows(), COMPLETIONS * 2)

    assert allocator.failed == 1
    assert_alike(scores, expected)
    assert_alike(engine.score(rows(), COMPLETIONS * 2), scores)
    assert batches_of(engine, "score") == batches_of(fresh, "score") != batches_of(unshared, "score")


def test_another_failure_is_no_lack_of_memory(engine: HuggingFaceEngine) -> None:
    with (
        failing(engine, lambda passes, count: True, RuntimeError("a bug")) as allocator,
        pytest.raises(RuntimeError, match="a bug"),
    ):
        engine.score(rows(), COMPLETIONS * 2)

    assert allocator.failed == 1


@pytest.mark.parametrize("call", ["read", "score", "gradients"])
def test_progress_counts_each_row_once_however_often_it_was_tried(engine: HuggingFaceEngine, call: str) -> None:
    told: list[tuple[int, int, str]] = []

    with failing(engine, lambda passes, count: count > 1), reporting_to(lambda *step: told.append(step)):
        CALLS[call](engine)

    last = {message: (done, total) for done, total, message in told}
    assert set(last.values()) == {(8, 8)}
    done = [step[0] for step in told if step[2] == told[-1][2]]
    assert done == sorted(set(done))


def batches_of(engine: HuggingFaceEngine, call: str) -> list[int]:
    sizes: list[int] = []
    hook = engine.architecture.blocks[0].register_forward_pre_hook(
        lambda block, arguments, named: sizes.append(len(arguments[0] if arguments else named["hidden_states"])),
        with_kwargs=True,
    )
    try:
        CALLS[call](engine)
    finally:
        hook.remove()
    return sizes


@pytest.mark.parametrize("call", ["generate", "read", "score", "gradients"])
def test_less_free_memory_makes_smaller_batches_with_the_same_results(
    engine: HuggingFaceEngine, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, usual = CALLS[call](engine), batches_of(engine, call)

    monkeypatch.setattr(Memory, "free_bytes", lambda self: 60_000)
    smaller = batches_of(engine, call)

    assert max(smaller) < max(usual)
    assert_alike(CALLS[call](engine), expected)


def test_memory_for_all_leaves_the_batches_as_they_are(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = batches_of(engine, "generate")

    monkeypatch.setattr(Memory, "free_bytes", lambda self: 2**50)

    assert batches_of(engine, "generate") == usual


def test_a_row_whose_cache_cannot_be_held_is_refused_before_anything_runs(
    engine: HuggingFaceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "free_bytes", lambda self: 20_000)

    with failing(engine, lambda passes, count: False) as allocator, pytest.raises(OutOfMemoryError) as refusal:
        engine.generate(rows()[:1], Sampling(60))

    assert allocator.passes == 0
    assert "60 of them new" in str(refusal.value)
    assert "0 MB are free on cpu" in str(refusal.value)
    assert isinstance(refusal.value, SteeringError)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_the_estimated_cache_is_what_the_model_keeps(family: str) -> None:
    model = make_model(family)
    engine = HuggingFaceEngine(model, make_tokenizer())
    ids = torch.tensor([[9, 10, 11, 12, 13]])

    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    assert Memory(engine.architecture).cache_bytes(ids.shape[1]) == kept
    assert kept > 0


def test_a_layer_that_slides_keeps_no_more_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    estimate = Memory(HuggingFaceEngine(model, make_tokenizer()).architecture)
    whole = estimate.cache_bytes(40)

    monkeypatch.setattr(model.config, "layer_types", ["sliding_attention"] * LAYERS, raising=False)
    monkeypatch.setattr(model.config, "sliding_window", 10, raising=False)
    sliding = Memory(HuggingFaceEngine(model, make_tokenizer()).architecture)

    assert sliding.cache_bytes(40) == whole // 4
    assert sliding.cache_bytes(5) == estimate.cache_bytes(5)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 4_096_000),
        ({"memory.max": "max\n"}, 4_096_000),
        ({"memory.max": "3000000", "memory.current": "1000000", "memory.stat": "inactive_file 500\n"}, 2_000_500),
        (
            {
                "memory/memory.limit_in_bytes": "3000000",
                "memory/memory.usage_in_bytes": "3500000",
                "memory/memory.stat": "total_inactive_file 7\n",
            },
            0,
        ),
    ],
    ids=["no group", "no limit", "version 2", "version 1, and used up"],
)
def test_free_memory_is_what_the_machine_and_the_group_of_the_process_have(
    files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\n", encoding="ascii")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())

    assert Memory(engine.architecture).free_bytes() == free
