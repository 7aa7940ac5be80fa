"""How many small faults of the core modules the tests see: cosmic-ray's mutants, each against the tests that run it.

`pip install cosmic-ray coverage`, then `python benchmarks/mutation.py FOLDER GROUP COUNT` tries the first COUNT mutants
of a group, in an order that a seed fixes, and prints what survived. FOLDER keeps a copy of the tree, which is what is
broken, which test runs which line, and each outcome, so that a later call goes on; of what it is told has survived, an
entry that is removed is tried again.

A place gives at most two of an operator's replacements, drawn by the seed, so that a `*`, which has eleven, counts no
more than a `not`. Left out is what no run can see: annotations, abstract methods, and what a class is decorated with.
Forks of one process that has imported torch make it quick: half a second a mutant, and its tests.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import coverage
import pytest
from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
SEED = 19
# What a group's modules are, and where their tests are, quick ones first.
GROUPS = {
    "interventions": (
        ["core/interventions/*.py"],
        ["core/*.py", "engines/test_interventions_in_models.py", "engines/test_gradients.py"],
    ),
    "positions": (["core/positions.py"], ["core/*.py", "engines/test_attention_sinks.py"]),
    "registry": (
        ["core/registry.py"],
        ["core/test_registry.py", "core/test_plans.py", "session/test_session.py", "session/test_placing.py"],
    ),
    "session": (
        [f"session/{name}.py" for name in ("session", "placement", "vector_loading", "edit_lengths")],
        [f"session/test_{name}.py" for name in ("session", "placing", "several_layers", "edit_lengths", "copies")]
        + [f"session/test_{name}.py" for name in ("changed_models", "refused_attaching", "vector_loading")],
    ),
    "hooks": (
        [f"engines/huggingface/{name}.py" for name in ("hooks", "module_hooks", "frames", "site_taps", "row_plans")],
        [f"engines/test_{name}.py" for name in ("own_calls", "sites", "conformance")]
        + ["core/test_conditions.py", "inspection/test_activations.py"]
        + [f"session/test_{name}.py" for name in ("session", "copies", "placing", "several_layers", "changed_models")],
    ),
    "workspace": (
        ["workspace.py", "leftovers.py"],
        [f"test_{name}.py" for name in ("workspace", "leftovers")],
    ),
    "formats": (["formats/*.py"], ["formats/*.py", "test_leftovers.py"]),
}
PRELOADED = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "safetensors",
    "pydantic",
    "hypothesis",
)
# Tests of a first round, then the seconds of a second: nearly all mutants die in the first.
FIRST_TESTS, SECOND_SECONDS = 25, 15.0


@dataclass(frozen=True)
class Mutant:
    """One occurrence of an operator in a file; `line` and `column` are where it stands."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.operator.split('/')[1]} {self.occurrence}"


def main(folder: Path, group: str, count: int | None) -> int:
    """Try the mutants of a group that were not tried yet, and return the exit code."""
    tree = folder / "tree"
    for path in files_of(ROOT):
        copied = tree / path.relative_to(ROOT)
        # The first call makes the copy; a later one brings it up to date, and mends what a killed one left.
        if not copied.exists() or copied.read_bytes() != path.read_bytes():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    os.environ |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.chdir(tree)
    sources, test_patterns = GROUPS[group]
    preload(folder)
    runs = {
        test: ran
        for pattern in test_patterns
        for file in globbed(tree / "tests", pattern)
        for test, ran in lines_of(folder, file.as_posix()).items()
    }
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    mutants = [m for pattern in sources for file in globbed(tree / "steer_tools", pattern) for m in mutants_of(file)]
    random.Random(SEED).shuffle(mutants)
    kept = folder / f"{group}.json"
    outcomes: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    chosen = mutants[:count]
    for mutant in chosen:
        if str(mutant) not in outcomes:
            outcomes[str(mutant)] = outcome_of(mutant, runs)
            kept.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    tried = [outcomes[str(m)] for m in chosen if outcomes[str(m)] != "the same code"]
    for mutant in chosen:
        if outcomes[str(mutant)].startswith("survived"):
            print(f"{mutant}\n{outcomes[str(mutant)]}")
    dead = sum(not outcome.startswith("survived") for outcome in tried)
    print(f"{group}: {dead} of {len(tried)} died ({dead / len(tried):.1%}), of {len(mutants)} mutants")
    return 0


