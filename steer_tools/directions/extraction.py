"""Contrast prompts and a session's model → a steering vector with what was measured on the way.

It must not know files or what is applied: the engine reads with everything set aside.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steer_tools.core.site import Component, Site
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.directions.fitting import FittedDirection, Fitter
from steer_tools.directions.methods import Method
from steer_tools.directions.separation import MIN_PER_CLASS_FOR_SEPARATION, HeldOut
from steer_tools.directions.session_methods import SessionMethod
from steer_tools.engines.base import Engine
from steer_tools.engines.pooling import Activations, AnyPooling, sink_warnings
from steer_tools.errors import ArgumentError, DirectionError, LayerError, SteeringError, UnsupportedFeatureError
from steer_tools.prompts import ContrastPrompts
from steer_tools.session.session import Session

# So many prompts of each side are read at once; what is kept of more does not grow, where the method allows.
_BLOCK = 512
# Above these shares the sides differ in how they end, or in length; below the last, pairs hardly agree.
_OTHER_ENDINGS, _OTHER_LENGTH, _LOW_AGREEMENT = 0.5, 0.25, 0.1


@dataclass(frozen=True)
class Where:
    """What of the model is read.

    Attributes:
        layers: At which layers.
        component: What there.
        head: Which head, where the component is attention; None for all.
        pooling: Which tokens, or a function of a prompt's tokens that says it.
    """

    layers: Sequence[int]
    component: Component = "residual"
    head: int | None = None
    pooling: AnyPooling = "last"

    def __post_init__(self) -> None:
        if self.head is not None and type(self.head) is not int:
            raise ArgumentError(f"head is {self.head!r}", valid="a whole number from 0, or none")

    @property
    def sites(self) -> list[Site]:
        """One site a layer."""
        return [Site(layer, self.component, self.head) for layer in self.layers]


@dataclass(frozen=True)
class Extraction:
    """A vector, the fit of each of its layers, and what its maker should know."""

    vector: SteeringVector
    fits: dict[int, FittedDirection]
    warnings: tuple[str, ...]


def layers_with(engine: Engine, component: Component, head: int | None) -> list[int]:
    """Return the layers that have a component, in order; in hybrid models only some have.

    Raises:
        SteeringError: None has it, as for the first layer.
    """
    found, refusals = list[int](), list[SteeringError]()
    for layer in engine.info.steerable_layers:
        try:
            engine.width(Site(layer, component, head))
            found.append(layer)
        except (UnsupportedFeatureError, LayerError) as error:
            refusals.append(error)
    if refusals and not found:
        raise refusals[0]
    return found


def extract(
    session: Session, contrast: ContrastPrompts, where: Where, way: Method | SessionMethod, *, normalize: bool = False
) -> Extraction:
    """Read both sides at all layers in one pass and fit a direction at each.

    The directions have the length of the contrast, or 1 with `normalize`.

    Raises:
        PromptError: The method works on pairs and the sides are of unequal length, or a prompt cannot be read.
        DirectionError: The sides do not differ at a layer.
        UnsupportedFeatureError: The model has no such component.
    """
    engine, model = session.engine, session.engine.info
    if way.is_paired:
        contrast.require_pairs(way.name)
    if isinstance(way, Method):
        methods, warnings = dict.fromkeys(where.sites, way), list[str]()
    else:
        ready = way.find(session, contrast, _contrasts(engine, contrast, where))
        methods = {site: own.method for site, own in ready.items()}
        warnings = list(dict.fromkeys(text for own in ready.values() for text in own.warnings))
    found, read = _fit(engine, contrast, where, methods)
    warnings.extend(sink_warnings(where.pooling, read))
    fits = {site.layer: fitted for site, fitted in found.items()}
    if contrast.fewest_different() < MIN_PER_CLASS_FOR_SEPARATION or any(m.keeps_length for m in methods.values()):
        # Repeated prompts would be held out from themselves, and a trained direction has seen all of them.
        fits = {layer: replace(fitted, **vars(HeldOut())) for layer, fitted in fits.items()}
    info = VectorInfo(
        method=way.name,
        pooling="custom" if callable(where.pooling) else str(where.pooling),
        positive_count=len(contrast.positive),
        negative_count=len(contrast.negative),
        contrast_norms={layer: fitted.contrast_norm for layer, fitted in fits.items()},
        residual_norms={site.layer: norm for site, norm in session.typical_norms(where.sites).items()},
        positive_projections={layer: fitted.positive_projection for layer, fitted in fits.items()},
        negative_projections={layer: fitted.negative_projection for layer, fitted in fits.items()},
        thresholds={layer: fitted.threshold for layer, fitted in fits.items()},
        misses={layer: fitted.misses for layer, fitted in fits.items() if fitted.misses is not None},
        false_alarms={layer: fitted.false_alarms for layer, fitted in fits.items() if fitted.false_alarms is not None},
        model_name=model.name,
        model_family=model.family,
        model_fingerprint=model.fingerprint,
        model_layers=model.layers,
        template_options=dict(model.template_options),
    )
    vector = SteeringVector.from_directions(
        {layer: fitted.direction for layer, fitted in fits.items()},
        component=where.component,
        head=where.head,
        info=info,
        means={layer: fitted.mean for layer, fitted in fits.items()},
        erasers={layer: fitted.eraser for layer, fitted in fits.items() if fitted.eraser is not None},
    )
    warnings.extend(_warnings(engine, contrast, where, fits))
    return Extraction(vector.normalized() if normalize else vector, fits, tuple(warnings))


def _contrasts(engine: Engine, contrast: ContrastPrompts, where: Where) -> dict[Site, Tensor]:
    """Return μ₊ − μ₋ (width,) at each site."""
    sides = [engine.read(side, where.sites, where.pooling) for side in (contrast.positive, contrast.negative)]
    contrasts = {site: sides[0][site].mean(dim=0) - sides[1][site].mean(dim=0) for site in where.sites}
    if not all(difference.any() for difference in contrasts.values()):
        raise DirectionError(
            "The mean activations of the positive and the negative prompts are equal, so nothing can be measured",
            fix="Change the prompts, or read other tokens: pooling='mean' instead of 'last', for instance.",
        )
    return contrasts


def _fit(
    engine: Engine, contrast: ContrastPrompts, where: Where, methods: dict[Site, Method]
) -> tuple[dict[Site, FittedDirection], list[Activations]]:
    """Return the fits, and block by block how many attention sinks were read or left out."""
    read: list[Activations] = []
    precision = torch.finfo(getattr(torch, engine.info.dtype)).eps
    fitters = {site: Fitter(method, precision=precision) for site, method in methods.items()}
    for start in range(0, max(len(contrast.positive), len(contrast.negative)), _BLOCK):
        positive, negative = (side[start : start + _BLOCK] for side in (contrast.positive, contrast.negative))
        activations = engine.read((*positive, *negative), where.sites, where.pooling)
        read.append(Activations({}, activations.left_out, activations.taken))
        for site, fitter in fitters.items():
            fitter.add(activations[site][: len(positive)], activations[site][len(positive) :])
    return {site: fitter.finish() for site, fitter in fitters.items()}, read


def _warnings(engine: Engine, contrast: ContrastPrompts, where: Where, fits: dict[int, FittedDirection]) -> list[str]:
    warnings: list[str] = []
    fewest = contrast.fewest_different()
    if fewest < MIN_PER_CLASS_FOR_SEPARATION:
        warnings.append(
            f"Only {fewest} different prompts on one side: separation needs {MIN_PER_CLASS_FOR_SEPARATION} on each, "
            "and the vector may hold the topic of the prompts rather than the behaviour."
        )
    warnings.extend(_confounds(engine, contrast, where))
    low = [layer for layer, f in fits.items() if f.pair_agreement is not None and f.pair_agreement < _LOW_AGREEMENT]
    if low:
        warnings.append(
            f"The differences of the pairs hardly agree at the layers {low} (pair_agreement below {_LOW_AGREEMENT}): a "
            "vector of them steers some prompts and not others, or the other way."
        )
    if where.component in ("residual", "mlp") and engine.info.layers - 1 in where.layers:
        warnings.append(
            f"Layer {engine.info.layers - 1} is the last block: what it puts out meets only the final norm and the "
            "unembedding, so the vector acts on the next token's logits alone."
        )
    return warnings


def _confounds(engine: Engine, contrast: ContrastPrompts, where: Where) -> list[str]:
    """Say where the sides differ in what the vector would hold beside, or instead of, the behaviour."""
    positive, negative = (
        [engine.tokenize(prompt).tokens for prompt in side] for side in (contrast.positive, contrast.negative)
    )
    warnings: list[str] = []
    if where.pooling == "last":
        ends = [Counter(tokens[-1] for tokens in side) for side in (positive, negative)]
        shared = sum(min(ends[0][t] / len(positive), ends[1][t] / len(negative)) for t in ends[0])
        if 1 - shared > _OTHER_ENDINGS:
            warnings.append(
                f"{1 - shared:.0%} of the prompts end in another token than those of the other side, and "
                "pooling='last' reads that token: the vector may be that of the tokens. Let both sides end alike."
            )
    lengths = [sum(map(len, side)) / len(side) for side in (positive, negative)]
    if abs(lengths[0] - lengths[1]) > _OTHER_LENGTH * min(lengths):
        warnings.append(
            f"The sides differ in length ({lengths[0]:.3g} and {lengths[1]:.3g} tokens on average), and the vector may "
            "hold that."
        )
    return warnings
