"""Methods whose direction is a first principal component. They must not know signs: fitting sets them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steer_tools.directions.methods.base import Method, Statistics, whole_option
from steer_tools.directions.statistics import Activations, Examples, top_component


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
    seed: int = whole_option(0, least=0)

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
