"""Rows of tokens behind beginnings → passes that may begin behind a block, and what unsteered ones leave.

It must not know which rows share what, or whether that is worth it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.frames import is_running, steady_caller
from steer_tools.engines.huggingface.hooks import Capture, Run, SteeringHooks, StopForward
from steer_tools.engines.huggingface.memory import Memory
from steer_tools.engines.huggingface.prompt_caches import Beginning, beginnings_in, cache_of, empty_like, window_of
from steer_tools.engines.huggingface.resumption import Resumption
from steer_tools.engines.huggingface.row_plans import RowPlans
from steer_tools.engines.huggingface.tokenization import PromptTokens, shared_start

# What a pass costs by itself, in tokens: on a CPU its weights are read from memory, elsewhere its kernels are launched.
_PASS_ON_CPU, _PASS_ELSEWHERE = 16, 1024
# Tokens of a pass.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE = 1024, 4096

Tokens: TypeAlias = tuple[int, ...]
_Value = TypeVar("_Value")


class Path(NamedTuple):
    """Tokens, and those before them."""

    before: Tokens
    tokens: Tokens


@dataclass(frozen=True)
class Branch:
    """One row of a pass.

    Attributes:
        path: The tokens that it is given, and those whose keys and values are there already.
        beginning: What these left behind, if there are some.
        below: What the block puts out behind which the pass begins, (tokens, width).
        row: What is done to it, with its prompt; None for nothing.
    """

    path: Path
    beginning: Beginning | None = None
    below: Tensor | None = None
    row: tuple[Row, PromptTokens] | None = None


@dataclass(frozen=True)
class Trace:
    """What an unsteered pass left of a path's last tokens: `hidden` is what layers put out, (tokens, width)."""

    hidden: Mapping[int, Tensor]
    beginning: Beginning | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(values.nbytes for values in self.hidden.values()) + (self.beginning.size if self.beginning else 0)


@dataclass(frozen=True)
class Sharing:
    """What a model allows.

    Attributes:
        template: A cache of its kind.
        pads: Whether beginnings of several lengths may be side by side.
        resumes: Whether passes may begin behind a block.
        generates: Whether its `generate` goes on with them.
    """

    template: DynamicCache
    pads: bool
    resumes: bool = False
    generates: bool = False


@dataclass
class _Kept(threading.local):
    """What this thread keeps of unsteered passes, the latest last, while `holders` want it.

    A holder is told from others: the end of one that an interrupt left behind may come late, or in another thread.
    """

    holders: set[object] = field(default_factory=set[object])
    owner: FrameType | None = None
    size: int = 0
    traces: OrderedDict[Path, Trace] = field(default_factory=OrderedDict[Path, Trace])

    def put(self, path: Path, trace: Trace, most: int) -> None:
        """Keep what a pass left; the oldest gives way to it."""
        former = self.traces.pop(path, None)
        self.size += trace.size - (former.size if former else 0)
        self.traces[path] = trace
        while self.size > most and len(self.traces) > 1:
            self.size -= self.traces.popitem(last=False)[1].size

    def forget(self) -> None:
        """Keep nothing."""
        self.owner, self.size = None, 0
        self.holders.clear()
        self.traces.clear()


