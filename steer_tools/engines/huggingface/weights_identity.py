"""A model in memory → the fingerprint of its checkpoint, and those by which older files knew it.

Weights that are what its checkpoint holds have the checkpoint's own fingerprint, in whatever dtype they were loaded;
others, such as tuned or merged ones, have that of the checkpoint that they would be saved as.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, revert_weight_conversion
from transformers.modeling_utils import str_to_torch_dtype

from steer_tools.engines.fingerprint import SAMPLED, content_of, contents_of_checkpoint, fingerprint_of
from steer_tools.engines.huggingface.architecture import offloading_hooks

# Elements by which files knew a weight before the checkpoint itself was asked.
_FORMERLY_SAMPLED = 16
# As safetensors writes them.
_DTYPES = {dtype: name for name, dtype in str_to_torch_dtype.items()}


def fingerprints(model: nn.Module, loaded_from: str | None) -> tuple[str, ...]:
    """Return the fingerprint, then those by which a file may know the same weights.

    `loaded_from` is the folder or hub name of which it is known that the weights are its own; else it is looked whether
    they are those of the folder that the config names.

    A few elements of each tensor are looked at, so that a large model takes milliseconds, and one that is offloaded as
    long as a pass.
    """
    former, contents = hashlib.sha256(), set[bytes]()
    converts = _is_saved_as_other_tensors(model)
    for name, tensor, is_parameter in _tensors_in_place(model, ""):
        if is_parameter:
            former.update(f"{name}{tuple(tensor.shape)}".encode())
            for stored in stored_tensors(tensor):
                sample = stored.flatten()[:_FORMERLY_SAMPLED]
                former.update(sample.to("cpu", torch.float32).numpy().tobytes())
        saved = revert_weight_conversion(cast(PreTrainedModel, model), {name: tensor}) if converts else {name: tensor}
        contents.update(_content(stored) for part in saved.values() for stored in stored_tensors(part))
    named = loaded_from or str(getattr(cast(Any, model).config, "_name_or_path", ""))
    folder = _folder_of(named, is_known=loaded_from is not None) if named else None
    on_disk = frozenset[bytes]() if folder is None else contents_of_checkpoint(folder)
    in_memory = fingerprint_of(contents)
    is_as_stored = bool(on_disk) and (loaded_from is not None or contents <= on_disk)
    known = (fingerprint_of(on_disk) if is_as_stored else in_memory, in_memory, former.hexdigest()[:16])
    return tuple(dict.fromkeys(known))


def _folder_of(name_or_path: str, *, is_known: bool) -> Path | None:
    """Return the folder or file of a checkpoint; in the hub's cache where it is a name of which a model was loaded."""
    if Path(name_or_path).exists():
        return Path(name_or_path)
    config = try_to_load_from_cache(name_or_path, "config.json") if is_known else None
    return Path(config).parent if isinstance(config, str) else None


def _is_saved_as_other_tensors(model: nn.Module) -> bool:
    """Whether saving the model would make other tensors of its parameters, not only other names."""
    if not isinstance(model, PreTrainedModel) or getattr(model.config, "quantization_config", None) is not None:
        return False
    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions is None:
        conversions = get_model_conversion_mapping(model, add_legacy=False)
    return any(isinstance(conversion, WeightConverter) for conversion in conversions)


def _tensors_in_place(
    module: nn.Module, prefix: str, adapters: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield all that a checkpoint would hold with its name and whether it is a parameter, offloaded ones in place.

    Tied tensors come as often as they are named; those of adapters that take no part now, not at all: `adapters` are
    the names in a table of them that do.
    """
    tables: Collection[str] = getattr(module, "adapter_layer_names", ())  # As PEFT's layers have them.
    active = _active_adapters(module) if tables else None
    hooks = offloading_hooks(module)
    for hook in hooks:
        hook.pre_forward(module)
    try:
        for name, parameter in module.named_parameters(recurse=False):
            if adapters is None or name in adapters:
                yield prefix + name, parameter.detach(), True
        for name, buffer in module.named_buffers(recurse=False):
            if name not in vars(module)["_non_persistent_buffers_set"]:  # torch has no public name for them.
                yield prefix + name, buffer, False
        for name, child in module.named_children():
            if adapters is None or name in adapters:
                yield from _tensors_in_place(child, f"{prefix}{name}.", active if name in tables else None)
    finally:
        for hook in reversed(hooks):
            hook.post_forward(module, None)


def _active_adapters(layer: Any) -> frozenset[str]:
    """Return the adapters that a layer of PEFT adds to its own weights, into which others may be merged."""
    return (
        frozenset() if layer.disable_adapters else frozenset(layer.active_adapters) - frozenset(layer.merged_adapters)
    )


def stored_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the plain tensors that a quantised weight is made of, or the tensor itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in cast(Any, tensor).__tensor_flatten__()[0]:
            yield from stored_tensors(getattr(tensor, name))
    else:
        yield tensor


def _content(tensor: Tensor) -> bytes:
    flat = tensor.reshape(-1)
    first, last = (part.contiguous().cpu().view(torch.uint8).numpy() for part in (flat[:SAMPLED], flat[-SAMPLED:]))
    dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
    return content_of(dtype, tensor.shape, first.tobytes(), last.tobytes())
