"""Writes the pages of the manual that are made from the code: `python docs/generate.py`; with --check it compares.

From the tools and their result types: reference/tools.md and a page for each. From the commands: reference/commands.md.
From the classes of methods, interventions and formats: reference/kinds.md. From the limits: reference/limits.md. From
the bill of materials: reference/dependencies.md. From what a test found: reference/hostile-arguments.md. From the
imports: pictures/rooms.svg. From the notebooks as they ran: a page for each. Beside the manual: sources.py.
"""

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import typer
from typing_extensions import is_typeddict

from mcp_server.__main__ import main as serve
from steer_tools.cli.app import app
from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.directions.methods import METHODS
from steer_tools.directions.session_methods import SESSION_METHODS
from steer_tools.formats import FORMATS
from steer_tools.formats.base import EVERYTHING, VectorFormat
from steer_tools.limits import LIMITS
from steer_tools.tools import TOOLS, Tool
from steer_tools.tools.card import Group

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
import dependencies  # noqa: E402  # a neighbour, not a package
import rooms  # noqa: E402  # another
import sources  # noqa: E402  # another

_TOOLS = """# The tools

Each is a function of `steer_tools`, a tool of the MCP server and a definition of `SKILL.md`, by the same name and with
the same arguments. All take and return what JSON can hold; what is refused is a `SteeringError` that says why.
[Which tool for what](../guides/tools.md) goes by question. This page and those of the tools are made from the code.
"""
_COMMANDS = """# The commands

`steer-tools COMMAND --help` says the same in a terminal. Exit codes: 0 done, 1 an error, 2 wrong usage, 3 a law that
`check` found broken, 130 interrupted. This page is made from the code.
"""

_KINDS = """# Methods, interventions and formats

What [`create_steering_vector`](tools/create_steering_vector.md) can compute, what
[`apply_steering_vector`](tools/apply_steering_vector.md) can do with it, and what files hold it, with the sources.
[Directions, edits, conditions](../guides/vectors.md) says when to take which. This page is made from the code.
"""

_LIMITS = """# The most of everything

What a file or an argument may ask for at most. It is checked before work or memory is taken, and what asks for more is
refused with the number. An environment variable, set for the process that runs the tools, sets another one. What cannot
be done at all is in [Limits](../explanations/limits.md). This page is made from the code.
"""

_HOSTILE = """# What hostile arguments get

Each row is a call that no tool can answer, in a workspace of a tiny model, and what it gets in Python, on the command
line and over MCP, where the face can say it. None takes two seconds of the processor, and none changes the model, what
is applied or the workspace. A test makes every call again and compares (`tests/tools/test_hostile_table.py`); this page
is made from what it holds them to.
"""
_FACES, _MOST_SHOWN = ("python", "command_line", "mcp"), 160


def pages() -> dict[Path, str]:
    """Return every generated file with its text."""
    made = {
        DOCS / "reference" / "tools.md": _tools_index(),
        DOCS / "reference" / "commands.md": _commands(),
        DOCS / "reference" / "kinds.md": _kinds(),
        DOCS / "reference" / "limits.md": _limits(),
        DOCS / "reference" / "dependencies.md": dependencies.page(),
        DOCS / "reference" / "hostile-arguments.md": _hostile_arguments(),
        rooms.PICTURE: rooms.draw(rooms.imports()),
        sources.CHOICES: sources.choices(),
        sources.SKILL: sources.skill(sources.SKILL.read_text(encoding="utf-8")),
    }
    made |= {DOCS / "reference" / "tools" / f"{tool.name}.md": _tool(tool) for tool in TOOLS}
    return made | {path.with_suffix(".md"): _notebook(path) for path in sorted((DOCS / "notebooks").glob("*.ipynb"))}


def stale() -> list[Path]:
    """Return the generated files that do not say what the code says, and those that no code asks for."""
    made = pages()
    left = set((DOCS / "reference" / "tools").glob("*.md")) - set(made)
    return sorted(left | {path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text})


def description_of(parameter: inspect.Parameter) -> str:
    """Return what the code says about a tool's argument."""
    return _said_of(parameter.annotation)


def _said_of(kind: Any) -> str:
    return " ".join(note.description for note in getattr(kind, "__metadata__", ()) if hasattr(note, "description"))


# The tools.


