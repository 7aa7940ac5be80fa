"""Two classes of activations → the statistics that methods ask for.

`Examples` holds all of them, `Moments` (moments.py) only sums. All mathematics is in float64. It must not know methods.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.directions.covariance import solve_rows


class Activations(ABC):
    """Positive and negative activations, as far as statistics tell of them; every vector is (width,) in float64."""

    @property
    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """The numbers of positive and of negative examples."""

    @property
    @abstractmethod
    def positive_mean(self) -> Tensor:
        """μ₊."""

    @property
    @abstractmethod
    def negative_mean(self) -> Tensor:
        """μ₋."""

    @property
    @abstractmethod
    def typical_norm(self) -> float:
        """The mean norm of an example."""

    @property
    @abstractmethod
    def top_pair_component(self) -> Tensor:
        """The unit vector of either sign that holds most of the pair differences' squares, not centred."""

    @abstractmethod
    def solve_within(self, vector: Tensor, shrinkage: float | None = None) -> Tensor:
        """Return Σ⁻¹ · vector up to a factor, for the shrunk covariance Σ of the examples about their class's mean.

        Without `shrinkage` it is that of Ledoit and Wolf; where no example differs from its mean, Σ is the identity.
        """

    @property
    def contrast(self) -> Tensor:
        """μ₊ − μ₋."""
        return self.positive_mean - self.negative_mean


@dataclass(frozen=True, eq=False)
class Examples(Activations):
    """All activations: `positive` (n, width) and `negative` (m, width), float64."""

    positive: Tensor
    negative: Tensor

    @classmethod
    def of(cls, positive: Tensor, negative: Tensor) -> "Examples":
        """Convert to float64."""
        return cls(positive.double(), negative.double())

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of rows."""
        return len(self.positive), len(self.negative)

    @property
    def positive_mean(self) -> Tensor:
        """Average the positive rows."""
        return self.positive.mean(dim=0)

    @property
    def negative_mean(self) -> Tensor:
        """Average the negative rows."""
        return self.negative.mean(dim=0)

    @property
    def typical_norm(self) -> float:
        """Average the rows' norms."""
        return float(torch.cat([self.positive, self.negative]).norm(dim=1).mean())

    @property
    def top_pair_component(self) -> Tensor:
        """Find it in the space of examples or of dimensions, whichever is smaller."""
        return top_component(self.positive - self.negative)

    def solve_within(self, vector: Tensor, shrinkage: float | None = None) -> Tensor:
        """Solve in the space of examples or of dimensions, whichever is smaller."""
        centred = torch.cat([self.positive - self.positive_mean, self.negative - self.negative_mean])
        return solve_rows(centred, vector, shrinkage)


def top_component(rows: Tensor) -> Tensor:
    """Return the first right singular vector of rows (n, width), of either sign; zero rows give zero."""
    count, width = rows.shape
    if count >= width:
        return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    # The n × n Gram matrix has the same first component as the width × width one, in milliseconds.
    component = rows.T @ torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1]
    norm = component.norm()
    return component / norm if norm > 0 else component
