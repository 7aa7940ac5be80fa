"""Prompts → activations, in passes that stop after the deepest block that is needed. It must not know plans.

Prompts are sorted by length and padded on the right, the head never runs, and only the tokens that are asked for are
kept.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from steer_tools.core.positions import attention_sinks, without
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.branch_passes import Path
from steer_tools.engines.huggingface.branches import Branches
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Capture, Run, SteeringHooks, StopForward
from steer_tools.engines.huggingface.memory import Memory
from steer_tools.engines.huggingface.probe import Behaviour
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.engines.pooling import MEANS, Activations, AnyPooling, TokenizedPrompt, counted
from steer_tools.progress import report
from steer_tools.prompts import Prompt

# About 256 tokens a batch was fastest for reading on a CPU; an accelerator wants larger products.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE = 256, 4096

_Selected = TypeVar("_Selected")


class Reader:
    """Reads one model."""

    def __init__(
        self,
        architecture: Architecture,
        taps: Taps,
        hooks: SteeringHooks,
        tokens: Tokenization,
        behaviour: Behaviour,
        memory: Memory,
        branches: Branches,
    ) -> None:
        self._architecture, self._taps, self._hooks, self._branches = architecture, taps, hooks, branches
        self._tokens, self._behaviour, self._memory = tokens, behaviour, memory
        self._most_tokens = _TOKENS_ON_CPU if architecture.device.type == "cpu" else _TOKENS_ELSEWHERE
        self._may_stop_early = architecture.may_stop_early

    def batches(self, lengths: Sequence[int], row_bytes: Callable[[int], int]) -> list[list[int]]:
        """Group sequences of these lengths for passes without a cache; `row_bytes` is of a row of a length."""
        equal_only = not self._behaviour.right_is_exact
        return self._memory.batches(lengths, self._most_tokens, row_bytes, equal_only=equal_only)

    def read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> Activations:
        """Return the mean over the pooled tokens of each prompt."""
        described = self._tokens.describe_each(prompts)
        named = [own.pooled(pooling) for own in described]
        # A sink may show behind the sites that are read, and a mean must know it; one token is read whatever it is.
        deepest = None if pooling in MEANS else max(site.layer for site in sites)
        streams = [site for site in self._streams if deepest is None or site.layer <= deepest]
        masks, sinks = list(named), list(named)
        pooled = {site: torch.zeros(len(prompts), self._taps.at(site).width) for site in sites}

        texts = [own.tokens for own in described]
        # What is named is behind what texts share.
        paths = self._branches.divided_texts(texts, [int(own.nonzero()[0]) for own in named])
        before = [0] * len(texts) if paths is None else [len(path.before) for path in paths]
        shared: dict[tuple[int, ...], dict[Site, Tensor]] = defaultdict(dict)

        def select(site: Site, batch: list[int], hidden: Tensor) -> _Kept:
            here = [named[index][before[index] :] for index in batch]
            rows, columns = _side_by_side(here, hidden.shape[1]).nonzero(as_tuple=True)
            return _Kept(
                norms=_norms(hidden) if site in streams else None,
                values=hidden[rows.to(hidden.device), columns.to(hidden.device)].cpu() if site in pooled else None,
            )

        def select_shared(site: Site, batch: list[tuple[int, ...]], hidden: Tensor) -> None:
            if site in streams:
                for tokens, own in zip(batch, _norms(hidden), strict=True):
                    shared[tokens][site] = own[: len(tokens)]

        if paths is None:
            passes = self._passes(described, {*streams, *sites}, select)
        else:
            passes = self._shared_passes(paths, {*streams, *sites}, select, select_shared)
        for batch, kept in passes:
            for row, index in enumerate(batch):
                norms = [own[row] for site in streams if (own := kept[site].norms) is not None]
                if before[index]:
                    start = shared[texts[index][: before[index]]]
                    norms = [torch.cat([start[site], own]) for site, own in zip(streams, norms, strict=True)]
                sinks[index] = _sinks_of(norms, described[index])
                masks[index] = without(named[index], sinks[index]) if deepest is None else named[index]
            stays = torch.cat([masks[index][named[index]] for index in batch])
            counts = torch.tensor([[int(masks[index].sum())] for index in batch])
            rows = torch.arange(len(batch)).repeat_interleave(counts[:, 0])
            for site, means in pooled.items():
                values = kept[site].values
                assert values is not None
                sums = torch.zeros(len(batch), means.shape[1]).index_add(0, rows, values[stays].float())
                means[batch] = sums / counts
        return Activations(pooled, *counted(named, masks, sinks))

    def sinks(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return which tokens are much longer than the others after some block."""
        described = self._tokens.describe_each(prompts)
        found = [torch.empty(0) for _ in prompts]
        for batch, norms in self._passes(described, self._streams, lambda site, batch, hidden: _norms(hidden)):
            for row, index in enumerate(batch):
                found[index] = _sinks_of([norms[site][row] for site in self._streams], described[index])
        return found

    def trace(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> list[dict[Site, Tensor]]:
        """Return every token of each prompt, (tokens, width) float32 on the CPU."""
        encoded = self._tokens.encode_each(prompts)
        traces: list[dict[Site, Tensor]] = [{} for _ in prompts]

        def keep(site: Site, batch: list[int], hidden: Tensor) -> None:
            for row, index in enumerate(batch):
                # A copy: Falcon adds the attention's output to that of the MLP in place.
                traces[index][site] = hidden[row, : len(encoded[index].tokens)].to("cpu", torch.float32, copy=True)

        for _ in self._passes(encoded, sites, keep):
            pass
        return traces

    @cached_property
    def _streams(self) -> list[Site]:
        """What each block that runs puts out."""
        blocks, idle = self._architecture.blocks, self._architecture.idle_layers
        return [Site(layer) for layer in range(len(blocks)) if layer not in idle]

    def _passes(
        self,
        encoded: Sequence[PromptTokens | TokenizedPrompt],
        sites: Collection[Site],
        select: Callable[[Site, list[int], Tensor], _Selected],
    ) -> Iterator[tuple[list[int], dict[Site, _Selected]]]:
        """Yield each batch of prompts with what `select` takes of what is at each site, (rows, tokens, width)."""
        self._hooks.reach(sites)
        deepest = max(site.layer for site in sites)
        done = 0

        def run(batch: list[int]) -> dict[Site, _Selected]:
            padded = pad([encoded[i].tokens for i in batch], self._tokens.pad_token, left=False)
            selected: dict[Site, _Selected] = {}

            def take(site: Site, hidden: Tensor) -> None:
                selected[site] = select(site, batch, hidden)

            captures = {site: partial(take, site) for site in sites}
            stop_after = deepest if self._may_stop_early else None
            with (
                torch.no_grad(),
                self._hooks.running(Run(captures=captures, stop_after=stop_after)),
                suppress(StopForward),
            ):
                forward(self._architecture, *padded)
            return selected

        batches = self.batches([len(tokens.tokens) for tokens in encoded], self._memory.reading_bytes)
        for batch, selected in self._memory.halved(batches, run):
            yield batch, selected
            done += len(batch)
            report(done, len(encoded), "reading prompts")

    def _shared_passes(
        self,
        paths: Sequence[Path],
        sites: Collection[Site],
        select: Callable[[Site, list[int], Tensor], _Selected],
        select_shared: Callable[[Site, list[tuple[int, ...]], Tensor], None],
    ) -> Iterator[tuple[list[int], dict[Site, _Selected]]]:
        """Yield the same of prompts that begin alike: `select_shared` is shown what they share, `select` the rest."""
        self._hooks.reach(sites)
        deepest = max(site.layer for site in sites)

        def run(some: list[int]) -> list[tuple[list[int], dict[Site, _Selected]]]:
            selected: dict[Site, _Selected] = {}

            def captures(places: Sequence[int]) -> dict[Site, Capture]:
                selected.clear()

                def take(site: Site, hidden: Tensor) -> None:
                    selected[site] = select(site, [some[place] for place in places], hidden)

                return {site: partial(take, site) for site in sites}

            def captures_of_shared(tokens: Sequence[tuple[int, ...]]) -> dict[Site, Capture]:
                return {site: partial(select_shared, site, [*tokens]) for site in sites}

            own = [paths[index] for index in some]
            made: list[tuple[list[int], dict[Site, _Selected]]] = []
            for places in self._branches.unsteered(own, captures, captures_of_shared, deepest, self._most_tokens):
                made.append(([some[place] for place in places], dict(selected)))
                report(sum(len(batch) for batch, _ in made), len(some), "reading prompts")
            return made

        for _, made in self._memory.halved([[*range(len(paths))]], run):
            yield from made


class _Kept(NamedTuple):
    """What is kept of a pass at one site: (rows, tokens), and (named tokens, width) in the model's dtype."""

    norms: Tensor | None
    values: Tensor | None


def _norms(hidden: Tensor) -> Tensor:
    return hidden.float().norm(dim=-1).cpu()


def _sinks_of(norms: Sequence[Tensor], prompt: TokenizedPrompt) -> Tensor:
    return attention_sinks(torch.stack([own[: len(prompt.tokens)] for own in norms]), prompt.special)


def _side_by_side(masks: Sequence[Tensor], columns: int) -> Tensor:
    """Return masks (tokens,) as (rows, columns), false behind their ends."""
    return torch.stack([torch.nn.functional.pad(mask, (0, columns - len(mask))) for mask in masks])
