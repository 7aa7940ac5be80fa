"""Prompts → what the unsteered model holds at some layers, as tensors with all that says what they are; and their file.

It must not know vectors.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, TypeVar, overload

import torch
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from typing_extensions import override

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Component, Site
from steer_tools.directions.extraction import layers_with
from steer_tools.engines.pooling import AnyPooling, TokenizedPrompt, sink_warnings
from steer_tools.errors import ArgumentError, LayerError, VectorFileError
from steer_tools.foreign_text import visible
from steer_tools.formats.safetensors_format import ACTIVATIONS_KEY, metadata_of, require_header
from steer_tools.prompts import PromptLike, is_single, parse_prompts, plain
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Kind

ENDING = ".safetensors"
_MOST_HEADER_BYTES = 100_000_000  # The library's own limit.
_Values_co = TypeVar("_Values_co", covariant=True)

# One place of each prompt, a mean over several, or all.
ActivationPooling: TypeAlias = AnyPooling | Literal["all"]
Labels: TypeAlias = Sequence[str | int | bool]


class NoSuchLayerError(LayerError, KeyError):
    """A layer that was not read; a mapping's missing keys are `KeyError`s."""

    __str__ = Exception.__str__  # KeyError's would be in quotes.


class ByLayer(Mapping[int, _Values_co]):
    """A mapping from layers to what was read there; negative layers count from the model's end, as elsewhere."""

    def __init__(self, by_layer: Mapping[int, _Values_co], model_layers: int) -> None:
        self._by_layer, self._model_layers = dict(by_layer), model_layers

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, in the order in which they were asked for."""
        return tuple(self._by_layer)

    @override
    def __getitem__(self, layer: int) -> _Values_co:
        at = layer + self._model_layers if layer < 0 else layer
        if at not in self._by_layer:
            raise NoSuchLayerError(f"layer is {layer!r}, which was not read", valid=f"one of {list(self.layers)}")
        return self._by_layer[at]

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._by_layer)

    @override
    def __len__(self) -> int:
        return len(self._by_layer)


class PromptTokens(NamedTuple):
    """The tokens of a prompt: ids, and each as text."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]


class _Description(BaseModel):
    """What activations are of; the header of their file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: Component
    head: int | None
    pooling: str | int
    is_single: bool
    model_name: str
    model_layers: int
    model_fingerprint: str
    prompts: tuple[Any, ...]
    labels: tuple[str | int | bool, ...] | None
    tokens: tuple[PromptTokens, ...] | None


class LayerActivations(ByLayer[_Values_co]):
    """The activations of some prompts, float32 on the CPU, by layer.

    At each layer they are (prompts, width); with pooling "all" a list of one (tokens, width) a prompt, and of a prompt
    that was given by itself, (1, tokens, width).
    """

    def __init__(self, by_layer: Mapping[int, _Values_co], description: _Description) -> None:
        super().__init__(by_layer, description.model_layers)
        self._description = description

    @property
    def component(self) -> Component:
        """What was read: a layer's output, what its attention or MLP adds, or the embedding."""
        return self._description.component

    @property
    def head(self) -> int | None:
        """The attention's head, where one was read."""
        return self._description.head

    @property
    def pooling(self) -> str | int:
        """Which tokens were read; "custom" by a function."""
        return self._description.pooling

    @property
    def prompts(self) -> tuple[PromptLike, ...]:
        """The prompts, in their order."""
        return self._description.prompts

    @property
    def labels(self) -> tuple[str | int | bool, ...] | None:
        """What was given beside the prompts, one for each."""
        return self._description.labels

    @property
    def tokens(self) -> tuple[PromptTokens, ...] | None:
        """Of each prompt, where all tokens were read."""
        return self._description.tokens

    @property
    def model_fingerprint(self) -> str:
        """Of the model that was read."""
        return self._description.model_fingerprint

    @property
    def shape(self) -> tuple[int, int]:
        """(prompts, width), or (all tokens, width), at each layer."""
        rows = self._rows(self.layers[0])
        return (len(rows), rows.shape[1])

    def save(self, path: str) -> str:
        """Write a safetensors file in the workspace, with a tensor `layer.<n>` of this shape, and return its path.

        Raises:
            VectorFileError: It cannot be written, or what is there already holds no activations.
        """
        tensors = {f"layer.{layer}": self._rows(layer).contiguous() for layer in self}
        content = save(tensors, metadata={ACTIVATIONS_KEY: self._description.model_dump_json()})
        return str(current_session().workspace.write(_with_ending(path), content, replaces=ACTIVATIONS))

    def _rows(self, layer: int) -> Tensor:
        values: Any = self[layer]
        return values if self.tokens is None else torch.cat(list(values))

    @override
    def __repr__(self) -> str:
        part = str(Site(0, self.component, self.head).part)
        rows = "prompts" if self.tokens is None else "tokens"
        return (
            f"{type(self).__name__}(layers {list(self.layers)}, {part}, pooling={self.pooling!r}, "
            f"{self.shape[0]} {rows} × {self.shape[1]})"
        )


