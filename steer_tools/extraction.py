"""Contrast prompts and a session's model → a steering vector with what was measured on the way.

It must not know files or what is applied: the engine reads with everything set aside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from steer_tools.methods import MIN_PER_CLASS_FOR_SEPARATION, FittedDirection, Method, fit
from steer_tools.positions import Pooling
from steer_tools.prompts import ContrastPrompts
from steer_tools.session import Session
from steer_tools.sites import Site
from steer_tools.vectors import SteeringVector, VectorInfo


@dataclass(frozen=True)
class Extraction:
    """A vector, the fit of each of its layers, and what its maker should know."""

    vector: SteeringVector
    fits: dict[int, FittedDirection]
    warnings: tuple[str, ...]


def extract(
    session: Session,
    contrast: ContrastPrompts,
    layers: Sequence[int],
    *,
    method: Method,
    pooling: Pooling = "last",
    normalize: bool = False,
) -> Extraction:
    """Read both sides at all `layers` in one pass and fit a direction at each.

    The directions have the length of the contrast, or 1 with `normalize`.

    Raises:
        PromptError: The method works on pairs and the sides are of unequal length, or a prompt cannot be read.
        DirectionError: The sides do not differ at a layer.
    """
    if method.is_paired:
        contrast.require_pairs(method.name)
    sites = [Site(layer) for layer in layers]
    activations = session.engine.read((*contrast.positive, *contrast.negative), sites, pooling)
    count = len(contrast.positive)
    model = session.engine.info
    precision = torch.finfo(getattr(torch, model.dtype)).eps
    fits = {
        site.layer: fit(method, activations[site][:count], activations[site][count:], precision=precision)
        for site in sites
    }
    if contrast.fewest_different() < MIN_PER_CLASS_FOR_SEPARATION:
        # Repeated prompts would be held out from themselves.
        fits = {layer: replace(fitted, separation=None) for layer, fitted in fits.items()}
    info = VectorInfo(
        method=method.name,
        pooling=pooling,
        positive_count=count,
        negative_count=len(contrast.negative),
        contrast_norms={layer: fitted.contrast_norm for layer, fitted in fits.items()},
        residual_norms={layer: session.residual_norm(layer) for layer in fits},
        model_name=model.name,
        model_family=model.family,
        model_fingerprint=model.fingerprint,
        model_layers=model.layers,
    )
    vector = SteeringVector.from_directions({layer: f.direction for layer, f in fits.items()}, info=info)
    return Extraction(vector.normalized() if normalize else vector, fits, _warnings(contrast, layers, model.layers))


def _warnings(contrast: ContrastPrompts, layers: Sequence[int], layer_count: int) -> tuple[str, ...]:
    warnings: list[str] = []
    fewest = contrast.fewest_different()
    if fewest < MIN_PER_CLASS_FOR_SEPARATION:
        warnings.append(
            f"Only {fewest} different prompts on one side: separation needs {MIN_PER_CLASS_FOR_SEPARATION} on each, "
            "and the vector may hold the topic of the prompts rather than the behaviour."
        )
    if layer_count - 1 in layers:
        warnings.append(
            f"Layer {layer_count - 1} is the last block: its output meets only the final norm and the unembedding, so "
            "the vector acts on the next token's logits alone."
        )
    return tuple(warnings)
