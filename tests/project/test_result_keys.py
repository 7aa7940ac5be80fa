"""A key that several results of tools have is one measure in one unit, in all of them.

Which keys are shared, and what each is, stands here: a new result that takes such a name says the same by it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args, get_type_hints

from typing_extensions import is_typeddict

import steer_tools.tools

# Key → what it is wherever it stands. Names of things, and texts, are no measures.
MEASURES = {
    "acting": "applied vectors that act on each prompt",
    "active": "applied vectors",
    "anti_steerable": "share of items that the strengths move the wrong way",
    "best_layer": "layer from 0, chosen",
    "best_strength": "strength, in `unit`, chosen",
    "controls_reached": "control directions that have the effect",
    "cosine_chance": "cosine that directions reach by chance",
    "effect": "what texts show more of a behaviour by, -1 to 1, half of what both signs differ by",
    "false_alarms": "share of negative examples above the threshold",
    "ids": "token ids",
    "interval": "95 % interval of `effect`",
    "items": "items of a behaviour that were measured",
    "kl": "KL(unsteered to steered), nats a token",
    "layer": "layer from 0",
    "layers": "layers from 0",
    "log_odds_effect": "mean change of log-odds, nats",
    "log_odds_interval": "its 95 % interval",
    "magnitude": "norm of a direction as it is saved",
    "misses": "share of positive examples at or below the threshold",
    "norm": "norm of a direction",
    "own_effect": "the same of the wanted sign beside the unsteered texts",
    "prompt_count": "prompts that were measured on",
    "recovered": "share of the way from target to source",
    "relevance": "of the texts, as a share of the unsteered ones'",
    "residual_norm": "the model's typical norm at the site",
    "residual_strength": "strength in typical norms",
    "shape": "sizes of an array's dimensions",
    "strength": "strength, in `unit`",
    "strengths": "strengths, in `unit`",
    "threshold": "projection on the unit direction above which is positive",
    "variety": "of the texts, as a share of the unsteered ones'",
    "values": "projection on the unit direction",
    "whole": "share of texts that are not broken",
}


def results() -> dict[str, type]:
    """Return every result type of the tools, by name."""
    names = (module.name for module in pkgutil.iter_modules(steer_tools.tools.__path__, "steer_tools.tools."))
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return {own.__name__: own for own in found if is_typeddict(own) and own.__module__.startswith("steer_tools.tools.")}


def leaves(annotation: Any) -> Iterator[type]:
    """Yield what a key holds inside of lists, mappings' values and unions."""
    inner = get_args(annotation)
    if not inner and annotation is not NoneType:
        yield annotation
    for one in inner[1:] if getattr(annotation, "__origin__", None) is dict else inner:
        yield from leaves(one)


def keys() -> dict[str, dict[str, set[Any]]]:
    """Return key → the results that define it → what it holds; `MethodOptions` and the like are arguments."""
    found: dict[str, dict[str, set[Any]]] = defaultdict(dict)
    for name, own in results().items():
        if own.__total__ and own.__name__ != "TextScorer":  # type: ignore[attr-defined]
            inherited = {key for base in own.__orig_bases__ if is_typeddict(base) for key in get_type_hints(base)}  # type: ignore[attr-defined]
            for key, kind in get_type_hints(own).items():
                if key not in inherited:
                    found[key][name] = set(leaves(kind))
    return found


def is_number(kinds: set[Any]) -> bool:
    """Return whether numbers are all that a key holds; a prompt may be token ids, too."""
    return kinds <= {int, float}


def test_a_key_of_several_results_that_holds_numbers_is_one_of_the_known_measures() -> None:
    shared = {key: own for key, own in keys().items() if len(own) > 1}
    numbers = {key for key, own in shared.items() if any(is_number(kinds) for kinds in own.values())}

    assert numbers == MEASURES.keys()


def test_a_key_holds_numbers_in_all_results_or_in_none() -> None:
    for key, own in keys().items():
        assert len({is_number(kinds) for kinds in own.values()}) == 1, (key, own)
