"""What a tool does first: it takes the session, and refuses arguments that mean nothing. No torch at import."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from steer_tools.errors import ArgumentError, quoted
from steer_tools.prompts import Prompt

if TYPE_CHECKING:
    from steer_tools.session.session import Session


@contextmanager
def locked_session(*, keeps: bool = False) -> Generator[Session]:
    """Hold the session while a tool works: one tool at a time has the model.

    With `keeps`, prompts that the tool comes back to leave behind what they have in common.
    """
    from steer_tools.session.session import current_session

    with current_session().at_work() as session, session.engine.keeping() if keeps else nullcontext():
        yield session


def resolved_layers(session: Session, layers: object, default: Sequence[int]) -> list[int]:
    """Return the layers counted from 0, once each and in order; `default` where none are given.

    Raises:
        ArgumentError: It is no list.
        LayerError: The list is empty, or the model lacks one.
    """
    if layers is None:
        return list(default)
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise ArgumentError(f"layers is {quoted(layers)}", valid="a list of layers, such as [2], or leave it out")
    return sorted(session.resolved_layers(layers, "layers", "at least one layer, or leave it out"))


def bypass_warnings(session: Session, prompts: Sequence[Prompt]) -> list[str]:
    """Say how many prompts go round the chat template; a closed language has plain texts of its own."""
    if session.engine.info.language is not None:
        return []
    count = sum(map(session.engine.goes_round_template, prompts))
    told = f"{count} of {len(prompts)} prompts are plain texts, which go round the model's chat template: "
    return [f"{told}give messages, as a user's are, to steer what it answers."] if count else []


def overwritten_warnings(session: Session) -> list[str]:
    """Say of each applied vector whose file holds something else by now that it acts as it was."""
    from steer_tools.session.vector_loading import changed_files

    changed = {entry.steering_id: changed_files(session.workspace, entry) for entry in session.registry.entries()}
    return [
        f"{steering_id} was applied from {' and '.join(paths)}, which holds something else now; it acts as it was: "
        "apply the file again for what is in it."
        for steering_id, paths in changed.items()
        if paths
    ]


def require_at_least_one(name: str, value: object) -> None:
    """Refuse what is no whole number from 1.

    Raises:
        ArgumentError: It is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{name} is {quoted(value)}", valid="a whole number from 1")


def require_text(name: str, value: object) -> None:
    """Refuse what is no text, or an empty one.

    Raises:
        ArgumentError: It is something else.
    """
    if not isinstance(value, str) or not value:
        raise ArgumentError(f"{name} is {quoted(value)}", valid="some text")


def require_one_of(name: str, value: object, valid: Sequence[str]) -> None:
    """Refuse a value that is none of some names: in Python nobody has held it to the schema.

    Raises:
        ArgumentError: It is another one.
    """
    if value not in valid:
        raise ArgumentError(f"{name} is {quoted(value)}", valid=", ".join(map(repr, valid)))
