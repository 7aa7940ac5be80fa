"""Two classes of activations → the statistics that methods ask for, the inverse of a shrunk covariance among them.

`Examples` holds all of them, `Moments` (moments.py) only sums. All mathematics is in float64. S is the covariance
within the classes, ρ its shrinkage, and Σ = (1 − ρ)·S + ρ·(tr S / d)·I has an inverse. It must not know methods.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

# Below this the inverse loses the digits that a float64 has to lose: 1e-10 of the result is right here.
LEAST_SHRINKAGE = 1e-6


def solve_scatter(scatter: Tensor, count: int, quartic: float, vector: Tensor, shrinkage: float | None) -> Tensor:
    """Return Σ⁻¹ · vector up to a factor, from n·S (width, width) and the sum of the n rows' fourth powers of norm."""
    slope, floor = _shrinkage(scatter, (count, len(scatter)), quartic, shrinkage)
    shrunk = slope * scatter
    shrunk.diagonal().add_(floor)
    return _solve(shrunk, vector)


def _shrinkage(product: Tensor, shape: tuple[int, int], quartic: float, shrinkage: float | None) -> tuple[float, float]:
    """Return 1 − ρ and n·ρ·(tr S / d) for rows X (n, d), from XᵀX or XXᵀ, which have the same norm and trace.

    Without `shrinkage` it is that of Ledoit and Wolf (2004, A well-conditioned estimator); Σ is the identity for S = 0.
    """
    count, width = shape
    trace = float(product.trace())
    if trace == 0:
        return 0.0, 1.0
    if shrinkage is None:
        square = float(product.square().sum()) / count**2  # |S|²
        spread = square - (trace / count) ** 2 / width  # |S − (tr S / d)·I|²
        error = (quartic / count - square) / count  # the mean |xxᵀ − S|², over n
        shrinkage = 1.0 if spread <= 0 else min(1.0, max(LEAST_SHRINKAGE, error / spread))
    return 1 - shrinkage, shrinkage * trace / width


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]


class Activations(ABC):
    """Positive and negative activations, as far as statistics tell of them; every vector is (width,) in float64.

    Attributes:
        counts: The numbers of positive and of negative examples.
        positive_mean: μ₊.
        negative_mean: μ₋.
    """

    counts: tuple[int, int]
    positive_mean: Tensor
    negative_mean: Tensor

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


class Examples(Activations):
    """All activations: `positive` (n, width) and `negative` (m, width), which are kept in float64."""

    def __init__(self, positive: Tensor, negative: Tensor) -> None:
        self.positive, self.negative = positive.double(), negative.double()
        self.counts = len(positive), len(negative)
        self.positive_mean, self.negative_mean = self.positive.mean(dim=0), self.negative.mean(dim=0)

    @property
    @override
    def typical_norm(self) -> float:
        return float(torch.cat([self.positive, self.negative]).norm(dim=1).mean())

    @property
    def top_pair_component(self) -> Tensor:
        """Find it in the space of examples or of dimensions, whichever is smaller."""
        return top_component(self.positive - self.negative)

    def solve_within(self, vector: Tensor, shrinkage: float | None = None) -> Tensor:
        """Solve in the space of examples or of dimensions, whichever is smaller."""
        rows = torch.cat([self.positive - self.positive_mean, self.negative - self.negative_mean])
        count, width = rows.shape
        quartic = float(rows.square().sum(dim=1).square().sum())
        if count >= width:
            return solve_scatter(rows.T @ rows, count, quartic, vector, shrinkage)
        gram = rows @ rows.T
        slope, floor = _shrinkage(gram, (count, width), quartic, shrinkage)
        # Woodbury: (λI + κXᵀX)⁻¹ v = (v − κXᵀ(λI + κXXᵀ)⁻¹Xv) / λ, and factors do not matter here.
        inner = floor * torch.eye(count, dtype=rows.dtype) + slope * gram
        return vector - slope * (rows.T @ _solve(inner, rows @ vector))


def top_component(rows: Tensor) -> Tensor:
    """Return the first right singular vector of rows (n, width), of either sign; zero rows give zero."""
    count, width = rows.shape
    if count >= width:
        return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    # The n × n Gram matrix has the same first component as the width × width one, in milliseconds.
    component = rows.T @ torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1]
    norm = component.norm()
    return component / norm if norm > 0 else component
