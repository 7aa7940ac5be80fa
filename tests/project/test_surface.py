"""What users call by name stays as it was when the rooms were rebuilt, but for listed changes, each with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.places import DATA
from helpers.surface import surface

ABSENT = "absent"


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """Return path → [before, after] of every leaf that is not the same in both."""
    paths = sorted(before.keys() | after.keys())
    pairs = {path: [before.get(path, ABSENT), after.get(path, ABSENT)] for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def read(name: str) -> dict[str, Any]:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def test_every_command_option_default_and_schema_is_as_before_but_for_the_listed_changes() -> None:
    listed = read("surface_changes.json")

    found = differences(read("surface.json"), json.loads(json.dumps(surface())))

    assert found == {path: [change["before"], change["after"]] for path, change in listed.items()}
    assert all(change["reason"] for change in listed.values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("commands/sweep/parameters/--strength/type", "str"),
        ("commands/sweep/parameters/--new/type", "str"),
        ("tools/generate/input_schema/properties/seed/default", 1),
    ],
)
def test_a_change_is_seen(path: str, value: object) -> None:
    before = read("surface.json")

    assert differences(before, {**before, path: value}) == {path: [before.get(path, ABSENT), value]}


def test_what_is_gone_is_seen() -> None:
    before = read("surface.json")
    after = {path: value for path, value in before.items() if not path.startswith("commands/undo/")}

    assert differences(before, after).keys() == before.keys() - after.keys() != set()
