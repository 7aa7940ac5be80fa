"""What is generated beside the manual's pages: the names in the tools' schemas, and the definitions in SKILL.md."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.directions.methods import METHODS
from steer_tools.directions.session_methods import SESSION_METHODS
from steer_tools.engines.opening import ENGINES
from steer_tools.tools import TOOLS, Tool

ROOT = Path(__file__).parents[1]
CHOICES = ROOT / "steer_tools" / "tools" / "choices.py"
SKILL = ROOT / "SKILL.md"
_WIDTH = 118

_CHOICES = '''"""The names that arguments may have, and what descriptions say of them, for whoever does without torch.

Written by `make generate` from ENGINES, METHODS, SESSION_METHODS and INTERVENTIONS.
"""

from typing import Literal

EngineName = Literal[{engines}]
MethodName = Literal[{methods}]
InterventionName = Literal[{interventions}]
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
        engines=_items(ENGINES),
        methods=_items(methods),
        interventions=_items(INTERVENTIONS),
        paired=_words([name for name in methods if ways[name].is_paired]),
        controls=_words(controls),
        scaling=_words([name for name, kind in INTERVENTIONS.items() if kind.scales_direction]),
    )


def skill(text: str) -> str:
    """Return SKILL.md with its definitions made from the tools; those that it lacks come after the last."""
    made = {tool.name: _definition(tool) for tool in TOOLS if tool.name != "load_model"}
    text = re.sub(
        r"(?<=^```python\n)def (\w+)\(.*?^(?=```$)", lambda match: made.pop(match[1]), text, flags=re.M | re.S
    )
    added = "".join(f"**{name}**\n\n```python\n{definition}```\n\n" for name, definition in made.items())
    return text.replace("## A worked example\n", f"{added}## A worked example\n")


def _definition(tool: Tool) -> str:
    parameters = inspect.signature(tool.function).parameters.values()
    taken = [p.name if p.default is p.empty else f"{p.name}={p.default!r}".replace("'", '"') for p in parameters]
    lines = [
        f"def {_call(tool.name, taken, 0, ':')}",
        f'    """{tool.description.partition(". ")[0].partition(chr(10))[0].removesuffix(".")}."""',
        "    import steer_tools",
        "    steer_tools.attach_model(model, tokenizer)",
        f"    return {_call(f'steer_tools.{tool.name}', [p.name for p in parameters], 4)}",
    ]
    return "\n".join(lines) + "\n"


def _items(names: Iterable[str]) -> str:
    """Return the names as the formatter would have them."""
    quoted = [json.dumps(name) for name in names]
    return quoted[0] if len(quoted) == 1 else "".join(f"\n    {name}," for name in quoted) + "\n"


def _words(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _call(name: str, arguments: list[str], indent: int, end: str = "") -> str:
    """Return a call on one line, or with its arguments on lines of their own."""
    line = f"{name}({', '.join(arguments)}){end}"
    if indent + len(line) <= _WIDTH:
        return line
    inner = " " * (indent + 4)
    filled = textwrap.fill(", ".join(arguments), _WIDTH, initial_indent=inner, subsequent_indent=inner)
    return f"{name}(\n{filled}\n{' ' * indent}){end}"
