"""Rows of one prompt → the logits of their completions, with the prompt run once and its cache repeated.

What edits the prompt before its last token must be equal in all of them; what acts from there on may differ.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks
from steer_tools.engines.huggingface.memory import Memory, is_out_of_memory
from steer_tools.engines.huggingface.probe import Behaviour
from steer_tools.engines.huggingface.row_plans import RowPlans
from steer_tools.engines.huggingface.tokenization import PromptTokens, shared_start

# New tokens of a batch, and tokens of its repeated cache with them.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE, _CACHED_TOKENS = 1024, 4096, 131_072
# Of fewer tokens a pass of their own costs more than it saves.
_WORTH_SHARING = 4
# Caches of these layers can be repeated and hold all that the prompt leaves behind.
_REPEATABLE = (DynamicLayer, DynamicSlidingWindowLayer)
# Of the largest of a token's logits, by which two ways of the same may differ.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Stem:
    """What some tokens left behind for rows of one prompt that begin with them.

    Attributes:
        cache: Of the distinct beginnings.
        length: Their tokens.
        of_row: (rows,) which of them each row begins with.
    """

    rows: Sequence[Row]
    prompt: PromptTokens
    cache: Any
    length: int
    of_row: Tensor


class SharedPrompts:
    """Shares the prompts of one model's rows."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        plans: RowPlans,
        behaviour: Behaviour,
        memory: Memory,
        *,
        pad_token: int,
    ) -> None:
        self._architecture, self._hooks, self._plans, self._pad_token = architecture, hooks, plans, pad_token
        self._behaviour, self._memory = behaviour, memory
        self._shares: bool | None = None

    def groups(self, rows: Sequence[Row], prompts: Sequence[PromptTokens]) -> tuple[list[list[int]], list[int]]:
        """Return the numbers of the rows that may share a prompt, group by group, and those of all others."""
        found: dict[tuple[PromptTokens, Plan], list[int]] = {}
        for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            on_prompt = tuple(p for p in row.plan if not p.positions.spares_prompt)
            found.setdefault((prompt, on_prompt), []).append(index)
        groups = [g for (p, _), g in found.items() if len(g) > 1 and len(p.tokens) > 1]
        shared = groups if groups and self._may_share() else []
        taken = {index for group in shared for index in group}
        return shared, [index for index in range(len(rows)) if index not in taken]

    def logits(
        self, group: Sequence[int], rows: Sequence[Row], prompt: PromptTokens, completions: Sequence[tuple[int, ...]]
    ) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits before each token of its completion) for a group."""
        head, last = prompt.tokens[:-1], prompt.tokens[-1]
        real = torch.ones(1, len(head), dtype=torch.bool)
        with self._hooks.running(self._plans.run([rows[group[0]]], [prompt], real)):
            _, cache = forward(self._architecture, torch.tensor([head]), real, cache=True)
        stem = _Stem(rows, prompt, cache, len(head), torch.zeros(len(rows), dtype=torch.long))
        given = {index: (last, *completions[index][:-1]) for index in group}
        alike: dict[Plan, list[int]] = {}
        for index in group:
            alike.setdefault(rows[index].plan, []).append(index)
        # Each row is left at least its last token.
        common = min(len(shared_start(*given.values())), *(len(tokens) - 1 for tokens in given.values()))
        if len(alike) == len(group) or common < _WORTH_SHARING:
            yield from self._ends(given, stem)
            return
        # Rows of one plan whose completions begin alike share that beginning, too.
        by_plan = list(alike.values())
        for batch in self._batches(len(head), [common] * len(by_plan)):
            own = [by_plan[place] for place in batch]
            logits, cache = self._pass({indices[0]: given[indices[0]][:common] for indices in own}, stem)
            of_row = torch.zeros(len(rows), dtype=torch.long)
            for place, indices in enumerate(own):
                of_row[indices] = place
            rest = {index: given[index][common:] for indices in own for index in indices}
            for index, end in self._ends(rest, replace(stem, cache=cache, length=len(head) + common, of_row=of_row)):
                yield index, torch.cat([logits[of_row[index], :common].float(), end])

    def _ends(self, given: Mapping[int, tuple[int, ...]], stem: _Stem) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits after each token that it is given behind the stem)."""
        members = list(given)
        for batch in self._batches(stem.length, [len(tokens) for tokens in given.values()]):
            chosen = {members[place]: given[members[place]] for place in batch}
            logits, _ = self._pass(chosen, stem)
            for row, (index, tokens) in enumerate(chosen.items()):
                yield index, logits[row, : len(tokens)].float()

    def _pass(self, given: Mapping[int, tuple[int, ...]], stem: _Stem) -> tuple[Tensor, Any]:
        """Run what some rows are given behind the stem, and return the logits and the cache that it leaves."""
        ids, real = pad(list(given.values()), self._pad_token, left=False)
        whole = torch.cat([torch.ones(len(given), stem.length, dtype=torch.bool), real], dim=1)
        cache = copy.copy(stem.cache)
        cache.layers = [copy.copy(layer) for layer in stem.cache.layers]
        cache.batch_select_indices(stem.of_row[list(given)].to(self._architecture.device))
        run = self._plans.run([stem.rows[i] for i in given], [stem.prompt] * len(given), whole)
        with self._hooks.running(run):
            return forward(self._architecture, ids, whole, cache=cache)

    def _batches(self, cached: int, lengths: Sequence[int]) -> list[list[int]]:
        """Group completions; the cache is repeated for each row, so that a long prompt makes batches smaller."""
        longest = max(lengths)
        budget = _TOKENS_ON_CPU if self._architecture.device.type == "cpu" else _TOKENS_ELSEWHERE
        budget = min(budget, max(1, _CACHED_TOKENS * longest // (cached + longest)))
        return self._memory.batches(lengths, budget, partial(self._memory.scoring_bytes, cached=cached))

    def _may_share(self) -> bool:
        """Whether rows that share a cache are what they would be alone; where memory runs out, it is tried again."""
        if self._shares is None:
            try:
                self._shares = self._shares_rightly()
            except (MemoryError, RuntimeError) as error:
                # Some models keep the rows of their last prompt, and mix them up with those of the next pass.
                if is_out_of_memory(error):
                    return False
                self._shares = False
        return self._shares

    def _shares_rightly(self) -> bool:
        if not (self._behaviour.right_is_exact and self._behaviour.company == "padded"):
            return False
        a, b, c, d, e = self._architecture.text_tokens(5)
        whole = torch.tensor([(a, b, c, d), (a, b, c, e)])  # Two rows that begin alike.
        real = torch.ones_like(whole)
        with self._hooks.running(Run()), torch.no_grad():
            expected, _ = forward(self._architecture, whole, real)
            _, cache = forward(self._architecture, whole[:1, :2], real[:1, :2], cache=True)
            if not isinstance(cache, DynamicCache) or any(type(own) not in _REPEATABLE for own in cache.layers):
                return False
            cache.batch_select_indices(torch.zeros(len(whole), dtype=torch.long, device=self._architecture.device))
            found, _ = forward(self._architecture, whole[:, 2:], real, cache=cache)
        expected = expected[:, 2:]
        gap, largest = ((found - expected).abs().amax(dim=-1), expected.abs().amax(dim=-1))
        eps = torch.finfo(self._architecture.dtype).eps
        return bool((gap <= max(_TOLERANCE, 8 * eps) * largest).all())
