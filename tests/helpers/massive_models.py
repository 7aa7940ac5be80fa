"""Tiny models whose special tokens carry a stream a hundred times longer than text's, as those of real models do.

SmolLM2's have 25,000 where text has 150 to 240. As there, one neuron of an early MLP writes it to two dimensions: it
looks at a mark that only the embeddings of special tokens bear, and that nothing else writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from helpers import family_models
from steer_tools.engines.huggingface.block_parts import hidden_of

# In the tokenizer of small_models: <pad>, <s>, </s>, <end>, and what its chat template writes around a message. Then a
# word, the first of those on which a model is probed: the first token of a text has such a stream whichever it is.
SPECIAL = (*range(8), 42)
_MARK, _LONG = 3, (5, 17)
# What the two dimensions get, well inside of float16.
_WRITTEN = torch.tensor([22_000.0, -9_000.0])


class _Names(NamedTuple):
    """What is edited: other embeddings, and in the first block what attention and MLP write with, and the MLP's own."""

    embedded_with: tuple[str, ...]
    block: str
    attention: str
    inner: tuple[str, ...]
    written: str


FAMILIES = {
    "llama": _Names((), "model.layers.0", "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "qwen3": _Names((), "model.layers.0", "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gemma3_text": _Names((), "model.layers.0", "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gpt2": _Names(("transformer.wpe",), "transformer.h.0", "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    "gpt_neox": _Names((), "gpt_neox.layers.0", "attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    "bloom": _Names((), "transformer.h.0", "self_attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    "mixtral": _Names((), "model.layers.0", "self_attn.o_proj", ("mlp.experts.gate_up_proj",), "mlp.experts.down_proj"),
}


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The tiny model of family_models with massive activations at SPECIAL, from its first block's output on."""
    model: Any = family_models.build(family)
    names = FAMILIES[family]
    block = model.get_submodule(names.block)
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), *map(model.get_submodule, names.embedded_with)):
            embedding.weight[:, _MARK] = 0
        model.get_input_embeddings().weight[list(SPECIAL), _MARK] = 20
        for part in (names.attention, names.written):
            for matrix, bias in _matrices(block, part):
                matrix[[_MARK]] = 0
                bias[[_MARK]] = 0
        for part in names.inner:
            for matrix, bias in _matrices(block, part):
                # Where layer norms center, a text's mark is not exactly 0: the bias keeps the neuron off, so far that
                # nothing of it is left in half precision, either.
                matrix[0], bias[0] = 0, -12
                matrix[0, _MARK] = 8
        _write(model, block, names)
    return model.to(dtype)


def _write(model: Any, block: Any, names: _Names) -> None:
    """Let the neuron write what is long, as much as the special token needs for it that makes it fire most."""
    dimensions = list(_LONG)
    matrices = [matrix for matrix, _ in _matrices(block, names.written)]
    for matrix in matrices:
        matrix[:, 0] = 0
        matrix[dimensions] = 0
        matrix[dimensions, 0] = 1
    given: list[Tensor] = []
    handle = block.register_forward_hook(lambda module, args, output: given.append(hidden_of(output)[0]))
    model(torch.tensor([SPECIAL * 2]))
    handle.remove()
    factors = _WRITTEN / given[0][:, dimensions].amax(dim=0)
    norm = getattr(block, "post_feedforward_layernorm", None)
    if norm is not None:
        norm.weight[dimensions] = factors - 1  # What is stored is added to 1.
        return
    for matrix in matrices:
        matrix[dimensions, 0] = factors


def _matrices(block: Any, name: str) -> list[tuple[Tensor, Tensor]]:
    """Views (out, in) of a part's matrices, one for each expert of a mixture, and its bias or nothing of that size."""
    owner, _, last = name.rpartition(".")
    held = getattr(block.get_submodule(owner), last)
    if isinstance(held, torch.nn.Parameter):
        rows = held.shape[1]
        # A mixture's gates and what they gate lie one behind the other.
        halves = held.split(rows // 2, dim=1) if "gate_up" in last else (held,)
        return [(matrix, torch.zeros(len(matrix))) for half in halves for matrix in half]
    matrix = held.weight.T if isinstance(held, Conv1D) else held.weight
    return [(matrix, torch.zeros(len(matrix)) if held.bias is None else held.bias)]
