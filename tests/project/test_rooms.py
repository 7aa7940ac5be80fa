"""The rules between rooms, read from the imports; the last tests plant each offence and see it found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.places import ROOT

# From the lowest room to the highest: a room imports only from rooms before it, or from its own folder.
ORDER = (
    "foreign_text",
    "errors",
    "limits",
    "progress",
    "leftovers",
    "workspace",
    "prompts",
    "data_files",
    "torch_state",
    "core",
    "formats",
    "engines",
    "bundled_model",
    "evaluation",
    "session",
    "directions",
    "experiments",
    "inspection",
    "weights",
    "figures",
    "reports",
    "tools",
    "by_hand",
    "cli",
)
# Package → the only places that may import it.
ONLY_IN = {
    "transformers": ("engines/huggingface", "bundled_model"),
    "vllm": ("engines/vllm",),
    "mcp": ("mcp_server",),
    "mcp_types": ("mcp_server",),
}
TORCH_FREE = (
    "foreign_text",
    "errors",
    "limits",
    "progress",
    "leftovers",
    "workspace",
    "prompts",
    "data_files",
    "core/site",
    "engines/opening",
    "evaluation/behaviors",
    "evaluation/intervals",
    "evaluation/metrics",
    "evaluation/scorers",
    "evaluation/judge",
    "figures",
    "reports",
    "tools",
    "by_hand/calls",
    "by_hand/plain_values",
    "by_hand/progress_bars",
    "by_hand/results",
    "cli",
)

# What a process is spared that has no use for it. A late import of one is right in a module that does without it at
# once, and so is, in the rooms that are light by contract, one of a module of ours that pulls one in. Each other late
# import stands in LATE with its reason.
HEAVY = frozenset(
    {
        "torch",
        "transformers",
        "numpy",
        "pydantic",
        "pydantic_core",
        "safetensors",
        "mcp",
        "matplotlib",
        "pandas",
        "rich",
        "scipy",
        "sklearn",
        "tqdm",
        "vllm",
    }
)
LIGHT = ("engines/opening", "tools", "by_hand/calls", "by_hand/results", "cli", "mcp_server")
LATE = {
    ("steer_tools/cli/app.py", "steer_tools.cli.tool_commands"): "a command is built when it is asked for",
    ("steer_tools/cli/inputs.py", "steer_tools.evaluation.behaviors.behavior_json"): "reads files, which no help does",
    ("steer_tools/cli/inputs.py", "steer_tools.evaluation.behaviors.item_files"): "reads files, which no help does",
    ("steer_tools/cli/inputs.py", "steer_tools.evaluation.judge"): "brings HTTP, which only a judge needs",
    ("steer_tools/cli/own_commands.py", "mcp_server.__main__"): "the only command that knows the server",
    ("steer_tools/cli/own_commands.py", "steer_tools.cli.local_models"): "looks at folders, which one command does",
    ("steer_tools/cli/own_commands.py", "steer_tools.workspace"): "stands beside the formats, which are heavy",
    ("steer_tools/cli/workbench.py", "steer_tools.workspace"): "stands beside the session, which is heavy",
}


# They import what they find by name: rooms on first use, and the modules of their own package.
COLLECTORS = (
    "steer_tools/__init__.py",
    "steer_tools/core/interventions/__init__.py",
    "steer_tools/formats/__init__.py",
)


def modules() -> list[str]:
    """Return every module's path, relative to the project's root."""
    folders = (ROOT / "steer_tools", ROOT / "mcp_server")
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py"))


def dotted(path: str) -> str:
    """Return the name by which a module is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


NAMES = {dotted(path) for path in modules()}


def place_of(module: str) -> str:
    """Return a module's place below steer_tools, as in "engines/huggingface/hooks"; of others their name."""
    top, _, rest = module.partition(".")
    return rest.replace(".", "/") if top == "steer_tools" else module.replace(".", "/")


def room_of(module: str) -> str:
    """Return the top-level room of a module, "" for the package itself."""
    return place_of(module).split("/")[0]


def is_in(place: str, homes: tuple[str, ...]) -> bool:
    return any(place == home or place.startswith(f"{home}/") for home in homes)


