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
    parts = (config, config.get("text_config"))
    for part in (cast(Mapping[str, object], part) for part in parts if isinstance(part, Mapping)):
        family = str(part.get("model_type", "unknown"))
        names = cast(dict[str, str], _own_names(family))
        layers, width = (part.get(names.get(name, name)) for name in ("num_hidden_layers", "hidden_size"))
        if isinstance(layers, int) and isinstance(width, int) and layers > 0 and width > 0:
            return Sizes(str(config.get("model_type", "unknown")), layers, width)
    return None


def _own_names(family: str) -> dict[str, Any]:
    return CONFIG_MAPPING[family].attribute_map if family in CONFIG_MAPPING else {}