def files_of(root: Path) -> Iterator[Path]:
    """Yield what tests need of a tree."""
    for part in ("steer_tools", "mcp_server", "tests", "docs", "pyproject.toml", "README.md", "SKILL.md"):
        place = root / part
        yield from (path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file())


def globbed(base: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern below `base`, relative to the tree, which is the working folder."""
    return sorted(path.relative_to(Path.cwd()) for path in base.glob(pattern))


def preload(folder: Path) -> None:
    """Import what the tests take from others, so that forks need not."""
    listed = folder / "imported.json"
    if not listed.exists():
        in_a_fork(["--collect-only", "tests"], None, 600, lambda _: listed.write_text(json.dumps(list(sys.modules))))
    for name in json.loads(listed.read_text()):
        if name.split(".")[0] in PRELOADED:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def lines_of(folder: Path, test_file: str) -> dict[str, tuple[float, dict[str, set[int]]]]:
    """Return, for each test of a file, its seconds and which lines it runs in which module."""
    digest = sha256(Path(test_file).read_bytes()).hexdigest()[:12]
    kept = folder / "lines" / f"{test_file.replace('/', '-')}-{digest}.json"
    kept.parent.mkdir(exist_ok=True)
    if not kept.exists():
        print("reading lines of", test_file, flush=True)
        measured = coverage.Coverage(data_file=None, include=[str(Path.cwd() / "steer_tools" / "*")], config_file=False)

        def keep(seconds: dict[str, float]) -> None:
            measured.stop()
            data = measured.get_data()
            found: dict[str, Any] = {test: (seconds[test], defaultdict(list)) for test in seconds}
            for file in data.measured_files():
                name = Path(file).relative_to(Path.cwd()).as_posix()
                for line, tests in data.contexts_by_lineno(file).items():
                    for test in tests:
                        if test:
                            found[test][1][name].append(line)
            kept.write_text(json.dumps(found), encoding="utf-8")

        in_a_fork(["-m", "slow or not slow", test_file], None, 1500, keep, measured)
    read = json.loads(kept.read_text(encoding="utf-8"))
    return {test: (seconds, {name: set(own) for name, own in lines.items()}) for test, (seconds, lines) in read.items()}


def mutants_of(file: Path) -> list[Mutant]:
    """Return the mutants of a file that a run may see, at most two of a kind at a place."""
    source = file.read_text(encoding="utf-8")
    operators = {name: get_operator(name)() for name in operator_names() if "Variable" not in name}
    places = Places(operators)
    places.walk(get_ast(source))
    unseen = unseen_spans(ast.parse(source))
    kinds: dict[tuple[int, int, str], list[Mutant]] = defaultdict(list)
    for name, spots in places.found.items():
        for occurrence, (line, column) in enumerate(spots):
            if not any(start <= (line, column) < end for start, end in unseen):
                mutant = Mutant(file.as_posix(), name, occurrence, line, column)
                kinds[line, column, name.split("/")[1].split("_")[0]].append(mutant)
    drawn = random.Random(SEED)
    return [mutant for kind in kinds.values() for mutant in drawn.sample(kind, min(2, len(kind)))]


class Places(Visitor):
    """Where each operator may act, in the order in which cosmic-ray counts."""

    def __init__(self, operators: dict[str, Any]) -> None:
        self.operators = operators
        self.found: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def visit(self, node: Any) -> Any:
        """Note what each operator may do at a node."""
        for name, operator in self.operators.items():
            self.found[name] += [start for start, _ in operator.mutation_positions(node)]
        return node


def unseen_spans(module: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations, abstract functions and the decorators of classes are."""
    nodes: list[Any] = []
    for node in ast.walk(module):
        match node:
            case ast.arg(annotation=ast.expr() as annotation):
                nodes.append(annotation)
            case ast.AnnAssign(annotation=annotation):
                nodes.append(node if ast.unparse(annotation) == "TypeAlias" else annotation)
            case ast.ClassDef():
                nodes += node.decorator_list
            case ast.FunctionDef():
                nodes += [node.returns] if node.returns else []
                if {"abstractmethod", "overload"} & {ast.unparse(decorator) for decorator in node.decorator_list}:
                    nodes += [*node.decorator_list, node]
            case _:
                pass
    # A decorator's node begins after its @.
    return [((n.lineno, max(n.col_offset - 1, 0)), (n.end_lineno, n.end_col_offset)) for n in nodes]


def outcome_of(mutant: Mutant, runs: dict[str, Any]) -> str:
    """Return "died", "took too long", "the same code", or "survived" with what it is."""
    file = Path(mutant.file)
    source = file.read_text(encoding="utf-8")
    mutated = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    try:
        is_same = ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source))
        if is_same or source.splitlines()[mutant.line - 1].strip() == "@override":
            return "the same code"
        compile(mutated, str(file), "exec")
    except SyntaxError:
        return "the same code"
    tests = tests_of(mutant, source, runs)
    seconds = {test: took for test, (took, _) in runs.items()}
    # Those first that run much of the file in little time: they are more often about it.
    ranked = sorted(tests, key=lambda test: seconds[test] / (1 + len(runs[test][1].get(mutant.file, ()))))
    first, second = ranked[:FIRST_TESTS], ranked[FIRST_TESTS:]
    while sum(seconds[test] for test in second) > SECOND_SECONDS:
        second.pop()
    compiled = file.parent / "__pycache__"
    stale = list(compiled.glob(f"{file.stem}.*.pyc"))
    file.write_text(mutated, encoding="utf-8")
    for path in stale:
        path.unlink()
    try:
        for chosen in (first, second):
            if chosen:
                files = sorted({test.partition("::")[0] for test in chosen})
                took = sum(seconds[test] for test in chosen)
                code = in_a_fork(["-x", "-m", "slow or not slow", *files], chosen, 10 * took + 60)
                if code:
                    return "took too long" if code < 0 else f"died ({code})"
    finally:
        file.write_text(source, encoding="utf-8")
    change = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
    return f"survived {len(first) + len(second)} tests\n" + "\n".join(list(change)[3:])


