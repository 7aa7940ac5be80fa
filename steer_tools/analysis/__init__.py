"""What a vector means to a model and does to it: tokens, relations, projections. It must not know tools or files."""

from steer_tools.analysis.lens import Ranking, effect_ranking, lens_ranking
from steer_tools.analysis.projections import Projection, project
from steer_tools.analysis.relations import behavior_cosines, nearest, nearest_anywhere

__all__ = [
    "Projection",
    "Ranking",
    "behavior_cosines",
    "effect_ranking",
    "lens_ranking",
    "nearest",
    "nearest_anywhere",
    "project",
]
