"""Behaviours and the items they are measured on, built in or read from files. It must not know models."""

from steer_tools.datasets.asking import asked, contrast_prompts, evaluation_prompt
from steer_tools.datasets.behavior_form import behavior_document
from steer_tools.datasets.builtin import behavior_names, load_behavior
from steer_tools.datasets.files import behavior_of_lists, read_behavior
from steer_tools.datasets.items import Behavior, Item
from steer_tools.datasets.readers import SUFFIXES, read_items
from steer_tools.datasets.records import item_of_texts

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
