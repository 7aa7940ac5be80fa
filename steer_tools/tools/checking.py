"""The tools that show what would be steered, and prove what is."""

from steer_tools.core.positions import Scope
from steer_tools.errors import ArgumentError
from steer_tools.parameters import (
    CheckFigure,
    CheckPrompts,
    CheckResult,
    MaxNewTokens,
    Positions,
    Prompts,
    PromptTokensStatus,
    TokensResult,
)
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, parse_prompts, require_user_message
from steer_tools.session.checks import run_checks
from steer_tools.session.comparison import acting
from steer_tools.session.session import Session, current_session
from steer_tools.tools.results import rounded


def show_tokens(prompts: Prompts, positions: Positions = "generated") -> TokensResult:
    """Show how prompts are tokenised, chat template included, and at which tokens `positions` would steer."""
    session = current_session()
    with session.lock:
        scope, parsed = Scope.parse(positions), parse_prompts(prompts)
        for prompt in parsed if scope.needs_chat else ():
            require_user_message(prompt)
        tokenized = [session.engine.tokenize(prompt) for prompt in parsed]
        return TokensResult(
            prompts=[
                PromptTokensStatus(
                    ids=list(one.tokens),
                    tokens=list(one.pieces),
                    steered=one.mask(scope).nonzero().squeeze(1).tolist(),
                )
                for one in tokenized
            ],
            new_tokens_steered=scope.takes_new_tokens,
        )


def check_steering(prompts: CheckPrompts = None, max_new_tokens: MaxNewTokens = 8) -> CheckResult:
    """Prove on the live model that what is applied does exactly what it says, and that removing it restores.

    Covers the edit bit for bit and its token positions, removal, and cached, batched and live generation. It does not
    say whether the text is good or changed as wanted: compare_generations shows that.
    """
    session = current_session()
    with session.lock:
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
