"""What steering costs a decode step in every position scope: `python benchmarks/steps.py [S|T ...] [--rows N ...]`.

An addition at every block, 48 greedy tokens with a cache, by the engine's rows and by `model.generate` under what is
applied, beside a bare hook that adds at every token. Printed are CPU times over that of an unhooked copy in the same
round: medians and quartiles.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported.

import numpy as np
import torch
from speed_by_hand import adding, copy_of, greedy
from speed_models import Model, model_named
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import ChatPrompt

NEW_TOKENS = 48
SCOPES = ("generated", "all", "prompt", "last_prompt", "first", "after_user", "0:4", "-3:", "0:4,generated")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


class Paths:
    """The ways to generate from the same chats with one model's weights; each call returns the new tokens."""

    def __init__(self, size: str, rows: int) -> None:
        named = model_named(size)
        named.tokenizer.chat_template, named.tokenizer.padding_side = TEMPLATE, "left"
        self._bare, self._steered = copy_of(named), copy_of(named)
        self._deltas = named.deltas()
        texts = named.texts(rows, 12, 24, seed=5)
        self._prompts = [ChatPrompt((("user", text),)) for text in texts]
        self._inputs = named.tokenizer.apply_chat_template(
            [[{"role": "user", "content": text}] for text in texts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        self._engine = HuggingFaceEngine(self._steered.module, named.tokenizer)

    def plain(self) -> Tensor:
        """Generate unhooked."""
        return self._generate(self._bare)

    def hooked(self) -> Tensor:
        """Generate with bare hooks."""
        deltas = {layer: delta[None] for layer, delta in enumerate(self._deltas)}
        with adding(self._bare, deltas, last_only=False):
            return self.plain()

    def rows(self, scope: str) -> Callable[[], Tensor]:
        """Return a generation by the engine's rows."""
        rows = [Row(prompt, self._plan(scope)) for prompt in self._prompts]
        return lambda: torch.tensor([made.tokens for made in self._engine.generate(rows, Sampling(NEW_TOKENS))])

    def applied(self, scope: str) -> Callable[[], Tensor]:
        """Apply the plan, and return the user's own generate under it."""
        self._engine.set_ambient(self._plan(scope))
        return lambda: self._generate(self._steered)

    def _plan(self, scope: str) -> Plan:
        parsed = Scope.parse(scope)
        return tuple(Placement(Add(delta), Site(layer), 1.0, parsed) for layer, delta in enumerate(self._deltas))

    def _generate(self, model: Model) -> Tensor:
        return model.module.generate(**self._inputs, **greedy(NEW_TOKENS))[:, self._inputs["input_ids"].shape[1] :]


def check(paths: Paths) -> None:
    """Hold the ways to one another: they steer, all the same way."""
    plain, hooked = paths.plain(), paths.hooked()
    assert plain.shape == hooked.shape and not torch.equal(plain, hooked)
    assert torch.equal(hooked, paths.rows("all")()) and torch.equal(hooked, paths.applied("all")())


def measured(paths: Paths, scopes: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return each way's time over the plain run's of the same turn, a number a round."""
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        ratios.setdefault("a bare hook", []).append(1 / seconds(paths.plain) * seconds(paths.hooked))
        for scope in scopes:
            ways = {"rows": paths.rows(scope), "applied": paths.applied(scope)}
            floor = seconds(paths.plain)
            for way, call in ways.items():
                ratios.setdefault(f"{way}, {scope}", []).append(seconds(call) / floor)
    return ratios


def seconds(call: Callable[[], object]) -> float:
    """Return the CPU time that a call takes."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["S", "T"], metavar="SIZE")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--scopes", nargs="+", default=SCOPES)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for size in asked.sizes:
        for rows in asked.rows:
            paths = Paths(size, rows)
            check(paths)
            print(f"{size}, batch {rows}")
            for name, values in measured(paths, asked.scopes, asked.rounds).items():
                low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
                print(f"  {name:24} {middle:.3f}  ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
