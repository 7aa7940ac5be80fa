"""Prompts → activations, in passes that stop after the deepest block that is needed. It must not know plans.

Prompts are sorted by length and padded on the right, the head never runs, and only the tokens that are asked for are
kept.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from steer_tools.core.positions import POOLINGS
from steer_tools.core.site import Site
from steer_tools.engines.base import AnyPooling
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import batches_by_length, forward, pad
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks, StopForward
from steer_tools.engines.huggingface.probe import Behaviour
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.progress import reported
from steer_tools.prompts import Prompt

# About 256 tokens a batch was fastest for reading on a CPU; an accelerator wants larger products.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE = 256, 4096

_Keep: TypeAlias = Callable[[Site, list[int], Tensor], None]


class Reader:
    """Reads one model."""

    def __init__(
        self, architecture: Architecture, taps: Taps, hooks: SteeringHooks, tokens: Tokenization, behaviour: Behaviour
    ) -> None:
        self._architecture, self._taps, self._hooks = architecture, taps, hooks
        self._tokens, self._behaviour = tokens, behaviour
        self._may_stop_early = architecture.may_stop_early

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Group sequences of these lengths for passes without a cache."""
        is_cpu = self._architecture.device.type == "cpu"
        budget = _TOKENS_ON_CPU if is_cpu else _TOKENS_ELSEWHERE
        return batches_by_length(lengths, budget, equal_only=not self._behaviour.right_is_exact)

    def read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> dict[Site, Tensor]:
        """Return the mean over the pooled tokens of each prompt, (prompts, width) float32 on the CPU."""
        if pooling not in POOLINGS and not callable(pooling):
            raise ArgumentError(f"pooling is {pooling!r}", valid=", ".join(map(repr, POOLINGS)))
        encoded = [self._tokens.encode(prompt) for prompt in prompts]
        chosen = [self._pooled(tokens, pooling, prompt) for tokens, prompt in zip(encoded, prompts, strict=True)]
        pooled = {site: torch.zeros(len(prompts), self._taps.at(site).width) for site in sites}

        def keep(site: Site, batch: list[int], hidden: Tensor) -> None:
            mask = torch.zeros(hidden.shape[:2], dtype=torch.bool)
            for row, index in enumerate(batch):
                mask[row, : len(chosen[index])] = chosen[index]
            rows, columns = mask.nonzero(as_tuple=True)
            values = hidden[rows.to(hidden.device), columns.to(hidden.device)].float().cpu()
            sums = torch.zeros(len(batch), values.shape[1]).index_add(0, rows, values)
            pooled[site][batch] = sums / mask.sum(dim=1, keepdim=True)

        self._read_blocks(encoded, sites, keep)
        return pooled

    def trace(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> list[dict[Site, Tensor]]:
        """Return every token of each prompt, (tokens, width) float32 on the CPU."""
        encoded = [self._tokens.encode(prompt) for prompt in prompts]
        traces: list[dict[Site, Tensor]] = [{} for _ in prompts]

        def keep(site: Site, batch: list[int], hidden: Tensor) -> None:
            for row, index in enumerate(batch):
                # A copy: Falcon adds the attention's output to that of the MLP in place.
                traces[index][site] = hidden[row, : len(encoded[index].tokens)].to("cpu", torch.float32, copy=True)

        self._read_blocks(encoded, sites, keep)
        return traces

    def _read_blocks(self, encoded: Sequence[PromptTokens], sites: Sequence[Site], keep: _Keep) -> None:
        """Call keep(site, batch, hidden) for each batch of prompts."""
        self._hooks.reach(sites)
        deepest = max(site.layer for site in sites)
        batches = self.batches([len(tokens.tokens) for tokens in encoded])
        for batch in reported(batches, "reading prompts"):
            padded = pad([encoded[i].tokens for i in batch], self._tokens.pad_token, left=False)
            captures = {site: partial(keep, site, batch) for site in sites}
            run = Run(captures=captures, stop_after=deepest if self._may_stop_early else None)
            with torch.no_grad(), self._hooks.running(run), suppress(StopForward):
                forward(self._architecture, *padded)

    def _pooled(self, encoded: PromptTokens, pooling: AnyPooling, prompt: Prompt) -> Tensor:
        """Return (tokens,) bool: which tokens the pooling reads."""
        position = torch.arange(len(encoded.tokens))
        last = len(encoded.tokens) - 1
        match pooling:
            case "last":
                chosen = position == last
            case "first":
                chosen = position == min(self._tokens.first_position(encoded), last)
            case "mean":
                chosen = torch.tensor([token not in self._tokens.special_tokens for token in encoded.tokens])
            case "response":
                chosen = position >= (last + 1 if encoded.response_start is None else encoded.response_start)
            case choose:
                chosen = torch.as_tensor(choose(self._tokens.describe(prompt)))
                if chosen.dtype != torch.bool or chosen.shape != position.shape:
                    raise ArgumentError(
                        f"The pooling function returned {chosen.dtype} of shape {tuple(chosen.shape)} for a prompt of "
                        f"{len(position)} tokens",
                        valid="one bool a token, true where it is read",
                    )
        if not chosen.any():
            raise PromptError(
                f"The prompt {prompt!s:.80} has no token that pooling={pooling!r} would read",
                valid="for 'response', chats whose last message is the assistant's; for 'mean', prompts with some text",
                fix="Use pooling='last', or change the prompts.",
            )
        return chosen
