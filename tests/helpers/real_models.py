"""SmolLM2-135M-Instruct, the real instruct model of the tests: loaded once a process, in both of its dtypes."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch

from steer_tools.engines.huggingface.loading import load_pretrained
from steer_tools.engines.named_models import find_smollm2

LAYERS, WIDTH, HEADS = 30, 576, 9


@cache
def smollm2_in(dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the model and its tokenizer; tests must leave both as they are."""
    if dtype == torch.float32:
        model, tokenizer, _ = load_pretrained(str(find_smollm2()))
        return model, tokenizer
    model, tokenizer = smollm2_in(torch.float32)
    return deepcopy(model).to(dtype), tokenizer
