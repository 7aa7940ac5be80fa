"""What `import steer_tools` costs, in a process of its own."""

from __future__ import annotations

import ast
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import steer_tools
from steer_tools.tools import TOOLS, Tool

_COST = """
import sys, time
start = time.process_time()
import steer_tools
cost = time.process_time() - start
heavy = [name for name in ("torch", "transformers", "numpy", "pydantic", "mcp") if name in sys.modules]
print(repr((cost, heavy, steer_tools.__version__)))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_is_cheap_and_pulls_in_nothing_heavy() -> None:
    costs, heavies = zip(*(ast.literal_eval(run(_COST))[:2] for _ in range(3)), strict=True)

    assert min(costs) <= 0.2
    assert heavies == ([], [], [])


def test_the_tools_signatures_are_read_without_anything_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "pydantic", "mcp"}
    code = f"import sys, steer_tools.tools\nprint({heavy} & sys.modules.keys())"

    assert run(code) == "set()\n"


def test_creating_a_vector_imports_only_what_it_needs(tmp_path: Path) -> None:
    others = ["matplotlib", "pandas", "sklearn", "mcp", "gguf", "rich", "typer", "steer_tools.weights"]
    others += ["steer_tools.inspection", "steer_tools.figures.heat_maps", "steer_tools.reports.report_files"]
    create = "steer_tools.create_steering_vector(behavior='sentiment', layer=2, save_path=sys.argv[1])"
    shown = f"print({set(others)} & sys.modules.keys())"
    code = f"import sys, steer_tools\nsteer_tools.load_model('bundled')\n{create}\n{shown}"

    assert run(code, str(tmp_path / "made.safetensors")) == "set()\n"


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_help_reads_like_documentation(tool: Tool) -> None:
    description = tool.description
    function = getattr(steer_tools, tool.name)

    shown = pydoc.plain(pydoc.render_doc(function)).splitlines()

    assert "Returns:" in "".join(shown)
    assert not [line for line in shown if "Doc(" in line or "Annotated" in line or "ForwardRef" in line]
    assert len(shown) <= (60 if tool.name == "apply_steering_vector" else 80)
    # The first line is pydoc's.
    assert max(map(len, shown[1:])) <= 100
    names = list(inspect.signature(function).parameters)
    assert [name for name in names if not any(line.strip().startswith(f"{name}: ") for line in shown[6:])] == []
    assert tool.description == description


def test_every_name_of_the_table_of_contents_resolves() -> None:
    code = "import steer_tools\nfor name in steer_tools.__all__: getattr(steer_tools, name)\nprint(dir(steer_tools))"

    assert ast.literal_eval(run(code)) == sorted(steer_tools.__all__)


def test_the_table_of_contents_says_the_same_to_a_type_checker() -> None:
    source = Path(steer_tools.__file__).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    typed = {alias.name for node in imports for alias in node.names if alias.name == alias.asname}

    assert typed == set(steer_tools._ROOMS)
    assert {tool.name for tool in TOOLS} == set(steer_tools.__all__) - typed


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(steer_tools, "no_such_name")


def test_the_version_is_that_of_the_distribution() -> None:
    project = (Path(steer_tools.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")

    assert f'version = "{steer_tools.__version__}"' in project


def test_no_room_hides_a_public_name() -> None:
    rooms = {path.stem for path in Path(steer_tools.__file__).parent.iterdir()}

    assert not rooms & set(steer_tools.__all__)
