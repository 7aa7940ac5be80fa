"""Methods that find a direction from labelled activations: mean differences, principal components, discriminants.

Last the controls that know nothing of the labels: each seed is another one, and one is no null distribution.
A new one is one frozen class here, and METHODS holds it: the order of the classes is that of METHODS.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steer_tools.directions.methods.base import Method, Statistics, option
from steer_tools.directions.statistics import LEAST_SHRINKAGE, Activations, Examples, top_component


@dataclass(frozen=True)
class MeanDifference(Method):
    """μ₊ − μ₋ of two independent sets (Marks and Tegmark 2023, arXiv 2310.06824)."""

    name: ClassVar[str] = "mean_difference"

    def raw(self, data: Activations) -> Tensor:
        """Subtract the means."""
        return data.contrast


@dataclass(frozen=True)
class PairedMeanDifference(MeanDifference):
    """Mean over pairs of x₊ᵢ − x₋ᵢ: contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681)."""

    name: ClassVar[str] = "paired_mean_difference"
    is_paired: ClassVar[bool] = True


@dataclass(frozen=True)
class ActivationAddition(MeanDifference):
    """x₊ − x₋ of one pair (Turner et al. 2023, arXiv 2308.10248)."""

    name: ClassVar[str] = "act_add"
    is_paired: ClassVar[bool] = True
    most: ClassVar[int | None] = 1


@dataclass(frozen=True)
class PairComponent(Method):
    """First principal component of the pair differences, not centred, since their mean is what is looked for.

    Centring each pair on its own middle and stacking both halves gives the same direction (repeng's `pca_center`), so
    that has no name of its own; centring the differences on their mean removes the contrast.
    """

    name: ClassVar[str] = "pca"
    is_paired: ClassVar[bool] = True
    needs: ClassVar[Statistics] = "pair_moments"

    def raw(self, data: Activations) -> Tensor:
        """Take the component."""
        return data.top_pair_component


@dataclass(frozen=True)
class ArtificialTomography(Method):
    """Linear artificial tomography, with labels for the sign only (Zou et al. 2023, arXiv 2310.01405).

    The examples of both classes are mixed and paired at random; the direction is the first principal component of the
    pairs' differences about their mean. As in the authors' code the differences keep their lengths. About half of the
    pairs lie within a class and tell nothing, so it needs more examples than `pca`; of an odd number one is left out.
    """

    name: ClassVar[str] = "lat"
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2
    seed: int = option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Mix, pair, subtract, centre, and take the component."""
        assert isinstance(data, Examples)
        examples = torch.cat([data.positive, data.negative])
        generator = torch.Generator().manual_seed(self.seed)
        # The order follows from the activations alone: the labels must not decide who is paired with whom.
        order = (examples @ torch.randn(examples.shape[1], generator=generator, dtype=torch.float64)).argsort()
        mixed = order[torch.randperm(len(order), generator=generator)]
        half = len(mixed) // 2
        differences = examples[mixed[:half]] - examples[mixed[half : 2 * half]]
        return top_component(differences - differences.mean(dim=0))


@dataclass(frozen=True)
class LinearDiscriminant(Method):
    """Σ⁻¹(μ₊ − μ₋), the whitened mean difference (Fisher 1936), with the covariance Σ within the classes.

    Σ is shrunk towards a multiple of the identity by `shrinkage`: 1 is the mean difference, None as much as Ledoit and
    Wolf (2004) find best. There is no 0, since the covariance of fewer examples than dimensions has no inverse.
    """

    name: ClassVar[str] = "lda"
    needs: ClassVar[Statistics] = "class_moments"
    fewest: ClassVar[int] = 2
    shrinkage: float | None = option(None, least=LEAST_SHRINKAGE, largest=1.0)

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
    penalty: float = option(1.0, least=1e-6)

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


@dataclass(frozen=True)
class RandomDirection(Method):
    """A direction that any other is as likely as."""

    name: ClassVar[str] = "random"
    is_control: ClassVar[bool] = True
    seed: int = option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(len(data.contrast), generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)


@dataclass(frozen=True)
class CovarianceDirection(RandomDirection):
    """A normal draw that has the examples' covariance within the classes: where activations vary by themselves.

    In the covariance of both classes together the contrast is often what varies most, and the control would be it.
    """

    name: ClassVar[str] = "random_covariance"
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2

    def raw(self, data: Activations) -> Tensor:
        """Add up the centred examples, each times a normal number, which needs no covariance matrix."""
        assert isinstance(data, Examples)
        examples = torch.cat([side - side.mean(dim=0) for side in (data.positive, data.negative)])
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(len(examples), generator=generator, dtype=torch.float64)
        return weights @ examples / len(examples) ** 0.5


@dataclass(frozen=True)
class BalancedShuffle(Method):
    """The mean difference after exactly half of the labels were exchanged, so that the contrast cancels.

    Lists of equal length exchange within half of the pairs (i, i); others exchange half of each class. Of an odd number
    of pairs, or of a class, one example drawn at random is left out. A plain shuffle would keep a part of the contrast.
    """

    name: ClassVar[str] = "balanced_shuffle"
    is_control: ClassVar[bool] = True
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2
    seed: int = option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Exchange and subtract the means."""
        assert isinstance(data, Examples)
        generator = torch.Generator().manual_seed(self.seed)
        if len(data.positive) == len(data.negative):
            kept, swapped = _halves(data.positive - data.negative, generator)
            return (kept.mean(dim=0) - swapped.mean(dim=0)) / 2
        kept_positive, moved_positive = _halves(data.positive, generator)
        kept_negative, moved_negative = _halves(data.negative, generator)
        ours, theirs = torch.cat([kept_positive, moved_negative]), torch.cat([kept_negative, moved_positive])
        return ours.mean(dim=0) - theirs.mean(dim=0)


def _halves(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    half = len(rows) // 2
    return shuffled[:half], shuffled[half : 2 * half]
