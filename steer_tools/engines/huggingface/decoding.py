"""Token ids → padded batches, their logits by one plain call, and new tokens by the model's own `generate`.

It must not know plans or hooks. A decode step picks each row's token for itself: greedy takes the largest logit;
sampling adds the row's own Gumbel noise to the warped logits and takes the largest sum, which samples from the warped
distribution (Gumbel-max), so that a row's tokens depend on its seed and not on its batch.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import StoppingCriteriaList

from steer_tools.engines.base import Generation, Sampling
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.progress import report

# So many numbers stay in a core's own cache between the passes over them.
_IN_CACHE = 262_144


def batches_by_length(
    lengths: Sequence[int],
    token_budget: int,
    fits: Callable[[int, int], bool] = lambda rows, tokens: True,
    *,
    equal_only: bool = False,
) -> list[list[int]]:
    """Group the indices of `lengths`, shortest first, so that each padded batch stays within `token_budget` tokens.

    Small batches of like length beat large ones: padding costs more than larger products save. A single sequence
    above the budget is a batch of its own; with `equal_only` a batch holds one length. `fits` says of several rows of a
    length whether they may be together.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        batch = batches[-1] if batches else []
        rows, tokens = len(batch) + 1, lengths[index]
        is_small = rows * tokens <= token_budget and fits(rows, tokens)
        if batch and is_small and not (equal_only and lengths[batch[0]] != lengths[index]):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def pad(sequences: Sequence[Sequence[int]], pad_token: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return ids (rows, columns) int64 and a mask (rows, columns) bool, true at real tokens."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token)
    real = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, tokens in enumerate(sequences):
        columns = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, columns] = torch.tensor(tokens)
        real[row, columns] = True
    return ids, real


