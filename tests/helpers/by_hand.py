"""What the tests of whole models hold against plain transformers: every kind of edit, and ablations made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Pooling, Scope
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.prompts import parse_prompts

# Positive and negative prompts.
Contrast: TypeAlias = tuple[Sequence[Any], Sequence[Any]]


def vector_at(engine: Any, site: Site, contrast: Contrast, pooling: Pooling) -> SteeringVector:
    """A contrast of the model's own activations with all facts; the eraser is any w with w·û = 1."""
    positive, negative = (engine.read(parse_prompts(side), [site], pooling)[site].mean(0) for side in contrast)
    direction, layer = positive - negative, site.layer
    unit = direction / direction.norm()
    slant = torch.randn(len(unit), generator=torch.Generator().manual_seed(5)) / 4
    return SteeringVector.from_directions(
        {layer: direction},
        component=site.component,
        head=site.head,
        means={layer: (positive + negative) / 2},
        erasers={layer: unit + slant - (slant @ unit) * unit},
        info=VectorInfo(
            positive_projections={layer: float(positive @ unit)}, negative_projections={layer: float(negative @ unit)}
        ),
    )


def placed(vector: SteeringVector, kind: str, site: Site, positions: str, strength: float = 1.5) -> Placement:
    intervention = INTERVENTIONS[kind].from_vector(vector, site.layer, None)
    return Placement(intervention, site, strength, Scope.parse(positions))


@contextmanager
def projected_out_by_hand(model: Any, writers: list[str], first: str, direction: Tensor) -> Iterator[None]:
    """Take a direction out of what the first block is given and of what each named module writes."""
    unit = direction.double() / direction.double().norm()

    def without(hidden: Tensor) -> Tensor:
        exact = hidden.double()
        return (exact - (exact @ unit)[..., None] * unit).to(hidden.dtype)

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (without(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": without(kwargs["hidden_states"])}

    with ExitStack() as stack:
        stack.enter_context(model.get_submodule(first).register_forward_pre_hook(on_input, with_kwargs=True))
        for name in writers:
            hook: Callable[..., Any] = lambda module, args, output: without(output)  # noqa: E731
            stack.enter_context(model.get_submodule(name).register_forward_hook(hook))
        yield


def gap_of(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of a logit, in standard deviations of the token's logits."""
    return float(((ours - theirs).abs().amax(dim=-1) / theirs.std(dim=-1)).max())
