"""Behaviours and the items they are measured on, built in or read from files. It must not know models."""

from steer_tools.evaluation.behaviors.behavior_json import behavior_document
from steer_tools.evaluation.behaviors.builtin import behavior_names, load_behavior
from steer_tools.evaluation.behaviors.files import behavior_of_lists, read_behavior
from steer_tools.evaluation.behaviors.item_prompts import asked, contrast_prompts, evaluation_prompt
from steer_tools.evaluation.behaviors.items import Behavior, Item
from steer_tools.evaluation.behaviors.readers import SUFFIXES, read_items
from steer_tools.evaluation.behaviors.records import item_of_texts

__all__ = [
    "SUFFIXES",
    "Behavior",
    "Item",
    "asked",
    "behavior_document",
    "behavior_names",
    "behavior_of_lists",
    "contrast_prompts",
    "evaluation_prompt",
    "item_of_texts",
    "load_behavior",
    "read_behavior",
    "read_items",
]