def _tools_index() -> str:
    parts = [_TOOLS]
    for group in get_args(Group):
        tools = [tool for tool in TOOLS if tool.card.group == group]
        rows = [f"| [`{tool.name}`](tools/{tool.name}.md) | {_sentences(tool)[0]} |" for tool in tools]
        parts += [f"## Group {group}", "", "| tool | does |", "|---|---|", *rows, ""]
    return _lines(*parts)


def _tool(tool: Tool) -> str:
    first, rest = _sentences(tool)
    parameters = _parameters(tool.function)
    result = get_type_hints(tool.function)["return"]
    call = ",\n    ".join(f"{p.name}" if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)
    parts = [f"# {tool.name}", "", first, ""]
    parts += [rest, ""] if rest else []
    parts += ["```text", f"{tool.name}(\n    {call},\n)" if call else f"{tool.name}()", "```", ""]
    if parameters:
        parts += ["## Arguments", "", "| argument | type | default | meaning |", "|---|---|---|---|"]
        parts += [
            f"| `{p.name}` | {_type(p.annotation)} | {'' if p.default is p.empty else f'`{p.default!r}`'} "
            f"| {_cell(description_of(p))} |"
            for p in parameters
        ]
        parts.append("")
        for options in dict.fromkeys(kind for p in parameters for kind in _typed_dicts(p.annotation)):
            parts += _argument_keys(options)
    parts += ["## Result", "", *_result(result, [])]
    command = tool.card.command
    shell = f"On the command line it is [`steer-tools {command}`](../commands.md#{command})." if command else ""
    parts += ["## Elsewhere", "", f"{shell} Under MCP its title is “{tool.card.title}”. {_hints(tool)}".strip()]
    return _lines(*parts)


def _argument_keys(kind: Any) -> list[str]:
    """Return a table of the keys of an argument that is a JSON object."""
    keys = get_type_hints(kind, include_extras=True).items()
    rows = [f"| `{name}` | {_type(inner)} | {_cell(_said_of(inner))} |" for name, inner in keys]
    said = [inspect.cleandoc(kind.__doc__), ""] if kind.__doc__ else []
    return [f"### {kind.__name__}", "", *said, "| key | type | meaning |", "|---|---|---|", *rows, ""]


def _parameters(function: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]


def _sentences(tool: Tool) -> tuple[str, str]:
    """Return the first paragraph of a description, and the others."""
    first, _, rest = tool.description.partition("\n\n")
    return first.replace("\n", " "), rest


def _hints(tool: Tool) -> str:
    card = tool.card
    said = [
        "It changes neither the model nor a file." if card.is_read_only else "It changes the model, or writes a file.",
        "It may take away or overwrite something." if card.is_destructive else "",
        "A second equal call changes nothing more." if card.is_idempotent else "",
        "It may reach beyond the model and the workspace." if card.reaches_out else "",
        "" if card.needs_model else "It needs no model.",
    ]
    return " ".join(sentence for sentence in said if sentence)


def _result(kind: Any, seen: list[Any]) -> list[str]:
    """Return a table of a result type's keys, and after it those of the types inside it."""
    seen.append(kind)
    keys = get_type_hints(kind)
    rows = [f"| `{name}` | {_type(inner)} |" for name, inner in keys.items()]
    parts = [
        f"### {kind.__name__}",
        "",
        inspect.cleandoc(kind.__doc__ or ""),
        "",
        "| key | type |",
        "|---|---|",
        *rows,
        "",
    ]
    for inner in keys.values():
        for found in _typed_dicts(inner):
            if found not in seen:
                parts += _result(found, seen)
    return parts


def _typed_dicts(kind: Any) -> Iterator[Any]:
    if is_typeddict(kind):
        yield kind
    for inner in get_args(kind):
        yield from _typed_dicts(inner)


def _type(kind: Any) -> str:
    """Return a type as a reader would say it, for the cell of a table."""
    return f"`{_plain(kind)}`".replace("|", "\\|")


def _plain(kind: Any) -> str:
    if hasattr(kind, "__metadata__"):
        return _plain(kind.__origin__)
    if hasattr(kind, "__value__"):
        return _plain(kind.__value__)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Callable:
        return "a function"
    if origin in {Required, NotRequired}:
        return _plain(inner[0])
    if origin is Literal:
        return " | ".join(json.dumps(value) for value in inner)
    if origin in {Union, types.UnionType}:
        return " | ".join(dict.fromkeys(_plain(one) for one in inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_plain(one) for one in inner)}]"
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


# Methods, interventions and formats.


