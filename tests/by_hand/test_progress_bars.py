"""The bar that a notebook shows while a tool works."""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

import pytest

import steer_tools
from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools.by_hand import progress_bars
from steer_tools.by_hand.progress_bars import notebook_bar
from steer_tools.progress import report, reporting_to
from steer_tools.session.session import Session


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(progress_bars, "_DELAY", 0)


def work() -> None:
    for done, what in ((1, "reading"), (3, "judging")):
        time.sleep(0.15)  # It is drawn ten times a second.
        report(done, 4, what)


def test_a_notebook_shows_how_far_the_work_is_and_what_it_does(notebook: None, capsys: Any) -> None:
    with notebook_bar("sweep"):
        work()

    told = capsys.readouterr().err
    assert "sweep: reading" in told and " 25 %|" in told
    assert "sweep: judging" in told and " 75 %|" in told
    assert "it/s" not in told and "/4" not in told


def test_it_is_shown_nowhere_else(capsys: Any) -> None:
    with notebook_bar("sweep"):
        work()

    assert capsys.readouterr().err == ""


def test_who_listens_gets_it_instead_of_the_bar(notebook: None, capsys: Any) -> None:
    heard: list[tuple[float, float, str]] = []

    with reporting_to(lambda *told: heard.append(told)), notebook_bar("sweep"):
        work()

    assert [told[:2] for told in heard] == [(1, 4), (3, 4)]
    assert capsys.readouterr().err == ""


def test_a_tool_that_is_called_in_a_notebook_shows_it(notebook: None, llama_session: Session, capsys: Any) -> None:
    steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "v")

    assert "create_steering_vector" in capsys.readouterr().err
