"""Rows and completions → log-probabilities, divergences and gradients.

It must not know how plans act; the logits of prompts are not computed where the model can leave them out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, CompletionGradients, CompletionReading, Row, mean_at_text
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.branches import Branches, Passed
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Capture, SteeringHooks
from steer_tools.engines.huggingface.memory import Memory
from steer_tools.engines.huggingface.row_plans import RowPlans
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.progress import report
from steer_tools.prompts import Prompt

_SCORING = "scoring completions"
_Kept = TypeVar("_Kept")


class Scorer:
    """Scores with one model; `batches` groups sequences by their lengths and by what a row of a length takes."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        tokens: Tokenization,
        plans: RowPlans,
        batches: Callable[[Sequence[int], Callable[[int], int]], list[list[int]]],
        branches: Branches,
        memory: Memory,
    ) -> None:
        self._architecture, self._hooks, self._tokens = architecture, hooks, tokens
        self._plans, self._batches, self._branches, self._memory = plans, batches, branches, memory

    def read(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], layers: Sequence[int]
    ) -> list[CompletionReading]:
        """Return each completion's log-probabilities and the means of what layers put out at its tokens."""
        encoded, added = self._tokens.encode_pairs(prompts, completions)
        # One token more than is scored: what is at the last one is read as well.
        longer = [(*own, self._tokens.pad_token) for own in added]

        def kept(index: int, passed: Passed) -> CompletionReading:
            means = {layer: mean_at_text(passed.hidden[layer][1:].cpu()) for layer in layers}
            return CompletionReading(_chosen(passed.logits[:-1], added[index]).cpu(), means)

        rows = [Row(prompt) for prompt in prompts]
        found = dict(self._kept_of(rows, encoded, longer, kept, layers=layers))
        return [found[i] for i in range(len(rows))]

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each completion token."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)

        def kept(index: int, passed: Passed) -> Tensor:
            return _chosen(passed.logits, added[index]).cpu()

        scores = dict(self._kept_of(rows, prompts, added, kept))
        return [scores[i] for i in range(len(rows))]

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token."""
        prompts = self._tokens.encode_each(row.prompt for row in rows)
        # Any one token will do: only the logits before it are read.
        any_token = [(self._tokens.pad_token,) for _ in rows]

        def kept(index: int, passed: Passed) -> Tensor:
            return passed.logits[0].log_softmax(dim=-1).cpu()

        found = dict(self._kept_of(rows, prompts, any_token, kept))
        return [found[i] for i in range(len(rows))]

    def divergences(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return KL(unsteered‖row) before each completion token, in nats."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for index, (prompt, tokens) in enumerate(zip(prompts, added, strict=True)):
            alike.setdefault((prompt.tokens, tokens), []).append(index)
        # The unsteered row of each text stands behind the rows that are held against it.
        firsts = [indices[0] for indices in alike.values()]
        text_of = {index: text for text, indices in enumerate(alike.values()) for index in indices}
        every = [*range(len(rows)), *firsts]
        references: dict[int, Tensor] = {}
        waiting: dict[int, list[tuple[int, Tensor]]] = {}
        left = [len(indices) for indices in alike.values()]
        found: dict[int, Tensor] = {}

        def measure(place: int, passed: Passed) -> None:
            log_probs = passed.logits.log_softmax(dim=-1)
            text = text_of[place] if place < len(rows) else place - len(rows)
            if place >= len(rows):
                references[text] = log_probs
            elif text not in references:
                waiting.setdefault(text, []).append((place, log_probs))
                return
            for index, own in [*waiting.pop(text, []), *([(place, log_probs)] if place < len(rows) else [])]:
                found[index] = _divergence(references[text], own).cpu()
                left[text] -= 1
            if not left[text]:
                del references[text]

        own_rows = [*rows, *(Row(rows[i].prompt) for i in firsts)]
        for _ in self._kept_of(
            own_rows, [prompts[i] for i in every], [added[i] for i in every], measure, message="measuring divergence"
        ):
            pass
        return [found[i] for i in range(len(rows))]

    def gradients(
        self, rows: Sequence[Row], completions: Sequence[Completion], sites: Sequence[Site]
    ) -> list[CompletionGradients]:
        """Return each completion's log-probability with its gradients, from one pass a row there and back."""
        prompts, added = self._tokens.encode_pairs([row.prompt for row in rows], completions)
        self._hooks.reach(sites)
        found: dict[int, CompletionGradients] = {}

        def run(batch: list[int]) -> dict[int, CompletionGradients]:
            # The gradient at a site is that of zeros which are added there, whatever came before.
            zeros: dict[Site, Tensor] = {}

            def add_zeros(site: Site, hidden: Tensor) -> Tensor:
                zeros[site] = torch.zeros_like(hidden, requires_grad=True)
                return hidden + zeros[site]

            captures = {site: partial(add_zeros, site) for site in sites}
            logits = self._logits(batch, rows, prompts, added, captures)
            totals = [_chosen(own, added[index]).sum() for index, own in logits]
            gradients = torch.autograd.grad(torch.stack(totals).sum(), [zeros[site] for site in sites])
            made: dict[int, CompletionGradients] = {}
            for row, index in enumerate(batch):
                end = len(prompts[index].tokens) + len(added[index]) - 1
                own = {site: g[row, :end].float().cpu() for site, g in zip(sites, gradients, strict=True)}
                made[index] = CompletionGradients(float(totals[row].detach()), own)
            return made

        with torch.inference_mode(False), torch.enable_grad():
            batches = self._batches_of(range(len(rows)), prompts, added, self._memory.gradient_bytes)
            for _, made in self._memory.halved(batches, run):
                found |= made
                report(len(found), len(rows), _SCORING)
        return [found[i] for i in range(len(rows))]

    def _kept_of(
        self,
        rows: Sequence[Row],
        prompts: Sequence[PromptTokens],
        completions: Sequence[tuple[int, ...]],
        kept: Callable[[int, Passed], _Kept],
        *,
        layers: Sequence[int] = (),
        message: str = _SCORING,
    ) -> Iterator[tuple[int, _Kept]]:
        """Yield (row, what is kept of its pass), in any order; what `layers` put out is there of unsteered rows."""
        tails = [(prompt.tokens[-1], *own[:-1]) for prompt, own in zip(prompts, completions, strict=True)]
        chunks, alone = self._branches.divided(rows, prompts, tails)

        def run_shared(chunk: list[int]) -> list[tuple[int, _Kept]]:
            passed = self._branches.passed(chunk, rows, prompts, tails, layers)
            return [(index, kept(index, own)) for index, own in passed]

        def run(batch: list[int]) -> list[tuple[int, _Kept]]:
            hidden: dict[int, Tensor] = {}
            captures = {Site(layer): partial(_put, hidden, layer) for layer in layers}
            found: list[tuple[int, _Kept]] = []
            for row, (index, logits) in enumerate(self._logits(batch, rows, prompts, completions, captures)):
                end = len(prompts[index].tokens) + len(completions[index]) - 1
                own = {layer: values[row, end - len(completions[index]) : end] for layer, values in hidden.items()}
                found.append((index, kept(index, Passed(logits, own))))
            return found

        done = 0
        with torch.no_grad(), self._branches.keeping():
            batches = self._batches_of(alone, prompts, completions, self._memory.scoring_bytes)
            for made in (self._memory.halved(chunks, run_shared), self._memory.halved(batches, run)):
                for batch, found in made:
                    yield from found
                    done += len(batch)
                    report(done, len(rows), message)

    def _batches_of(
        self,
        indices: Sequence[int],
        prompts: Sequence[PromptTokens],
        completions: Sequence[tuple[int, ...]],
        row_bytes: Callable[[int], int],
    ) -> list[list[int]]:
        """Group rows by how much the model is given for them: prompts with completions but for their last tokens."""
        lengths = [len(prompts[i].tokens) + len(completions[i]) - 1 for i in indices]
        return [[indices[place] for place in batch] for batch in self._batches(lengths, row_bytes)]

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


def _put(found: dict[int, Tensor], layer: int, hidden: Tensor) -> None:
    # A copy: some models go on with it in place.
    found[layer] = hidden.clone()


def _divergence(reference: Tensor, log_probs: Tensor) -> Tensor:
    """Return KL (tokens,) of log-probabilities (tokens, vocabulary) from the reference's."""
    return (reference.exp() * (reference - log_probs)).sum(dim=-1)


def _chosen(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return (tokens,) the log-probabilities of `tokens`."""
    chosen = torch.tensor(tokens, device=logits.device)
    return logits.log_softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1)
