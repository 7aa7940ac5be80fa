"""The law of foreign texts: what shows, escapes or marks up texts does it in one place; each way around is found."""

from __future__ import annotations

import ast
import re

import pytest

from helpers.places import ROOT

_ROOMS = (ROOT / "steer_tools", ROOT / "mcp_server")
MODULES = sorted(path.relative_to(ROOT).as_posix() for room in _ROOMS for path in room.rglob("*.py"))

HOME = "steer_tools/foreign_text.py"
# What acts on texts → the only modules that may use it.
ONLY_IN = {
    "Console": ("steer_tools/tools/consoles.py",),
    "TextColumn": ("steer_tools/tools/consoles.py",),
    "Text": ("steer_tools/tools/rendering.py",),
    "Panel": (),
    "Markdown": (),
    "from_markup": (),
    "from_ansi": (),
    "render_str": (),
    "escape": (HOME,),
    "print": (),
    # Helps are texts of our own, with headings in bold.
    "echo": ("steer_tools/cli/terminal.py", "steer_tools/cli/help_texts.py"),
    "secho": (),
    "Markup": (HOME,),
}
# Patterns are escaped, which is something else; and progress bars are told what was made visible.
_NOT_MEANT = {("re", "escape"), ("console", "print"), ("_console", "print")}
_TAG = re.compile(
    r"</?(?:h[1-6]|p|br|hr|div|span|td|th|tr|table|style|script|img|iframe|svg|tspan|pre|title|small|meta|link|rect"
    r"|circle|form|input)(?=[\s>/])|<(?:[ab]|path) \w+=|</?[abi]>|<!--|<!doctype",
    re.IGNORECASE,
)
# Literals with tags: the outside of what rich makes of a result, and what Markdown's own escapes need.
TAGS = {
    HOME,
    "steer_tools/by_hand/results.py",
    "steer_tools/figures/__init__.py",
    "steer_tools/reports/markdown.py",
    "steer_tools/reports/report_files.py",
}


def ways_around(path: str, source: str) -> list[str]:
    """Return how a module shows or marks up texts by itself."""
    found, tree = list[str](), ast.parse(source)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)) if name in ONLY_IN:
                if path not in ONLY_IN[name] and not _is_another(node.func):
                    found.append(f"{path} calls {name}")
            case ast.ImportFrom(module=module, names=names) if (module or "").split(".")[0] in ("rich", "html", "xml"):
                for alias in names:
                    if alias.name in ("print", "escape", "quoteattr", "from_markup") and path != HOME:
                        found.append(f"{path} imports {alias.name}")
            case ast.keyword(arg="markup", value=ast.Constant(value=True)):
                found.append(f"{path} turns markup on")
            case ast.Constant(value=str(text)) if id(node) not in documented and _TAG.search(text) and path not in TAGS:
                found.append(f"{path} writes tags itself")
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="stdout" | "stderr"), attr="write")):
                found.append(f"{path} writes to a stream")
            case _:
                pass
    return found


def _is_another(function: ast.expr) -> bool:
    """Whether a call is of another function by that name."""
    match function:
        case (
            ast.Attribute(value=ast.Name(id=owner), attr=name)
            | ast.Attribute(value=ast.Call(func=ast.Name(id=owner)), attr=name)
        ):
            return (owner, name) in _NOT_MEANT
        case _:
            return False


@pytest.mark.parametrize("path", MODULES)
def test_no_module_has_a_way_around(path: str) -> None:
    assert ways_around(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "print(name)",
        "rich.print(name)",
        "from rich import print",
        "from html import escape",
        "html.escape(name)",
        "Console().out(name)",
        "rich.console.Console(file=f)",
        "Text.from_markup(name)",
        "Text(name)",
        "c.print(name, markup=True)",
        "typer.echo(name)",
        "sys.stdout.write(name)",
        "sys.stderr.write(name)",
        "f'<td>{name}</td>'",
        "'<b class=\"%s\">' % name",
        "Markup(name)",
    ],
)
def test_each_way_around_is_found(line: str) -> None:
    assert ways_around("steer_tools/tools/new.py", line)


def test_what_is_no_way_around_is_let_be() -> None:
    assert ways_around("steer_tools/tools/new.py", "re.escape(word)\nconsole.print(x)\na < b\n'1 < 2 > 1'") == []
