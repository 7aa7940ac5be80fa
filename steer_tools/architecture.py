"""Finds the parts of any decoder-only Hugging Face model by their structure, without a table of families.

A model comes in, named modules leave; the only code that looks inside a model. It must not know hooks.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from steer_tools.errors import LayerError, UnsupportedModelError

_FINGERPRINT_ELEMENTS = 16


@dataclass(frozen=True)
class Architecture:
    """The parts that steering needs.

    Attributes:
        model: What the user loaded.
        decoder: The module that runs the blocks; it is called with token ids, mask and cache.
        blocks: The decoder blocks in order; the output of block l is the residual stream after layer l.
        final_norm: The norm between the last block and the unembedding.
        unembedding: The output projection (vocabulary, hidden_size).
        hidden_size: Width of the residual stream.
        context_length: The most positions that the model was built for; None where it has no limit.
        family: The config's model type.
    """

    model: nn.Module
    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    hidden_size: int
    context_length: int | None
    family: str

    def resolve_layer(self, layer: object) -> int:
        """Return `layer` counted from 0; negative layers count from the end.

        Raises:
            LayerError: The model has no such block.
        """
        count = len(self.blocks)
        if isinstance(layer, bool) or not isinstance(layer, int) or not -count <= layer < count:
            raise LayerError(
                f"layer is {layer!r}, and the model has {count} decoder blocks",
                valid=f"0 to {count - 1}, or -{count} to -1 counted from the end",
                fix="",
            )
        return layer % count

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the first parameter, or where accelerate runs a model that is offloaded."""
        placed = (p.device for p in self.model.parameters() if not p.is_meta)
        offloaded_to = getattr(getattr(self.model, "_hf_hook", None), "execution_device", None)
        return next(placed, None) or torch.device(offloaded_to or "cpu")


def find_architecture(model: object) -> Architecture:
    """Find the parts of `model`.

    Raises:
        UnsupportedModelError: It is no decoder-only model whose blocks can be told for certain.
    """
    if not isinstance(model, nn.Module) or getattr(model, "config", None) is None:
        raise UnsupportedModelError(
            f"The model is a {type(model).__name__}",
            valid="a causal language model loaded with transformers' AutoModelForCausalLM",
            fix="",
        )
    config = cast(Any, model).config
    refuse_unsteerable_state(model)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder model", valid="decoder-only models", fix=""
        )
    text_config = config.get_text_config(decoder=True)
    count, width = getattr(text_config, "num_hidden_layers", None), getattr(text_config, "hidden_size", None)
    if not count or not width:
        raise UnsupportedModelError(
            f"The config of {type(model).__name__} has no num_hidden_layers or hidden_size", valid="", fix=""
        )
    decoder, blocks = _find_blocks(model, count)
    return Architecture(
        model=model,
        decoder=decoder,
        blocks=blocks,
        final_norm=_find_final_norm(decoder, width),
        unembedding=cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None,
        hidden_size=width,
        context_length=_context_length(text_config),
        family=str(getattr(config, "model_type", "unknown")),
    )


def refuse_unsteerable_state(model: nn.Module) -> None:
    """Refuse a model that is compiled (hooks may be ignored) or in train mode (dropout).

    Raises:
        UnsupportedModelError: It is either.
    """
    if hasattr(model, "_orig_mod") or any(map(_is_compiled, model.modules())):
        raise UnsupportedModelError(
            "The model is compiled, and torch.compile ignores hooks that are added after it",
            valid="the model as it was loaded",
            fix="Attach the uncompiled model; for `torch.compile(model)` that is the `model` you passed in.",
        )
    if model.training:
        raise UnsupportedModelError(
            "The model is in train mode, so dropout would be taken for an effect", fix="Call model.eval() first."
        )


def weights_fingerprint(model: nn.Module) -> str:
    """Return 16 hex digits that change when any weight matrix is fine-tuned, merged or quantised.

    A few elements of each parameter are hashed, so that a large model takes milliseconds; parameters that are
    offloaded to disk count by name and shape only.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        if not parameter.is_meta:
            sample = parameter.detach().flatten()[:_FINGERPRINT_ELEMENTS]
            digest.update(sample.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def _is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` or `module.forward = torch.compile(...)` was called, as torch notes it."""
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


def _find_blocks(model: nn.Module, count: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """Find the one ModuleList that has `count` blocks, beside the text embedding if several have."""
    modules = dict(model.named_modules())
    lists = {
        name: module for name, module in modules.items() if isinstance(module, nn.ModuleList) and len(module) == count
    }
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) > 1:
        embedding = cast(Any, model).get_input_embeddings()
        outermost = [
            name for name in outermost if any(m is embedding for m in modules[name.rpartition(".")[0]].modules())
        ]
    if len(outermost) != 1:
        found = ", ".join(f"{name} ({len(m)})" for name, m in modules.items() if isinstance(m, nn.ModuleList))
        raise UnsupportedModelError(
            f"The decoder blocks of {type(model).__name__} cannot be told: its lists of modules are {found or 'none'}",
            valid=f"exactly one list of {count} blocks, the text config's num_hidden_layers",
            fix="",
        )
    name = outermost[0]
    return modules[name.rpartition(".")[0]], tuple(lists[name])


def _find_final_norm(decoder: nn.Module, width: int) -> nn.Module | None:
    """Find the last direct child of the decoder whose weight is one vector of the residual width."""
    norms = [
        child for child in decoder.children() if getattr(getattr(child, "weight", None), "shape", None) == (width,)
    ]
    return norms[-1] if norms else None


def _context_length(text_config: Any) -> int | None:
    length = getattr(text_config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None
