"""A badge is a proof only of the file, the model and the cell that were proved; sessions can hold to that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.certificates import CELL, TEXTS, certificate, certified_file
from helpers.small_models import PROMPTS
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    combine_steering_vectors,
    compare_generations,
    load_vector,
    remove_all_steering_vectors,
    save_vector,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.core.site import Site
from steer_tools.core.vectors import Verdict
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import NoModelError, UnverifiedVectorError
from steer_tools.session.session import Session

WORKS = "verified: works, +0.62 (0.48 to 0.75), 0 of 19 controls"


@pytest.fixture
def session(empty_session: Session) -> Iterator[Session]:
    empty_session.attach_engine(FakeEngine())
    yield empty_session
    empty_session.require_verified = None


@pytest.fixture
def strict(session: Session) -> Session:
    session.require_verified = True
    return session


def compared(vector: str | None, **how: Any) -> str | None:
    return compare_generations(PROMPTS[:1], vector, max_new_tokens=2, **how)["variants"][0]["badge"]


def applied() -> list[str | None]:
    return [entry["badge"] for entry in steering_status()["applied"]]


def saved(path: str) -> str | None:
    return next(entry["badge"] for entry in steering_status()["saved"] if entry["vector_path"] == path)


# Badges


def test_a_vector_at_the_cell_that_was_proved_has_its_badge_everywhere(session: Session) -> None:
    path = certified_file(session)

    apply_steering_vector(path)

    assert saved(path) == WORKS
    assert applied() == [WORKS]
    assert compared(path) == WORKS
    assert compared(None) == WORKS
    plain = str(session.workspace.root / "plain_proved.safetensors")
    assert (saved(plain), compared(plain, layer=2)) == (None, None)


def test_the_same_edit_in_another_unit_is_the_cell_that_was_proved(session: Session) -> None:
    path = certified_file(session)
    added = session.typical_norm(Site(CELL.layer)) * CELL.strength / load_vector(path).magnitude(CELL.layer)

    assert compared(path, layer=2, unit="vector", positions="all", strength=added) == WORKS


@pytest.mark.parametrize(
    "otherwise",
    [
        {"layer": 1},
        {"strength": 0.3},
        {"strength": -0.25},
        {"positions": "generated"},
        {"unit": "contrast", "strength": 0.25},
        {"intervention": "add_keeping_norm", "layer": 2, "unit": "residual", "positions": "all", "strength": 0.25},
        {"condition": "plain_proved@2"},
    ],
    ids=str,
)
def test_a_vector_that_acts_otherwise_is_not_shown_as_verified(session: Session, otherwise: dict[str, Any]) -> None:
    path = certified_file(session)

    told = compared(path, **otherwise)

    assert told is not None
    assert told.startswith("not verified: works at layer 2, strength 0.25 (residual), tokens all")


def test_a_changed_strength_is_another_cell_and_two_vectors_are_another_thing(session: Session) -> None:
    path = certified_file(session)
    first = apply_steering_vector(path)["steering_id"]

    update_steering_vector(first, 0.5)
    moved = applied()
    update_steering_vector(first, CELL.strength)
    apply_steering_vector("plain_proved", 1, 0.1)

    assert (moved[0] or "").startswith("not verified")
    assert applied() == [f"{WORKS} (by itself; 2 are applied)", None]
    assert compared(None) == "not verified: several vectors act together"


def test_what_was_proved_on_another_model_is_no_proof_on_this_one(session: Session) -> None:
    path = certified_file(session)

    session.attach_engine(FakeEngine("another"))
    told = [saved(path), compared(path, allow_other_model=True)]
    apply_steering_vector(path, allow_other_model=True)

    for badge in [*told, *applied()]:
        assert badge == "not verified: its certificate is of another model, and nothing is proved on another"


def test_what_was_proved_with_other_options_of_the_chat_template_is_no_proof(session: Session) -> None:
    session.engine.info = replace(session.engine.info, template_options={"enable_thinking": False})
    path = certified_file(session)
    proved = saved(path)
    session.engine.info = replace(session.engine.info, template_options={})

    assert proved == WORKS
    assert saved(path) == (
        "not verified: its certificate is of other options of the chat template, {'enable_thinking': False}"
    )


def test_an_altered_file_is_told(session: Session) -> None:
    path = Path(certified_file(session))
    strength = b'"strength":0.25'
    content = path.read_bytes()
    assert content.count(strength) == 0  # In the JSON of a safetensors header quotes are escaped.
    path.write_bytes(content.replace(rb"\"strength\":0.25", rb"\"strength\":0.35"))

    told = compared(str(path))

    assert told == (
        "not verified: the file was altered, its cell, its model or its figures are not those that were sealed"
    )


@pytest.mark.parametrize(
    "verdict", ["ranks, does not write", "breaks the model", "indistinguishable from random", "cannot tell"]
)
def test_another_verdict_is_no_proof(session: Session, verdict: Verdict) -> None:
    path = certified_file(session, proved=certificate(verdict=verdict))

    assert saved(path) == f"not verified: {verdict}, +0.62 (0.48 to 0.75), 0 of 19 controls"
    assert compared(path) == saved(path)


def test_a_certificate_without_texts_says_that_they_could_not_decide(session: Session) -> None:
    path = certified_file(session, proved=certificate(verdict="cannot tell", texts=None, without_texts="why"))

    assert saved(path) == "not verified: cannot tell, texts could not decide"


def test_a_vector_for_less_of_it_says_so(session: Session) -> None:
    less = certificate(direction="less", texts=TEXTS.model_copy(update={"interval": None, "controls": None}))

    assert saved(certified_file(session, proved=less)) == "verified: works, +0.62 of less"


# Only verified ones


def test_where_it_is_required_a_verified_vector_is_applied_at_its_cell_by_itself(strict: Session) -> None:
    path = certified_file(strict)

    assert apply_steering_vector(path)["success"]
    assert remove_all_steering_vectors()["removed"] == 1
    with steering(path) as entry:
        assert entry.strength == CELL.strength


def combination(session: Session) -> str:
    path = certified_file(session)
    return combine_steering_vectors([path, path], "twice")["vector_path"]


def of_verdict(**changed: Any) -> Callable[[Session], str]:
    return lambda session: certified_file(session, proved=certificate(**changed))


def altered(session: Session) -> str:
    path = certified_file(session)
    info = load_vector(path).info
    own = {**load_vector("plain_proved").directions, 2: -load_vector(path)[2]}

    return str(save_vector(SteeringVector(own, info=info), session.workspace.root / "altered.safetensors"))


def uncertified(session: Session) -> str:
    return str(Path(certified_file(session)).with_name("plain_proved.safetensors"))


@pytest.mark.parametrize(
    ("make", "how", "told"),
    [
        (uncertified, {"layer": 2, "strength": 0.25, "unit": "residual"}, "it has no certificate"),
        (combination, {"layer": 2, "strength": 0.25, "unit": "residual"}, "it has no certificate"),
        (altered, {}, "its direction at layer 2 is not the one that was proved"),
        (of_verdict(verdict="cannot tell"), {}, "cannot tell"),
        (of_verdict(verdict="cannot tell", texts=None, without_texts="why"), {}, "texts could not decide"),
        (certified_file, {"strength": 0.3}, "it is applied otherwise"),
        (certified_file, {"layer": 1}, "it is applied otherwise"),
        (certified_file, {"positions": "generated"}, "it is applied otherwise"),
    ],
)
def test_where_it_is_required_nothing_else_is_applied_and_it_is_told_how(
    strict: Session, make: Callable[[Session], str], how: dict[str, Any], told: str
) -> None:
    path = make(strict)

    with pytest.raises(UnverifiedVectorError, match="steering_experiment") as raised:
        apply_steering_vector(path, **how)
    with pytest.raises(UnverifiedVectorError), steering(path, **how):
        pass

    assert told in str(raised.value)
    assert not strict.registry.entries()
    strict.require_verified = False
    assert apply_steering_vector(path, **how)["success"]


def test_where_it_is_required_neither_another_model_nor_another_strength_nor_two_at_once_slip_through(
    strict: Session,
) -> None:
    path = certified_file(strict)
    held = apply_steering_vector(path)["steering_id"]

    with pytest.raises(UnverifiedVectorError, match="applied otherwise"):
        update_steering_vector(held, 0.5)
    with pytest.raises(UnverifiedVectorError, match="no certificate"), steering([path, path]):
        pass
    assert [entry.strength for entry in strict.registry.entries()] == [CELL.strength]
    strict.attach_engine(FakeEngine("another"))
    with pytest.raises(UnverifiedVectorError, match="another model"):
        apply_steering_vector(path, allow_other_model=True)


def test_where_it_is_required_vectors_can_still_be_looked_at(strict: Session) -> None:
    path = uncertified(strict)

    assert compare_generations(PROMPTS[:1], path, layer=2, max_new_tokens=2)["variants"][0]["badge"] is None


@pytest.mark.parametrize(
    ("value", "is_required"), [("1", True), ("true", True), ("nay", True), ("0", False), ("", False), (" No ", False)]
)
def test_the_environment_requires_it_too(
    session: Session, monkeypatch: pytest.MonkeyPatch, value: str, is_required: bool
) -> None:
    monkeypatch.setenv("STEER_TOOLS_REQUIRE_VERIFIED", value)

    assert session.is_proof_required == is_required
    session.require_verified = not is_required
    assert session.is_proof_required != is_required


@pytest.mark.usefixtures("empty_session")
def test_without_a_model_an_update_says_so_also_where_proof_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_TOOLS_REQUIRE_VERIFIED", "1")

    with pytest.raises(NoModelError):
        update_steering_vector("steer-1", 0.5)
