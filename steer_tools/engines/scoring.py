"""Rows and completions → log-probabilities, from one uncached pass a row, padded on the right.

It must not know how plans act; the logits of prompts are not computed where the model can leave them out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from steer_tools.architecture import Architecture
from steer_tools.engines.base import Completion, Row
from steer_tools.engines.batching import pad
from steer_tools.engines.hooks import SteeringHooks
from steer_tools.engines.row_plans import RowPlans
from steer_tools.engines.tokenization import PromptTokens, Tokenization
from steer_tools.progress import report


class Scorer:
    """Scores with one model; `batches` groups sequences by their lengths."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        tokens: Tokenization,
        plans: RowPlans,
        batches: Callable[[Sequence[int]], list[list[int]]],
    ) -> None:
        self._architecture, self._hooks, self._tokens = architecture, hooks, tokens
        self._plans, self._batches = plans, batches

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each completion token, from one pass a row, padded on the right."""
        prompts = [self._tokens.encode(row.prompt) for row in rows]
        added = [
            self._tokens.encode_completion(row.prompt, prompt, completion)
            for row, prompt, completion in zip(rows, prompts, completions, strict=True)
        ]
        scores: dict[int, Tensor] = {}
        for index, logits in self._forced_logits(rows, prompts, added):
            chosen = torch.tensor(added[index], device=logits.device)
            scores[index] = logits.log_softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1).cpu()
        return [scores[i] for i in range(len(rows))]

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token."""
        prompts = [self._tokens.encode(row.prompt) for row in rows]
        # Any one token will do: only the logits before it are read.
        any_token = [(self._tokens.pad_token,) for _ in rows]
        logits = dict(self._forced_logits(rows, prompts, any_token))
        return [logits[i][0].log_softmax(dim=-1).cpu() for i in range(len(rows))]

    def _forced_logits(
        self, rows: Sequence[Row], prompts: Sequence[PromptTokens], completions: Sequence[tuple[int, ...]]
    ) -> Iterable[tuple[int, Tensor]]:
        """Yield (row, (tokens, vocabulary) float32 logits before each completion token), batched by length."""
        sequences = [(*p.tokens, *c[:-1]) for p, c in zip(prompts, completions, strict=True)]
        batches = self._batches([len(sequence) for sequence in sequences])
        for done, batch in enumerate(batches):
            ids, real = pad([sequences[i] for i in batch], self._tokens.pad_token, left=False)
            run = self._plans.run([rows[i] for i in batch], [prompts[i] for i in batch], real)
            starts = [len(prompts[i].tokens) - 1 for i in batch]
            ends = [len(sequences[i]) for i in batch]
            first_column = min(starts)
            with torch.no_grad(), self._hooks.running(run):
                logits = self._logits_from(first_column, ids, real)
            for row, index in enumerate(batch):
                yield index, logits[row, starts[row] - first_column : ends[row] - first_column].float()
            report(done + 1, len(batches), "scoring completions")

    def _logits_from(self, first_column: int, ids: Tensor, real: Tensor) -> Tensor:
        """Return the logits of columns `first_column` onward, computing no others where the model can."""
        keep = {"logits_to_keep": ids.shape[1] - first_column} if self._keeps_logits else {}
        model = cast(Any, self._architecture.model)
        output = model(
            ids.to(self._architecture.device),
            attention_mask=real.long().to(self._architecture.device),
            use_cache=False,
            **keep,
        )
        return output.logits if keep else output.logits[:, first_column:]

    @property
    def _keeps_logits(self) -> bool:
        return bool(getattr(self._architecture.model, "_supports_logits_to_keep", lambda: False)())
