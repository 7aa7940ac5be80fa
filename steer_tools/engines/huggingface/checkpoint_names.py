"""A model's parameters → the tensors of its checkpoint that hold them. It must not know what becomes of them.

transformers may keep one parameter as several tensors, such as one for each expert, and under other names. A marker
that grows along one axis is sent the way that weights go when they are saved, and comes out with its name and axis.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from steer_tools.engines.huggingface.output_parameters import OutputParameter


@dataclass(frozen=True)
class BiasFlag:
    """An entry of the config that gives modules a bias, and all biases that come with it, by parameter name."""

    name: str
    biases: dict[str, tuple[int, ...]]


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


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def _growing_axis(tensor: Tensor) -> int:
    """Return the one axis along which a marker differs."""
    return next(axis for axis in range(tensor.ndim) if bool((tensor.select(axis, 0) != tensor.select(axis, -1)).any()))
