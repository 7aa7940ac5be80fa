"""Rows that begin alike → passes that run what they share once: a prompt, and the blocks below the first edit.

What edits the prompt before its last token must be equal in rows that share it; what acts from there on may differ. In
a pass with edits the blocks below the first one are passed by, and what they would put out is taken from an unsteered
pass over the same tokens. It must not know what logits are wanted for.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from steer_tools.core.plan import Plan
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Capture, Run, SteeringHooks, StopForward
from steer_tools.engines.huggingface.memory import Memory, is_out_of_memory
from steer_tools.engines.huggingface.probe import Behaviour
from steer_tools.engines.huggingface.prompt_caches import (
    Beginning,
    beginnings_in,
    cache_of,
    empty_like,
    is_divisible,
    window_of,
)
from steer_tools.engines.huggingface.resumption import Resumption
from steer_tools.engines.huggingface.row_plans import RowPlans
from steer_tools.engines.huggingface.tokenization import PromptTokens, shared_start

# What a pass costs by itself, in tokens: on a CPU its weights are read from memory, elsewhere its kernels are launched.
_PASS_ON_CPU, _PASS_ELSEWHERE = 16, 1024
# Tokens of a pass, and the passes' worth of tails that are run at a time.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE, _PASSES = 1024, 4096, 4
# Texts share a beginning of at least so many tokens, and where that is at least such a share of all they have.
_WORTH_SHARING, _LEAST_SAVED = 8, 0.2
# A layer's keys and values that are larger than this are not copied at each step of a generation.
_COPIED_BYTES = 2**20
# Of the largest of a token's logits, by which two ways of the same may differ.
_TOLERANCE = 1e-3
# What models raise that keep something of their own from pass to pass.
_MODEL_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)

_Tokens: TypeAlias = tuple[int, ...]
_Value = TypeVar("_Value")


class Path(NamedTuple):
    """Tokens, and those before them."""

    before: _Tokens
    tokens: _Tokens


@dataclass(frozen=True)
class _Branch:
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
class _Trace:
    """What an unsteered pass left of a path's last tokens: `hidden` is what layers put out, (tokens, width)."""

    hidden: Mapping[int, Tensor]
    beginning: Beginning | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(values.nbytes for values in self.hidden.values()) + (self.beginning.size if self.beginning else 0)


@dataclass(frozen=True)
class _Sharing:
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
    """What this thread keeps of unsteered passes, the latest last."""

    depth: int = 0
    size: int = 0
    traces: OrderedDict[Path, _Trace] = field(default_factory=OrderedDict[Path, _Trace])

    def put(self, path: Path, trace: _Trace, most: int) -> None:
        """Keep what a pass left; the oldest gives way to it."""
        former = self.traces.pop(path, None)
        self.size += trace.size - (former.size if former else 0)
        self.traces[path] = trace
        while self.size > most and len(self.traces) > 1:
            self.size -= self.traces.popitem(last=False)[1].size


