"""The tool that proves that the steering is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, figure, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import rounded

if TYPE_CHECKING:
    from steer_tools.session.session import Session


class CheckFigure(TypedDict):
    """One law with its figure."""

    name: str
    passed: bool
    figure: float | None
    expected: str


class CheckResult(TypedDict):
    """Whether all laws hold; `warnings` says if nothing was edited, so that they say little."""

    passed: bool
    checks: list[CheckFigure]
    warnings: list[str]


@checked
def check_steering(prompts: given.CheckPrompts = None, max_new_tokens: given.MaxNewTokens = 8) -> CheckResult:
    """Prove on the live model that what is applied does exactly what it says, and that removing it restores.

    Covers the edit bit for bit and its token positions, removal, and cached, batched and live generation. It does not
    say whether the text is good or changed as wanted: compare_generations shows that.
    """
    from steer_tools.session.checks import run_checks
    from steer_tools.session.comparison import acting

    with locked_session() as session:
        engine = session.engine
        if not session.registry.plan():
            raise ArgumentError(
                "Nothing is applied, so there is nothing to check", fix="Call apply_steering_vector first."
            )
        chosen = _neutral_prompts(session) if prompts is None else parse_prompts(prompts)
        proof = run_checks(engine, chosen, max_new_tokens)
        unmet = [
            entry.steering_id
            for entry in session.registry.entries()
            if acting(engine, chosen, [entry.placements]) == [0] * len(chosen)
        ]
        return CheckResult(
            passed=all(check.passed for check in proof.checks),
            checks=[
                CheckFigure(name=c.name, passed=c.passed, figure=rounded(c.figure), expected=c.expected)
                for c in proof.checks
            ],
            warnings=[
                *([f"Nothing was edited: {proof.idle}."] if proof.idle else []),
                *(f"No prompt meets the condition of {steering_id}, so it was not checked." for steering_id in unmet),
            ],
        )


def _neutral_prompts(session: Session) -> tuple[Prompt, ...]:
    """Return a few texts, or chats where what is applied counts its positions from a user message."""
    prompts = session.engine.neutral_prompts[:3]
    if not any(placement.positions.needs_chat for placement in session.registry.plan()):
        return prompts
    return tuple(ChatPrompt((("user", prompt.text),)) for prompt in prompts if isinstance(prompt, TextPrompt))


def show(result: CheckResult) -> Shown:
    """Render each law with its figure."""
    columns = {"law": "fold", "figure": "right", "expected": "fold", "ok": "left"}
    rows = [
        (
            check["name"].replace("_", " "),
            figure(check["figure"]),
            line(check["expected"]),
            line("yes", "green") if check["passed"] else line("NO", "bold red"),
        )
        for check in result["checks"]
    ]
    broken = sum(not check["passed"] for check in result["checks"])
    summary = (
        line(f"All {len(rows)} laws hold.", "bold green")
        if result["passed"]
        else line(f"{broken} of {len(rows)} laws are broken.", "bold red")
    )
    return stack(table(columns, rows), summary, *warning_lines(result["warnings"]))


TOOL = Card(
    "Prove that the steering is exact",
    "core",
    command="check",
    about="Prove that a vector does exactly what it says, and that removing it restores; exit code 3 if a "
    "law is broken.",
    vector="required",
    positional=("prompts",),
    is_read_only=True,
).tool(check_steering, show)