def load_activations(path: str) -> LayerActivations[Any]:
    """Read what `LayerActivations.save` or `save_activations` wrote.

    Raises:
        VectorFileError: There is no such file, or it holds something else.
    """
    with current_session().workspace.opened(_with_ending(path)) as file:
        data = file.read()
    require_header(data, path)
    try:
        tensors = load(data)
        description = _Description.model_validate_json(metadata_of(data)[ACTIVATIONS_KEY])
        by_layer = {int(name.removeprefix("layer.")): _unrolled(rows, description) for name, rows in tensors.items()}
    except (SafetensorError, ValidationError, ValueError, KeyError, RuntimeError) as error:
        raise VectorFileError(f"{path} holds no activations", valid="a file of save_activations") from error
    return LayerActivations(dict(sorted(by_layer.items())), description)


class _Metadata(BaseModel):
    description: Json[_Description] = Field(alias=ACTIVATIONS_KEY)


class _Header(BaseModel):
    metadata: _Metadata = Field(alias="__metadata__")


def _are_in(file: BinaryIO) -> bool:
    """Return whether the header says so; the numbers behind it may fill the memory."""
    length = int.from_bytes(file.read(8), "little")
    try:
        _Header.model_validate_json(file.read(min(length, _MOST_HEADER_BYTES)))
    except ValidationError:
        return False
    return True


ACTIVATIONS = Kind("a file of activations", _are_in)


@overload
def read_activations(
    prompts: PromptLike | Sequence[PromptLike],
    layers: int,
    *,
    component: Component = "residual",
    head: int | None = None,
    pooling: Pooling | Callable[[TokenizedPrompt], Any] | int = "last",
    labels: Labels | None = None,
) -> Tensor: ...


@overload
def read_activations(
    prompts: PromptLike | Sequence[PromptLike],
    layers: int,
    *,
    component: Component = "residual",
    head: int | None = None,
    pooling: Literal["all"],
    labels: Labels | None = None,
) -> list[Tensor] | Tensor: ...


@overload
def read_activations(
    prompts: PromptLike | Sequence[PromptLike],
    layers: Sequence[int] | None = None,
    *,
    component: Component = "residual",
    head: int | None = None,
    pooling: Pooling | Callable[[TokenizedPrompt], Any] | int = "last",
    labels: Labels | None = None,
) -> LayerActivations[Tensor]: ...


@overload
def read_activations(
    prompts: PromptLike | Sequence[PromptLike],
    layers: Sequence[int] | None = None,
    *,
    component: Component = "residual",
    head: int | None = None,
    pooling: Literal["all"],
    labels: Labels | None = None,
) -> LayerActivations[list[Tensor] | Tensor]: ...


