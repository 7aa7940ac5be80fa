"""Whatever call is interrupted, wherever: status, hooks, lock and logits agree afterwards, and nothing is left."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _device
from transformers import PreTrainedModel
from transformers.initialization import TORCH_INIT_FUNCTIONS

from helpers.interrupts import FOREIGN, PACKAGE, Lines, interrupted_after, lines_of
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, WORDS, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    compare_generations,
    create_steering_vector,
    detach_model,
    generate,
    load_model,
    recording,
    remove_all_steering_vectors,
    remove_steering_vector,
    save_edited_model,
    steering,
    steering_experiment,
    update_steering_vector,
)
from steer_tools.session.session import Session

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])
# Of each kind of call: so many lines of those that it runs, and so many moments; INTERRUPTS=2000,2000 for a long run.
LINES, MOMENTS = (int(n) for n in os.environ.get("INTERRUPTS", "40,25").split(","))
BEHAVIOR = [(f"{one} {other} lili", f"{one} {other} zuzu") for one in WORDS[:3] for other in WORDS[:4]]


@dataclass
class Bench:
    """One model, what it gives with nothing and with each strength of the vector, and the hooks that belong on it."""

    session: Session
    model: Any
    other: Any
    logits: dict[tuple[float, ...], Tensor]
    hooks: list[Any]
    bare: list[Any]

    @property
    def is_attached(self) -> bool:
        """Whether the session's model is this one."""
        return self.session.is_attached and self.session.engine.holds(self.model)

    def agrees(self) -> None:
        """Hold status, hooks, logits and lock against each other."""
        registry = self.session.registry
        assert torch_state() == TORCH_STATE
        if not self.session.is_attached:
            assert (len(registry), hooks_of(self.model)) == (0, self.bare)
            return
        assert self.session.engine.ambient() == registry.plan()
        assert self.session.is_in_force
        if self.is_attached:
            strengths = tuple(entry.strength for entry in registry.entries())
            assert torch.equal(logits_of(self.model), self.logits[strengths])

    def is_clean(self) -> None:
        """Also hold what the exception has kept alive: locks, and hooks that are there for a while."""
        self.agrees()
        taken: list[bool] = []

        def take() -> None:
            taken.append(self.session.lock.acquire(timeout=1))
            if taken[0]:
                self.session.lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert taken == [True]
        if self.is_attached:
            assert hooks_of(self.model) == self.hooks


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def torch_state() -> list[object]:
    """Return what torch and transformers keep for a thread or the process, and change for a while."""
    inits = [getattr(torch.nn.init, name) for name in TORCH_INIT_FUNCTIONS]
    makings = [torch.linspace, PreTrainedModel.init_weights, PreTrainedModel.tie_weights, *inits]
    modes = [torch.overrides._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()]  # type: ignore[attr-defined]
    gradients = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    return [torch.get_default_dtype(), torch.empty(1).device, _device.CURRENT_DEVICE, *gradients, *modes, *makings]


TORCH_STATE = torch_state()


def hooks_of(model: Any) -> list[Any]:
    return [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()]


@pytest.fixture
def bench(empty_session: Session, tmp_path: Path) -> Iterator[Bench]:
    model = make_model("llama")
    model.save_pretrained(tmp_path / "checkpoint")
    make_tokenizer().save_pretrained(tmp_path / "checkpoint")
    logits, bare = {(): logits_of(model)}, hooks_of(model)
    attach_model(model, make_tokenizer())
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v")
    generate(PROMPTS, max_new_tokens=1)
    for strengths in ((0.1,), (0.2,), (0.1, 0.2), (0.3,), (0.3, 0.2)):
        for strength in strengths:
            apply_steering_vector("v", strength=strength)
        logits[strengths] = logits_of(model)
        remove_all_steering_vectors()
    yield Bench(empty_session, model, make_model("gpt2"), logits, hooks_of(model), bare)


def with_steering() -> None:
    with steering("v", strength=0.1):
        generate(PROMPTS[:1], max_new_tokens=1)


def recorded(model: Any) -> None:
    with recording(layers=[1]):
        logits_of(model)