def forward(
    architecture: Architecture,
    ids: Tensor,
    real: Tensor,
    *,
    first_column: int = 0,
    cache: Any = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """Return the logits (rows, columns, vocabulary) of columns `first_column` onward, and the cache that it leaves.

    `ids` is (rows, columns), and `real` is false at padding; after a cache it also covers the cached columns, which are
    in front. The logits of earlier columns are not computed where the model can leave them out.

    `cache` is True for a new one, an earlier one to go on with, or None for none. `positions` (rows, columns) are told
    to models that take them; others count by the mask or not at all.
    """
    model = cast(Any, architecture.model)
    options: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None and cache is not True:
        options["past_key_values"] = cache
    if positions is not None and architecture.takes_positions:
        options["position_ids"] = positions.to(architecture.device)
    keeps = first_column > 0 and getattr(model, "_supports_logits_to_keep", lambda: False)()
    if keeps:
        options["logits_to_keep"] = ids.shape[1] - first_column
    device = architecture.device
    output = model(ids.to(device), attention_mask=real.long().to(device), **options)
    logits = output.logits if keeps else output.logits[:, first_column:]
    return logits, getattr(output, "past_key_values", None)


class Decoder:
    """Decodes with one model, and with nothing of the model's own `generation_config`."""

    def __init__(self, architecture: Architecture, tokens: Tokenization) -> None:
        model: Any = architecture.model
        self._architecture, self._tokens = architecture, tokens
        self._generate = type(model).generate
        self._inner = [module for module in model.modules() if module is not model]
        # The same module with another generation config: `generate` fills what it is not given from the model's own.
        self._view = copy.copy(model)
        self._view.generation_config = GenerationConfig()

    def decode(
        self,
        ids: Tensor,
        real: Tensor,
        sampling: Sampling,
        processor: LogitsProcessor | None,
        *,
        stops: bool = True,
        cache: Any = None,
    ) -> Tensor:
        """Return the new tokens (rows, steps) after left-padded `ids`, on the CPU.

        `processor` chooses; without it the most likely token is taken, or beams are searched. Without `stops` no token
        ends a row. `cache` holds the columns before the last, where they were run already.
        """
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=sampling.beams,
            # A processor sees the model's own logits.
            repetition_penalty=1.0 if processor else float(sampling.repetition_penalty),
            use_cache=sampling.use_cache,
            pad_token_id=self._tokens.pad_token,
            eos_token_id=list(self._tokens.stop_tokens) if stops and self._tokens.stop_tokens else None,
            # A static cache compiles by itself on CUDA, and hooks that are registered after that are ignored.
            disable_compile=True,
        )
        # PEFT's generate copies the generation config of the model that it is called on into the model inside.
        kept = [(vars(m), vars(m)["generation_config"]) for m in self._inner if "generation_config" in vars(m)]
        try:
            whole: Tensor = self._generate(
                self._view,
                ids.to(self._architecture.device),
                attention_mask=real.long().to(self._architecture.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([processor] if processor else []),
                stopping_criteria=StoppingCriteriaList([_ReportingCriteria(sampling.max_new_tokens)]),
                **({} if cache is None else {"past_key_values": cache}),
            )
        finally:
            for own, before in kept:
                own["generation_config"] = before
        return whole[:, ids.shape[1] :].cpu()

    def finish(self, encoded: PromptTokens, new: Sequence[int], log_probs: Tensor, *, stops: bool = True) -> Generation:
        """Cut a row's new tokens at the one that ended it, and put them into words."""
        end = next((i for i, token in enumerate(new) if stops and token in self._tokens.stop_tokens), len(new))
        tokens = tuple(new[:end])
        return Generation(
            prompt_tokens=encoded.tokens,
            tokens=tokens,
            text=self._tokens.decode_continuation(encoded.tokens, tokens),
            log_probs=log_probs[:end],
            ended=end < len(new),
        )


class ChoosingProcessor(LogitsProcessor):
    """Gives each row's token the largest score, which `generate` takes; keeps its log-probability.

    `log_probs` has one (rows,) tensor a step: of the picked tokens, under the unwarped model.

    `real` is (rows, columns), false at the padding that is left of the prompts.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], real: Tensor) -> None:
        self.log_probs: list[Tensor] = []
        self._seeds = seeds
        self._generators: list[torch.Generator] = []
        self._warpers = LogitsProcessorList()
        self._samples = sampling.temperature > 0
        # In the order in which transformers puts them itself.
        if sampling.repetition_penalty != 1:
            penalty, padding = float(sampling.repetition_penalty), (~real).sum(dim=1)
            self._warpers.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=padding))
        if self._samples:
            self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Map (rows, vocabulary) logits to scores whose largest is the choice."""
        logits: Tensor = scores.float()
        ranked: Tensor = self._warpers(input_ids, logits)
        if self._samples:
            ranked = ranked + self._noise(logits)
        top = logits.amax(dim=-1, keepdim=True)
        log_probs = -_log_mass(logits, top)
        # Where nothing is warped or drawn, the choice is the top, and nobody but `generate` looks for it.
        if ranked is not logits:
            log_probs += (logits.gather(1, ranked.argmax(dim=-1, keepdim=True)) - top).squeeze(1)
        self.log_probs.append(log_probs)
        return ranked

    def _noise(self, logits: Tensor) -> Tensor:
        if not self._generators:
            self._generators = [torch.Generator(logits.device).manual_seed(seed) for seed in self._seeds]
        draws = torch.empty(logits.shape, device=logits.device, dtype=torch.float64)
        for row, generator in zip(draws, self._generators, strict=True):
            row.uniform_(generator=generator)
        # A draw can be 0, whose Gumbel value is minus infinity.
        return draws.clamp_(min=torch.finfo(torch.float64).tiny).log_().neg_().log_().neg_().float()


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


def _log_mass(logits: Tensor, top: Tensor) -> Tensor:
    """Return log Σ exp(logits - top) of each row, (rows,), without a copy of the whole vocabulary on a CPU."""
    share = max(1, _IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    if share >= len(logits):
        return (logits - top).exp_().sum(dim=-1).log_()
    room = torch.empty_like(logits[:share])
    shares = zip(logits.split(share), top.split(share), strict=True)
    return torch.cat([torch.sub(*pair, out=room[: len(pair[0])]).exp_().sum(dim=-1) for pair in shares]).log_()


class _ReportingCriteria(StoppingCriteria):
    """Stops nothing; reports each decode step, which may raise `Cancelled`."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self._done += 1
        report(self._done, self._total, "generating tokens")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
