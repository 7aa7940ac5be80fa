"""Bakes what is applied to a model into the weights of a checkpoint, takes it out again, and finds what was baked."""

from steer_tools.weights.auditing import audit
from steer_tools.weights.checkpoints import undo_edited_model
from steer_tools.weights.findings import Audit, Finding
from steer_tools.weights.pairs import Checkpoint, open_checkpoint
from steer_tools.weights.requests import Baking, ablation_of, what_is_applied
from steer_tools.weights.saving import SavedModel, model_folder, save_edited
from steer_tools.weights.shards import open_file

__all__ = [
    "Audit",
    "Baking",
    "Checkpoint",
    "Finding",
    "SavedModel",
    "ablation_of",
    "audit",
    "model_folder",
    "open_checkpoint",
    "open_file",
    "save_edited",
    "undo_edited_model",
    "what_is_applied",
]
