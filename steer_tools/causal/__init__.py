"""Which parts of a model a behaviour needs: ablations and patches, all of them rows of shared batches.

It must not know tools or files.
"""

from steer_tools.causal.ablation import ABLATIONS, Ablation, Replacement, ablate, ablation_plans, replacement_of
from steer_tools.causal.components import KINDS, Component, components_of
from steer_tools.causal.patching import Pair, Patches, attribute, patch

__all__ = [
    "ABLATIONS",
    "KINDS",
    "Ablation",
    "Component",
    "Pair",
    "Patches",
    "Replacement",
    "ablate",
    "ablation_plans",
    "attribute",
    "components_of",
    "patch",
    "replacement_of",
]
