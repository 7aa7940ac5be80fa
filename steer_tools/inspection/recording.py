"""The user's own calls of the model → what was at some layers during them, as tensors. It must not know hooks."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from typing_extensions import override

from steer_tools.core.site import Component
from steer_tools.engines.base import Engine
from steer_tools.engines.facets import LiveModel, Watched, WatchedCalls, has, require
from steer_tools.errors import ArgumentError
from steer_tools.inspection.activations import ByLayer, sites_of
from steer_tools.session.session import current_session


@dataclass
class _Call:
    """One call at one layer: a `generate`, or a pass with those that go on behind its tokens."""

    generation: object | None
    passes: list[Tensor]
    end: int

    def takes(self, watched: Watched) -> bool:
        """Take a pass that goes on with this call's rows; without a cache, what it repeats is left out."""
        if watched.generation is not self.generation or len(watched.hidden) != len(self.passes[0]):
            return False
        if self.generation is None and watched.start != self.end:
            return False
        self.passes.append(watched.hidden[:, self.end - watched.start :])
        self.end = watched.start + watched.hidden.shape[1]
        return True


class Recording(Mapping[int, Tensor]):
    """What was at each layer during one call, (rows, tokens, width), in the model's own dtype and on its device.

    Several calls that do not go on with each other are in `calls`, in their order.
    """

    def __init__(self, layers: Sequence[int], model_layers: int) -> None:
        self._model_layers = model_layers
        self._calls = ByLayer({layer: list[_Call]() for layer in layers}, model_layers)

    @property
    def calls(self) -> tuple[ByLayer[Tensor], ...]:
        """What was at each layer during each call, (rows, tokens, width)."""
        whole = zip(*self._calls.values(), strict=False)  # An interrupted pass has not reached all layers.
        joined = (
            {layer: torch.cat(call.passes, 1) for layer, call in zip(self, calls, strict=True)} for calls in whole
        )
        return tuple(ByLayer(by_layer, self._model_layers) for by_layer in joined)

    def take(self, watched: Watched) -> None:
        """Note a pass at one layer."""
        calls = self._calls[watched.site.layer]
        if not (calls and calls[-1].takes(watched)):
            calls.append(_Call(watched.generation, [watched.hidden], watched.start + watched.hidden.shape[1]))

    @override
    def __getitem__(self, layer: int) -> Tensor:
        calls = self._calls[layer]
        if not calls:
            raise ArgumentError(
                "Nothing was recorded",
                valid="calls of model(...) or model.generate(...) inside the block; the tools' own passes are not seen",
                fix="Call the attached model: load_model's is loaded_model()[0].",
            )
        if len(calls) > 1:
            raise ArgumentError(
                f"{len(calls)} calls of the model were recorded, which do not go on with each other",
                valid=f"calls[0][{layer}] to calls[{len(calls) - 1}][{layer}]",
            )
        return torch.cat(calls[0].passes, dim=1)

    @override
    def __contains__(self, layer: object) -> bool:
        return layer in self._calls

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._calls)

    @override
    def __len__(self) -> int:
        return len(self._calls)

    @override
    def __repr__(self) -> str:
        shapes = [tuple(call[self._calls.layers[0]].shape) for call in self.calls]
        return f"{type(self).__name__}(layers {list(self)}, calls {shapes})"


@contextmanager
def recording(
    model: object = None,
    layers: int | Sequence[int] | None = None,
    component: Component = "residual",
    head: int | None = None,
) -> Generator[Recording]:
    """Record what is at some layers while you call the attached model yourself: `model(...)` or `model.generate(...)`.

    `activations[15]` is (rows, tokens, width), a copy without gradients in the model's own dtype and on its device;
    pads are among the tokens as you gave them. A `generate` has the prompt's tokens and each new one but the last,
    which the model is not run on; so has a loop with a cache of your own. Several calls are in `activations.calls`.

    What is applied stays in force: recorded is what the next block gets, after all edits. The tools' own passes
    and other threads' calls are not seen. Nothing stays on the model, also after an error.

    Args:
        model: The attached model, which may be left out; or the layers.
        layers: Decoder blocks whose output is recorded, from 0, negative ones from the end; all if omitted.
        component: "residual", a layer's output; "attention" or "mlp", what that part adds to it; "embedding", layer 0.
        head: One head of component "attention", from 0.

    Raises:
        ArgumentError: An argument is out of range, or it is another model than the attached one.
        UnsupportedFeatureError: The engine cannot do this, or a layer has no such part.
    """
    session = current_session()
    if isinstance(model, int | Sequence):
        model, layers = None, cast(int | Sequence[int], model) if layers is None else layers
    with session.at_work():
        engine = require(session.engine, WatchedCalls, "recording")
        _refuse_other_model(engine, model)
        sites = sites_of(session, layers, component, head)
    activations = Recording([site.layer for site in sites], engine.info.layers)
    with engine.watching(sites, activations.take):
        yield activations


def _refuse_other_model(engine: Engine, model: object) -> None:
    if model is not None and not (has(engine, LiveModel) and engine.holds(model)):
        raise ArgumentError(
            f"The {type(model).__name__} given to recording is not the attached model",
            valid="the attached model, or none: recording(layers=[...])",
            fix="Call attach_model(model, tokenizer) first.",
        )
