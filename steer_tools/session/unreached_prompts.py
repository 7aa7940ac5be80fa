"""Prompts and the plans that are to steer them → the prompts of which a scope takes no token, so that nothing happens.

It must not know what tools return.
"""

from collections.abc import Iterable, Sequence

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.prompts import Prompt, prompt_text

_MOST_NAMED, _LONGEST_NAME = 3, 40


def unreached_warnings(engine: Engine, prompts: Sequence[Prompt], plans: Iterable[Plan]) -> list[str]:
    """Say of each scope which prompts it takes no token of, also when a new one is written."""
    scopes = dict.fromkeys(placement.positions for plan in plans for placement in plan if placement.strength)
    warnings: list[str] = []
    for scope in (scope for scope in scopes if not scope.takes_last_token):
        tokenized = [engine.tokenize(prompt) for prompt in prompts]
        missed = [i for i, own in enumerate(tokenized) if not bool(own.geometry(len(own.tokens) + 1).mask(scope).any())]
        if missed:
            named = [f"prompts[{i}] ({_beginning(prompts[i])!r})" for i in missed[:_MOST_NAMED]]
            more = f" and {len(missed) - len(named)} more" if len(missed) > len(named) else ""
            warnings.append(
                f"The positions '{scope}' take no token of {len(missed)} of {len(prompts)} prompts, where they steer "
                f"nothing: {', '.join(named)}{more}. show_tokens shows the tokens."
            )
    return warnings


def _beginning(prompt: Prompt) -> str:
    text = prompt_text(prompt)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."
