"""What users call by name stays as `surface.json` has it, but for listed changes, each with its reason.

`python -m helpers.surface > data/surface.json`, in tests/, takes it anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from helpers.places import DATA, ROOT
from helpers.surface import surface
from steer_tools.tools.choices import InterventionName, MethodName

GONE = "gone"
# Words of JSON Schema, which nobody calls by name.
GRAMMAR = frozenset({"$defs", "$ref", "anyOf"})
NAME = f"(?:{'|'.join((*get_args(MethodName), *get_args(InterventionName)))})"
LIST = re.compile(rf"(?:{NAME}, )*{NAME} and {NAME}\b")


def altered(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """Return path → [before, after] of every leaf that is gone or says something else."""
    pairs = {path: [value, after.get(path, GONE)] for path, value in before.items()}
    return {
        path: [old, new]
        for path, (old, new) in pairs.items()
        if unlisted(old) != unlisted(new) and not is_longer(path, old, new)
    }


def added(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names of what is new: commands, options, tools, arguments, keys of results, choices."""
    known = {whole for path in before for _, whole in steps(path)}
    new = [[part for part, whole in steps(path) if whole not in known] for path in after.keys() - before.keys()]
    names = {next(part for part in parts if part not in GRAMMAR) for parts in new if not GRAMMAR.issuperset(parts)}
    longer = [(before[path], new) for path, new in after.items() if is_longer(path, before.get(path), new)]
    return names | {name for old, new in longer for name in new if name not in old}


def is_longer(path: str, old: Any, new: Any) -> bool:
    """Return whether a list of choices, or of keys that a result has, only grew; what must be given may not."""
    lists = isinstance(old, list) and isinstance(new, list)
    return lists and old != new and [one for one in new if one in old] == old and "/input_schema/required" not in path


def unlisted(value: Any) -> Any:
    """Return a description without the methods or interventions that it lists, since such lists are generated."""
    return LIST.sub("...", value) if isinstance(value, str) else value


def steps(path: str) -> Iterator[tuple[str, str]]:
    """Yield each part of a path with the path up to it."""
    parts = path.split("/")
    yield from ((part, "/".join(parts[: index + 1])) for index, part in enumerate(parts))


def read(name: str) -> dict[str, Any]:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def with_new_names(before: dict[str, Any], listed: dict[str, Any]) -> dict[str, Any]:
    """Return the surface as it was, by the names that its commands and tools have now."""
    renamed = [(f"{path}/", f"{change['renamed']}/") for path, change in listed.items() if "renamed" in change]
    return {
        next((new + path.removeprefix(old) for old, new in renamed if path.startswith(old)), path): value
        for path, value in before.items()
    }


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return json.loads(json.dumps(surface()))


def test_every_command_option_default_and_schema_is_as_before_but_for_the_listed_changes(now: dict[str, Any]) -> None:
    listed = read("surface_changes.json")

    assert altered(with_new_names(read("surface.json"), listed), now) == {
        path: [change["before"], change["after"]] for path, change in listed.items() if "renamed" not in change
    }
    assert all(change["reason"] for change in listed.values())


def test_the_changelog_names_whatever_is_new(now: dict[str, Any]) -> None:
    words = set(re.findall(r"[\w-]+", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))

    assert added(read("surface.json"), now) - words == set()


def test_a_renamed_tool_is_held_to_what_it_had() -> None:
    before = {"tools/one/title": "One", "tools/one_more/title": "More"}
    listed = {"tools/one": {"renamed": "tools/another", "reason": "..."}}

    told = with_new_names(before, listed)

    assert altered(told, {"tools/another/title": "One", "tools/one_more/title": "More"}) == {}
    assert altered(told, {"tools/another/title": "Other", "tools/one_more/title": "More"}) == {
        "tools/another/title": ["One", "Other"]
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("commands/sweep/parameters/--strength/type", "str"),
        ("tools/generate/input_schema/properties/seed/default", 1),
        ("tools/generate/input_schema/required", ["prompts", "seed"]),
        ("tools/create_steering_vector/input_schema/properties/method/enum", ["mean_difference"]),
    ],
)
def test_a_change_is_seen(path: str, value: object) -> None:
    before = read("surface.json")

    assert altered(before, {**before, path: value}) == {path: [before[path], value]}


def test_what_is_gone_is_seen() -> None:
    before = read("surface.json")
    after = {path: value for path, value in before.items() if not path.startswith("commands/undo/")}

    assert altered(before, after).keys() == before.keys() - after.keys() != set()
    assert added(before, after) == set()


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("commands/sweep/parameters/--new/type", "str", "--new"),
        ("tools/generate/input_schema/properties/fresh/default", 1, "fresh"),
        ("tools/novelty/title", "New", "novelty"),
        ("tools/generate/output_schema/required", ["generations", "steered", "fresh"], "fresh"),
    ],
)
def test_what_is_new_is_seen(path: str, value: Any, name: str) -> None:
    before = read("surface.json")
    after = {**before, path: [*before[path], name] if path in before else value}

    assert added(before, after) == {name}
    assert altered(before, after) == {}