def read_activations(
    prompts: PromptLike | Sequence[PromptLike],
    layers: int | Sequence[int] | None = None,
    *,
    component: Component = "residual",
    head: int | None = None,
    pooling: ActivationPooling = "last",
    labels: Labels | None = None,
) -> Any:
    """Return the unsteered model's activations, float32 on the CPU, whatever is applied.

    One layer is answered with its tensor, (prompts, width); a list, a range or None (all layers) with a mapping from
    the layers, counted from 0, to such tensors, which has `labels`, `prompts`, `pooling` and `save(path)`.

    Args:
        prompts: Texts, chats (lists of messages) or lists of token ids; one by itself counts as a list of one.
        layers: Decoder blocks whose output is read, from 0; negative ones count from the end.
        component: "residual", a layer's output; "attention" or "mlp", what that part adds to it; "embedding", layer 0.
        head: One head of component "attention", from 0.
        pooling: "last", "first" or an index, one token of each prompt; "mean" (without special tokens and attention
            sinks) or "response" (the last assistant message), their mean; a function from a `TokenizedPrompt` to one
            bool a token; or "all": then each layer has a list of one (tokens, width) a prompt, and of a prompt that
            was given by itself, (1, tokens, width). The mapping has their `tokens`.
        labels: One a prompt, kept beside them.

    Where a mean leaves attention sinks out, or one is read, `warnings.warn` says so.

    Raises:
        ArgumentError: An argument is out of range, or there are not as many labels as prompts.
        LayerError: The model lacks a layer.
        PromptError: A prompt is malformed, too long, or has no token that the pooling reads.
        UnsupportedFeatureError: The layer has no such part.
    """
    session = current_session()
    with session.at_work():
        found, told = activations_of(session, prompts, layers, component, head, pooling, labels)
    for warning in told:
        warnings.warn(visible(warning), stacklevel=3)
    return found[found.layers[0]] if isinstance(layers, int) else found


def activations_of(
    session: Session,
    prompts: object,
    layers: object,
    component: Component,
    head: int | None,
    pooling: ActivationPooling,
    labels: Labels | None,
) -> tuple[LayerActivations[Any], list[str]]:
    """Return what `read_activations` reads, and what its user should know."""
    engine, parsed = session.engine, parse_prompts([prompts] if is_single(prompts) else prompts)
    if labels is not None and len(labels) != len(parsed):
        raise ArgumentError(f"There are {len(labels)} labels and {len(parsed)} prompts", valid="one label a prompt")
    sites = sites_of(session, layers, component, head)
    told: list[str] = []
    tokens = None
    if pooling == "all":
        traces = engine.trace(parsed, sites)
        values: dict[Site, Any] = {site: [trace[site] for trace in traces] for site in sites}
        if is_single(prompts):
            values = {site: torch.stack(rows) for site, rows in values.items()}
        tokens = tuple(PromptTokens(own.tokens, own.texts) for own in map(engine.tokenize, parsed))
    else:
        read = engine.read(parsed, sites, pooling)
        values, told = dict(read), sink_warnings(pooling, [read])
    description = _Description(
        component=component,
        head=head,
        pooling="custom" if callable(pooling) else pooling,
        is_single=is_single(prompts),
        model_name=engine.info.name,
        model_layers=engine.info.layers,
        model_fingerprint=engine.info.fingerprint,
        prompts=tuple(map(plain, parsed)),
        labels=None if labels is None else tuple(labels),
        tokens=tokens,
    )
    return LayerActivations({site.layer: rows for site, rows in values.items()}, description), told


def sites_of(session: Session, layers: object, component: Component, head: int | None) -> list[Site]:
    """Return the sites of one layer, several, or None for all that have the component.

    Raises:
        ArgumentError: There is no such component, or a head of another one than the attention.
        LayerError: There are no layers, or the model lacks one.
    """
    if layers is None:
        named = layers_with(session.engine, component, head)
    elif isinstance(layers, Sequence) and not isinstance(layers, str):
        named = session.resolved_layers(layers, "layers", "a layer, a list of layers, or None for all")
    else:
        named = [session.engine.resolve_layer(layers)]
    return [Site(layer, component, head) for layer in named]


def _unrolled(rows: Tensor, description: _Description) -> Any:
    """Return a file's rows as they were read."""
    counts = [1] * len(description.prompts)
    if description.tokens is None:
        if len(rows) != len(counts):
            raise ValueError(len(rows))
        return rows
    split = list(rows.split([len(own.ids) for own in description.tokens]))
    return torch.stack(split) if description.is_single else split


def _with_ending(path: str) -> str:
    return path if str(path).lower().endswith(ENDING) else f"{path}{ENDING}"
