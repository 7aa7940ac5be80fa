"""A model's final norm and output matrix → what the logit lens needs. It must not know prompts or hooks."""

from typing import cast

import torch
from torch import Tensor

from steer_tools.engines.base import Unembedding
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.errors import UnsupportedFeatureError

# A norm that does not center moves by a third or more of its scale.
_STILL = 0.05


def measure_unembedding(architecture: Architecture) -> Unembedding:
    """Return the final norm and the output matrix, on the CPU.

    The norm is measured, not read: for x of ±1 with mean 0, RMS and layer norms give x · scale + bias, so that
    (norm(x) - norm(-x)) · x / 2 is the scale, also where the weight is stored as scale - 1. A norm that centers gives
    for x + 1 what it gives for x.

    Raises:
        UnsupportedFeatureError: The model has no final norm or no unembedding that was found.
    """
    norm, head, width = architecture.final_norm, architecture.unembedding, architecture.hidden_size
    if norm is None or head is None:
        missing = "final norm" if norm is None else "unembedding"
        raise UnsupportedFeatureError(f"No {missing} was found in this model")
    scaling, weight = cast(Tensor, norm.weight), cast(Tensor, head.weight)
    signs = torch.ones(width, dtype=scaling.dtype, device=architecture.device if scaling.is_meta else scaling.device)
    signs[1::2] = -1
    with torch.no_grad():
        scale = (norm(signs[None, None]) - norm(-signs[None, None]))[0, 0] * signs / 2
        moved = (norm(signs[None, None] + 1) - norm(signs[None, None])).abs().max()
        if weight.is_meta:  # An offloaded matrix is there only while the head runs.
            basis = torch.eye(width, dtype=weight.dtype, device=architecture.device)
            weight = (head(basis) - head(torch.zeros_like(basis))).T
    centers = bool(moved <= _STILL * scale.abs().max())
    return Unembedding(scale.float().cpu(), centers, weight.detach().float().cpu())
