"""Results → pictures, as PNG bytes. It must not know models, experiments or files."""

from steer_tools.figures.controls import ControlGroup, Controls
from steer_tools.figures.doses import Curve, DosePanel, dose_response
from steer_tools.figures.evidence import Evidence, evidence
from steer_tools.figures.heat_maps import HeatCell, HeatMap, heat_map
from steer_tools.figures.matrices import Matrix, matrix
from steer_tools.figures.strips import Scale, Strip, readable, strip_page, strip_picture

__all__ = [
    "ControlGroup",
    "Controls",
    "Curve",
    "DosePanel",
    "Evidence",
    "HeatCell",
    "HeatMap",
    "Matrix",
    "Scale",
    "Strip",
    "dose_response",
    "evidence",
    "heat_map",
    "matrix",
    "readable",
    "strip_page",
    "strip_picture",
]
