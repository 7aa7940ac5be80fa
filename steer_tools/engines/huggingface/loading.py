"""A folder, a GGUF file or a name on the model hub → a model with its tokenizer, whole, or a refusal that says why.

No code, no pickle and no kernel that a checkpoint names is ever run.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.initialization import TORCH_INIT_FUNCTIONS
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from steer_tools.errors import UnsupportedModelError
from steer_tools.torch_state import KeptTorchState
from steer_tools.workspace import is_pointer

# Seen of transformers and what it calls, for checkpoints that are broken, foreign or meant for another machine.
_FOREIGN_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
    struct.error,
)
# What transformers replaces while it makes a model.
_PATCHED: tuple[tuple[Any, str], ...] = (
    (torch, "linspace"),
    (PreTrainedModel, "init_weights"),
    (PreTrainedModel, "tie_weights"),
    *((nn.init, name) for name in TORCH_INIT_FUNCTIONS),
)
_LONGEST_SAID = 400
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


class LoadedModel(NamedTuple):
    """A model, its tokenizer, and what its user should know of how it was loaded."""

    model: nn.Module
    tokenizer: Any
    warnings: tuple[str, ...]


def load_pretrained(
    name_or_path: str, *, dtype: str = "auto", device_map: str | dict[str, Any] | None = None
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path: A folder with safetensors or one GGUF file, a GGUF file, or a name on the model hub; there, too,
            a GGUF file follows the name. Its weights are unpacked.
        dtype: "auto" is the checkpoint's own; float32 for GGUF.
        device_map: As transformers takes it.

    Raises:
        UnsupportedModelError: There is no such model, transformers cannot load it, or it lacks weights.
    """
    try:
        with KeptTorchState(_PATCHED):
            where, file = _place_of(name_or_path)
            gguf = {} if file is None else {"gguf_file": file}
            config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False, **gguf)
            _refuse_kernels(config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where,
                config=config,
                dtype=dtype,
                device_map=device_map,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **(gguf and {**gguf, "quantization_config": GgufConfig(dequantize=True)}),
            )
            model, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **gguf)
    except _FOREIGN_ERRORS as error:
        raise UnsupportedModelError(
            f"The model {name_or_path!r:.{_LONGEST_SAID}} cannot be loaded ({_said(error)})",
            valid="a folder with a transformers checkpoint in safetensors files, a .gguf file, or a name on the model "
            "hub",
            fix=_repair(name_or_path, error),
        ) from error
    kind = type(model).__name__
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModelError(
            f"The checkpoint {name_or_path!r} lacks {len(missing)} tensors of a {kind}, such as {missing[0]}, in whose "
            "place there would be random numbers",
            valid="a checkpoint that holds all weights",
            fix="Download or save it again.",
        )
    if file is not None:
        # Its weights are plain numbers now, and are saved as such.
        model.hf_quantizer, model.is_quantized = None, False
    warnings: tuple[str, ...] = ()
    if unexpected := sorted(report["unexpected_keys"]):
        warnings = (f"A {kind} has no place for {len(unexpected)} tensors of the checkpoint, such as {unexpected[0]}.",)
    return LoadedModel(model.eval(), tokenizer, warnings)


def _place_of(name_or_path: str) -> tuple[str, str | None]:
    """Return where transformers finds a model, and the name of a GGUF file there.

    Raises:
        UnsupportedModelError: The file is one of several that only together are a model, or it is not said which.
    """
    path = Path(name_or_path)
    files = [path] if path.suffix == ".gguf" else []
    if not files and path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
    if shards := [file.name for file in files if _SHARD.search(file.name)]:
        raise UnsupportedModelError(
            f"{shards[0]} holds a part of a model",
            valid="a model in one .gguf file",
            fix=f"`llama-gguf-split --merge {shards[0]} whole.gguf` makes one file of all parts.",
        )
    if len(files) > 1:
        raise UnsupportedModelError(
            f"{path} holds {len(files)} .gguf files", valid=f"one of {', '.join(file.name for file in files[:8])}"
        )
    return (str(files[0].parent), files[0].name) if files else (name_or_path, None)


def _refuse_kernels(config: Any) -> None:
    """Refuse a config by which transformers would fetch and run a kernel of the hub.

    Raises:
        UnsupportedModelError: It names an attention that is not on this machine.
    """
    flash = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    at_hand = {"eager", "sdpa", "flex_attention", *(name for name, is_there in flash.items() if is_there())}
    for named in _attentions(config):
        if named not in at_hand:
            raise UnsupportedModelError(
                f"The checkpoint's config asks for the attention {named!r}, which the hub would be asked for",
                valid=", ".join(sorted(at_hand)),
                fix="Take attn_implementation out of its config.json.",
            )


def _attentions(config: Any) -> Iterator[str]:
    """Yield what a config and its parts name as their attention."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    named = (getattr(part, "_attn_implementation", None) for part in parts)
    yield from (name for name in named if isinstance(name, str))


def _said(error: Exception) -> str:
    """Return the beginning of what an error says, which may go on for pages, on one line."""
    # What a KeyError says is a word without a sentence.
    said = f"{type(error).__name__}: {error}" if isinstance(error, LookupError | MemoryError) else str(error)
    return shorten(said, _LONGEST_SAID, placeholder=" ...")


def _repair(name_or_path: object, error: Exception) -> str:
    """Return what to do about a model that could not be loaded, where that is known."""
    if pointers := _lfs_pointers(name_or_path):
        return f"{pointers[0]} is a pointer of Git LFS: run `git lfs pull` in its folder."
    if re.search("(?i)install.*gguf|gguf.*install", str(error)):
        return 'GGUF files need two more packages: pip install "steer-tools[gguf]"'
    return ""


def _lfs_pointers(place: object) -> list[str]:
    """Return the weights' files that hold the address of their content instead of it."""
    with suppress(OSError, ValueError):  # What could not be loaded may be no path at all, or one that is too long.
        path = Path(str(place))
        files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.gguf")])
        return [file.name for file in files if _is_pointer(file)]
    return []


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return is_pointer(file.peek())
