"""A model's parts → the parameters that make what each of them adds to the residual stream, and their biases.

Nothing is told by a parameter's name: pushing one that makes the output along a direction moves the output along that
direction and no other. Pushing a gate, a router or a norm does not. It must not know plans, vectors or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from steer_tools.core.site import Site
from steer_tools.engines.facets import OutputParameter, Writer
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.block_parts import (
    BlockParts,
    Sublayer,
    find_addends,
    hidden_of,
    in_this_thread,
    run_over_text,
)
from steer_tools.engines.huggingface.module_hooks import passing_hooks

# In half precision an output is off by a few thousandths of itself.
_TOLERANCE = 0.02
# By how many of its typical elements a parameter is pushed, so that what follows stands out from rounding.
_PUSH = 8.0


@dataclass(frozen=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def find_writers(architecture: Architecture, parts: Sequence[BlockParts]) -> tuple[Writer, ...]:
    """Find what writes to the stream of an unsteered model: at the embedding (nothing, where it is not a sum of
    embeddings), then the blocks' mixers and MLPs."""
    inside = {id(module) for block in architecture.blocks for module in block.modules()}
    outside = [m for m in architecture.model.modules() if id(m) not in inside and _linear_axis(m) is not None]
    in_blocks: list[tuple[Site, Sublayer]] = []
    for layer, part in enumerate(parts):
        in_blocks += [(Site(layer, "attention"), sublayer) for sublayer in part.mixers]
        in_blocks += [(Site(layer, "mlp"), sublayer) for sublayer in part.mlps]
    calls, stream = _watch(architecture, [*outside, *(sublayer.writer for _, sublayer in in_blocks)])
    names = {id(module): name for name, module in architecture.model.named_modules()}

    def writer(site: Site, module: nn.Module, scale: float) -> Writer:
        name, linear = names[id(module)], isinstance(module, nn.Linear | Conv1D)
        return Writer(
            site=site,
            name=name,
            kind=type(module).__name__,
            scale=scale,
            parameters=tuple(OutputParameter(f"{name}.{p.name}", p.axis) for p in _outputs(module, calls.get(module))),
            bias=f"{name}.bias" if linear else None,
            has_bias=linear and getattr(module, "bias", None) is not None,
        )

    return (
        *(writer(Site(0, "embedding"), module, scale) for module, scale in _embedders(stream, outside, calls)),
        *(writer(site, sublayer.writer, sublayer.scale) for site, sublayer in in_blocks),
    )


def _watch(architecture: Architecture, modules: Sequence[nn.Module]) -> tuple[dict[nn.Module, _Call], Tensor]:
    """Record the modules' calls in one pass, and what the first block is given."""
    calls: dict[nn.Module, _Call] = {}
    given: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[module] = _Call(args, kwargs, output)

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        given.append(next(value for value in tensors if value.shape[-1] == architecture.hidden_size).clone())

    with passing_hooks() as hooks:
        for module in modules:
            hooks.behind(module, in_this_thread(note), with_kwargs=True)
        hooks.before(architecture.blocks[0], in_this_thread(enter), with_kwargs=True)
        run_over_text(architecture)
    return calls, given[0]


def _embedders(
    stream: Tensor, modules: Sequence[nn.Module], calls: Mapping[nn.Module, _Call]
) -> list[tuple[nn.Module, float]]:
    """Return the modules whose outputs, each times its scale, add up to what the first block is given."""
    makers = [module for module in modules if module in calls and calls[module].output.numel() == stream.numel()]
    addends = find_addends(torch.zeros_like(stream), stream, [calls[module].output for module in makers])
    return [(makers[index], round(scale, 4)) for index, scale in addends]


def _linear_axis(module: nn.Module) -> int | None:
    """Return which axis of a linear module's weight its output lies along; None for other modules."""
    if isinstance(module, nn.Linear):
        return 0
    return 1 if isinstance(module, nn.Embedding | Conv1D) else None


def _outputs(module: nn.Module, call: _Call | None) -> list[OutputParameter]:
    axis = _linear_axis(module)
    if axis is not None:
        has_bias = getattr(module, "bias", None) is not None
        return [OutputParameter("weight", axis), *([OutputParameter("bias", 0)] if has_bias else [])]
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    if call is None or any(p.is_meta or not p.is_floating_point() for p in parameters.values()):
        return []
    return _told_by_pushing(module, call, parameters)


def _told_by_pushing(module: nn.Module, call: _Call, parameters: Mapping[str, Tensor]) -> list[OutputParameter]:
    """Return the parameters by which the output can be moved along a direction alone, if they make all of it."""
    before = _rows(call.output)
    # Of a special token they may be a hundred times longer than a text's, and each token tells as much.
    lengths = before.norm(dim=-1, keepdim=True)
    lengths[lengths == 0] = 1
    width, generator = before.shape[-1], torch.Generator().manual_seed(0)
    along = torch.randn(width, generator=generator)
    along /= along.norm()

    def run(changed: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return _rows(functional_call(module, dict(changed), call.args, call.kwargs)) / lengths

    found: list[OutputParameter] = []
    for name, parameter in parameters.items():
        moves: list[Tensor] = []
        for axis, size in enumerate(parameter.shape):
            if size != width:
                continue
            move = run({name: _pushed(parameter, axis, along, generator)}) - before / lengths
            moves.append(move)
            if move.norm() > 0 and project_out(move, -1, along).norm() <= _TOLERANCE * move.norm():
                found.append(OutputParameter(name, axis))
        if moves and not any(move.norm() > 0 for move in moves):
            return []  # It was not used on these tokens, as an expert of its own may not be, so nothing can be told.
    projected = {p.name: project_out(parameters[p.name], p.axis, along) for p in found}
    left, whole = (float((rows @ along.double()).norm()) for rows in (run(projected), before / lengths))
    return found if left <= _TOLERANCE * whole else []


def project_out(tensor: Tensor, axis: int, along: Tensor) -> Tensor:
    """Return `tensor` without its component along the unit vector `along` on `axis`, computed in float32 or better."""
    exact = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).movedim(axis, -1)
    unit = along.to(exact)
    return (exact - (exact @ unit)[..., None] * unit).movedim(-1, axis).to(tensor.dtype)


def _pushed(parameter: Tensor, axis: int, along: Tensor, generator: torch.Generator) -> Tensor:
    """Return the parameter with a random multiple of `along` added in each place of its other axes."""
    others = [size for i, size in enumerate(parameter.shape) if i != axis]
    typical = float(parameter.float().abs().mean()) or 1.0
    amounts = torch.randn(prod(others), generator=generator).view(others)
    push = (_PUSH * typical * len(along) ** 0.5) * (amounts[..., None] * along).movedim(-1, axis)
    return (parameter + push.to(parameter.device)).to(parameter.dtype)


def _rows(output: Any) -> Tensor:
    hidden: Tensor = hidden_of(output)
    return hidden.detach().double().cpu().reshape(-1, hidden.shape[-1])
