"""The engines by name, each with a loader that imports its runtime only when it is called. It must not import torch.

A new engine is one function here, added to `_LOADERS`; `make generate` then offers it wherever an engine is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steer_tools.errors import ArgumentError

if TYPE_CHECKING:
    from steer_tools.engines.base import Engine

DEFAULT_ENGINE = "huggingface"
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSource:
    """A model to be loaded: where it is, what to call it, and how it is held."""

    name_or_path: str
    name: str
    dtype: str = "auto"
    device_map: str | None = None
    template_options: Mapping[str, object] | None = None


def open_engine(engine: str, source: ModelSource) -> "Engine":
    """Load a model on the engine of that name.

    Raises:
        ArgumentError: There is no such engine or dtype, or the chat template does not use an option.
        UnsupportedModelError: The model cannot be loaded or steered.
    """
    require_engine_name(engine)
    if source.dtype not in DTYPES:
        raise ArgumentError(f"dtype is {source.dtype!r}", valid=", ".join(map(repr, DTYPES)))
    return (_LOADERS | _FOR_TESTS)[engine](source)


def engine_around(
    model: object, tokenizer: Any, name: str | None, template_options: Mapping[str, object] | None = None
) -> "Engine":
    """Return an engine that steers a model object in place, and always gives its chat template these options.

    Raises:
        ArgumentError: The template does not use an option.
        UnsupportedModelError: It cannot be steered.
    """
    from steer_tools.engines.huggingface.engine import HuggingFaceEngine

    return HuggingFaceEngine(model, tokenizer, name, template_options=template_options)


def require_engine_name(engine: object) -> None:
    """Refuse what is no engine's name.

    Raises:
        ArgumentError: It is none.
    """
    if engine not in (*ENGINES, *_FOR_TESTS):
        raise ArgumentError(f"engine is {engine!r}", valid=", ".join(map(repr, ENGINES)))


def _load_huggingface(source: ModelSource) -> "Engine":
    from steer_tools.engines.huggingface.engine import HuggingFaceEngine
    from steer_tools.engines.huggingface.loading import load_pretrained

    loaded = load_pretrained(source.name_or_path, dtype=source.dtype, device_map=source.device_map)
    engine = HuggingFaceEngine(
        loaded.model,
        loaded.tokenizer,
        source.name,
        loaded_from=source.name_or_path,
        template_options=source.template_options,
    )
    engine.info = replace(engine.info, warnings=loaded.warnings)
    return engine


def _load_fake(source: ModelSource) -> "Engine":
    from steer_tools.engines.fake import FakeEngine

    if source.template_options:
        raise ArgumentError("template_options were given, and the toy has no chat template of jinja", valid="none")
    return FakeEngine(source.name)


_LOADERS: dict[str, Callable[[ModelSource], "Engine"]] = {"huggingface": _load_huggingface}
# Offered by no schema.
_FOR_TESTS = {"fake": _load_fake}
ENGINES = tuple(_LOADERS)
