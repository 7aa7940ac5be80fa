"""Bakes what is applied to a model into the weights of a checkpoint, and takes it out again."""

from steer_tools.weights.checkpoints import undo_edited_model
from steer_tools.weights.requests import Baking, ablation_of, what_is_applied
from steer_tools.weights.saving import SavedModel, save_edited

__all__ = ["Baking", "SavedModel", "ablation_of", "save_edited", "undo_edited_model", "what_is_applied"]
