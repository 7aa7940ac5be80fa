"""A planted direction is found as well as theory says: the expected cosines are derived here, method by method.

For a direction that is estimated as w + e, with a small error e at right angles to w, cos = 1 / √(1 + E|e|² / |w|²).
Each method has its own w: the contrast, a component, or Σ⁻¹ · contrast, and its own error.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from sklearn.covariance import ledoit_wolf, shrunk_covariance
from torch import Tensor

from helpers.contrast_classes import WIDTH, anisotropic_covariance, classes, cosine, fit
from steer_tools.directions.methods import METHODS, Method
from steer_tools.directions.methods.estimators import ArtificialTomography, LinearDiscriminant, LogisticRegression
from steer_tools.directions.statistics import Examples

COUNT, SHIFT = 400, 3.0
# The mean absolute cosine of random directions.
CHANCE = (2 / (torch.pi * WIDTH)) ** 0.5
COVARIANCES = {"isotropic": torch.eye(WIDTH, dtype=torch.float64), "anisotropic": anisotropic_covariance()}


def across(target: Tensor, covariance: Tensor) -> float:
    """The variance of all that is at right angles to the target, against the target's own square."""
    square = target @ target
    return float((covariance.trace() - target @ covariance @ target / square) / square)


def of_the_contrast(truth: Tensor, covariance: Tensor) -> tuple[Tensor, float]:
    """Each mean has the variance Σ/n."""
    contrast = SHIFT * truth
    return contrast, (1 + across(contrast, 2 * covariance / COUNT)) ** -0.5


def of_a_component(truth: Tensor, covariance: Tensor, signs: list[float]) -> tuple[Tensor, float]:
    """First-order perturbation of an eigenvector: its error along another one is that of M between the two, over the
    gap of the eigenvalues. Rows are s·δ + N(0, 2Σ) with s drawn from `signs`; Gaussian fourth moments give the errors.
    """
    contrast, noise = SHIFT * truth, 2 * covariance
    second = noise + sum(s**2 for s in signs) / len(signs) * torch.outer(contrast, contrast)
    values, vectors = torch.linalg.eigh(second)
    rotated, first = vectors.T @ noise @ vectors, WIDTH - 1
    mixed, own, other = rotated[first], rotated[first, first], rotated.diagonal()
    squares = torch.zeros(WIDTH, dtype=torch.float64)
    for s in signs:
        means = s * (vectors.T @ contrast)
        product = mixed + means[first] * means
        variance = own * other + mixed**2 + means[first] ** 2 * other + means**2 * own
        squares += (variance + 2 * means[first] * means * mixed + product**2) / len(signs)
    # What varies between draws: the mean of the product is an eigenvector's, and so zero off the diagonal.
    errors = squares[:first] / COUNT / (values[first] - values[:first]) ** 2
    return vectors[:, first], float((1 + errors.sum()) ** -0.5)


def of_the_whitened_contrast(truth: Tensor, covariance: Tensor) -> tuple[Tensor, float]:
    """The error of the means, 2Σ/n, and that of a Wishart matrix with 2n − 2 degrees of freedom, both whitened."""
    inverse = torch.linalg.inv(covariance)
    target = SHIFT * inverse @ truth
    distance = SHIFT * truth @ target  # Mahalanobis, squared
    return target, (1 + across(target, (2 / COUNT + distance / (2 * COUNT - 2)) * inverse)) ** -0.5


def of_a_logistic_regression(truth: Tensor, covariance: Tensor) -> tuple[Tensor, float]:
    """The inverse Fisher information 1 / (2n·E[p(1 − p)]), whitened (Efron 1975), by quadrature."""
    inverse = torch.linalg.inv(covariance)
    target = SHIFT * inverse @ truth
    distance = (SHIFT * truth @ target).sqrt()
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = (torch.exp(-((grid - distance / 2) ** 2) / 2) + torch.exp(-((grid + distance / 2) ** 2) / 2)) / 2
    p = torch.sigmoid(distance * grid)
    information = (density * p * (1 - p)).sum() / density.sum()
    return target, (1 + across(target, inverse / (2 * COUNT * information))) ** -0.5


