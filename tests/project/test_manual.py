"""The manual: its code runs, its links lead somewhere, and what is made from the code says what the code says."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from transformers.utils import logging as transformers_logging

from helpers.manual import PAGES, Block, anchors, blocks, commands, links, missing, name_of
from helpers.migration import PACKAGES, THEIRS
from helpers.migration import PAGES as MIGRATION
from helpers.places import ROOT
from steer_tools import steering_status
from steer_tools.bundled_model.language import score
from steer_tools.cli import main
from steer_tools.cli.demo import BEHAVIORS
from steer_tools.session.session import Session

README = ROOT / "README.md"
RUN = ("python", "bash", "console")
WITH_CODE = [page for page in PAGES if any(block.language in RUN for block in blocks(page))]
# The README has a test of its own, and so have pages with another package's lines. Notebooks are run by `make docs`, in
# a kernel; their pages show what they printed.
RUN_HERE = [
    page
    for page in WITH_CODE
    if page != README
    and page.parent.name != "notebooks"
    and not (page.parent.name == "migration" and page.stem in PACKAGES)
]
# Pages whose code takes more than a few seconds.
SLOW = {"quickstart", "experiments", "inspection", "vectors", "weights", "caa", "llama_cpp"}
# Above this many the manual would tell more than it shows.
MOST_NOT_RUN = 6


@pytest.fixture
def run_block(
    empty_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Block, dict[str, Any]], str]:
    """Run a block in an empty folder and return what it printed; blocks of a page share a namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "STEER_TOOLS_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    transformers_logging.disable_progress_bar()

    def run(block: Block, namespace: dict[str, Any]) -> str:
        where = f"{name_of(block.page)}:{block.line}"
        if block.language == "python":
            exec(compile(block.text, where, "exec"), namespace)
            return capsys.readouterr().out
        printed = ""
        for command in commands(block):
            program, *arguments = shlex.split(command.words, comments=True)
            assert program == "steer-tools", f"{where}: no test knows how to run {command.words!r}"
            code = main(arguments)
            told = capsys.readouterr()
            assert code == 0, f"{where}: {command.words}\n{told.err}"
            assert missing(command.shown, told.out) == [], f"{where}: {command.words}\n{told.out}"
            printed += told.out
        return printed

    return run


def generator() -> ModuleType:
    """Return docs/generate.py as a module."""
    specification = importlib.util.spec_from_file_location("generate_the_manual", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    before = list(sys.path)
    specification.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW), id=name_of(page)) for page in RUN_HERE]
)
def test_each_block_of_code_runs(page: Path, run_block: Callable[[Block, dict[str, Any]], str]) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        if block.language in RUN and block.why_not_run is None:
            run_block(block, namespace)


def test_what_is_not_run_says_why_and_is_little() -> None:
    told = [(name_of(page), block.why_not_run) for page in PAGES for block in blocks(page) if block.why_not_run]

    assert 0 < len(told) <= MOST_NOT_RUN, told
    assert all(len(reason) > 10 for _, reason in told)


def test_each_block_is_in_a_language_that_the_tests_know() -> None:
    strange = [
        f"{name_of(page)}:{block.line} {block.language!r}"
        for page in PAGES
        for block in blocks(page)
        if block.language not in {*RUN, "json", "text"} and not (block.language in THEIRS and page in MIGRATION)
    ]

    assert strange == []


def test_blocks_of_json_can_be_read() -> None:
    read = [json.loads(block.text) for page in PAGES for block in blocks(page) if block.language == "json"]

    assert read


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_link_leads_somewhere(page: Path) -> None:
    lost = list[str]()
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)

    assert lost == []


def test_the_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)[`\s]*(?:#|`|$)", page.read_text("utf-8"))}

    assert {"demo", "test", "docs"} <= named <= targets


def test_what_is_made_from_the_code_is_what_the_code_says() -> None:
    assert [name_of(path) for path in generator().stale()] == []


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()

    assert len(lines) <= 150
    assert sum(len(line.split()) for line in lines) <= 1200


def test_the_readmes_code_runs_and_steers_both_ways(run_block: Callable[[Block, dict[str, Any]], str]) -> None:
    kernel: dict[str, Any] = {}

    printed = {block.language: run_block(block, kernel) for block in blocks(README) if block.why_not_run is None}

    assert printed["python"] == "True\n"
    assert "All 8 laws hold." in printed["bash"]
    against, towards = (
        [score(prompt, text)["sycophancy"] for prompt, text in zip(kernel["prompts"], variant["texts"], strict=True)]
        for variant in kernel["compared"]["variants"]
    )
    assert max(against) < -0.5 < 0.5 < min(towards)
    assert steering_status()["applied"] == []


def test_each_cell_about_another_library_has_its_date() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    days = dict(re.findall(r"^- \*\*([a-z])\*\*: (\d+ \w+ \d{4})$", text, re.MULTILINE))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]

    assert len(rows) == 11
    for name, *cells in rows:
        assert len(cells) == 6, name
        assert all(re.search(r"<sup>([a-z])</sup>$", cell) for cell in cells), name
        assert {cell[-7] for cell in cells} <= set(days), name


def test_the_readmes_picture_is_the_demos_on_smollm2() -> None:
    """What the picture shows is what `python docs/picture.py` drew last, on the model that it names."""
    picture = (ROOT / "docs" / "pictures" / "steering.svg").read_text(encoding="utf-8")
    drawn = "".join(ElementTree.fromstring(picture).itertext())

    assert "Steering SmolLM2-135M-Instruct (30 layers, hidden size 576, " in drawn
    for name, prompts in BEHAVIORS.items():
        assert f"{name}, layer 15" in drawn
        assert prompts[0] in drawn
    quoted = re.search(r"-0\.25 +(.*) \.\.\.", (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))
    assert quoted
    assert " ".join(quoted[1].split()[:8]) in " ".join(drawn.split())
    assert drawn.count("random directions of the same norm") == len(BEHAVIORS)


def test_contributing_says_what_each_room_holds() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}

    assert told == {*generator().rooms.order(), "mcp_server"}


@pytest.mark.parametrize(
    ("shown", "printed", "lost"),
    [
        (("a 1.00 b",), "x\na 1.01  b\n", []),
        (("a 1.00 b",), "a 1.2 b", ["a 1.00 b"]),
        (("a", "...", "b"), "a\nx\nb", []),
        (("b", "a"), "a\nb", ["a"]),
        (("a -1",), "a +1", ["a -1"]),
        (("a 1 2",), "a 1", ["a 1 2"]),
    ],
)
def test_lines_that_were_not_printed_are_found(shown: tuple[str, ...], printed: str, lost: list[str]) -> None:
    assert missing(shown, printed) == lost
