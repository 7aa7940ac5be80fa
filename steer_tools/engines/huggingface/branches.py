"""Rows that begin alike → passes that run what they share once: a prompt, and the blocks below the first edit.

What edits the prompt before its last token must be equal in rows that share it; what acts from there on may differ. In
a pass with edits the blocks below the first one are passed by, and what they would put out is taken from an unsteered
pass over the same tokens. It must not know what logits are wanted for.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from transformers.cache_utils import DynamicCache

from steer_tools.core.plan import Plan
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.branch_passes import Branch, BranchPasses, Path, Sharing, Tokens, required
from steer_tools.engines.huggingface.hooks import Capture
from steer_tools.engines.huggingface.memory import is_out_of_memory
from steer_tools.engines.huggingface.prompt_caches import Beginning, beginnings_in, cache_of, empty_like
from steer_tools.engines.huggingface.sharing_trial import MODEL_ERRORS, SharingTrial
from steer_tools.engines.huggingface.tokenization import PromptTokens, shared_start

# The passes' worth of tails that are run at a time.
_PASSES = 4
# Texts share a beginning of at least so many tokens, and where that is at least such a share of all they have.
_WORTH_SHARING, _LEAST_SAVED = 8, 0.2
# A layer's keys and values that are larger than this are not copied at each step of a generation.
_COPIED_BYTES = 2**20


class Passed(NamedTuple):
    """What a pass put out of one row.

    Attributes:
        logits: (tokens, vocabulary) float32, after each token that is not the prompt's but its last.
        hidden: By layer, (tokens, width), what blocks put out at these tokens.
    """

    logits: Tensor
    hidden: Mapping[int, Tensor]


class Branches:
    """Shares what the rows of one model have in common."""

    def __init__(self, architecture: Architecture, passes: BranchPasses, trial: SharingTrial) -> None:
        self._architecture, self._passes, self._trial = architecture, passes, trial
        self._memory = passes.memory
        self._was_tried = False

    def keeping(self) -> AbstractContextManager[None]:
        """Keep what unsteered tokens left behind from one call of this thread to the next, until the block ends."""
        return self._passes.keeping()

    def divided(
        self, rows: Sequence[Row], prompts: Sequence[PromptTokens], tails: Sequence[Tokens]
    ) -> tuple[list[list[int]], list[int]]:
        """Return the numbers of the rows that share their prompts, some at a time, and those of all others.

        `tails` are the tokens that each is given from the last one of its prompt on.
        """
        groups: dict[Tokens, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if len(prompt.tokens) > 1:
                groups.setdefault(prompt.tokens, []).append(index)
        saved = {tokens: self._saved(tokens, own, rows, tails) for tokens, own in groups.items()}
        worth = [groups[tokens] for tokens, saving in saved.items() if saving > 0]
        starts = {self._start(rows[i].plan) for own in worth for i in own}
        total = sum(saving for saving in saved.values() if saving > 0)
        if total <= self._passes.pass_cost * (2 + len(starts)) or self._allowed() is None:
            worth = []
        worth = [own for own in worth if self._passes.keeps_all_of(len(prompts[own[0]].tokens) - 1)]
        chunks = list(self._chunks(worth, rows, prompts, tails))
        taken = {index for chunk in chunks for index in chunk}
        return chunks, [index for index in range(len(rows)) if index not in taken]

    def passed(
        self,
        chunk: Sequence[int],
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        tails: Sequence[Tokens],
        layers: Collection[int] = (),
    ) -> Iterator[tuple[int, Passed]]:
        """Yield (row, what its pass put out), unsteered rows first; what `layers` put out is that of unsteered passes.

        Texts whose layers are read are met once, and nothing is kept of them.
        """
        beginnings = self._beginnings([rows[i] for i in chunk], [prompts[i] for i in chunk])
        paths = {i: Path(prompts[i].tokens[:-1], tails[i]) for i in chunk}
        by_start = self._by_start(chunk, rows, tails)
        wanted: dict[Path, set[int]] = {}
        for start, members in by_start.items():
            for i in members:
                wanted.setdefault(paths[i], {*layers}).add(start)
        traces = self._passes.unsteered(
            wanted, {head: own for (head, on_prompt), own in beginnings.items() if not on_prompt}, keeps=not layers
        )
        for start, members in sorted(by_start.items(), reverse=True):
            branches = [
                Branch(
                    paths[i],
                    beginnings[paths[i].before, _on_prompt(rows[i].plan)],
                    traces[paths[i]].hidden.get(start),
                    (rows[i], prompts[i]),
                )
                for i in members
            ]
            for places in self._passes.batches(branches, self._memory.branch_bytes):
                logits = required(self._passes.run([branches[place] for place in places], start=start))
                for row, place in enumerate(places):
                    index = members[place]
                    hidden = {layer: traces[paths[index]].hidden[layer] for layer in layers}
                    yield index, Passed(logits[row, : len(tails[index])].float(), hidden)

    def cache(self, rows: Sequence[Row], prompts: Sequence[PromptTokens], max_new_tokens: int) -> DynamicCache | None:
        """Return a cache to generate with; None for the model's own, where another would be no better.

        It holds all but the last token of each row's prompt, padded on the left, as the row's plan leaves them, or
        nothing, where that saves nothing.
        """
        own = [(prompt.tokens[:-1], _on_prompt(row.plan)) for row, prompt in zip(rows, prompts, strict=True)]
        lengths, blocks = {len(head) for head, _ in own}, self._passes.last + 1
        left = {key: 1 - (self._start(key[1]) + 1) / blocks for key in own if key[1]}
        saved = sum(len(head) for head, _ in own) - sum(map(len, {head for head, _ in own}))
        saved -= sum(len(head) * share for (head, _), share in left.items())
        shares = saved > self._passes.pass_cost * (2 + len({*left.values()})) and 0 not in lengths
        room = max(lengths) + 1 + max_new_tokens
        copied = self._memory.cache_bytes(room) * len(rows) // (self._passes.last + 1)
        reserved = room if copied > _COPIED_BYTES else 0
        allowed = self._allowed() if shares or reserved else None
        if allowed is None or not allowed.generates:
            return None
        if shares and (allowed.pads or len(lengths) == 1) and self._passes.keeps_all_of(max(lengths)):
            with self._passes.keeping():
                beginnings = self._beginnings(rows, prompts)
            return cache_of(allowed.template, [beginnings[key] for key in own], reserved=reserved)
        return empty_like(allowed.template, reserved) if reserved else None

    def divided_texts(self, texts: Sequence[Tokens], most: Sequence[int]) -> list[Path] | None:
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
        allowed = (
            self._allowed() if saved > max(2 * self._passes.pass_cost, _LEAST_SAVED * sum(map(len, texts))) else None
        )
        if allowed is None or not self._passes.keeps_all_of(max(befores.values())):
            return None
        return [Path(text[: befores[i]], text[befores[i] :]) for i, text in enumerate(texts)]

    def unsteered(
        self,
        paths: Sequence[Path],
        captures_of: Callable[[Sequence[int]], Mapping[Site, Capture]],
        captures_before: Callable[[Sequence[Tokens]], Mapping[Site, Capture]],
        stop_after: int | None,
        most_tokens: int,
    ) -> Iterator[list[int]]:
        """Run what texts share, and then the rest of each; yield the numbers of those that were run together.

        What is run is shown to the captures that the functions give for it.
        """
        last = self._passes.last if stop_after is None else stop_after
        template, most_bytes = self._passes.template, self._memory.keeping_bytes()
        waiting = sorted(range(len(paths)), key=lambda i: paths[i].before)
        while waiting:
            befores: dict[Tokens, int] = {}
            for index in waiting:
                size = self._memory.cache_bytes(len(paths[index].before))
                if befores and paths[index].before not in befores and sum(befores.values()) + size > most_bytes:
                    break
                befores[paths[index].before] = size
            chunk, waiting = ([i for i in waiting if (paths[i].before in befores) is taken] for taken in (True, False))
            beginnings: dict[Tokens, Beginning] = {}
            heads = [Branch(Path((), before)) for before in befores if before]
            for places in self._passes.batches(heads, self._memory.beginning_bytes, most_tokens):
                cache, own = empty_like(template), [heads[place].path.tokens for place in places]
                captures = captures_before(own)
                self._passes.run([heads[place] for place in places], cache=cache, captures=captures, stop_after=last)
                beginnings |= dict(zip(own, beginnings_in(cache, own), strict=True))
            for some in ([i for i in chunk if paths[i].before], [i for i in chunk if not paths[i].before]):
                tails = [Branch(paths[i], beginnings.get(paths[i].before)) for i in some]
                for places in self._passes.batches(tails, self._memory.branch_bytes, most_tokens):
                    own = [some[place] for place in places]
                    self._passes.run(
                        [tails[place] for place in places], captures=captures_of(own), stop_after=stop_after
                    )
                    yield own

    def _start(self, plan: Plan) -> int:
        """Return the layer up to which a plan leaves all as it is: the last one, where it edits nothing."""
        if self._passes.sharing is not None and not self._passes.sharing.resumes:
            return -1
        firsts = [p.site.layer - (p.site.component != "residual") for p in plan]
        start = min(firsts, default=self._passes.last)
        while start in self._architecture.idle_layers:
            start -= 1
        return start

    def _saved(self, prompt: Tokens, group: Sequence[int], rows: Sequence[Row], tails: Sequence[Tokens]) -> float:
        """Return how many tokens less are run, each in all blocks, where the rows of one prompt share it."""
        head, blocks = len(prompt) - 1, self._passes.last + 1
        starts = {i: self._start(rows[i].plan) for i in group}
        left = {i: 1 - (start + 1) / blocks for i, start in starts.items()}
        edited = {on: left[i] for i in group if (on := _on_prompt(rows[i].plan))}
        shared = 0.0 if self._passes.keeps(Path((), prompt[:-1])) else float(head)
        shared += head * sum(edited.values())
        shared += sum(map(len, {tails[i] for i in group})) * (max(starts.values()) + 1) / blocks
        shared += sum(len(tails[i]) * left[i] for i in group)
        return sum(head + len(tails[i]) for i in group) - shared

    def _chunks(
        self,
        groups: Iterable[Sequence[int]],
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        tails: Sequence[Tokens],
    ) -> Iterator[list[int]]:
        """Yield rows that are run at a time, of which what their prompts leave behind is in memory together."""
        most_tokens, most_bytes = _PASSES * self._passes.most_tokens, self._memory.keeping_bytes()
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

    def _by_start(self, chunk: Sequence[int], rows: Sequence[Row], tails: Sequence[Tokens]) -> dict[int, list[int]]:
        """Return the rows by the layer behind which their passes begin: where few tokens would have a pass of their own
        that costs more than it saves, the next lower one."""
        by_start: dict[int, list[int]] = {}
        for index in chunk:
            by_start.setdefault(self._start(rows[index].plan), []).append(index)
        order = sorted(by_start, reverse=True)
        for start, lower in pairwise(order):
            tokens = sum(len(tails[i]) for i in by_start[start])
            if tokens * (start - lower) < self._passes.pass_cost * (self._passes.last - start):
                by_start[lower] += by_start.pop(start)
        return by_start

    def _beginnings(self, rows: Sequence[Row], prompts: Sequence[PromptTokens]) -> dict[tuple[Tokens, Plan], Beginning]:
        """Return what all but the last token of each row's prompt leaves behind, unsteered and under what the row does
        to them."""
        starts: dict[Path, set[int]] = {}
        edited: dict[tuple[Tokens, Plan], tuple[Row, PromptTokens]] = {}
        for row, prompt in zip(rows, prompts, strict=True):
            head, on_prompt = prompt.tokens[:-1], _on_prompt(row.plan)
            wanted = starts.setdefault(Path((), head), set())
            if on_prompt:
                edited[head, on_prompt] = replace(row, plan=on_prompt), prompt
                wanted.add(self._start(on_prompt))
        traces = {path.tokens: trace for path, trace in self._passes.unsteered(starts, leave_beginnings=True).items()}
        found: dict[tuple[Tokens, Plan], Beginning] = {
            (head, ()): required(own.beginning) for head, own in traces.items()
        }
        by_start: dict[int, list[tuple[Tokens, Plan]]] = {}
        for key in edited:
            by_start.setdefault(self._start(key[1]), []).append(key)
        for start, keys in by_start.items():
            branches = [Branch(Path((), key[0]), None, traces[key[0]].hidden.get(start), edited[key]) for key in keys]
            for places in self._passes.batches(branches, self._memory.beginning_bytes):
                cache = empty_like(self._passes.template)
                self._passes.run(
                    [branches[place] for place in places], start=start, cache=cache, stop_after=self._passes.last
                )
                own = [keys[place] for place in places]
                for key, new in zip(own, beginnings_in(cache, [head for head, _ in own]), strict=True):
                    found[key] = found[key[0], ()].up_to(start, new)
        return found

    def _allowed(self) -> Sharing | None:
        """Return what the model allows, tried once; where memory runs out, it is tried again."""
        if not self._was_tried:
            try:
                with self._passes.keeping():
                    self._passes.sharing = self._trial.outcome()
            except MODEL_ERRORS as error:
                self._passes.sharing = None
                if is_out_of_memory(error):
                    return None
            self._was_tried = True
        return self._passes.sharing


def _on_prompt(plan: Plan) -> Plan:
    """Return what of a plan edits tokens of the prompt before its last."""
    return tuple(placement for placement in plan if not placement.positions.spares_prompt)
