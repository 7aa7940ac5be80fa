"""A transformers checkpoint: its config's sizes, and which of its tensors hold a parameter.

transformers may keep one parameter as several tensors, such as one for each expert, and under other names. A marker
that grows along one axis is sent the way that weights go when they are saved, and comes out with its name and axis.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from steer_tools.engines.facets import OutputParameter


@dataclass(frozen=True)
class Sizes:
    """The model type of a text model, how many blocks it has, and the width of its residual stream."""

    family: str
    layers: int
    width: int


@dataclass(frozen=True)
class BiasFlag:
    """An entry of the config that gives modules a bias, and all biases that come with it, by parameter name."""

    name: str
    biases: dict[str, tuple[int, ...]]


def sizes_in(config: Mapping[str, object]) -> Sizes | None:
    """Return the sizes that a config.json states, also where each family has its own names for them."""
    part = sized_part(config)
    return None if part is None else Sizes(str(config.get("model_type", "unknown")), *_layers_and_width(part))


def sized_part(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the part of a config.json that states the sizes: the whole of it, or that of the text model."""
    parts = (config, config.get("text_config"))
    for part in (cast(Mapping[str, object], part) for part in parts if isinstance(part, Mapping)):
        if all(_layers_and_width(part)):
            return part
    return None


def names_on_disk(model: nn.Module, parameter: OutputParameter, shape: tuple[int, ...]) -> dict[str, int]:
    """Return name → axis of the tensors that hold a parameter of this shape."""
    own = [size if axis == parameter.axis else 1 for axis, size in enumerate(shape)]
    marker = torch.arange(shape[parameter.axis], dtype=torch.float32).view(own).expand(shape)
    stored = revert_weight_conversion(cast(PreTrainedModel, model), {parameter.name: marker})
    return {name: _growing_axis(tensor) for name, tensor in stored.items()}


def find_bias_flag(model: nn.Module, wanted: Iterable[str]) -> BiasFlag | None:
    """Return the config's switch that gives the model the wanted biases, and beside them nothing but biases."""
    config = cast(Any, model).config
    has, wanted = _shapes(model), set(wanted)
    for name, value in config.to_dict().items():
        if "bias" not in name or value is not False:
            continue
        changed = deepcopy(config)
        setattr(changed, name, True)
        with torch.device("meta"):
            would_have = _shapes(type(model)(changed))
        added = {key: shape for key, shape in would_have.items() if key not in has}
        if wanted <= set(added) and set(has) <= set(would_have) and all(key.endswith(".bias") for key in added):
            return BiasFlag(name, added)
    return None


def _layers_and_width(part: Mapping[str, object]) -> tuple[int, int]:
    """Return both, with 0 for what is no number of them."""
    family = str(part.get("model_type", "unknown"))
    names: dict[str, str] = CONFIG_MAPPING[family].attribute_map if family in CONFIG_MAPPING else {}
    found = (part.get(names.get(name, name)) for name in ("num_hidden_layers", "hidden_size"))
    layers, width = (max(0, value) if isinstance(value, int) else 0 for value in found)
    return layers, width


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def _growing_axis(tensor: Tensor) -> int:
    return next(axis for axis in range(tensor.ndim) if bool((tensor.select(axis, 0) != tensor.select(axis, -1)).any()))
