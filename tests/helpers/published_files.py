"""Files as other projects write them, for the tests that read them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from helpers.places import ROOT
from steer_tools import SteeringVector, save_vector

WIDTH, LAYERS, POSITIONS, FEATURES = 6, 4, 3, 9
PEERS = ROOT / "tests" / "peers" / "files"
# The path to load, in a folder in which the file is written.
Write = Callable[[Path], str]


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


VECTOR, ROWS, MEANS = numbers(WIDTH), numbers(LAYERS, WIDTH), numbers(POSITIONS, LAYERS, WIDTH)
DECODER = numbers(FEATURES, WIDTH)
SAE = {
    "W_enc": numbers(WIDTH, FEATURES, seed=2),
    "W_dec": DECODER,
    "b_enc": torch.zeros(FEATURES),
    "b_dec": torch.zeros(WIDTH),
    "threshold": torch.ones(FEATURES),
}
PROBE = torch.nn.Linear(WIDTH, 1, bias=False)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 9437312\n"


class SteeringVectorOfItsPackage:
    def __init__(self) -> None:
        self.layer_activations, self.layer_type = {1: VECTOR, 3: -VECTOR}, "decoder_block"


class ControlVector:
    def __init__(self) -> None:
        self.model_type, self.directions = "mistral", {1: VECTOR.numpy(), 3: -VECTOR.numpy()}


def torch_file(name: str, value: object, **options: Any) -> Write:
    """Save a value, or one of a class, whose module only stands in while a test runs."""
    return lambda folder: (
        torch.save(value() if isinstance(value, type) else value, folder / name, **options),
        name,
    )[1]


def numpy_file(name: str, array: Any) -> Write:
    return lambda folder: (np.save(folder / name, array, allow_pickle=True), name)[1]


def archive(name: str, *, packed: bool = False, **arrays: Any) -> Write:
    return lambda folder: ((np.savez_compressed if packed else np.savez)(folder / name, **arrays), name)[1]


def tensors(name: str, **given: Tensor) -> Write:
    return lambda folder: (safetensors.torch.save_file(given, folder / name), name)[1]


def raw(name: str, content: bytes) -> Write:
    return lambda folder: ((folder / name).write_bytes(content), name)[1]


def pickled(name: str, make: Callable[[], object]) -> Write:
    return lambda folder: ((folder / name).write_bytes(pickle.dumps(make())), name)[1]


def from_peers(name: str) -> Write:
    return lambda folder: ((folder / name).write_bytes((PEERS / name).read_bytes()), name)[1]


def refusal_direction(folder: Path) -> str:
    torch.save(VECTOR.double(), folder / "direction.pt")
    (folder / "direction_metadata.json").write_text('{\n    "pos": -1,\n    "layer": 12\n}')
    return "direction.pt"


def rotalabs(folder: Path) -> str:
    from_peers("rotalabs_single.json")(folder)
    return from_peers("rotalabs_single.pt")(folder)


def twice(folder: Path) -> str:
    numpy_file("v.npy", -VECTOR.numpy())(folder)
    return torch_file("v.pt", VECTOR)(folder).removesuffix(".pt")


def saelens(folder: Path) -> str:
    (folder / "blocks.2.hook_resid_post").mkdir()
    safetensors.torch.save_file(SAE, folder / "blocks.2.hook_resid_post" / "sae_weights.safetensors")
    (folder / "blocks.2.hook_resid_post" / "cfg.json").write_text('{"hook_name": "blocks.2.hook_resid_post"}')
    return "blocks.2.hook_resid_post"


def without_ending(folder: Path) -> str:
    save_vector(SteeringVector.from_directions({2: VECTOR}), folder / "v.safetensors")
    (folder / "v.safetensors").rename(folder / "refusal_v1.5")
    return "refusal_v1.5"
