"""Sites and plans that a Hugging Face model cannot take are refused here, before anything runs or is applied."""

from collections.abc import Iterable

import torch

from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.architecture import Architecture, refuse_unsteerable_state
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.errors import StrengthError


def refuse_sites(architecture: Architecture, taps: Taps, sites: Iterable[Site]) -> None:
    """Refuse sites that are not in the model, and a model in a wrong state.

    Raises:
        LayerError: The model lacks the layer.
        ArgumentError: The attention lacks the head.
        UnsupportedFeatureError: The block has no such part, or none that could be told.
        UnsupportedModelError: The model is compiled or in train mode.
    """
    refuse_unsteerable_state(architecture.model)
    for site in sites:
        architecture.resolve_layer(site.layer)
        taps.at(site)


def refuse_placements(architecture: Architecture, taps: Taps, placements: Iterable[Placement]) -> None:
    """Refuse placements at such sites, or with conditions there, and edits that the model's dtype cannot hold.

    Raises:
        StrengthError: What is edited would be infinite, and every later text empty or broken.
    """
    placements = tuple(placements)
    conditions = [placement.condition for placement in placements if placement.condition is not None]
    read = {reading.site for condition in conditions for reading in condition.readings}
    refuse_sites(architecture, taps, {*(placement.site for placement in placements), *read})
    for placement in {(id(p.intervention), p.strength): p for p in placements}.values():
        _refuse_overflow(placement, architecture.dtype, taps.at(placement.site).width)


def _refuse_overflow(placement: Placement, dtype: torch.dtype, width: int) -> None:
    """Refuse an edit that makes something infinite of small activations."""
    strength = torch.tensor(placement.strength, dtype=torch.float32)
    edited = placement.intervention.edit(torch.stack([torch.zeros(width), torch.ones(width)]), strength)
    if not edited.abs().max() <= torch.finfo(dtype).max:
        raise StrengthError(
            f"strength {placement.strength:g} of {placement.intervention.name!r} at {placement.site} makes the "
            f"activations larger than {str(dtype).removeprefix('torch.')} can hold",
            valid="a finite number that adds about as much as the activations themselves, or less",
            fix="Use unit='residual', where 1.0 is their typical norm, or a smaller target.",
        )