class Branches:
    """Shares what the rows of one model have in common."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        plans: RowPlans,
        behaviour: Behaviour,
        memory: Memory,
        follow: Callable[..., Tensor],
        *,
        pad_token: int,
    ) -> None:
        # `follow` makes a batch of prompts generate given tokens, and returns the logits before each.
        self._architecture, self._hooks, self._plans, self._pad_token = architecture, hooks, plans, pad_token
        self._behaviour, self._memory, self._follow = behaviour, memory, follow
        self._sharing: _Sharing | None = None
        self._was_tried = False
        self._kept = _Kept()
        is_cpu = architecture.device.type == "cpu"
        self._pass_cost = _PASS_ON_CPU if is_cpu else _PASS_ELSEWHERE
        self._most_tokens = _TOKENS_ON_CPU if is_cpu else _TOKENS_ELSEWHERE
        self._last = len(architecture.blocks) - 1

    @contextmanager
    def keeping(self) -> Generator[None]:
        """Keep what unsteered tokens left behind from one call of this thread to the next, until the block ends.

        The weights must not change meanwhile.
        """
        kept = self._kept
        kept.depth += 1
        try:
            yield
        finally:
            kept.depth -= 1
            if not kept.depth:
                kept.traces.clear()
                kept.size = 0

    def divided(
        self, rows: Sequence[Row], prompts: Sequence[PromptTokens], tails: Sequence[_Tokens]
    ) -> tuple[list[list[int]], list[int]]:
        """Return the numbers of the rows that share their prompts, some at a time, and those of all others.

        `tails` are the tokens that each is given from the last one of its prompt on.
        """
        groups: dict[_Tokens, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if len(prompt.tokens) > 1:
                groups.setdefault(prompt.tokens, []).append(index)
        saved = {tokens: self._saved(tokens, own, rows, tails) for tokens, own in groups.items()}
        worth = [groups[tokens] for tokens, saving in saved.items() if saving > 0]
        starts = {self._start(rows[i].plan) for own in worth for i in own}
        total = sum(saving for saving in saved.values() if saving > 0)
        if total <= self._pass_cost * (2 + len(starts)) or self._allowed() is None:
            worth = []
        worth = [own for own in worth if self._keeps_all_of(len(prompts[own[0]].tokens) - 1)]
        chunks = list(self._chunks(worth, rows, prompts, tails))
        taken = {index for chunk in chunks for index in chunk}
        return chunks, [index for index in range(len(rows)) if index not in taken]

    def logits(
        self, chunk: Sequence[int], rows: Sequence[Row], prompts: Sequence[PromptTokens], tails: Sequence[_Tokens]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits after each token of its tail), unsteered rows first."""
        beginnings = self._beginnings([rows[i] for i in chunk], [prompts[i] for i in chunk])
        paths = {i: Path(prompts[i].tokens[:-1], tails[i]) for i in chunk}
        by_start = self._by_start(chunk, rows, tails)
        wanted: dict[Path, set[int]] = {}
        for start, members in by_start.items():
            for i in members:
                wanted.setdefault(paths[i], set()).add(start)
        traces = self._unsteered(wanted, {head: own for (head, on_prompt), own in beginnings.items() if not on_prompt})
        for start, members in sorted(by_start.items(), reverse=True):
            branches = [
                _Branch(
                    paths[i],
                    beginnings[paths[i].before, _on_prompt(rows[i].plan)],
                    traces[paths[i]].hidden.get(start),
                    (rows[i], prompts[i]),
                )
                for i in members
            ]
            for places in self._batches(branches, self._memory.branch_bytes):
                logits = _required(self._pass([branches[place] for place in places], start=start))
                for row, place in enumerate(places):
                    yield members[place], logits[row, : len(tails[members[place]])].float()

    def cache(self, rows: Sequence[Row], prompts: Sequence[PromptTokens], max_new_tokens: int) -> DynamicCache | None:
        """Return a cache to generate with; None for the model's own, where another would be no better.

        It holds all but the last token of each row's prompt, padded on the left, or nothing, where that saves nothing
        or the rows' plans edit these tokens.
        """
        heads = {prompt.tokens[:-1] for prompt in prompts}
        lengths = {len(head) for head in heads}
        saved = sum(len(prompt.tokens) - 1 for prompt in prompts) - sum(map(len, heads))
        shares = saved > 2 * self._pass_cost and 0 not in lengths and not any(_on_prompt(row.plan) for row in rows)
        room = max(lengths) + 1 + max_new_tokens
        copied = self._memory.cache_bytes(room) * len(rows) // (self._last + 1)
        reserved = room if copied > _COPIED_BYTES else 0
        allowed = self._allowed() if shares or reserved else None
        if allowed is None or not allowed.generates:
            return None
        if shares and (allowed.pads or len(lengths) == 1) and self._keeps_all_of(max(lengths)):
            with self.keeping():
                beginnings = self._beginnings(rows, prompts)
            own = [beginnings[prompt.tokens[:-1], ()] for prompt in prompts]
            return cache_of(allowed.template, own, reserved=reserved)
        return empty_like(allowed.template, reserved) if reserved else None

    def divided_texts(self, texts: Sequence[_Tokens], most: Sequence[int]) -> list[Path] | None:
        """Return each text as what it shares with others, at most so many tokens, and the rest; None where it saves
        little.

        Texts in the order of their tokens are put together as long as that saves more than it costs those before.
        """
        order = sorted(range(len(texts)), key=lambda i: texts[i][: most[i]])
        groups: list[tuple[list[int], int]] = []
        for index in order:
            members, length = groups[-1] if groups else ([], 0)
            common = min(most[index], len(shared_start(texts[index], texts[members[0]][:length]))) if members else 0
            if common * len(members) > length * (len(members) - 1):
                groups[-1] = [*members, index], common
            else:
                groups.append(([index], most[index]))
        befores = {i: length if len(own) > 1 and length >= _WORTH_SHARING else 0 for own, length in groups for i in own}
        saved = sum(sum(befores[i] for i in own[1:]) for own, _ in groups)
        allowed = self._allowed() if saved > max(2 * self._pass_cost, _LEAST_SAVED * sum(map(len, texts))) else None
        if allowed is None or not self._keeps_all_of(max(befores.values())):
            return None
        return [Path(text[: befores[i]], text[befores[i] :]) for i, text in enumerate(texts)]

    def unsteered(
        self,
        paths: Sequence[Path],
        captures_of: Callable[[Sequence[int]], Mapping[Site, Capture]],
        captures_before: Callable[[Sequence[_Tokens]], Mapping[Site, Capture]],
        stop_after: int | None,
        most_tokens: int,
    ) -> Iterator[list[int]]:
        """Run what texts share, and then the rest of each; yield the numbers of those that were run together.

        What is run is shown to the captures that the functions give for it.
        """
        last = self._last if stop_after is None else stop_after
        template, most_bytes = _required(self._sharing).template, self._memory.keeping_bytes()
        waiting = sorted(range(len(paths)), key=lambda i: paths[i].before)
        while waiting:
            befores: dict[_Tokens, int] = {}
            for index in waiting:
                size = self._memory.cache_bytes(len(paths[index].before))
                if befores and paths[index].before not in befores and sum(befores.values()) + size > most_bytes:
                    break
                befores[paths[index].before] = size
            chunk, waiting = ([i for i in waiting if (paths[i].before in befores) is taken] for taken in (True, False))
            beginnings: dict[_Tokens, Beginning] = {}
            heads = [_Branch(Path((), before)) for before in befores if before]
            for places in self._batches(heads, self._memory.beginning_bytes, most_tokens):
                cache, own = empty_like(template), [heads[place].path.tokens for place in places]
                captures = captures_before(own)
                self._pass([heads[place] for place in places], cache=cache, captures=captures, stop_after=last)
                beginnings |= dict(zip(own, beginnings_in(cache, own), strict=True))
            for some in ([i for i in chunk if paths[i].before], [i for i in chunk if not paths[i].before]):
                tails = [_Branch(paths[i], beginnings.get(paths[i].before)) for i in some]
                for places in self._batches(tails, self._memory.branch_bytes, most_tokens):
                    own = [some[place] for place in places]
                    self._pass([tails[place] for place in places], captures=captures_of(own), stop_after=stop_after)
                    yield own

    def _start(self, plan: Plan) -> int:
        """Return the layer up to which a plan leaves all as it is: the last one, where it edits nothing."""
        if self._sharing is not None and not self._sharing.resumes:
            return -1
        firsts = [p.site.layer - (p.site.component != "residual") for p in plan]
        start = min(firsts, default=self._last)
        while start in self._architecture.idle_layers:
            start -= 1
        return start

    def _saved(self, prompt: _Tokens, group: Sequence[int], rows: Sequence[Row], tails: Sequence[_Tokens]) -> float:
        """Return how many tokens less are run, each in all blocks, where the rows of one prompt share it."""
        head, blocks = len(prompt) - 1, self._last + 1
        starts = {i: self._start(rows[i].plan) for i in group}
        left = {i: 1 - (start + 1) / blocks for i, start in starts.items()}
        edited = {on: left[i] for i in group if (on := _on_prompt(rows[i].plan))}
        shared = 0.0 if Path((), prompt[:-1]) in self._kept.traces else float(head)
        shared += head * sum(edited.values())
        shared += sum(map(len, {tails[i] for i in group})) * (max(starts.values()) + 1) / blocks
        shared += sum(len(tails[i]) * left[i] for i in group)
        return sum(head + len(tails[i]) for i in group) - shared

    def _chunks(
        self,
        groups: Iterable[Sequence[int]],
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        tails: Sequence[_Tokens],
    ) -> Iterator[list[int]]:
        """Yield rows that are run at a time, of which what their prompts leave behind is in memory together."""
        most_tokens, most_bytes = _PASSES * self._most_tokens, self._memory.keeping_bytes()
        chunk, tokens, size = list[int](), 0, 0
        seen: set[object] = set()
        for group in groups:
            # Unsteered rows first, then those that spare the prompt.
            for index in sorted(group, key=lambda i: (bool(rows[i].plan), len(_on_prompt(rows[i].plan)))):
                key = prompts[index].tokens, _on_prompt(rows[index].plan)
                own = 0 if key in seen else self._memory.cache_bytes(len(prompts[index].tokens))
                if chunk and (tokens + len(tails[index]) > most_tokens or size + own > most_bytes):
                    yield chunk
                    chunk, tokens, size = [], 0, 0
                    seen.clear()
                chunk.append(index)
                tokens, size = tokens + len(tails[index]), size + own
                seen.add(key)
        if chunk:
            yield chunk

    def _by_start(self, chunk: Sequence[int], rows: Sequence[Row], tails: Sequence[_Tokens]) -> dict[int, list[int]]:
        """Return the rows by the layer behind which their passes begin: where few tokens would have a pass of their own
        that costs more than it saves, the next lower one."""
        by_start: dict[int, list[int]] = {}
        for index in chunk:
            by_start.setdefault(self._start(rows[index].plan), []).append(index)
        order = sorted(by_start, reverse=True)
        for start, lower in pairwise(order):
            tokens = sum(len(tails[i]) for i in by_start[start])
            if tokens * (start - lower) < self._pass_cost * (self._last - start):
                by_start[lower] += by_start.pop(start)
        return by_start

    def _beginnings(
        self, rows: Sequence[Row], prompts: Sequence[PromptTokens]
    ) -> dict[tuple[_Tokens, Plan], Beginning]:
        """Return what all but the last token of each row's prompt leaves behind, unsteered and under what the row does
        to them."""
        starts: dict[Path, set[int]] = {}
        edited: dict[tuple[_Tokens, Plan], tuple[Row, PromptTokens]] = {}
        for row, prompt in zip(rows, prompts, strict=True):
            head, on_prompt = prompt.tokens[:-1], _on_prompt(row.plan)
            wanted = starts.setdefault(Path((), head), set())
            if on_prompt:
                edited[head, on_prompt] = replace(row, plan=on_prompt), prompt
                wanted.add(self._start(on_prompt))
        traces = {path.tokens: trace for path, trace in self._unsteered(starts, leave_beginnings=True).items()}
        found: dict[tuple[_Tokens, Plan], Beginning] = {(head, ()): _beginning_of(own) for head, own in traces.items()}
        by_start: dict[int, list[tuple[_Tokens, Plan]]] = {}
        for key in edited:
            by_start.setdefault(self._start(key[1]), []).append(key)
        for start, keys in by_start.items():
            branches = [_Branch(Path((), key[0]), None, traces[key[0]].hidden.get(start), edited[key]) for key in keys]
            for places in self._batches(branches, self._memory.beginning_bytes):
                cache = empty_like(_required(self._sharing).template)
                self._pass([branches[place] for place in places], start=start, cache=cache, stop_after=self._last)
                own = [keys[place] for place in places]
                for key, new in zip(own, beginnings_in(cache, [head for head, _ in own]), strict=True):
                    found[key] = found[key[0], ()].up_to(start, new)
        return found

    def _unsteered(
        self,
        wanted: Mapping[Path, Collection[int]],
        beginnings: Mapping[_Tokens, Beginning] | None = None,
        *,
        leave_beginnings: bool = False,
    ) -> dict[Path, _Trace]:
        """Return what is left of each path by an unsteered pass, with what the wanted layers put out.

        `beginnings` are those of what is before the paths' tokens. While more is kept than for one call, so are all
        layers: a later call will ask for others.
        """
        found: dict[Path, _Trace] = {}
        layers: set[int] = set()
        for path, own in wanted.items():
            asked = {layer for layer in own if layer >= 0}
            trace = self._kept.traces.get(path)
            if trace is not None and asked <= trace.hidden.keys():
                found[path] = trace
            elif not asked and not leave_beginnings:
                found[path] = _Trace({})
            layers |= asked if path not in found else set()
        if layers and self._kept.depth > 1:
            layers = {*range(self._last + 1)}.difference(self._architecture.idle_layers)
        missing = [path for path in wanted if path not in found]
        branches = [_Branch(path, beginnings[path.before] if beginnings else None) for path in missing]
        if leave_beginnings and not layers:
            branches = self._behind_root(branches)
        row_bytes = self._memory.beginning_bytes if leave_beginnings else self._memory.branch_bytes
        kept_bytes = len(layers) * self._memory.hidden_bytes
        for places in self._batches(branches, lambda tokens, before: row_bytes(tokens, before) + kept_bytes * tokens):
            batch = [branches[place] for place in places]
            cache = self._cache_behind(batch) if leave_beginnings else None
            stop_after = self._last if leave_beginnings else max(layers)
            hidden: dict[int, Tensor] = {}
            captures = {Site(layer): partial(_put, hidden, layer) for layer in layers}
            self._pass(batch, cache=cache, captures=captures, stop_after=stop_after)
            own = [missing[place] for place in places]
            lefts = [None] * len(own) if cache is None else beginnings_in(cache, [path.tokens for path in own])
            for row, (path, left) in enumerate(zip(own, lefts, strict=True)):
                kept = {layer: values[row, : len(path.tokens)].clone() for layer, values in hidden.items()}
                found[path] = trace = _Trace(kept, left)
                self._kept.put(path, trace, self._memory.keeping_bytes())
        return found

    def _cache_behind(self, branches: Sequence[_Branch]) -> DynamicCache:
        """Return a cache that keeps what branches leave behind what they begin with, which is one length."""
        template = _required(self._sharing).template
        beginnings = [branch.beginning for branch in branches if branch.beginning is not None]
        return cache_of(template, beginnings) if beginnings else empty_like(template)

    def _behind_root(self, branches: list[_Branch]) -> list[_Branch]:
        """Let branches that all begin alike, as by a chat template, begin behind that."""
        common = shared_start(*(branch.path.tokens[:-1] for branch in branches)) if branches else ()
        if (len(branches) - 1) * len(common) <= self._pass_cost:
            return branches
        root = Path((), common)
        beginning = self._unsteered({root: ()}, leave_beginnings=True)[root].beginning
        return [_Branch(Path(common, own.path.tokens[len(common) :]), beginning) for own in branches]

    def _batches(
        self, branches: Sequence[_Branch], row_bytes: Callable[[int, int], int], most_tokens: int | None = None
    ) -> list[list[int]]:
        """Group the places of branches that run together; `row_bytes` is of so many tokens behind so many others."""
        before = [len(own.beginning.tokens) if own.beginning else 0 for own in branches]
        groups: dict[int, list[int]] = {}
        for place, length in enumerate(before):
            groups.setdefault(0 if _required(self._sharing).pads else length, []).append(place)
        found: list[list[int]] = []
        for places in groups.values():
            longest = max(before[place] for place in places)
            lengths = [len(branches[place].path.tokens) for place in places]
            batches = self._memory.batches(
                lengths, most_tokens or self._most_tokens, lambda tokens, longest=longest: row_bytes(tokens, longest)
            )
            found += [[places[index] for index in batch] for batch in batches]
        return found

    def _pass(
        self,
        branches: Sequence[_Branch],
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
            template = _required(self._sharing).template
            cache = cache or cache_of(template, beginnings, passed_by=start, is_lent=True)
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

    def _keeps_all_of(self, tokens: int) -> bool:
        """Whether every layer of the cache keeps so many tokens."""
        window = window_of(_required(self._sharing).template)
        return window is None or tokens < window

    def _allowed(self) -> _Sharing | None:
        """Return what the model allows, tried once; where memory runs out, it is tried again."""
        if not self._was_tried:
            try:
                with self.keeping():
                    self._sharing = self._try()
            except _MODEL_ERRORS as error:
                self._sharing = None
                if is_out_of_memory(error):
                    return None
            self._was_tried = True
        return self._sharing

    def _try(self) -> _Sharing | None:
        """Hold rows that share their beginnings against the same in whole passes."""
        if not (self._behaviour.right_is_exact and self._behaviour.company != "alone"):
            return None
        a, b, c, d, e = self._architecture.text_tokens(5)
        paths = [Path((a, b), (c, d)), Path((a, b), (c, e)), Path((b,), (e, d))]
        can_pass = self._hooks.make_passable()
        with self._hooks.running(Run()), torch.no_grad():
            ids, real = pad([path.before + path.tokens for path in paths], self._pad_token, left=False)
            logits, template = forward(self._architecture, ids, real, cache=True)
        if not is_divisible(template, self._last + 1):
            return None
        expected = {path: logits[row, (ends := len(path.before)) : ends + 2] for row, path in enumerate(paths)}
        for pads in (True, False) if self._behaviour.company == "padded" else (False,):
            # Without padding, two rows that begin alike.
            some = expected if pads else dict(list(expected.items())[:2])
            self._sharing = sharing = _Sharing(template, pads)
            if self._agrees(partial(self._resumed, some, -1), list(some.values())):
                starts = {0, self._last // 2, self._last - 1, self._last}.difference(
                    self._architecture.idle_layers, {-1}
                )
                return replace(
                    sharing,
                    resumes=can_pass
                    and all(self._agrees(partial(self._resumed, some, at), list(some.values())) for at in starts),
                    generates=self._agrees(partial(self._generated, some), list(self._generated(some, shares=False))),
                )
        return None

    def _resumed(self, paths: Iterable[Path], start: int) -> Tensor:
        """Return the logits after the tokens of paths, behind what they begin with, and behind a block."""
        beginnings = self._heads(paths)
        traces = self._unsteered({path: {start} for path in paths}, beginnings)
        branches = [_Branch(path, beginnings[path.before], traces[path].hidden.get(start)) for path in paths]
        return _required(self._pass(branches, start=start))

    def _generated(self, paths: Iterable[Path], *, shares: bool = True) -> Tensor:
        """Return the logits before tokens that are forced behind the first of each path's."""
        beginnings = self._heads(paths)
        own = [beginnings[path.before] for path in paths]
        return self._follow(
            [path.before + path.tokens[:1] for path in paths],
            [path.tokens[::-1] for path in paths],
            _unsteered_run,
            cache=cache_of(_required(self._sharing).template, own, reserved=8) if shares else None,
        )

    def _heads(self, paths: Iterable[Path]) -> dict[_Tokens, Beginning]:
        heads = self._unsteered({Path((), path.before): () for path in paths}, leave_beginnings=True)
        return {path.tokens: _beginning_of(trace) for path, trace in heads.items()}

    def _agrees(self, way: Callable[[], Tensor], expected: Sequence[Tensor]) -> bool:
        """Return whether logits (rows, tokens, vocabulary) are as expected."""
        try:
            found = way()
        except _MODEL_ERRORS as error:
            # Some models keep the rows of their last prompt, and mix them up with those of the next pass.
            if is_out_of_memory(error):
                raise
            return False
        wanted = torch.stack(list(expected))
        gap, largest = (found - wanted).abs().amax(dim=-1), wanted.abs().amax(dim=-1)
        return bool((gap <= max(_TOLERANCE, 8 * torch.finfo(self._architecture.dtype).eps) * largest).all())


def _unsteered_run(real: Tensor) -> Run:
    return Run()


def _on_prompt(plan: Plan) -> Plan:
    """Return what of a plan edits tokens of the prompt before its last."""
    return tuple(placement for placement in plan if not placement.positions.spares_prompt)


def _put(found: dict[int, Tensor], layer: int, hidden: Tensor) -> None:
    # A copy: some models go on with it in place.
    found[layer] = hidden.clone()


def _beginning_of(trace: _Trace) -> Beginning:
    return _required(trace.beginning)


def _required(value: _Value | None) -> _Value:
    assert value is not None
    return value
