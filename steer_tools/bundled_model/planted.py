"""The directions that were planted in the bundled model: what a method that looks for them should find."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from steer_tools import bundled_model

_FILE = "planted_directions.safetensors"


@dataclass(frozen=True)
class PlantedDirections:
    """Orthonormal directions in the residual stream, one a trait.

    Attributes:
        layer: The block after whose output they lie.
        level_norm: The length along a direction that stands for level 1 of its trait.
        directions: Unit vectors (width,), float32, pointing to level +1.
    """

    layer: int
    level_norm: float
    directions: Mapping[str, Tensor]

    def cosine(self, trait: str, direction: Tensor) -> float:
        """Return the cosine of `direction` (width,) with the planted direction of a trait."""
        return float(cosine_similarity(direction, self.directions[trait], dim=0))


def load_planted_directions() -> PlantedDirections:
    """Return the directions that lie beside the bundled checkpoint."""
    with safe_open(bundled_model.CHECKPOINT / _FILE, framework="pt") as file:
        header = file.metadata()
        directions = {trait: file.get_tensor(trait) for trait in file.keys()}  # noqa: SIM118  # It is no mapping.
    return PlantedDirections(int(header["layer"]), float(header["level_norm"]), directions)


def save_planted_directions(planted: PlantedDirections, folder: Path) -> None:
    """Write the directions beside a checkpoint."""
    header = {"layer": str(planted.layer), "level_norm": str(planted.level_norm)}
    save_file(dict(planted.directions), folder / _FILE, metadata=header)
