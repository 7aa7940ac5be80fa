"""A within-class covariance, shrunk so that it has an inverse, → its inverse times a vector.

S is the covariance, ρ the shrinkage, and Σ = (1 − ρ)·S + ρ·(tr S / d)·I. It must not know classes or methods.
"""

import torch
from torch import Tensor

# Below this the inverse loses the digits that a float64 has to lose: 1e-10 of the result is right here.
LEAST_SHRINKAGE = 1e-6


def solve_rows(rows: Tensor, vector: Tensor, shrinkage: float | None) -> Tensor:
    """Return Σ⁻¹ · vector up to a factor, from centred rows X (n, width) with S = XᵀX / n."""
    count, width = rows.shape
    quartic = float(rows.square().sum(dim=1).square().sum())
    if count >= width:
        return solve_scatter(rows.T @ rows, count, quartic, vector, shrinkage)
    gram = rows @ rows.T
    trace = float(gram.trace())
    if trace == 0:
        return vector
    rho = _shrinkage(gram, trace, quartic, count, width) if shrinkage is None else shrinkage
    # Woodbury: (λI + κXᵀX)⁻¹ v = (v − κXᵀ(λI + κXXᵀ)⁻¹Xv) / λ, and factors do not matter here.
    floor, slope = rho * trace / width, 1 - rho
    inner = floor * torch.eye(count, dtype=rows.dtype) + slope * gram
    return vector - slope * (rows.T @ _solve(inner, rows @ vector))


def solve_scatter(scatter: Tensor, count: int, quartic: float, vector: Tensor, shrinkage: float | None) -> Tensor:
    """Return Σ⁻¹ · vector up to a factor, from n·S (width, width) and the sum of the n rows' fourth powers of norm."""
    width = len(scatter)
    trace = float(scatter.trace())
    if trace == 0:
        return vector
    rho = _shrinkage(scatter, trace, quartic, count, width) if shrinkage is None else shrinkage
    shrunk = (1 - rho) * scatter
    shrunk.diagonal().add_(rho * trace / width)
    return _solve(shrunk, vector)


def _shrinkage(product: Tensor, trace: float, quartic: float, count: int, width: int) -> float:
    """Return ρ (Ledoit and Wolf 2004, A well-conditioned estimator); XᵀX and XXᵀ have the same norm and trace."""
    square = float(product.square().sum()) / count**2  # |S|²
    spread = square - (trace / count) ** 2 / width  # |S − (tr S / d)·I|²
    error = (quartic / count - square) / count  # the mean |xxᵀ − S|², over n
    if spread <= 0:
        return 1.0
    return min(1.0, max(LEAST_SHRINKAGE, error / spread))


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]
