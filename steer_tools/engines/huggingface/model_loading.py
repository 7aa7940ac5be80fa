"""A name or a folder → a model and its tokenizer. It must not know what becomes of them."""

from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_tools.errors import UnsupportedModelError


def load_pretrained(
    name_or_path: str, *, dtype: str = "auto", device_map: str | dict[str, Any] | None = None
) -> tuple[nn.Module, Any]:
    """Load a causal language model and its tokenizer; code from the checkpoint is never run.

    Raises:
        UnsupportedModelError: There is no such model, or transformers cannot load it.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, device_map=device_map, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UnsupportedModelError(
            f"The model {name_or_path!r} cannot be loaded ({error})",
            valid="a folder with a transformers checkpoint, or the name of one on the model hub",
        ) from error
    return model.eval(), tokenizer
