"""Any sequence of calls against a plain model of the registry: a list of what was applied, and hooks by hand.

SEQUENCES=500,200 runs so many sequences of up to so many calls on each of the models; `pytest -s` shows what ran.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from helpers.interrupts import Lines
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools import (
    SteeringError,
    apply_steering_vector,
    attach_model,
    combine_steering_vectors,
    compare_generations,
    create_steering_vector,
    detach_model,
    generate,
    remove_all_steering_vectors,
    remove_steering_vector,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.formats import read_vector
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

SEQUENCES, CALLS = (int(n) for n in os.environ.get("SEQUENCES", "6,40").split(","))
IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])
NEW_TOKENS = 2
NAMES = some.sampled_from(["a", "b", "c"])
LAYERS = some.integers(0, 3)
STRENGTHS = some.sampled_from([-1.0, -0.25, 0.0, 0.125, 0.5, 1.0])
POSITIONS = some.sampled_from(["generated", "prompt", "all", "last_prompt", "first"])
# In a plain call of the model all tokens are a prompt's; `generated` is the last one.
MASKS = {
    "generated": [5],
    "prompt": [0, 1, 2, 3, 4, 5],
    "all": [0, 1, 2, 3, 4, 5],
    "last_prompt": [5],
    "first": [1],
}


@dataclass(frozen=True)
class Entry:
    """One apply call, as one remembers it who applied it."""

    steering_id: str
    directions: dict[int, Tensor]
    strength: float
    positions: str


@dataclass
class Bare:
    """A model that nobody attaches, with hooks by hand."""

    model: Any
    blocks: Any
    known: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def logits(self, entries: list[Entry]) -> Tensor:
        with ExitStack() as hooks, torch.no_grad():
            for entry in entries:
                for layer, direction in entry.directions.items():
                    add = functools.partial(_add, direction * entry.strength, MASKS[entry.positions])
                    hooks.enter_context(self.blocks[layer].register_forward_hook(add))
            return self.model(IDS).logits


def _add(direction: Tensor, columns: list[int], module: Any, args: Any, output: Any) -> Any:
    hidden = output[0] if isinstance(output, tuple) else output
    hidden = hidden.clone()
    hidden[:, columns] += direction
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class Calls(RuleBasedStateMachine):
    """The tools on one model; each model has a class of its own."""

    make: Callable[[], Any]
    blocks: Callable[[Any], Any]
    sequences: int = 0
    comparisons: int = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).sequences += 1
        self.folder = TemporaryDirectory()
        self.session = current_session()
        self.workspace_before = self.session.workspace
        self.session.detach()
        self.session.workspace = Workspace(Path(self.folder.name) / "workspace")
        self.model = type(self).make()
        other = type(self).make()
        self.bare = Bare(other, type(self).blocks(other))
        self.unsteered = self.bare.logits([])
        self.tokenizer = make_tokenizer()
        self.entries: list[Entry] = []
        self.files: dict[str, dict[int, Tensor]] = {}
        self.is_attached = False
        self.ids: set[str] = set()

    def teardown(self) -> None:
        self.session.detach()
        self.session.workspace = self.workspace_before
        self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        self.attach()
        self.create("a", 1)

    @precondition(lambda self: not self.is_attached)
    @rule()
    def attach(self) -> None:
        attach_model(self.model, self.tokenizer)
        self.is_attached, self.entries, self.ids = True, [], set()

    @precondition(lambda self: self.is_attached)
    @rule(chance=some.integers(0, 5))
    def detach(self, chance: int) -> None:
        if chance == 0:
            detach_model()
            self.is_attached, self.entries = False, []

    @precondition(lambda self: self.is_attached)
    @rule(name=NAMES, layer=some.one_of(LAYERS, some.just([1, 3])))
    def create(self, name: str, layer: int | list[int]) -> None:
        create_steering_vector(POSITIVE, NEGATIVE, layer, name)
        self.files[name] = read_vector(name, workspace=self.session.workspace).vector.directions

    @precondition(lambda self: self.is_attached and "b" in self.files)
    @rule()
    def combine(self) -> None:
        if set(self.files["a"]) == set(self.files["b"]):
            combine_steering_vectors(["a", "b"], "c", weights=[1.0, 0.5])
            self.files["c"] = read_vector("c", workspace=self.session.workspace).vector.directions

    @precondition(lambda self: self.is_attached and len(self.entries) < 6)
    @rule(name=NAMES, strength=STRENGTHS, positions=POSITIONS)
    def apply(self, name: str, strength: float, positions: str) -> None:
        if name in self.files:
            applied = apply_steering_vector(name, strength=strength, positions=positions)
            assert applied["steering_id"] not in self.ids
            self.ids.add(applied["steering_id"])
            self.entries.append(Entry(applied["steering_id"], self.files[name], strength, positions))
            assert applied["active"] == len(self.entries)
        else:
            self.refused(lambda: apply_steering_vector(name))

    @precondition(lambda self: self.entries)
    @rule(at=some.integers(0, 5), strength=STRENGTHS)
    def update(self, at: int, strength: float) -> None:
        entry = self.entries[at % len(self.entries)]
        update_steering_vector(entry.steering_id, strength)
        self.entries[at % len(self.entries)] = replace(entry, strength=strength)

    @precondition(lambda self: self.entries)
    @rule(at=some.integers(0, 5))
    def remove(self, at: int) -> None:
        entry = self.entries.pop(at % len(self.entries))
        assert remove_steering_vector(entry.steering_id)["active"] == len(self.entries)

    @precondition(lambda self: self.is_attached)
    @rule()
    def remove_all(self) -> None:
        assert remove_all_steering_vectors()["removed"] == len(self.entries)
        self.entries = []

    @precondition(lambda self: self.is_attached)
    @rule(prompts=some.lists(some.sampled_from(PROMPTS), min_size=1, max_size=3))
    def generate(self, prompts: list[str]) -> None:
        texts = generate(prompts, max_new_tokens=NEW_TOKENS)["texts"]
        assert words(texts) == [self.written(prompt) for prompt in prompts]

    @precondition(lambda self: self.is_attached and self.files)
    @rule(strength=STRENGTHS)
    def compare(self, strength: float) -> None:
        name = min(self.files)
        result = compare_generations(PROMPTS[:2], name, strengths=[strength], max_new_tokens=NEW_TOKENS)
        with self.set_aside():
            assert words(result["baseline"]["texts"]) == [self.written(prompt) for prompt in PROMPTS[:2]]

    @precondition(lambda self: self.is_attached and self.files)
    @rule(strength=STRENGTHS, fails=some.booleans())
    def with_steering(self, strength: float, fails: bool) -> None:
        name = min(self.files)
        before = list(self.entries)
        try:
            with steering(name, strength=strength):
                self.entries.append(Entry("", self.files[name], strength, "generated"))
                self.logits_are_those_of_the_entries()
                if fails:
                    raise LookupError
        except LookupError:
            assert fails
        self.entries = before

    @precondition(lambda self: self.is_attached)
    @rule(share=some.floats(0, 1), what=some.sampled_from(["apply", "update", "remove", "generate"]))
    def interrupted(self, share: float, what: str) -> None:
        """After an interrupt what was begun is done or not done."""
        name, first = min(self.files), self.entries[0].steering_id if self.entries else None
        if (what in ("update", "remove") and first is None) or len(self.entries) > 5:
            return
        calls: dict[str, Callable[[], object]] = {
            "apply": lambda: apply_steering_vector(name, strength=0.5, positions="all"),
            "update": lambda: update_steering_vector(first or "", 0.5),
            "remove": lambda: remove_steering_vector(first or ""),
            "generate": lambda: generate(PROMPTS[:1], max_new_tokens=1),
        }
        Lines(1 + int(share * 60)).run(calls[what])
        held = {entry.steering_id: entry for entry in self.session.registry.entries()}
        kept = [replace(e, strength=held[e.steering_id].strength) for e in self.entries if e.steering_id in held]
        new = [key for key in held if key not in {entry.steering_id for entry in self.entries}]
        assert len(kept) + (what == "remove") >= len(self.entries)
        assert what == "update" or all(a.strength == b.strength for a, b in zip(kept, self.entries, strict=False))
        assert len(new) <= (what == "apply")
        self.ids |= set(new)
        self.entries = [*kept, *(Entry(key, self.files[name], 0.5, "all") for key in new)]

    @rule(
        call=some.sampled_from(
            [
                lambda: apply_steering_vector("a", strength=float("nan")),
                lambda: apply_steering_vector("a", layer=99),
                lambda: apply_steering_vector("nowhere"),
                lambda: update_steering_vector("nobody", 1.0),
                lambda: remove_steering_vector("nobody"),
                lambda: create_steering_vector(POSITIVE, [], 1, "a"),
                lambda: create_steering_vector(POSITIVE, POSITIVE, 1, "a"),
                lambda: compare_generations(PROMPTS[:1], "a", strengths=[], max_new_tokens=1),
                lambda: generate([], max_new_tokens=1),
                lambda: attach_model(object(), None),
            ]
        )
    )
    def refused(self, call: Callable[[], object]) -> None:
        with pytest.raises(SteeringError):
            call()

    @invariant()
    def logits_are_those_of_the_entries(self) -> None:
        type(self).comparisons += 1
        with torch.no_grad():
            logits = self.model(IDS).logits
        acts = any(entry.strength and any(v.any() for v in entry.directions.values()) for entry in self.entries)
        if not acts:
            assert torch.equal(logits, self.unsteered)
            return
        expected = self.bare.logits(self.entries)
        effect = float((expected - self.unsteered).abs().max())
        assert float((logits - expected).abs().max()) <= max(2e-4 * float(expected.abs().max()), 1e-3 * effect)

    @invariant()
    def status_tells_the_entries(self) -> None:
        if not self.is_attached:
            assert not len(self.session.registry)
            return
        status = steering_status()
        assert status["in_force"]
        told = [(e["steering_id"], e["strength"], e["positions"]) for e in status["applied"]]
        assert told == [(e.steering_id, e.strength, e.positions) for e in self.entries]
        assert {Path(e["vector_path"]).stem for e in status["saved"]} == set(self.files)

    def set_aside(self) -> ExitStack:
        """Reckon with nothing applied until the block ends."""
        entries, self.entries = self.entries, []
        stack = ExitStack()
        stack.callback(lambda: setattr(self, "entries", entries))
        return stack

    def written(self, prompt: str) -> list[str]:
        """The greedy text of the model with hooks by hand, token by token and without a cache."""
        ids = self.tokenizer(prompt)["input_ids"]
        length = len(ids)
        for _ in range(NEW_TOKENS):
            columns = {
                "generated": range(length - 1, len(ids)),
                "prompt": range(length),
                "all": range(len(ids)),
                "last_prompt": [length - 1],
                "first": [1],
            }
            with ExitStack() as hooks, torch.no_grad():
                for entry in self.entries:
                    for layer, direction in entry.directions.items():
                        add = functools.partial(_add, direction * entry.strength, list(columns[entry.positions]))
                        hooks.enter_context(self.bare.blocks[layer].register_forward_hook(add))
                token = int(self.bare.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == self.tokenizer.eos_token_id:
                break
            ids = [*ids, token]
        return words([self.tokenizer.decode(ids[length:], skip_special_tokens=True)])[0]


def words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


MODELS = {
    "llama": (lambda: make_model("llama"), lambda model: model.model.layers),
    "gpt2": (lambda: make_model("gpt2"), lambda model: model.transformer.h),
    "bloom": (lambda: make_model("bloom"), lambda model: model.transformer.h),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_any_sequence_of_calls_leaves_what_a_plain_list_would(name: str) -> None:
    make, blocks = MODELS[name]
    kind = type(name, (Calls,), {"make": staticmethod(make), "blocks": staticmethod(blocks)})
    try:
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=SEQUENCES,
                stateful_step_count=CALLS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                derandomize=SEQUENCES < 100,
                phases=[Phase.generate],
            ),
        )
    finally:  # A long one may be cut off.
        print(f"\n{name}: {kind.sequences:,} sequences, logits compared {kind.comparisons:,} times")
