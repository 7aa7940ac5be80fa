"""A tensor's name → whether it writes to the residual stream, and along which of its axes the stream lies.

Names of known families only: what has another name writes nothing. It must not know numbers.
"""

import re
from collections.abc import Sequence

_WRITERS = re.compile(
    "o_proj|out_proj|c_proj|dense|dense_4h_to_h|down_proj|fc2|fc_out|wo|w2|out_lin|lin2|linear_out|attn_out|ff_out"
)
_EMBEDDINGS = re.compile(
    "embed_tokens|wte|wpe|word_embeddings|embed_in|tok_embeddings|embed_positions|position_embeddings|tokens_embed|"
    "positions_embed"
)
# Their linear layers keep weights as (in, out).
_TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_ELSEWHERE = re.compile(r"visual|vision|(^|\.)encoder\.layers?\.")
# No model has a million layers, and int() refuses numbers of thousands of digits.
_MOST_DIGITS = 6


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor inside a block: the first number in its name."""
    numbers = (part for part in name.split(".") if part.isdecimal() and len(part) <= _MOST_DIGITS)
    return next((int(part) for part in numbers), None)


def stream_axes(name: str, shape: Sequence[int], width: int, family: str) -> tuple[int, ...]:
    """Return the axes that may lie along the stream that it writes to: none where it is not known to write."""
    *_, module, last = ("", *name.split("."))
    is_part = last in {"weight", "bias"}
    module = module if is_part else last.removesuffix("_bias")
    final, is_flat = len(shape) - 1, len(shape) == 2
    if _ELSEWHERE.search(name):
        return ()
    if _EMBEDDINGS.fullmatch(module):
        axes = (final,) if is_flat else ()
    elif not _WRITERS.fullmatch(module) or layer_of(name) is None:
        return ()
    elif last.endswith("bias"):
        axes = (final,)
    elif is_part and is_flat:
        axes = (1,) if module == "c_proj" and family in _TURNED else (0,)
    else:
        # Matrices of all experts in one, of which some families keep (in, out), and others (out, in).
        axes = tuple(range(max(0, len(shape) - 2), len(shape)))
    return tuple(axis for axis in axes if shape[axis] == width)
