"""What is done to a hidden state: hidden and a strength → hidden, purely, and the table of all kinds.

A new intervention is one frozen subclass of `Intervention` here with `name` and `edit`: INTERVENTIONS finds it, and
`make generate` tells the tools. Strength 0 is the identity for each. It must not know hooks, rows or positions: it is
handed the chosen tokens in float32 and hands them back.
"""

from importlib import import_module
from pkgutil import iter_modules

from steer_tools.core.interventions.base import Intervention
from steer_tools.core.interventions.moving import Add, AddKeepingNorm, Replace, Zero
from steer_tools.core.interventions.projecting import Affine, Clamp, ProjectOut
from steer_tools.errors import ArgumentError, quoted

__all__ = [
    "INTERVENTIONS",
    "Add",
    "AddKeepingNorm",
    "Affine",
    "Clamp",
    "Intervention",
    "ProjectOut",
    "Replace",
    "Zero",
    "intervention_named",
]

# As they are listed; the first is the default.
_ORDER = ("add", "add_keeping_norm", "project_out", "affine", "clamp", "rotate", "replace", "zero", "mean", "erase")


def _interventions() -> dict[str, type[Intervention]]:
    """Return each class with a name that the modules of this package define: those of _ORDER, then others by name."""
    modules = [import_module(module.name) for module in iter_modules(__path__, f"{__name__}.")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    found = {kind.name: kind for kind in kinds if kind.__module__.startswith(__name__) and hasattr(kind, "name")}
    return {name: found[name] for name in (*_ORDER, *sorted(found.keys() - {*_ORDER}))}


INTERVENTIONS = _interventions()


def intervention_named(name: object) -> type[Intervention]:
    """Return the kind of intervention called `name`.

    Raises:
        ArgumentError: There is none.
    """
    if isinstance(name, str) and name in INTERVENTIONS:
        return INTERVENTIONS[name]
    raise ArgumentError(f"intervention is {quoted(name)}", valid=", ".join(map(repr, INTERVENTIONS)))
