"""What a vector means and does, and which parts and tokens a behaviour needs. It must not know tools or files."""

from steer_tools.inspection.ablation import (
    ABLATIONS,
    Ablation,
    Replacement,
    ablate,
    ablation_plans,
    mean_of_draws,
    replacement_of,
)
from steer_tools.inspection.components import (
    KINDS,
    Component,
    components_of,
    direction_everywhere,
    random_directions,
    stream_direction,
)
from steer_tools.inspection.detectors import Detector, fit_detector
from steer_tools.inspection.lens import Ranking, effect_ranking, lens_ranking
from steer_tools.inspection.measures import MEASURES, Measured, divergence_of, log_odds_of, score_of
from steer_tools.inspection.patching import Pair, Patches, attribute, patch
from steer_tools.inspection.projections import Projection, project
from steer_tools.inspection.readings import Labelled, Reading, detect, directions_at, read_along
from steer_tools.inspection.relations import behavior_cosines, nearest, nearest_anywhere

__all__ = [
    "ABLATIONS",
    "KINDS",
    "MEASURES",
    "Ablation",
    "Component",
    "Detector",
    "Labelled",
    "Measured",
    "Pair",
    "Patches",
    "Projection",
    "Ranking",
    "Reading",
    "Replacement",
    "ablate",
    "ablation_plans",
    "attribute",
    "behavior_cosines",
    "components_of",
    "detect",
    "direction_everywhere",
    "directions_at",
    "divergence_of",
    "effect_ranking",
    "fit_detector",
    "lens_ranking",
    "log_odds_of",
    "mean_of_draws",
    "nearest",
    "nearest_anywhere",
    "patch",
    "project",
    "random_directions",
    "read_along",
    "replacement_of",
    "score_of",
    "stream_direction",
]
