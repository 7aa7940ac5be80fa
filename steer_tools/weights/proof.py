"""Two models and prompts → how far their logits are apart, and the verdict. It must not know folders or weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.facets import Replay
from steer_tools.errors import BakingError
from steer_tools.prompts import Prompt

# Of the largest logit; in half precision the weights are rounded themselves.
_TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
_NEW_TOKENS = 16
# The logits of so many prompts are held at once.
_BATCH = 8


@dataclass(frozen=True)
class Proof:
    """What the comparison found, in logits over prompts and greedy new tokens.

    Attributes:
        prompts: How many were compared.
        same_tokens: How many of their greedy continuations are the same.
        difference: The largest between the baked model and the steered one.
        tolerance: The largest that is accepted.
        effect: The largest between the unsteered model and the steered one.
    """

    prompts: int
    same_tokens: int
    difference: float
    tolerance: float
    effect: float


def prove(steered: Replay, plan: Plan, baked: Replay, prompts: Sequence[Prompt], dtype: torch.dtype) -> Proof:
    """Hold `baked` without a plan against `steered` under `plan`; `dtype` is the least exact one that is involved.

    Raises:
        BakingError: They differ by more than the tolerance, or by half of what steering does.
    """
    same, difference, effect, largest = 0, 0.0, 0.0, 0.0
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        rows, bare = [Row(prompt, plan) for prompt in batch], [Row(prompt) for prompt in batch]
        texts = steered.generate(rows, Sampling(_NEW_TOKENS))
        theirs = baked.generate(bare, Sampling(_NEW_TOKENS))
        same += sum((a.tokens, a.ended) == (b.tokens, b.ended) for a, b in zip(texts, theirs, strict=True))
        # One token more, so that the logits by which a text ended are compared, too.
        forced = [(*text.tokens, text.prompt_tokens[-1]) for text in texts]
        ours = steered.replay(rows, forced, use_cache=True, batched=True)
        difference = max(difference, _apart(ours, baked.replay(bare, forced, use_cache=True, batched=True)))
        effect = max(effect, _apart(ours, steered.replay(bare, forced, use_cache=True, batched=True)))
        largest = max(largest, *(float(logits.abs().max()) for logits in ours))
    proof = Proof(len(prompts), same, difference, _TOLERANCES[dtype] * largest, effect)
    if not (difference <= proof.tolerance and difference < effect / 2):
        raise BakingError(
            f"The logits of the baked model differ from the steered one's by up to {difference:.3g}; steering changes "
            f"them by up to {effect:.3g}",
            valid=f"at most {proof.tolerance:.3g}, and less than half of what steering does",
            fix="Nothing was saved. If the weights were changed after the model was loaded from its folder, save it to "
            "another folder and load that; in half precision, load it as float32.",
        )
    return proof


def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))
