"""Finds the parts of any decoder-only Hugging Face model by their structure, without a table of families.

A model comes in, named modules leave; the only code that looks inside a model. It must not know hooks.
"""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from steer_tools.engines.base import Unembedding, counted_layer
from steer_tools.errors import LayerError, UnsupportedFeatureError, UnsupportedModelError

# What does in training what it does otherwise; resize_token_embeddings makes new ones, which are in train mode.
_NEVER_TRAINING = (nn.Embedding, nn.Linear, nn.ModuleList)
# A norm that does not center moves by a third or more of its scale.
_STILL = 0.05


@dataclass(frozen=True)
class Architecture:
    """The parts that steering needs.

    Attributes:
        callables: The modules from the model down to its text decoder that can be called with token ids or embeddings,
            outermost first.
        blocks: The decoder blocks in order; the output of block l is the residual stream after layer l.
        final_norm: The norm between the last block and the unembedding.
        unembedding: The output projection (vocabulary, hidden_size).
        context_length: The most positions that the model was built for; None where it has no limit.
        family: The config's model type.
        idle_layers: Blocks that do not run on text alone.
    """

    model: nn.Module
    callables: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    hidden_size: int
    context_length: int | None
    family: str
    idle_layers: tuple[int, ...] = ()

    def resolve_layer(self, layer: object) -> int:
        """Return `layer` counted from 0; negative layers count from the end.

        Raises:
            LayerError: The model has no such block, or it does not run on text.
        """
        index = counted_layer(layer, len(self.blocks))
        if index in self.idle_layers:
            kind = type(self.blocks[index]).__name__
            raise LayerError(
                f"layer is {layer}, and that block ({kind}) does not run on text alone",
                valid=f"the layers of 0 to {len(self.blocks) - 1} except {', '.join(map(str, self.idle_layers))}",
            )
        return index

    @property
    def may_stop_early(self) -> bool:
        """Whether a pass may be ended inside: weights that come in for all blocks leave only at the end of a pass."""
        first = self.blocks[0]
        around = [m for m in self.model.modules() if m is not first and any(inner is first for inner in m.modules())]
        return not any(map(offloading_hooks, around))

    @cached_property
    def takes_positions(self) -> bool:
        """Whether passes may be told where their tokens stand; others see it by the mask, or not at all."""
        return "position_ids" in inspect.signature(self.callables[-1].forward).parameters

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

    def text_tokens(self, count: int) -> tuple[int, ...]:
        """Return a few ids of text: those of special tokens, whose activations may be like no other's, lie at the ends
        of a vocabulary."""
        size = cast(Any, self.model).get_input_embeddings().weight.shape[0]
        return tuple((size // 3 + place * max(1, size // 16)) % size for place in range(count))


def find_architecture(model: object) -> Architecture:
    """Find the parts of `model`.

    Raises:
        UnsupportedModelError: It is no decoder-only model whose blocks can be told for certain.
    """
    if not isinstance(model, nn.Module) or getattr(model, "config", None) is None:
        raise UnsupportedModelError(
            f"The model is a {type(model).__name__}",
            valid="a causal language model loaded with transformers' AutoModelForCausalLM",
        )
    config = cast(Any, model).config
    refuse_unsteerable_state(model)
    if all(p.is_meta for p in model.parameters()) and not any(map(offloading_hooks, model.modules())):
        raise UnsupportedModelError(
            f"{type(model).__name__} is on the device 'meta', where it has no weights",
            valid="a model that lies on cpu, cuda or another device, or is offloaded by accelerate's device_map",
            fix="Load it again: moving it back does not bring the weights back.",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{type(model).__name__} is an encoder-decoder model", valid="decoder-only models")
    text_config = config.get_text_config(decoder=True)
    names = ("num_hidden_layers", "hidden_size", "max_position_embeddings")
    count, width, length = (getattr(text_config, name, None) for name in names)
    if not count or not width:
        raise UnsupportedModelError(f"The config of {type(model).__name__} has no num_hidden_layers or hidden_size")
    name, blocks = _find_blocks(model, count)
    callables = _callables_around(model, name)
    return Architecture(
        model=model,
        callables=callables,
        blocks=blocks,
        final_norm=_find_final_norm(model.get_submodule(name.rpartition(".")[0]), width),
        unembedding=cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None,
        hidden_size=width,
        context_length=length if isinstance(length, int) and length > 0 else None,
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
    if any(module.training and type(module) not in _NEVER_TRAINING for module in model.modules()):
        raise UnsupportedModelError(
            "The model is in train mode, so dropout would be taken for an effect", fix="Call model.eval() first."
        )


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


def offloading_hooks(module: nn.Module) -> tuple[Any, ...]:
    """Return the hooks by which accelerate moves a module's offloaded weights in and out."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(h for h in getattr(hook, "hooks", (hook,)) if getattr(h, "offload", False))


def _is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` or `module.forward = torch.compile(...)` was called, as torch notes it."""
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


def _find_blocks(model: nn.Module, count: int) -> tuple[str, tuple[nn.Module, ...]]:
    """Find the name and the items of the one ModuleList of `count` blocks; of several towers, the text decoder's."""
    modules = dict(model.named_modules())
    lengths = {name: len(module) for name, module in modules.items() if isinstance(module, nn.ModuleList)}
    exact = [name for name, length in lengths.items() if length == count]
    # Some configs count the attentions, of which each block may have several.
    lists = exact or [name for name, length in lengths.items() if length > 1 and count % length == 0]
    found = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(found) > 1:
        embedding = cast(Any, model).get_input_embeddings()
        # The deeper the module that holds both the list and the text embedding, the closer they belong together.
        depths = [_depth_of_common_owner(modules, name, embedding) for name in found]
        found = [name for name, depth in zip(found, depths, strict=True) if depth == max(depths)]
    if len(found) > 1:
        # Towers beside each other: the text decoder's blocks are not inside a module with a vision or audio config.
        configs = [getattr(modules[name.rpartition(".")[0]], "config", None) for name in found]
        text = cast(Any, model).config.get_text_config(decoder=True)
        found = [name for name, config in zip(found, configs, strict=True) if config is text] or found
    if len(found) != 1:
        shown = ", ".join(f"{name} ({len(m)})" for name, m in modules.items() if isinstance(m, nn.ModuleList))
        raise UnsupportedModelError(
            f"The decoder blocks of {type(model).__name__} cannot be told: its lists of modules are {shown or 'none'}",
            valid=f"exactly one list of {count} blocks, the text config's num_hidden_layers",
        )
    return found[0], tuple(cast(nn.ModuleList, modules[found[0]]))


def _depth_of_common_owner(modules: dict[str, nn.Module], name: str, embedding: nn.Module) -> int:
    """Return how deep the innermost module is that holds both the list `name` and the text embedding."""
    while name:
        name = name.rpartition(".")[0]
        if any(module is embedding for module in modules[name].modules()):
            return name.count(".") + bool(name)
    return -1


def _callables_around(model: nn.Module, blocks: str) -> tuple[nn.Module, ...]:
    """Return the modules around the list named `blocks` that take token ids or embeddings, outermost first."""
    names = blocks.split(".")
    around = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    tokens = {"input_ids", "inputs_embeds"}
    return tuple(m for m in around if m is model or tokens & inspect.signature(m.forward).parameters.keys())


def _find_final_norm(decoder: nn.Module, width: int) -> nn.Module | None:
    """Find the last direct child of the decoder whose weight is one vector of the residual width."""
    children = reversed(list(decoder.children()))
    return next((m for m in children if getattr(getattr(m, "weight", None), "shape", None) == (width,)), None)
