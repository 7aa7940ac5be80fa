"""A checkpoint's config → how deep and wide its text model is. It must not know weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from transformers import CONFIG_MAPPING


@dataclass(frozen=True)
class Sizes:
    """The model type of a text model, how many blocks it has, and the width of its residual stream."""

    family: str
    layers: int
    width: int


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


def _layers_and_width(part: Mapping[str, object]) -> tuple[int, int]:
    """Return both, with 0 for what is no number of them."""
    names = cast(dict[str, str], _own_names(str(part.get("model_type", "unknown"))))
    found = (part.get(names.get(name, name)) for name in ("num_hidden_layers", "hidden_size"))
    layers, width = (max(0, value) if isinstance(value, int) else 0 for value in found)
    return layers, width


def _own_names(family: str) -> dict[str, Any]:
    return CONFIG_MAPPING[family].attribute_map if family in CONFIG_MAPPING else {}
