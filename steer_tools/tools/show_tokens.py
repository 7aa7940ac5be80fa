"""The tool that shows how prompts are tokenised and what would be steered."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from steer_tools.prompts import parse_prompts, require_user_message
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, Text, chosen, joined, line, stack
from steer_tools.tools.resolving import locked_session


class PromptTokensStatus(TypedDict):
    """One prompt: its ids, each as text (a part of a character as its bytes), and the positions to be steered."""

    ids: list[int]
    tokens: list[str]
    steered_positions: list[int]


class TokensResult(TypedDict):
    """The prompts in their order; `new_tokens_steered` says whether each new token would be steered, too."""

    prompts: list[PromptTokensStatus]
    new_tokens_steered: bool


@checked
def show_tokens(prompts: given.Prompts, positions: given.ScoredPositions = "generated") -> TokensResult:
    """Show how prompts are tokenised, chat template included, and at which tokens `positions` would steer."""
    from steer_tools.core.positions import Scope

    with locked_session() as session:
        scope, parsed = Scope.parse(positions), parse_prompts(prompts)
        for prompt in parsed if scope.needs_chat else ():
            require_user_message(prompt)
        tokenized = [session.engine.tokenize(prompt) for prompt in parsed]
        return TokensResult(
            prompts=[
                PromptTokensStatus(
                    ids=list(one.tokens),
                    tokens=list(one.texts),
                    steered_positions=one.mask(scope).nonzero().squeeze(1).tolist(),
                )
                for one in tokenized
            ],
            new_tokens_steered=scope.takes_new_tokens,
        )


def show(result: TokensResult, *, is_plain: bool) -> Shown:
    """Render each prompt's tokens in their order, those that would be steered marked."""
    lines = [line(" ").join(_tokens_of(prompt, is_plain=is_plain)) for prompt in result["prompts"]]
    new = "every new token, too" if result["new_tokens_steered"] else "no new token"
    legend = joined(chosen("Marked", is_plain=is_plain), (f" tokens would be steered, and {new}.", "dim"))
    return stack(*(part for tokens in lines for part in (tokens, line(""))), legend)


def _tokens_of(prompt: PromptTokensStatus, *, is_plain: bool) -> list[Text]:
    from steer_tools.tools.colours import token_text

    steered, texts = set(prompt["steered_positions"]), map(token_text, prompt["tokens"])
    return [chosen(text.plain, is_plain=is_plain) if i in steered else text for i, text in enumerate(texts)]


def items(result: TokensResult) -> Sequence[Any]:
    """Return the prompts, or the tokens of the only one."""
    prompts = result["prompts"]
    return prompts[0]["tokens"] if len(prompts) == 1 else prompts


TOOL = Card(
    "Show tokens and which would be steered",
    "inspect",
    command="tokens",
    about="Show what the model is given for prompts, chat template included, and which tokens would be steered.",
    positional=("prompts",),
    is_read_only=True,
    items=items,
).tool(show_tokens, show)
