"""The rules of the test suite itself: what a test may import, and what happens where ../shared is missing."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from helpers.places import DATA, ROOT, SHARED, skip_without_shared

TESTS = ROOT / "tests"
FOLDERS = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"helpers", "data"}


def foreign_imports(source: str) -> list[str]:
    """Return what a test module imports from other test modules: only helpers are shared."""
    imported: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                imported += [alias.name for alias in names]
            case ast.ImportFrom(module=module, level=level):
                imported.append("." * level + (module or ""))
            case _:
                pass
    stems = {"tests", "conftest", "", *FOLDERS}
    return [own for own in imported if own.split(".")[0] in stems or own.split(".")[-1].startswith("test_")]


@pytest.mark.parametrize(
    "path", [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("*.py")) if "peers" not in path.parts]
)
def test_no_test_module_imports_another(path: str) -> None:
    assert foreign_imports((TESTS / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tests.cli.test_cli import run",
        "from cli.test_cli import run",
        "from .test_cli import run",
        "from conftest import engine",
        "import test_cli",
    ],
)
def test_an_import_of_another_test_module_is_found(source: str) -> None:
    assert len(foreign_imports(source)) == 1


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("is_marked", [True, False])
def test_only_what_needs_the_shared_folder_is_skipped_and_only_where_it_may_be_missing(
    is_there: bool, is_required: bool, is_marked: bool, request: pytest.FixtureRequest
) -> None:
    item = pytest.Function.from_parent(request.node.parent, name="planted", callobj=lambda: None)
    if is_marked:
        item.add_marker("shared")

    skip_without_shared([item], is_there=is_there, is_required=is_required)

    skip = item.get_closest_marker("skip")
    assert (skip is not None) is (is_marked and not is_there and not is_required)
    assert skip is None or str(SHARED) in skip.kwargs["reason"]


def names_of_shared(tree: ast.AST) -> set[str]:
    """Return the places in ../shared that are named in a part of a module."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"SHARED", "STORIES", "CAA"}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.name)
def test_what_names_the_shared_folder_is_marked_as_needing_it(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if path == Path(__file__) or "pytestmark = pytest.mark.shared" in source:
        return

    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and names_of_shared(node):
            marks = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            assert "pytest.mark.shared" in marks, node.name


def test_every_mutant_is_of_this_code_and_names_tests_that_there_are() -> None:
    mutants = json.loads((DATA / "mutants.json").read_text(encoding="utf-8"))
    sources = {m["file"]: (ROOT / m["file"]).read_text(encoding="utf-8") for m in mutants}
    tests = {test.partition("::")[0]: "" for m in mutants for test in m["tests"]}
    tests = {path: (ROOT / path).read_text(encoding="utf-8") for path in tests}

    assert len(mutants) > 50
    assert [m["id"] for m in mutants if sources[m["file"]].count(m["old"]) != 1] == []
    named = [test.partition("[")[0].split("::") for m in mutants for test in m["tests"]]
    assert [names for path, *names in named if names and f"def {names[-1]}(" not in tests[path]] == []