EXPECTED: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, float]]] = {
    "mean_difference": of_the_contrast,
    "paired_mean_difference": of_the_contrast,
    # A single pair has the whole noise.
    "act_add": lambda truth, covariance: (truth, (1 + across(SHIFT * truth, 2 * covariance)) ** -0.5),
    "pca": lambda truth, covariance: of_a_component(truth, covariance, [1.0]),
    # Half of the pairs lie within a class; the others point either way.
    "lat": lambda truth, covariance: of_a_component(truth, covariance, [1.0, -1.0, 0.0, 0.0]),
    "lda": of_the_whitened_contrast,
    "logistic": of_a_logistic_regression,
}
FOUND = [method for method in METHODS.values() if not method.is_control]


@pytest.mark.parametrize("covariance", COVARIANCES.values(), ids=COVARIANCES)
@pytest.mark.parametrize("method", FOUND, ids=[method.name for method in FOUND])
def test_a_planted_direction_is_found_as_well_as_theory_says(method: Method, covariance: Tensor) -> None:
    found: list[float] = []
    expected: list[float] = []
    for seed in range(30):
        positive, negative, truth = classes(seed, method.most or COUNT, SHIFT, covariance)
        target, cos = EXPECTED[method.name](truth, covariance)
        target = target * torch.sign(target @ truth)
        found.append(cosine(fit(method, positive, negative).direction, target))
        expected.append(cos)

    assert sum(found) / len(found) >= sum(expected) / len(expected) - 0.01
    assert sum(expected) / len(expected) > 2 * CHANCE


@pytest.mark.parametrize("name", ["lda", "logistic"])
def test_whitening_finds_the_reading_direction_better_and_the_contrast_worse(name: str) -> None:
    covariance = anisotropic_covariance()
    gains: dict[str, list[float]] = {"reading": [], "contrast": []}
    for seed in range(20):
        positive, negative, truth = classes(seed, COUNT, SHIFT, covariance)
        targets = {"reading": torch.linalg.inv(covariance) @ truth, "contrast": truth}
        plain, white = (fit(METHODS[m], positive, negative).direction for m in ("mean_difference", name))
        for which, target in targets.items():
            gains[which].append(cosine(white, target) - cosine(plain, target))

    assert min(gains["reading"]) > 0.05
    assert max(gains["contrast"]) < -0.05


def test_whitening_separates_better_where_the_noise_is_anisotropic_also_with_few_examples() -> None:
    def mean_separation(name: str) -> float:
        found = [
            fit(METHODS[name], *classes(seed, 16, 1.5, anisotropic_covariance())[:2]).separation for seed in range(30)
        ]
        return sum(area or 0.0 for area in found) / len(found)

    assert mean_separation("lda") > mean_separation("mean_difference") + 0.01


def test_a_component_keeps_the_mean_difference_that_centring_loses() -> None:
    for seed in range(20):
        positive, negative, truth = classes(seed, 100, 6.0)
        differences = positive - negative

        centred = torch.linalg.svd(differences - differences.mean(0), full_matrices=False).Vh[0]

        assert cosine(fit(METHODS["pca"], positive, negative).direction, truth) > 0.98
        assert abs(cosine(centred, truth)) < 0.75