def tests_of(mutant: Mutant, source: str, runs: dict[str, Any]) -> set[str]:
    """Return the tests that run the statement of a mutant; where it runs at import, those that run what it is for."""
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt)
        and min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        <= mutant.line
        <= node.end_lineno
    ]
    around.sort(key=lambda node: node.end_lineno - node.lineno)
    lines: set[int] = set()
    is_imported = True
    if around:
        node = around[0]
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef):
            lines = set(range(node.body[0].lineno, node.end_lineno + 1))
        elif any(isinstance(outer, ast.FunctionDef) for outer in around[1:]):
            lines, is_imported = set(range(node.lineno, body[0].lineno if body else node.end_lineno + 1)), False
        elif len(around) > 1 and isinstance(around[1], ast.ClassDef):
            lines = set(range(around[1].lineno, around[1].end_lineno + 1))
    ran = {test: of.get(mutant.file, set()) for test, (_, of) in runs.items()}
    found = {test for test in runs if lines & ran[test] or (is_imported and not ran[test])}
    return found or {test for test in runs if ran[test]}


class Ordered:
    """Runs chosen tests in their order, and notes how long each takes."""

    def __init__(self, tests: Sequence[str] | None, measured: coverage.Coverage | None) -> None:
        self.ranks = None if tests is None else {test: rank for rank, test in enumerate(tests)}
        self.measured = measured
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out and sort."""
        if self.ranks:
            items[:] = sorted((i for i in items if i.nodeid in self.ranks), key=lambda i: self.ranks[i.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Say whose lines are run, and take the time."""
        if self.measured:
            self.measured.switch_context(item.nodeid)
        began = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - began
        return result


def in_a_fork(
    arguments: list[str],
    tests: Sequence[str] | None,
    seconds: float,
    at_end: Callable[[dict[str, float]], object] = lambda _: None,
    measured: coverage.Coverage | None = None,
) -> int:
    """Return pytest's exit code, or −1 where it took longer than `seconds`."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        quiet = os.open(Path.cwd().parent / "last.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        sys.path[:0] = [str(Path.cwd()), str(Path.cwd() / "tests")]
        sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
        plugin = Ordered(tests, measured)
        if measured:
            measured.start()
        code = pytest.main(
            [
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "-W",
                "ignore::pytest.PytestAssertRewriteWarning",
                *arguments,
            ],
            plugins=[plugin],
        )
        at_end(plugin.seconds)
        os._exit(int(code))
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
