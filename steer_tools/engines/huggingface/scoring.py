"""Rows and completions → log-probabilities, divergences and gradients; rows of one prompt share its cache.

It must not know how plans act; the logits of prompts are not computed where the model can leave them out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, CompletionGradients, Row
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Capture, SteeringHooks
from steer_tools.engines.huggingface.prefix_cache import SharedPrompts
from steer_tools.engines.huggingface.row_plans import RowPlans
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.progress import report

_SCORING = "scoring completions"


class Scorer:
    """Scores with one model; `batches` groups sequences by their lengths."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        tokens: Tokenization,
        plans: RowPlans,
        batches: Callable[[Sequence[int]], list[list[int]]],
        shared: SharedPrompts,
    ) -> None:
        self._architecture, self._hooks, self._tokens = architecture, hooks, tokens
        self._plans, self._batches, self._shared = plans, batches, shared

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each completion token."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)
        scores = {index: _chosen(logits, added[index]).cpu() for index, logits in self._logits_of(rows, prompts, added)}
        return [scores[i] for i in range(len(rows))]

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token."""
        prompts = self._tokens.encode_each(row.prompt for row in rows)
        # Any one token will do: only the logits before it are read.
        any_token = [(self._tokens.pad_token,) for _ in rows]
        found = {i: logits[0].log_softmax(dim=-1).cpu() for i, logits in self._logits_of(rows, prompts, any_token)}
        return [found[i] for i in range(len(rows))]

    def divergences(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return KL(unsteered‖row) before each completion token, in nats."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for index, (prompt, tokens) in enumerate(zip(prompts, added, strict=True)):
            alike.setdefault((prompt.tokens, tokens), []).append(index)
        found: dict[int, Tensor] = {}
        for indices in alike.values():
            own = [indices[0], *indices]
            with_reference = [Row(rows[indices[0]].prompt), *(rows[i] for i in indices)]
            every = self._logits_of(
                with_reference, [prompts[i] for i in own], [added[i] for i in own], message="measuring divergence"
            )
            reference: Tensor | None = None
            waiting: dict[int, Tensor] = {}
            for place, logits in every:
                waiting[place] = logits.log_softmax(dim=-1)
                # Rows whose plans edit the prompt alike come before the unsteered one.
                reference = waiting.pop(0) if place == 0 else reference
                while waiting and reference is not None:
                    other, log_probs = waiting.popitem()
                    found[own[other]] = (reference.exp() * (reference - log_probs)).sum(dim=-1).cpu()
        return [found[i] for i in range(len(rows))]

    def gradients(
        self, rows: Sequence[Row], completions: Sequence[Completion], sites: Sequence[Site]
    ) -> list[CompletionGradients]:
        """Return each completion's log-probability with its gradients, from one pass a row there and back."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)
        self._hooks.reach(sites)
        found: dict[int, CompletionGradients] = {}
        with torch.inference_mode(False), torch.enable_grad():
            for batch in self._batches_of(range(len(rows)), prompts, added):
                # The gradient at a site is that of zeros which are added there, whatever came before.
                zeros: dict[Site, Tensor] = {}

                def add_zeros(site: Site, hidden: Tensor, zeros: dict[Site, Tensor] = zeros) -> Tensor:
                    zeros[site] = torch.zeros_like(hidden, requires_grad=True)
                    return hidden + zeros[site]

                captures = {site: partial(add_zeros, site) for site in sites}
                logits = self._logits(batch, rows, prompts, added, captures)
                totals = [_chosen(own, added[index]).sum() for index, own in logits]
                gradients = torch.autograd.grad(torch.stack(totals).sum(), [zeros[site] for site in sites])
                for row, index in enumerate(batch):
                    end = len(prompts[index].tokens) + len(added[index]) - 1
                    own = {site: g[row, :end].float().cpu() for site, g in zip(sites, gradients, strict=True)}
                    found[index] = CompletionGradients(float(totals[row].detach()), own)
                report(len(found), len(rows), _SCORING)
        return [found[i] for i in range(len(rows))]

    def _logits_of(
        self,
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        completions: Sequence[tuple[int, ...]],
        *,
        message: str = _SCORING,
    ) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits before each completion token), in any order."""
        groups, alone = self._shared.groups(rows, prompts)
        done = 0
        with torch.no_grad():
            for group in groups:
                yield from self._shared.logits(group, rows, prompts[group[0]], completions)
                done += len(group)
                report(done, len(rows), message)
            for batch in self._batches_of(alone, prompts, completions):
                yield from self._logits(batch, rows, prompts, completions)
                done += len(batch)
                report(done, len(rows), message)

    def _batches_of(
        self, indices: Sequence[int], prompts: Sequence[PromptTokens], completions: Sequence[tuple[int, ...]]
    ) -> list[list[int]]:
        """Group rows by how much the model is given for them: prompts with completions but for their last tokens."""
        lengths = [len(prompts[i].tokens) + len(completions[i]) - 1 for i in indices]
        return [[indices[place] for place in batch] for batch in self._batches(lengths)]

    def _logits(
        self,
        batch: Sequence[int],
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        completions: Sequence[tuple[int, ...]],
        captures: Mapping[Site, Capture] | None = None,
    ) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits before each completion token)."""
        given = [(*prompts[i].tokens, *completions[i][:-1]) for i in batch]
        ids, real = pad(given, self._tokens.pad_token, left=False)
        run = self._plans.run([rows[i] for i in batch], [prompts[i] for i in batch], real)
        first_column = min(len(prompts[i].tokens) for i in batch) - 1
        with self._hooks.running(replace(run, captures=captures or {})):
            logits, _ = forward(self._architecture, ids, real, first_column=first_column)
        for row, index in enumerate(batch):
            start = len(prompts[index].tokens) - 1 - first_column
            yield index, logits[row, start : start + len(completions[index])].float()


def _chosen(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return (tokens,) the log-probabilities of `tokens`."""
    chosen = torch.tensor(tokens, device=logits.device)
    return logits.log_softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1)
