"""What a vector means to a model and does to it: tokens, relations, projections. It must not know tools or files."""

from steer_tools.analysis.detection import Detector, fit_detector
from steer_tools.analysis.lens import Ranking, effect_ranking, lens_ranking
from steer_tools.analysis.projections import Projection, project
from steer_tools.analysis.readings import Labelled, Reading, detect, directions_at, read_along
from steer_tools.analysis.relations import behavior_cosines, nearest, nearest_anywhere

__all__ = [
    "Detector",
    "Labelled",
    "Projection",
    "Ranking",
    "Reading",
    "behavior_cosines",
    "detect",
    "directions_at",
    "effect_ranking",
    "fit_detector",
    "lens_ranking",
    "nearest",
    "nearest_anywhere",
    "project",
    "read_along",
]
