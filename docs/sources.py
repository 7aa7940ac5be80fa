"""What is generated beside the manual's pages: the names in the tools' schemas, and the definitions in SKILL.md."""

import json
from collections.abc import Iterable
from pathlib import Path

from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.directions.methods import METHODS
from steer_tools.directions.session_methods import SESSION_METHODS

ROOT = Path(__file__).parents[1]
CHOICES = ROOT / "steer_tools" / "tools" / "choices.py"

_CHOICES = '''"""The names that arguments may have, and what descriptions say of them, for whoever does without torch.

Written by `make generate` from METHODS, SESSION_METHODS and INTERVENTIONS.
"""

from typing import Literal

MethodName = Literal[
{methods}
]
InterventionName = Literal[
{interventions}
]
PAIRED_METHODS = "{paired}"
CONTROL_METHODS = "{controls}"
SCALING_INTERVENTIONS = "{scaling}"
'''


def choices() -> str:
    """Return the module of names that the tools' arguments are made of."""
    controls = [name for name, method in METHODS.items() if method.is_control]
    methods = [*(name for name in METHODS if name not in controls), *SESSION_METHODS, *controls]
    ways = {**METHODS, **SESSION_METHODS}
    return _CHOICES.format(
        methods=_items(methods),
        interventions=_items(INTERVENTIONS),
        paired=_words([name for name in methods if ways[name].is_paired]),
        controls=_words(controls),
        scaling=_words([name for name, kind in INTERVENTIONS.items() if kind.scales_direction]),
    )


def _items(names: Iterable[str]) -> str:
    return "\n".join(f"    {json.dumps(name)}," for name in names)


def _words(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
