"""How a decode step picks its tokens: logits → one token a row, each row for itself.

It must not know plans or hooks. Greedy takes the largest logit; sampling adds each row's own Gumbel noise to the
warped logits and takes the largest sum, which samples from the warped distribution (Gumbel-max), so that a row's
tokens depend on its seed and not on its batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer_tools.engines.base import Sampling
from steer_tools.progress import report


class ChoosingProcessor(LogitsProcessor):
    """Picks each row's token and leaves it as the only finite score; keeps its log-probability.

    `log_probs` has one (rows,) tensor a step: of the picked tokens, under the unwarped model.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.log_probs: list[Tensor] = []
        self._seeds = seeds
        self._generators: list[torch.Generator] = []
        self._warpers = LogitsProcessorList()
        self._samples = sampling.temperature > 0
        if self._samples:
            self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Map (rows, vocabulary) logits to scores that hold one choice a row."""
        logits: Tensor = scores.float()
        ranked: Tensor = self._warpers(input_ids, logits) + self._noise(logits) if self._samples else logits
        chosen = ranked.argmax(dim=-1, keepdim=True)
        self.log_probs.append((logits.gather(1, chosen) - logits.logsumexp(dim=-1, keepdim=True)).squeeze(1))
        return torch.full_like(logits, -torch.inf).scatter(1, chosen, 0.0)

    def _noise(self, logits: Tensor) -> Tensor:
        if not self._generators:
            self._generators = [torch.Generator(logits.device).manual_seed(seed) for seed in self._seeds]
        shape, device = logits.shape[1:], logits.device
        draws = [torch.rand(shape, generator=g, device=device, dtype=torch.float64) for g in self._generators]
        # rand can return 0, whose Gumbel value is minus infinity.
        tiny = torch.finfo(torch.float64).tiny
        return -(-torch.stack(draws).clamp(min=tiny).log()).log().float()


class ForcingProcessor(LogitsProcessor):
    """Makes each row follow given tokens, and keeps the logits that the model had at each step, float32 on the CPU."""

    def __init__(self, tokens: Tensor) -> None:
        self.logits: list[Tensor] = []
        self._tokens = tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Map (rows, vocabulary) logits to scores that hold the given token of this step."""
        forced = self._tokens[:, len(self.logits), None].to(scores.device)
        self.logits.append(scores.float().cpu())
        return torch.full_like(scores, -torch.inf).scatter(1, forced, 0.0)


class ReportingCriteria(StoppingCriteria):
    """Stops nothing; reports each decode step, which may raise `Cancelled`."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Report one step."""
        self._done += 1
        report(self._done, self._total, "generating tokens")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
