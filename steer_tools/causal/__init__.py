"""Which parts of a model a behaviour needs: ablations and patches, all of them rows of shared batches.

It must not know tools or files.
"""

from steer_tools.causal.ablation import (
    ABLATIONS,
    Ablation,
    Replacement,
    ablate,
    ablation_plans,
    mean_of_draws,
    replacement_of,
)
from steer_tools.causal.components import (
    KINDS,
    Component,
    components_of,
    direction_everywhere,
    random_directions,
    stream_direction,
)
from steer_tools.causal.measures import MEASURES, Measured, divergence_of, log_odds_of, score_of
from steer_tools.causal.patching import Pair, Patches, attribute, patch

__all__ = [
    "ABLATIONS",
    "KINDS",
    "MEASURES",
    "Ablation",
    "Component",
    "Measured",
    "Pair",
    "Patches",
    "Replacement",
    "ablate",
    "ablation_plans",
    "attribute",
    "components_of",
    "direction_everywhere",
    "divergence_of",
    "log_odds_of",
    "mean_of_draws",
    "patch",
    "random_directions",
    "replacement_of",
    "score_of",
    "stream_direction",
]
