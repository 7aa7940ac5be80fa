"""Methods whose direction is the normal of a plane between the classes: it reads best, which need not steer best."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steer_tools.directions.covariance import LEAST_SHRINKAGE
from steer_tools.directions.methods.base import Method, Statistics, number_option, optional_number
from steer_tools.directions.statistics import Activations, Examples


@dataclass(frozen=True)
class LinearDiscriminant(Method):
    """Σ⁻¹(μ₊ − μ₋), the whitened mean difference (Fisher 1936), with the covariance Σ within the classes.

    Σ is shrunk towards a multiple of the identity by `shrinkage`: 1 is the mean difference, None as much as Ledoit and
    Wolf (2004) find best. There is no 0, since the covariance of fewer examples than dimensions has no inverse.
    """

    name: ClassVar[str] = "lda"
    needs: ClassVar[Statistics] = "class_moments"
    fewest: ClassVar[int] = 2
    shrinkage: float | None = optional_number(least=LEAST_SHRINKAGE, largest=1.0)

    def raw(self, data: Activations) -> Tensor:
        """Whiten the contrast."""
        return data.solve_within(data.contrast, self.shrinkage)


@dataclass(frozen=True)
class LogisticRegression(Method):
    """The normal of a logistic regression on standardised activations, in the activations' own units.

    `penalty` is the weight of half the squared norm of the standardised coefficients.
    """

    name: ClassVar[str] = "logistic"
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2
    penalty: float = number_option(1.0, least=1e-6)

    def raw(self, data: Activations) -> Tensor:
        """Return the coefficients."""
        return self.raw_with_threshold(data)[0]

    def raw_with_threshold(self, data: Activations) -> tuple[Tensor, float | None]:
        """Return the coefficients w and the value of w·h at which both classes are equally likely."""
        from sklearn.linear_model import LogisticRegression as Regression  # A second to import.

        assert isinstance(data, Examples)
        examples = torch.cat([data.positive, data.negative])
        labels = torch.arange(len(examples)) < len(data.positive)
        mean, deviation = examples.mean(dim=0), examples.std(dim=0, correction=0)
        # A dimension that never moves, but for rounding, tells nothing.
        scale = torch.where(deviation > 1e-9 * examples.abs().amax(dim=0), 1 / deviation, 0)
        regression = Regression(C=1 / self.penalty, tol=1e-8, max_iter=10_000)
        regression.fit(((examples - mean) * scale).numpy(), labels.numpy())
        normal = torch.as_tensor(regression.coef_, dtype=torch.float64)[0] * scale
        return normal, float(normal @ mean) - float(torch.as_tensor(regression.intercept_)[0])
