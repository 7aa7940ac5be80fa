"""The pages for who comes from another package: ten lines there and here, and what both gave is the same.

The lines there ran in the package's environment (tests/peers/migration.py), which recorded what they gave; here ours
run and are held to it. Pages of programs that are no Python package are run by test_manual, our side alone.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.manual import DOCS, links
from helpers.migration import PACKAGES, PAGES, Section, difference, plain, sections
from helpers.places import ROOT
from steer_tools.session.session import Session

RECORDED = ROOT / "tests" / "peers" / "files" / "numbers" / "migration"
# Relative to the largest number; both sides compute in float32.
CLOSE = 2e-6
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
by_package = pytest.mark.parametrize("name", PACKAGES)


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def page_of(name: str) -> Path:
    return DOCS / "migration" / f"{name}.md"


@pytest.fixture
def run(empty_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Run our side of a page, and return by title what it came to."""

    def run(name: str) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {}
        ours: dict[str, Any] = {}
        for section in sections(page_of(name)):
            namespace.pop("ours", None)
            for block in section.here:
                exec(compile(block.text, f"{name}:{block.line}", "exec"), namespace)
            if "ours" in namespace:
                ours[section.title] = plain(namespace["ours"])
            if not section.title:
                ours["unsteered"] = namespace["answer"](namespace["model"])
        return ours

    return run


@by_page
def test_a_page_has_ten_lines_there_and_here(page: Path) -> None:
    setup, *rest = sections(page)

    assert not setup.title and not setup.there and len(setup.here) == 1
    assert [section.title.partition(".")[0] for section in rest] == [str(number) for number in range(1, 11)]
    assert all(len(section.there) == len(section.here) == 1 for section in rest)


@by_page
def test_code_that_runs_elsewhere_is_at_least_python(page: Path) -> None:
    for section in sections(page):
        for block in section.there:
            assert block.language == "sh" or ast.parse(block.text)


def test_the_index_leads_to_every_page() -> None:
    assert set(links(page_of("index"))) >= {page.name for page in PAGES}
    assert {page.stem for page in PAGES} >= set(PACKAGES)


@by_package
def test_what_was_recorded_is_what_the_page_shows_now(name: str) -> None:
    told, held = {section.title: section for section in sections(page_of(name))[1:]}, recorded(name)["sections"]

    assert {title: section.digest for title, section in told.items()} == {
        title: result["code"] for title, result in held.items()
    }
    assert {title for title, section in told.items() if _says(section, "theirs")} == {
        title for title, result in held.items() if "theirs" in result
    }
    assert set(recorded(name)["versions"]) == {"python", *PACKAGES[name], "torch", "transformers"}


@pytest.mark.slow
@by_package
def test_our_line_gives_what_the_packages_line_gave(name: str, run: Callable[[str], dict[str, Any]]) -> None:
    ours = run(name)

    unsteered = ours.pop("unsteered")
    theirs = {title: held["theirs"] for title, held in recorded(name)["sections"].items() if "theirs" in held}
    assert set(ours) == set(theirs)
    assert len(theirs) >= 8
    assert {title: difference(ours[title], theirs[title]) for title in theirs} == {
        title: pytest.approx(0, abs=CLOSE) for title in theirs
    }
    # Texts are equal because both were steered, not because neither was.
    texts = [text for text in theirs.values() if isinstance(text, str)]
    assert [text for text in texts if text != unsteered]


def test_other_numbers_and_other_texts_differ() -> None:
    assert difference([1.0, 2.0], [1.0, 2.0]) == 0
    assert difference([1.0, 2.0], [1.0, 2.1]) == pytest.approx(0.1 / 2.1)
    assert difference([1.0], [1.0, 2.0]) == difference("a", "b") == difference(["a"], ["b"]) == float("inf")
    assert difference("a", "a") == difference(["a"], ["a"]) == 0


def _says(section: Section, name: str) -> bool:
    return any(f"{name} = " in block.text or f"{name}.append" in block.text for block in section.there)