class BranchPasses:
    """Runs branches on one model; `sharing` is what it allows, once that is known."""

    def __init__(
        self, architecture: Architecture, hooks: SteeringHooks, plans: RowPlans, memory: Memory, *, pad_token: int
    ) -> None:
        self._architecture, self._hooks, self._plans, self._pad_token = architecture, hooks, plans, pad_token
        self.memory = memory
        self.sharing: Sharing | None = None
        self._kept = _Kept()
        is_cpu = architecture.device.type == "cpu"
        self.pass_cost = _PASS_ON_CPU if is_cpu else _PASS_ELSEWHERE
        self.most_tokens = _TOKENS_ON_CPU if is_cpu else _TOKENS_ELSEWHERE
        self.last = len(architecture.blocks) - 1

    @property
    def template(self) -> DynamicCache:
        """A cache of the model's kind."""
        return required(self.sharing).template

    @contextmanager
    def keeping(self) -> Generator[None]:
        """Keep what unsteered tokens left behind from one call of this thread to the next, until the block ends.

        The weights must not change meanwhile.
        """
        kept, holder = self._kept, object()
        if kept.owner is not None and not is_running(kept.owner):
            kept.forget()  # An interrupt has ended a block where no `finally` could say so.
        if not kept.holders:
            kept.owner = steady_caller()
        kept.holders.add(holder)
        try:
            yield
        finally:
            kept.holders.discard(holder)
            if not kept.holders:
                kept.forget()

    def keeps(self, path: Path) -> bool:
        """Whether what an unsteered pass left of a path is kept."""
        return path in self._kept.traces

    def keeps_all_of(self, tokens: int) -> bool:
        """Whether every layer of a cache keeps so many tokens."""
        window = window_of(self.template)
        return window is None or tokens < window

    def unsteered(
        self,
        wanted: Mapping[Path, Collection[int]],
        beginnings: Mapping[Tokens, Beginning] | None = None,
        *,
        leave_beginnings: bool = False,
        keeps: bool = True,
    ) -> dict[Path, Trace]:
        """Return what is left of each path by an unsteered pass, with what the wanted layers put out.

        `beginnings` are those of what is before the paths' tokens. While more is kept than for one call, so are all
        layers, if it was one before the last that was wanted: a later call will ask for others.
        """
        found: dict[Path, Trace] = {}
        layers: set[int] = set()
        for path, own in wanted.items():
            asked = {layer for layer in own if layer >= 0}
            trace = self._kept.traces.get(path)
            if trace is not None and asked <= trace.hidden.keys():
                found[path] = trace
            elif not asked and not leave_beginnings:
                found[path] = Trace({})
            layers |= asked if path not in found else set()
        if keeps and layers - {self.last} and len(self._kept.holders) > 1:
            layers = {*range(self.last + 1)}.difference(self._architecture.idle_layers)
        missing = [path for path in wanted if path not in found]
        branches = [Branch(path, beginnings[path.before] if beginnings else None) for path in missing]
        if leave_beginnings and not layers:
            branches = self._behind_root(branches)
        row_bytes = self.memory.beginning_bytes if leave_beginnings else self.memory.branch_bytes
        kept_bytes = len(layers) * self.memory.hidden_bytes
        for places in self.batches(branches, lambda tokens, before: row_bytes(tokens, before) + kept_bytes * tokens):
            batch = [branches[place] for place in places]
            cache = self._cache_behind(batch) if leave_beginnings else None
            stop_after = self.last if leave_beginnings else max(layers)
            hidden: dict[int, Tensor] = {}
            captures = {Site(layer): partial(_put, hidden, layer) for layer in layers}
            self.run(batch, cache=cache, captures=captures, stop_after=stop_after)
            own = [missing[place] for place in places]
            lefts = [None] * len(own) if cache is None else beginnings_in(cache, [path.tokens for path in own])
            for row, (path, left) in enumerate(zip(own, lefts, strict=True)):
                kept = {layer: values[row, : len(path.tokens)].clone() for layer, values in hidden.items()}
                found[path] = trace = Trace(kept, left)
                if keeps:
                    self._kept.put(path, trace, self.memory.keeping_bytes())
        return found

    def _cache_behind(self, branches: Sequence[Branch]) -> DynamicCache:
        """Return a cache that keeps what branches leave behind what they begin with, which is one length."""
        beginnings = [branch.beginning for branch in branches if branch.beginning is not None]
        return cache_of(self.template, beginnings) if beginnings else empty_like(self.template)

    def _behind_root(self, branches: list[Branch]) -> list[Branch]:
        """Let branches that all begin alike, as by a chat template, begin behind that."""
        common = shared_start(*(branch.path.tokens[:-1] for branch in branches)) if branches else ()
        if (len(branches) - 1) * len(common) <= self.pass_cost:
            return branches
        root = Path((), common)
        beginning = self.unsteered({root: ()}, leave_beginnings=True)[root].beginning
        return [Branch(Path(common, own.path.tokens[len(common) :]), beginning) for own in branches]

    def batches(
        self, branches: Sequence[Branch], row_bytes: Callable[[int, int], int], most_tokens: int | None = None
    ) -> list[list[int]]:
        """Group the places of branches that run together; `row_bytes` is of so many tokens behind so many others."""
        before = [len(own.beginning.tokens) if own.beginning else 0 for own in branches]
        groups: dict[int, list[int]] = {}
        for place, length in enumerate(before):
            groups.setdefault(0 if required(self.sharing).pads else length, []).append(place)
        found: list[list[int]] = []
        for places in groups.values():
            longest = max(before[place] for place in places)
            lengths = [len(branches[place].path.tokens) for place in places]
            batches = self.memory.batches(
                lengths, most_tokens or self.most_tokens, lambda tokens, longest=longest: row_bytes(tokens, longest)
            )
            found += [[places[index] for index in batch] for batch in batches]
        return found

    def run(
        self,
        branches: Sequence[Branch],
        *,
        start: int = -1,
        cache: DynamicCache | None = None,
        captures: Mapping[Site, Capture] | None = None,
        stop_after: int | None = None,
    ) -> Tensor | None:
        """Run branches from behind the block `start`, and return their logits.

        `cache` gets what they leave behind. The logits are None where the pass is ended behind the block `stop_after`.
        """
        ids, real = pad([branch.path.tokens for branch in branches], self._pad_token, left=False)
        beginnings = [branch.beginning for branch in branches if branch.beginning is not None]
        positions = None
        if beginnings:
            cache = cache or cache_of(self.template, beginnings, passed_by=start, is_lent=True)
            lengths = torch.tensor([len(own.tokens) for own in beginnings])
            before = torch.arange(int(lengths.max())) >= lengths.max() - lengths[:, None]
            real = torch.cat([before, real], dim=1)
            if not before.all():
                positions = (real.cumsum(dim=1) - 1)[:, before.shape[1] :]
        done = [branch.row for branch in branches if branch.row is not None]
        run = Run()
        if any(row.plan for row, _ in done):
            run = self._plans.run([row for row, _ in done], [prompt for _, prompt in done], real)
        below = [branch.below for branch in branches if branch.below is not None]
        resumption = None
        if start >= 0 and below:
            padded = [torch.nn.functional.pad(own, (0, 0, 0, ids.shape[1] - len(own))) for own in below]
            resumption = Resumption(start, torch.stack(padded))
        stop_after = stop_after if self._architecture.may_stop_early else None
        run = replace(run, captures=captures or {}, stop_after=stop_after, resumption=resumption)
        logits = None
        with torch.no_grad(), self._hooks.running(run), suppress(StopForward):
            logits, _ = forward(self._architecture, ids, real, cache=cache, positions=positions)
        return logits


def required(value: _Value | None) -> _Value:
    """Return what must be there by now."""
    assert value is not None
    return value


def _put(found: dict[int, Tensor], layer: int, hidden: Tensor) -> None:
    # A copy: some models go on with it in place.
    found[layer] = hidden.clone()
