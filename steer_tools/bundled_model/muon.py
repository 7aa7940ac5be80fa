"""The optimizer of the matrices. It must not know models."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum steps whose matrices are made orthogonal first (Jordan 2024), by Newton-Schulz iteration in float32.

    `torch.optim.Muon` iterates in bfloat16, which takes ten times as long on a CPU.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # There is no closure to call.
        """Move every matrix by one step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                velocity: Tensor = self.state[matrix].setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                step = _orthogonalized(matrix.grad.lerp(velocity, group["momentum"]))
                matrix.add_(step, alpha=-group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def _orthogonalized(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near 1."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x.T if is_tall else x
