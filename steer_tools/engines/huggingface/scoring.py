"""Rows and completions → log-probabilities, divergences and gradients; rows of one prompt share its cache.

It must not know how plans act; the logits of prompts are not computed where the model can leave them out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class _ForcedBatch:
    """Prompts with completions but for their last tokens, padded on the right.

    Attributes:
        rows: Their numbers among all rows.
        ids: (rows, columns).
        real: (rows, columns) bool, false at padding.
        starts: The column of each row's last prompt token.
        ends: The real columns of each row.
    """

    rows: tuple[int, ...]
    ids: Tensor
    real: Tensor
    starts: list[int]
    ends: list[int]


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
            for batch in self._forced_batches(prompts, added):
                # The gradient at a site is that of zeros which are added there, whatever came before.
                zeros: dict[Site, Tensor] = {}

                def add_zeros(site: Site, hidden: Tensor, zeros: dict[Site, Tensor] = zeros) -> Tensor:
                    zeros[site] = torch.zeros_like(hidden, requires_grad=True)
                    return hidden + zeros[site]

                captures = {site: partial(add_zeros, site) for site in sites}
                logits = dict(self._logits(batch, rows, prompts, captures))
                totals = [_chosen(logits[index], added[index]).sum() for index in batch.rows]
                gradients = torch.autograd.grad(torch.stack(totals).sum(), [zeros[site] for site in sites])
                for row, index in enumerate(batch.rows):
                    own = {s: g[row, : batch.ends[row]].float().cpu() for s, g in zip(sites, gradients, strict=True)}
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
            own = [prompts[i] for i in alone]
            for batch in self._forced_batches(own, [completions[i] for i in alone]):
                for place, logits in self._logits(batch, [rows[i] for i in alone], own):
                    yield alone[place], logits
                done += len(batch.rows)
                report(done, len(rows), message)

    def _forced_batches(
        self, prompts: Sequence[PromptTokens], completions: Sequence[tuple[int, ...]]
    ) -> Iterable[_ForcedBatch]:
        """Yield rows of similar lengths with what the model is given for them."""
        sequences = [(*p.tokens, *c[:-1]) for p, c in zip(prompts, completions, strict=True)]
        for batch in self._batches([len(sequence) for sequence in sequences]):
            ids, real = pad([sequences[i] for i in batch], self._tokens.pad_token, left=False)
            starts = [len(prompts[i].tokens) - 1 for i in batch]
            yield _ForcedBatch(tuple(batch), ids, real, starts, [len(sequences[i]) for i in batch])

    def _logits(
        self,
        batch: _ForcedBatch,
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        captures: Mapping[Site, Capture] | None = None,
    ) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits before each completion token)."""
        run = self._plans.run([rows[i] for i in batch.rows], [prompts[i] for i in batch.rows], batch.real)
        first_column = min(batch.starts)
        with self._hooks.running(replace(run, captures=captures or {})):
            logits, _ = forward(self._architecture, batch.ids, batch.real, first_column=first_column)
        for row, index in enumerate(batch.rows):
            start, end = batch.starts[row] - first_column, batch.ends[row] - first_column
            yield index, logits[row, start:end].float()


def _chosen(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return (tokens,) the log-probabilities of `tokens`."""
    chosen = torch.tensor(tokens, device=logits.device)
    return logits.log_softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1)
