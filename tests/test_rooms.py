"""The rules between rooms, read from the imports; the last tests plant each offence and see it found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the lowest room to the highest: a room imports only from rooms before it, or from its own folder.
ORDER = (
    "errors",
    "progress",
    "workspace",
    "prompts",
    "datasets",
    "sites",
    "dictionaries",
    "positions",
    "methods",
    "vectors",
    "formats",
    "interventions",
    "conditions",
    "plan",
    "registry",
    "architecture",
    "engines",
    "bundled_model",
    "session",
    "metrics",
    "scorers",
    "training",
    "sources",
    "extraction",
    "loading",
    "conditioning",
    "placing",
    "weights",
    "comparison",
    "checks",
    "experiments",
    "analysis",
    "causal",
    "figures",
    "reports",
    "parameters",
    "tools",
    "cli",
)
# Package → the rooms that may import it.
ONLY_IN = {
    "transformers": {"architecture", "engines", "session", "bundled_model"},
    "vllm": {"engines/vllm"},
    "mcp": {"mcp_server"},
    "mcp_types": {"mcp_server"},
    "torch": set(ORDER)
    - {
        "errors",
        "progress",
        "workspace",
        "prompts",
        "datasets",
        "sites",
        "metrics",
        "scorers",
        "figures",
        "reports",
        "parameters",
        "tools",
        "cli",
    },
}
TOOL_MODULES = {
    "analyzing",
    "applying",
    "auditing",
    "baking",
    "checking",
    "creating",
    "dissecting",
    "evaluating",
    "experimenting",
    "generating",
    "modeling",
    "reading",
    "patching",
}


def room_of(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return "mcp_server" if parts[0] == "mcp_server" else parts[1]


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def offences(path: str, source: str) -> list[str]:
    """Return what is wrong with a module; `path` is relative to the project's root."""
    tree, room, found = ast.parse(source), room_of(path), list[str]()
    for module in imports_of(tree):
        parts = module.split(".")
        if allowed := ONLY_IN.get(parts[0]):
            at_home = any(room == home or path.startswith(f"steer_tools/{home}") for home in allowed)
            if not at_home:
                found.append(f"{path} imports {module}")
        if parts[0] == "steer_tools" and len(parts) > 1 and room in ORDER:
            other = parts[1]
            if other not in ORDER or (other != room and ORDER.index(other) > ORDER.index(room)):
                found.append(f"{path} imports {module} from above")
            if room == other == "tools" and Path(path).stem in TOOL_MODULES and parts[2:3] and parts[2] in TOOL_MODULES:
                found.append(f"{path} imports another tool, {module}")
        if parts[0] == "mcp_server" and room not in {"cli", "mcp_server"}:
            found.append(f"{path} imports {module} from above")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("register_forward") and room != "engines":
            found.append(f"{path} registers a hook")
        if isinstance(node, ast.Global) and room != "session":
            found.append(f"{path} has a global")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{path} catches everything")
    return found


def modules() -> list[str]:
    folders = (ROOT / "steer_tools", ROOT / "mcp_server")
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.py"))


@pytest.mark.parametrize("path", modules())
def test_a_room_knows_only_what_is_below_it(path: str) -> None:
    if path == "steer_tools/__init__.py":
        return  # The table of contents names rooms for type checkers only; test_import.py watches what it imports.

    assert offences(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_room_is_in_the_order_and_every_name_in_the_order_is_a_room() -> None:
    rooms = {room_of(path) for path in modules() if path.startswith("steer_tools/")} - {"__init__"}

    assert rooms == set(ORDER)


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("steer_tools/plan.py", "from steer_tools.engines.base import Row", "from above"),
        ("steer_tools/methods.py", "import steer_tools.vectors", "from above"),
        ("steer_tools/prompts.py", "import torch", "imports torch"),
        ("steer_tools/tools/creating.py", "from transformers import AutoModel", "imports transformers"),
        ("steer_tools/engines/huggingface.py", "import vllm", "imports vllm"),
        ("steer_tools/cli/app.py", "from mcp.server import MCPServer", "imports mcp"),
        ("steer_tools/session.py", "import mcp_server.server", "from above"),
        ("steer_tools/checks.py", "module.register_forward_hook(f)", "registers a hook"),
        ("steer_tools/architecture.py", "b.register_forward_pre_hook(f)", "registers a hook"),
        ("steer_tools/tools/applying.py", "def f():\n    global x\n    x = 1", "has a global"),
        (
            "steer_tools/tools/applying.py",
            "from steer_tools.tools.creating import create_steering_vector",
            "another tool",
        ),
        ("steer_tools/workspace.py", "try:\n    pass\nexcept:\n    pass", "catches everything"),
    ],
)
def test_each_planted_offence_is_found(path: str, source: str, words: str) -> None:
    assert [words in offence for offence in offences(path, source)] == [True]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("steer_tools/engines/vllm_worker.py", "import vllm"),
        ("steer_tools/engines/huggingface.py", "import transformers\nblock.register_forward_hook(f)"),
        ("steer_tools/tools/creating.py", "from steer_tools.session import current_session"),
        ("steer_tools/formats/npy.py", "from steer_tools.formats.base import Header"),
        ("mcp_server/server.py", "from mcp.server import MCPServer\nfrom steer_tools.tools import TOOLS"),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert offences(path, source) == []