@pytest.mark.parametrize("count", [7, 100])
def test_pairs_centred_on_their_middle_have_the_same_component(count: int) -> None:
    positive, negative, _ = classes(0, count)
    middle = (positive + negative) / 2
    stacked = torch.cat([positive - middle, negative - middle])

    oracle = torch.linalg.svd(stacked - stacked.mean(0), full_matrices=False).Vh[0]

    assert abs(cosine(fit(METHODS["pca"], positive, negative).direction, oracle)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("count", [5, 60], ids=["fewer_than_dimensions", "more_than_dimensions"])
@pytest.mark.parametrize("shrinkage", [None, 1e-6, 0.3, 1.0])
def test_lda_is_the_shrunk_inverse_times_the_contrast(count: int, shrinkage: float | None) -> None:
    positive, negative, _ = classes(0, count, covariance=anisotropic_covariance())
    negative = negative[: count - 1]
    centred = torch.cat([positive - positive.mean(0), negative - negative.mean(0)]).numpy()
    plain = centred.T @ centred / len(centred)
    shrunk = ledoit_wolf(centred, assume_centered=True)[0] if shrinkage is None else shrunk_covariance(plain, shrinkage)
    oracle = torch.linalg.solve(torch.from_numpy(shrunk), positive.mean(0) - negative.mean(0))

    found = fit(LinearDiscriminant(shrinkage), positive, negative).direction

    assert cosine(found, oracle) == pytest.approx(1, abs=1e-9)


def test_full_shrinkage_is_the_mean_difference_and_little_is_not() -> None:
    positive, negative, _ = classes(0, covariance=anisotropic_covariance())
    plain = fit(METHODS["mean_difference"], positive, negative).direction

    assert cosine(fit(LinearDiscriminant(1.0), positive, negative).direction, plain) == pytest.approx(1, abs=1e-9)
    assert cosine(fit(LinearDiscriminant(0.1), positive, negative).direction, plain) < 0.99


def test_a_logistic_regression_is_the_same_in_other_units() -> None:
    positive, negative, _ = classes(0, 50)
    units = torch.logspace(-3, 3, WIDTH, dtype=torch.float64)
    normal, threshold = METHODS["logistic"].raw_with_threshold(Examples(positive, negative))

    scaled = METHODS["logistic"].raw_with_threshold(Examples(positive * units, negative * units))

    torch.testing.assert_close(scaled[0] * units, normal, rtol=1e-5, atol=1e-7)
    assert scaled[1] == pytest.approx(threshold, rel=1e-5)


def test_a_stronger_penalty_gives_smaller_coefficients() -> None:
    data = Examples(*classes(0, 50)[:2])

    assert LogisticRegression(100.0).raw(data).norm() < 0.5 * LogisticRegression(1.0).raw(data).norm()


def test_a_dimension_that_never_moves_has_no_part_in_a_regression() -> None:
    positive, negative, _ = classes(0, 20)
    # Rounding errors that happen to follow the labels.
    positive[:, 4], negative[:, 4] = 1e6 + 1e-9, 1e6

    assert fit(METHODS["logistic"], positive, negative).direction[4] == 0


def test_lat_pairs_by_its_seed_and_not_by_the_labels() -> None:
    positive, negative, _ = classes(0, 31)
    mixed = torch.cat([positive, negative])
    relabelled = mixed[torch.randperm(len(mixed), generator=torch.Generator().manual_seed(1))]

    ours = ArtificialTomography().raw(Examples(positive, negative))

    assert abs(cosine(ours, ArtificialTomography().raw(Examples(relabelled[:20], relabelled[20:])))) > 1 - 1e-9
    assert abs(cosine(ours, ArtificialTomography(1).raw(Examples(positive, negative)))) < 1 - 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_lat_centres_its_differences(seed: int) -> None:
    examples = torch.cat(classes(0, 2)[:2])
    # About their mean two differences lie on one line, whoever was paired with whom.
    lines = [examples[a] - examples[b] - (examples[c] - examples[d]) for a, b, c, d in permutations(range(4))]

    found = ArtificialTomography(seed).raw(Examples(examples[:2], examples[2:]))

    assert max(abs(cosine(found, line)) for line in lines) == pytest.approx(1, abs=1e-9)


def test_wide_activations_need_no_matrix_of_their_width() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 8, 60_000, generator=generator)

    for name, method in METHODS.items():  # A matrix of that width would take 29 GB.
        if name not in {"act_add", "logistic"}:
            assert fit(method, positive, negative).direction.isfinite().all()
