"""Padded prompts → new tokens, by the model's own `generate`. It must not know plans or hooks."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from steer_tools.engines.base import Generation, Sampling
from steer_tools.engines.huggingface.token_choice import ReportingCriteria
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization


class Decoder:
    """Decodes with one model, and with nothing of the model's own `generation_config`."""

    def __init__(self, model: Any, tokens: Tokenization) -> None:
        self._tokens = tokens
        self._generate = type(model).generate
        self._inner = [module for module in model.modules() if module is not model]
        # The same module with another generation config: `generate` fills what it is not given from the model's own.
        self._view = copy.copy(model)
        self._view.generation_config = GenerationConfig()

    def decode(
        self, ids: Tensor, mask: Tensor, sampling: Sampling, processor: LogitsProcessor | None, *, stops: bool = True
    ) -> Tensor:
        """Return the new tokens (rows, steps) after left-padded `ids`, on the CPU.

        Without `processor` the most likely token is taken, or beams are searched; without `stops` no token ends a row.
        """
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=sampling.beams,
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
                ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([processor] if processor else []),
                stopping_criteria=StoppingCriteriaList([ReportingCriteria(sampling.max_new_tokens)]),
            )
        finally:
            for own, before in kept:
                own["generation_config"] = before
        return whole[:, ids.shape[1] :].cpu()

    def finish(
        self, encoded: PromptTokens, new: Sequence[int], log_probs: Tensor | None, *, stops: bool = True
    ) -> Generation:
        """Cut a row's new tokens at the one that ended it, and put them into words."""
        end = next((i for i, token in enumerate(new) if stops and token in self._tokens.stop_tokens), len(new))
        tokens = tuple(new[:end])
        return Generation(
            prompt_tokens=encoded.tokens,
            tokens=tokens,
            text=self._tokens.decode_continuation(encoded.tokens, tokens),
            log_probs=torch.zeros(0) if log_probs is None else log_probs[:end],
            ended=end < len(new),
        )
