"""The table of hostile arguments: what each gets in Python, on the command line and over MCP, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from transformers.utils import logging as transformers_logging

from helpers.hostile_arguments import ANSWERED, HARMLESS, HOSTILE, TABLE, UNSAYABLE, Faces, Got, asked_of_all, table_of
from helpers.hostile_texts import hidden_in
from steer_tools.session.session import current_session

MOST_CHARACTERS, MOST_SECONDS = 2_000, 2
LEAST = {"python": 60, "command_line": 30, "mcp": 45}
_Got = list[tuple[Got, Got, Got]]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faces]:
    session, patch = current_session(), pytest.MonkeyPatch()
    before = session.workspace
    patch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "STEER_TOOLS_WORKSPACE"):
        patch.delenv(name, raising=False)
    transformers_logging.disable_progress_bar()
    yield Faces(tmp_path_factory.mktemp("hostile"))
    transformers_logging.enable_progress_bar()
    patch.undo()
    session.detach()
    session.workspace = before


@pytest.fixture(scope="module")
def got(faces: Faces) -> _Got:
    return asked_of_all(faces, HOSTILE)


def test_there_are_sixty_rows_and_each_face_is_asked_many() -> None:
    kept = json.loads(TABLE.read_text(encoding="utf-8"))

    assert len(kept) == len(HOSTILE) >= 60
    assert [sum(row[face] != UNSAYABLE for row in kept) >= least for face, least in LEAST.items()] == [True] * 3


def test_every_hostile_argument_is_refused_as_the_table_says(got: _Got) -> None:
    kept = json.loads(TABLE.read_text(encoding="utf-8"))

    assert table_of(HOSTILE, got) == kept, (
        "Run `python -m helpers.hostile_arguments` in tests/, and look at what changed."
    )
    assert not [row["about"] for row in kept if ANSWERED in (row["python"], row["command_line"], row["mcp"])]


def test_a_refusal_is_short_and_shows_no_hidden_letter_and_no_traceback(got: _Got) -> None:
    for row, answers in zip(HOSTILE, got, strict=True):
        for answer in answers:
            assert len(answer.text) <= MOST_CHARACTERS, row.about
            assert not hidden_in(answer.text), row.about
            assert "Traceback" not in answer.text, row.about
        assert answers[1].text == UNSAYABLE or answers[1].text.startswith(("exit status 1: ", "exit status 2: "))


def test_a_refusal_takes_little_time_and_leaves_the_session_as_it_was(got: _Got) -> None:
    for face in zip(*got, strict=True):
        asked = [(row.about, answer) for row, answer in zip(HOSTILE, face, strict=True) if answer.text != UNSAYABLE]
        assert [about for about, answer in asked if answer.seconds > MOST_SECONDS] == []
        # The first one tells what was there for all others.
        assert [about for about, answer in asked if answer.status != asked[0][1].status] == []
    # In Python and over MCP that is a vector that steers.
    sayable = next(answers for answers in got if UNSAYABLE not in [answer.text for answer in answers])
    assert [[entry["strength"] for entry in answer.status["applied"]] for answer in sayable] == [[0.5], [], [0.5]]


def test_the_same_harness_lets_harmless_arguments_through(faces: Faces, got: _Got) -> None:
    answers = asked_of_all(faces, HARMLESS)

    assert [[answer.text for answer in row] for row in answers] == [[ANSWERED] * 3] * len(HARMLESS)
    # What is left shows where something is left.
    assert answers[1][0].status != answers[0][0].status