def _kinds() -> str:
    parts = [_KINDS, "## Methods", ""]
    for name, method in {**METHODS, **SESSION_METHODS}.items():
        parts += [f"### {name}", "", _said(method), ""]
        parts += ["Its prompts come in pairs.", ""] if method.is_paired else []
        parts += ["A control: it knows nothing of the labels.", ""] if getattr(method, "is_control", False) else []
    parts += ["## Interventions", ""]
    for name, kind in INTERVENTIONS.items():
        unit = "multiplies the direction" if kind.scales_direction else "is the share of the whole edit"
        parts += [f"### {name}", "", _said(kind), "", f"The strength {unit}.", ""]
    parts += ["## Formats", "", "| name | what it is | index and unit | keeps |", "|---|---|---|---|"]
    parts += [f"| {kind.name} | {_said(kind)} | {kind.convention} | {_kept(kind)} |" for kind in FORMATS]
    return _lines(*parts)


def _kept(kind: VectorFormat) -> str:
    lost = sorted(EVERYTHING - kind.keeps)
    if len(lost) > len(kind.keeps):
        return ", ".join(sorted(kind.keeps)) or "nothing"
    return f"all but {', '.join(lost)}" if lost else "all"


def _said(kind: object) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:")[0]


# The limits.


def _limits() -> str:
    rows = [
        f"| {limit.of} | {limit.most_by_default:,} {limit.unit} | {limit.reason} "
        f"| {f'`{limit.variable}`' if limit.variable else ''} |"
        for limit in LIMITS
    ]
    return _lines(_LIMITS, "| of | at most | since | another number |", "|---|---|---|---|", *rows)


def _hostile_arguments() -> str:
    found = DOCS.parent / "tests" / "data" / "hostile_arguments.json"
    rows = [
        f"| {row['about']} | `{row['tool']}` | {' | '.join(_quoted(row[face]) for face in _FACES)} |"
        for row in json.loads(found.read_text(encoding="utf-8"))
    ]
    return _lines(
        _HOSTILE, "| what | tool | in Python | on the command line | over MCP |", "|---|---|---|---|---|", *rows
    )


def _quoted(text: str) -> str:
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
    return "" if text == "cannot be said" else f"`{shown.replace('|', '/').replace('`', chr(39))}`"


# The commands.


def _commands() -> str:
    commands = dict(_walk(typer.main.get_command(app), ()))
    parts = [
        _COMMANDS,
        "| command | does |",
        "|---|---|",
        *(f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(command.help)} |" for name, command in commands.items()),
        "",
    ]
    for name, command in commands.items():
        parts += [f"## {name}", "", _cell(command.help), "", *_options(name, command), ""]
    return _lines(*parts)


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    for name, below in inner.items():
        yield from _walk(below, (*path, name))
    if not inner:
        yield " ".join(path), command


def _options(name: str, command: Any) -> list[str]:
    if name == "serve":
        return ["```text", _server_help(), "```"]
    with contextlib.redirect_stdout(io.StringIO()):
        command.get_help(typer.Context(command, info_name=name))  # It fills in what the tools say of their arguments.
    rows = [
        f"| `{', '.join([*parameter.opts, *parameter.secondary_opts])}` | {_default(parameter)} "
        f"| {_cell(getattr(parameter, 'help', None) or '')} |"
        for parameter in command.params
    ]
    return ["| argument or option | default | meaning |", "|---|---|---|", *rows]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False, (), []) else f"`{parameter.default}`"


def _server_help() -> str:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        serve(["--help"])
    return told.getvalue().strip()


# The notebooks.


def _notebook(path: Path) -> str:
    """Return a notebook as a page, with what it printed."""
    parts = list[str]()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts += [source, ""]
            continue
        parts += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            text = "".join(output.get("text", ())) or "".join(output.get("data", {}).get("text/plain", ()))
            parts += ["```text", text.rstrip(), "```", ""] if text.strip() else []
    return _lines(*parts, f"This page is the notebook `docs/notebooks/{path.name}` as it ran.")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _lines(*parts: str) -> str:
    return "\n".join(parts).rstrip() + "\n"


def main() -> int:
    """Write what is stale, or with --check name it and fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    is_check = parser.parse_args().check
    found = stale()
    made = pages() if found and not is_check else {}
    for path in found:
        print(f"{'stale' if is_check else 'wrote'} {path.relative_to(DOCS.parent)}")
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8") if path in made else path.unlink()
    if sources.CHOICES in found and not is_check:
        os.execv(sys.executable, [sys.executable, *sys.argv])  # The rest was made from the names as they were before.
    return int(is_check and bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
