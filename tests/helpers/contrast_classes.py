"""Synthetic classes of activations with a planted direction, for the tests of methods."""

from __future__ import annotations

import torch
from torch import Tensor

from steer_tools.directions.fitting import FittedDirection, Fitter
from steer_tools.directions.methods import Method

WIDTH = 24


def planted_direction(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator, dtype=torch.float64), dim=0)


def anisotropic_covariance() -> Tensor:
    """A covariance with standard deviations from 0.4 to 1.5 along axes that are not the dimensions."""
    generator = torch.Generator().manual_seed(99)
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q
    return axes @ torch.diag(torch.logspace(-0.4, 0.176, WIDTH, dtype=torch.float64) ** 2) @ axes.T


def classes(
    seed: int, count: int = 12, shift: float = 3.0, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Two Gaussian classes (count, width), float64, that differ by `shift` along a planted unit direction."""
    truth = planted_direction(seed)
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    root = torch.eye(WIDTH, dtype=torch.float64) if covariance is None else torch.linalg.cholesky(covariance)
    positive, negative = (torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) @ root.T for _ in "+-")
    return positive + shift * truth, negative, truth


def suitable(method: Method, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """As many of the examples as the method takes."""
    most = method.most or len(positive)
    return positive[:most], negative[:most]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def fit(method: Method, positive: Tensor, negative: Tensor, *, precision: float = 0.0) -> FittedDirection:
    """The direction from activations (n, width) and (m, width), taken in as one block."""
    fitter = Fitter(method, precision=precision)
    fitter.add(positive, negative)
    return fitter.finish()