CALLS: dict[str, Callable[[Bench], object]] = {
    "generate": lambda bench: generate(PROMPTS[:2], max_new_tokens=2),
    "compare": lambda bench: compare_generations(PROMPTS[:1], "v", strengths=[0.2], max_new_tokens=2),
    "the model": lambda bench: logits_of(bench.model),
    "the model's generate": lambda bench: bench.model.generate(IDS, max_new_tokens=3, do_sample=False),
    "apply": lambda bench: apply_steering_vector("v", strength=0.2),
    "update": lambda bench: update_steering_vector("v", strength=0.3),
    "remove": lambda bench: remove_steering_vector("v"),
    "with": lambda bench: with_steering(),
    "recording": lambda bench: recorded(bench.model),
    "create": lambda bench: create_steering_vector(POSITIVE, NEGATIVE, 1, "w", component="attention"),
    "experiment": lambda bench: steering_experiment(BEHAVIOR, layers=[1], strengths=[0.1], controls=19),
    "bake": lambda bench: save_edited_model("baked", ablate="v"),
    "attach": lambda bench: attach_model(bench.other, make_tokenizer()),
    "attach again": lambda bench: attach_model(bench.model, make_tokenizer()),
    "detach": lambda bench: detach_model(),
    "load": lambda bench: load_model(str(bench.session.workspace.root.parent / "checkpoint")),
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in ("bake", "experiment"))) for name in CALLS]
OF_THE_USER = ("the model", "the model's generate", "recording")
STEERED = ("generate", "the model", "the model's generate", "update", "remove", "apply", "attach again", "detach")


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(
    "place", ["", "model", "model.embed_tokens", "model.layers.2", "model.layers.2.mlp", "lm_head"]
)
@pytest.mark.parametrize("name", ["generate", "compare", "the model", "the model's generate", "with", "recording"])
def test_an_interrupt_in_the_model_leaves_nothing_behind(bench: Bench, name: str, place: str, behind: bool) -> None:
    warmed_up(bench, name)
    call, module = prepared(bench, name), bench.model.get_submodule(place)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for first in (True, False):
        put_on = module.register_forward_hook if behind else module.register_forward_pre_hook
        handle = put_on(interrupt, prepend=first)
        with pytest.raises(KeyboardInterrupt):
            call()
        handle.remove()

        bench.is_clean()
        strengths = [entry.strength for entry in bench.session.registry.entries()]
        assert strengths == ([0.1] if name in STEERED else [])
        remove_all_steering_vectors()
        bench.is_clean()
        prepared(bench, name)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_at_a_line_leaves_nothing_behind(bench: Bench, name: str) -> None:
    at = random.Random(name)
    count = warmed_up(bench, name)
    for line in sorted(at.sample(range(1, count + 1), min(LINES, count))):
        interrupted_at(bench, name, line)


# In a call of the user's own, what torch leaves set is not for the tools to put back. What is interrupted as it locks
# a folder finds it closed when it is collected, which closing has unlocked.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] not in OF_THE_USER])
def test_an_interrupt_where_others_put_something_back_leaves_nothing_behind(bench: Bench, name: str) -> None:
    at = random.Random(name)
    warmed_up(bench, name)
    count = lines_of(prepared(bench, name), FOREIGN)
    for line in sorted(at.sample(range(1, count + 1), min(LINES, count))):
        interrupted_at(bench, name, line, FOREIGN)


# One that comes inside a callback of the garbage collector ends nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_signal_leaves_nothing_behind(bench: Bench, name: str) -> None:
    moment = random.Random(name)
    warmed_up(bench, name)
    run = prepared(bench, name)
    start = time.perf_counter()
    run()
    duration = time.perf_counter() - start
    interrupted = 0
    for _ in range(MOMENTS):
        seconds = moment.random() * duration
        interrupted += interrupted_after(seconds, prepared(bench, name))
        bench.is_clean()
    print(f"{name}: {interrupted} of {MOMENTS} signals interrupted it")
    assert interrupted > MOMENTS / 5


def warmed_up(bench: Bench, name: str) -> int:
    """Run it once for what is made but once, such as hooks at new sites, and return how many lines of ours it runs."""
    prepared(bench, name)()
    count = lines_of(prepared(bench, name))
    if bench.is_attached:
        bench.hooks = hooks_of(bench.model)
    return count


def prepared(bench: Bench, name: str) -> Callable[[], object]:
    """Return the call, with the vector applied before those that it is to be applied to."""
    if not bench.is_attached:
        attach_model(bench.model, make_tokenizer())
        bench.hooks = hooks_of(bench.model)
    remove_all_steering_vectors()
    if name in STEERED:
        apply_steering_vector("v", strength=0.1)
    return lambda: CALLS[name](bench)


def interrupted_at(bench: Bench, name: str, line: int, within: str | tuple[str, ...] = PACKAGE) -> None:
    lines = Lines(line, within)
    call = prepared(bench, name)
    lines.run(call)
    try:
        bench.is_clean()
    except BaseException as error:
        error.add_note(f"{name} was interrupted at line {line}, {lines.where}")
        raise
