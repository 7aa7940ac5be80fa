"""Values that no tool expects, and calls of every tool that work with little, into which they are put."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from helpers.small_models import NEGATIVE, POSITIVE

DEEP = 100_000


class OddText(str):
    """A text that cannot be compared."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


class OddNumber(int):
    """A number that cannot be compared, written or used as an index."""

    def __index__(self) -> int:
        raise ZeroDivisionError

    def __lt__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Unwritten:
    """A value that cannot be written."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


def nested(kind: type[list[Any]] | type[dict[str, Any]], levels: int = DEEP) -> Any:
    """Return lists or mappings in each other."""
    value = kind()
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


def holding_itself() -> list[Any]:
    """Return a list whose only item it is itself."""
    value: list[Any] = []
    value.append(value)
    return value


def hostile_values() -> dict[str, Any]:
    """Return the values by name; generators are new each time."""
    return {
        "None": None,
        "an empty text": "",
        "a space": " ",
        "NUL": "\0",
        "half a surrogate pair": "\ud800",
        "U+202E": "\u202e",
        "escape codes": "\x1b[2J\x1b]0;owned\x07",
        "a megabyte of text": "x" * 10**6,
        "a text that cannot be compared": OddText("v"),
        "digits": "9" * 5_000,
        "a path out": "../../x",
        "an absolute path": "/proc/self/x",
        "an open parenthesis": "(a+",
        "-1": -1,
        "0": 0,
        "2**63": 2**63,
        "10**400": 10**400,
        "-10**5000": -(10**5000),
        "1.5": 1.5,
        "1e308": 1e308,
        "nan": math.nan,
        "-inf": -math.inf,
        "a complex number": 1j,
        "True": True,
        "a number that cannot be compared": OddNumber(1),
        "a NumPy number": np.float32(1),
        "a NumPy array": np.array([1.0, math.nan]),
        "a tensor": torch.ones(3),
        "bytes": b"x",
        "an object": object(),
        "an object that cannot be written": Unwritten(),
        "a class": object,
        "a generator": (value for value in (1, "a")),
        "a set": {1},
        "an empty list": [],
        "lists in a list": [[[]]],
        "a tuple": (1, 2),
        "a list of None": [None],
        "a list of texts": ["x", "\ud800"],
        "a list of large numbers": [2**63, 10**400],
        "a list of nan": [math.nan],
        "a list of bools": [True],
        "a list of empty mappings": [{}],
        "a mixed list": [1, "a", None],
        "a list that holds itself": holding_itself(),
        "a deep list": nested(list),
        "an empty mapping": {},
        "a mapping of a mapping": {"a": {}},
        "a deep mapping": nested(dict),
        "a mapping of numbers": {1: 2, -5: math.nan},
        "options of wrong types": {"seed": "x", "steps": None, "keywords": 1, "pattern": "("},
    }


def small_calls() -> dict[str, dict[str, Any]]:
    """Return arguments with which each tool does little on a tiny model, by its name; "v" and "w" are vectors."""
    words = ("keke", "lili", "mora", "seti", "vozu", "nura", "tili", "kemo")
    eight = [[f"{word} {kind}" for word in words] for kind in ("baba", "zuzu")]
    own = {"behavior_name": "b", "positive": eight[0], "negative": eight[1], "layers": [1], "strengths": [0.1]}
    return {
        "steering_status": {},
        "create_steering_vector": {
            "positive_prompts": POSITIVE,
            "negative_prompts": NEGATIVE,
            "layer": 1,
            "save_path": "made",
        },
        "combine_steering_vectors": {"vector_paths": ["v", "w"], "weights": [1, 1], "save_path": "sum"},
        "apply_steering_vector": {"vector_path": "v", "layer": 1, "strength": 0.5},
        "compare_generations": {"prompts": ["keke"], "vector_path": "v", "strengths": [1], "max_new_tokens": 1},
        "compare_next_tokens": {"prompts": ["keke"], "vector_path": "v"},
        "steering_experiment": {**own, "controls": 19, "save_folder": "experiment"},
        "verify_steering_vector": {"vector_path": "v"},
        "sweep_steering": {"vector_path": "v", "behavior_name": "nothing", "layers": [1], "save_folder": "sweep"},
        "find_best_layer": {**own, "save_folder": "best"},
        "evaluate_steering_robustness": {"vector_path": "v", "dataset": "nothing", "strength": 0.1},
        "calibrate_strength": {"vector_path": "v", "target_damage": -1.0},
        "analyze_steering_vector": {"vector_path": "v", "top": 2},
        "project_activations": {"vector_path": "v", "prompts": ["keke"]},
        "save_activations": {"prompts": ["keke"], "save_path": "read.safetensors", "layers": [1]},
        "ablate_component": {"behavior_name": "nothing", "layers": [1], "save_folder": "ablated"},
        "patch_activations": {
            "source_prompt": "keke baba",
            "target_prompt": "keke zuzu",
            "positive": "lili",
            "negative": "mora",
            "layers": [1],
            "save_folder": "patched",
        },
        "generate": {"prompts": ["keke"], "max_new_tokens": 1},
        "check_steering": {"max_new_tokens": 1},
        "show_tokens": {"prompts": ["keke"]},
        "update_steering_vector": {"steering_id": "nothing", "strength": 0.1},
        "remove_steering_vector": {"steering_id": "nothing"},
        "remove_all_steering_vectors": {},
        "save_edited_model": {"save_folder": "edited"},
        "audit_checkpoint": {"checkpoint": "edited"},
        "load_model": {"name_or_path": "no/such/folder"},
    }
