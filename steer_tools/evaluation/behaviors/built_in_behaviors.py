"""The behaviours that ship with the package, by name. It must not know other files."""

from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.behaviors.behavior_json import parse_behavior


def behavior_names() -> list[str]:
    """Return the names of the built-in behaviours, sorted."""
    return sorted(_files())


def load_behavior(name: str) -> Behavior:
    """Return a built-in behaviour.

    Raises:
        ArgumentError: There is none of that name.
        PromptError: Its file is malformed.
    """
    found = _files()
    if name not in found:
        near = get_close_matches(str(name), found, n=1, cutoff=0.5)
        raise ArgumentError(
            f"There is no built-in behaviour {name!r:.80}",
            valid=", ".join(sorted(found)),
            fix=f"Did you mean {near[0]!r}?" if near else "Choose one of these, or give a file of pairs.",
        )
    return parse_behavior(found[name].read_bytes(), found[name].name)


def _files() -> dict[str, Traversable]:
    folder = files("steer_tools.evaluation.behaviors") / "data"
    return {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}