def imports_of(path: str, tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield all that a module imports, in each way that Python has, with the node that does it."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                for alias in names:
                    inner = f"{base}.{alias.name}"
                    yield (inner if inner in NAMES or base == "steer_tools" else base), node
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name in {
                "import_module",
                "__import__",
            }:
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, node
                elif path not in COLLECTORS:
                    yield "<computed>", node
            case _:
                pass


def offences(path: str, source: str) -> list[str]:
    """Return what is wrong with a module; `path` is relative to the project's root."""
    tree, place, found = ast.parse(source), place_of(dotted(path)), list[str]()
    room = room_of(dotted(path))
    for module, _ in imports_of(path, tree):
        top, other = module.split(".")[0], room_of(module)
        if top in ONLY_IN and not is_in(place, ONLY_IN[top]):
            found.append(f"{path} imports {module}")
        if top == "torch" and is_in(place, TORCH_FREE):
            found.append(f"{path} imports {module}")
        if module == "<computed>":
            found.append(f"{path} imports what is only known when it runs")
        if top == "steer_tools" and room in ORDER:
            if other not in ORDER:
                if module not in {"steer_tools", "steer_tools.__version__"}:
                    found.append(f"{path} imports {module}, which is in no room")
            elif ORDER.index(other) > ORDER.index(room):
                found.append(f"{path} imports {module} from above")
            tools = {dotted(tool) for tool in TOOL_MODULES}
            if path in TOOL_MODULES and module in tools - {dotted(path)}:
                found.append(f"{path} imports another tool, {module}")
        if top == "mcp_server" and room not in {"cli", "mcp_server"}:
            found.append(f"{path} imports {module} from above")
    found += [
        f"{path} imports {module} late, which spares nothing"
        for module in sorted(unfounded(path, tree))
        if (path, module) not in LATE
    ]
    for node in ast.walk(tree):
        registers = isinstance(node, ast.Attribute) and node.attr.startswith("register_forward")
        if registers and not place.startswith("engines/"):
            found.append(f"{path} registers a hook")
        if isinstance(node, ast.Global) and place != "session/session":
            found.append(f"{path} has a global")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{path} catches everything")
        if (
            isinstance(node, ast.Call)
            and is_save(node)
            and {"replaces", "replacing"}.isdisjoint(own.arg for own in node.keywords)
        ):
            found.append(f"{path} saves, and does not say what it may replace")
    return found


def is_save(node: ast.Call) -> bool:
    """Return whether a call saves into a workspace: `write` of a file or a stream takes the content alone."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    return name in ("write_together", "new_folder") or (name == "write" and len(node.args) > 1)


NO_TOOLS = {
    "__init__",
    "argument_checks",
    "arguments",
    "card",
    "choices",
    "colours",
    "consoles",
    "rendering",
    "resolving",
    "results",
    "sweep_results",
}
TOOL_MODULES = {path for path in modules() if path.startswith("steer_tools/tools/") and Path(path).stem not in NO_TOOLS}


def late_nodes(tree: ast.AST) -> set[int]:
    """Return the ids of the nodes that do not run when the module is imported."""
    return {id(inner) for outer in ast.walk(tree) if is_late(outer) for inner in ast.walk(outer)}


def imported_at_once(path: str, tree: ast.AST) -> set[str]:
    """Return what a module imports when it is imported itself."""
    late = late_nodes(tree)
    return {module for module, node in imports_of(path, tree) if id(node) not in late}


def pulled_in(modules: set[str]) -> set[str]:
    """Return the heavy packages that come with modules, by whatever detour."""
    reached, waiting = set[str](), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            # A package comes before what is in it.
            waiting += [*GRAPH.get(module, ()), *([module.rpartition(".")[0]] if "." in module else [])]
    return reached & HEAVY


def unfounded(path: str, tree: ast.AST) -> set[str]:
    """Return what a module imports late though nothing heavy is spared by that, or though it is not to be light."""
    if path == "steer_tools/__init__.py":
        return set()
    late, own = late_nodes(tree), pulled_in(imported_at_once(path, tree))
    may_spare = HEAVY if is_in(place_of(dotted(path)), LIGHT) else frozenset[str]()
    return {
        module
        for module, node in imports_of(path, tree)
        if id(node) in late
        and not pulled_in({module}) & (may_spare | {module.split(".")[0]}) - own
        # `--help` of the whole and `--version` do without the tools.
        and not (path.startswith("steer_tools/cli/") and module.startswith("steer_tools.tools"))
    }


def is_late(node: ast.AST) -> bool:
    """Whether what is inside a node does not run when the module is imported."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
        return node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that reach themselves."""
    found: list[str] = []
    for start, imported in graph.items():
        reached, waiting = set[str](), list(imported)
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += graph.get(module, ())
        if start in reached:
            found.append(start)
    return found


GRAPH = {
    dotted(path): imported_at_once(path, ast.parse((ROOT / path).read_text(encoding="utf-8"))) for path in modules()
}


@pytest.mark.parametrize("path", modules())
def test_a_room_knows_only_what_is_below_it(path: str) -> None:
    if path == "steer_tools/__init__.py":
        return  # The table of contents names rooms for type checkers only; test_import.py watches what it imports.

    assert offences(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_room_is_in_the_order_and_every_name_in_the_order_is_a_room() -> None:
    rooms = {room_of(dotted(path)) for path in modules() if path.startswith("steer_tools/")} - {""}

    assert rooms == set(ORDER)


def test_each_late_import_that_is_excused_takes_place_and_needs_its_excuse() -> None:
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in modules()}

    assert {(path, module) for path, tree in trees.items() for module in unfounded(path, tree)} == set(LATE)


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(GRAPH) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("steer_tools/core/plan.py", "from steer_tools.engines.base import Row", "from above"),
        ("steer_tools/core/plan.py", "from steer_tools import engines", "from above"),
        ("steer_tools/core/plan.py", "from .. import engines", "from above"),
        ("steer_tools/core/plan.py", "from ..engines import base", "from above"),
        ("steer_tools/core/plan.py", "from ..engines.base import Row", "from above"),
        ("steer_tools/prompts.py", "from . import engines", "from above"),
        ("steer_tools/prompts.py", 'import importlib\nimportlib.import_module("steer_tools.engines")', "from above"),
        ("steer_tools/core/plan.py", "import steer_tools.formats", "from above"),
        ("steer_tools/core/plan.py", "import steer_tools.nowhere", "in no room"),
        ("steer_tools/prompts.py", "import torch", "imports torch"),
        ("steer_tools/prompts.py", "from torch import Tensor", "imports torch"),
        ("steer_tools/prompts.py", 'from importlib import import_module\nimport_module("torch")', "imports torch"),
        ("steer_tools/prompts.py", '__import__("torch.nn")', "imports torch"),
        ("steer_tools/prompts.py", "import_module(name)", "only known when it runs"),
        ("steer_tools/evaluation/metrics.py", "import torch", "imports torch"),
        ("steer_tools/directions/fitting.py", "from transformers import AutoModel", "imports transformers"),
        ("steer_tools/engines/huggingface/hooks.py", "import vllm", "imports vllm"),
        ("steer_tools/cli/app.py", "from mcp.server import MCPServer", "imports mcp"),
        ("steer_tools/session/session.py", "import mcp_server.server", "from above"),
        ("steer_tools/session/checks.py", "module.register_forward_hook(f)", "registers a hook"),
        ("steer_tools/weights/saved_model.py", "b.register_forward_pre_hook(f)", "registers a hook"),
        ("steer_tools/weights/saved_model.py", "def f():\n    global x\n    x = 1", "has a global"),
        ("steer_tools/core/plan.py", "def f():\n    from steer_tools.core import site", "spares nothing"),
        ("steer_tools/core/plan.py", "import numpy\ndef f():\n    import numpy.linalg", "spares nothing"),
        ("steer_tools/cli/app.py", "def f():\n    from steer_tools import errors", "spares nothing"),
        ("steer_tools/cli/app.py", "if TYPE_CHECKING:\n    from ..errors import SteeringError", "spares nothing"),
        ("steer_tools/workspace.py", "try:\n    pass\nexcept:\n    pass", "catches everything"),
        ("steer_tools/tools/generate.py", "session.workspace.write(path, content)", "what it may replace"),
        ("steer_tools/tools/generate.py", "files.write_together(contents)", "what it may replace"),
        ("steer_tools/weights/saved_model.py", "workspace.new_folder(folder)", "what it may replace"),
    ],
)
def test_each_planted_offence_is_found(path: str, source: str, words: str) -> None:
    assert [words in offence for offence in offences(path, source)] == [True]


def test_a_tool_that_imports_another_tool_is_found() -> None:
    first, second = sorted(TOOL_MODULES)[:2]

    assert ["another tool" in offence for offence in offences(first, f"from {dotted(second)} import something")] == [
        True
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("steer_tools/engines/vllm/worker.py", "import vllm"),
        ("steer_tools/engines/huggingface/hooks.py", "import transformers\nblock.register_forward_hook(f)"),
        ("steer_tools/formats/npy_format.py", "from steer_tools.formats.base import Header"),
        ("steer_tools/formats/npy_format.py", "from .base import Header"),
        ("steer_tools/formats/npy_format.py", "file.write(data)\nworkspace.write(path, data, replaces=VECTOR)"),
        ("steer_tools/experiments/sweeps.py", "from steer_tools import __version__"),
        ("steer_tools/figures/strips.py", "def f():\n    from matplotlib.axes import Axes"),
        ("steer_tools/cli/app.py", "def f():\n    from steer_tools.formats import read_vector"),
        ("mcp_server/server.py", "from mcp.server import MCPServer\nfrom steer_tools.tools import TOOLS"),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert offences(path, source) == []
