"""A prompt's tokens, which of them a pooling reads, and what was read there. It must not know any runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from steer_tools.core.positions import NOWHERE, POOLINGS, BatchGeometry, Pooling, Scope
from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError, PromptError, quoted
from steer_tools.prompts import Prompt


@dataclass(frozen=True)
class TokenizedPrompt:
    """What the model is given for a prompt; all but the two positions has one item a token.

    Attributes:
        tokens: The ids.
        texts: As they are read, such as " house"; a part of a character as its bytes, such as "\\xe4\\xbd".
        special: Whether it is a special token and no text.
        first: Position of the first token after BOS.
        after_user: Position of the first token after the last user message; NOWHERE in prompts without one.
        response: That of a last assistant message, which goes to the end; NOWHERE in prompts without one.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    special: tuple[bool, ...]
    first: int
    after_user: int
    response: int = NOWHERE

    def geometry(self, tokens: int) -> BatchGeometry:
        """Return where the first `tokens` tokens of a lone row stand that goes on behind the prompt."""
        return BatchGeometry(
            positions=torch.arange(tokens)[None],
            prompt_lengths=torch.tensor([len(self.tokens)]),
            first=torch.tensor([self.first]),
            after_user=torch.tensor([self.after_user]),
        )

    def mask(self, scope: Scope) -> Tensor:
        """Return (tokens,) bool, true at the tokens of the prompt that `scope` takes."""
        return self.geometry(len(self.tokens)).mask(scope)[0]

    def pooled(self, pooling: "AnyPooling") -> Tensor:
        """Return (tokens,) bool: which tokens a pooling names.

        Raises:
            ArgumentError: It is none, or a function that does not say one bool a token.
            PromptError: It names none of this prompt's.
        """
        position = torch.arange(len(self.tokens))
        last = len(position) - 1
        match pooling:
            case "last":
                chosen = position == last
            case "first":
                chosen = position == min(self.first, last)
            case "mean":
                chosen = ~torch.tensor(self.special)
            case "response":
                chosen = position >= self.response
            case int() if not isinstance(pooling, bool):
                chosen = position == (pooling if pooling >= 0 else pooling + len(position))
            case _:
                chosen = torch.as_tensor(require_pooling(pooling)(self))
                if chosen.dtype != torch.bool or chosen.shape != position.shape:
                    raise ArgumentError(
                        f"The pooling function returned {chosen.dtype} of shape {tuple(chosen.shape)} for a prompt of "
                        f"{len(position)} tokens",
                        valid="one bool a token, true where it is read",
                    )
        if not chosen.any():
            said = "the pooling function" if callable(pooling) else f"pooling={pooling!r}"
            raise PromptError(
                f"The prompt of the tokens {self.texts!s:.80} has no token that {said} would read",
                valid="for 'response', chats whose last message is the assistant's; for 'mean', prompts with some text",
                fix="Use pooling='last', or change the prompts.",
            )
        return chosen


# Which tokens of a prompt are read, said by (tokens,) bool.
PoolingFunction: TypeAlias = Callable[[TokenizedPrompt], Sequence[bool] | Tensor]
# An integer is the place of one token, from the end where it is negative.
AnyPooling: TypeAlias = Pooling | PoolingFunction | int


def require_pooling(pooling: object) -> PoolingFunction:
    """Return a pooling function.

    Raises:
        ArgumentError: It is none.
    """
    if not callable(pooling):
        raise ArgumentError(
            f"pooling is {quoted(pooling)}", valid=f"{', '.join(map(repr, POOLINGS))}, a token's index, or a function"
        )
    return cast(PoolingFunction, pooling)


class Activations(dict[Site, Tensor]):
    """What was read at each site, (prompts, width) float32 on the CPU.

    Attributes:
        left_out: (prompts,) how many of the tokens that the pooling names were left out as attention sinks.
        taken: (prompts,) how many of those that were read are attention sinks, as far as the pass went.
    """

    def __init__(self, by_site: Mapping[Site, Tensor], left_out: Tensor, taken: Tensor) -> None:
        super().__init__(by_site)
        self.left_out, self.taken = left_out, taken


def counted(named: Sequence[Tensor], masks: Sequence[Tensor], sinks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (prompts,) how many of the named tokens are not in the masks, and (prompts,) how many sinks are."""
    left_out = [int((own & ~mask).sum()) for own, mask in zip(named, masks, strict=True)]
    taken = [int((mask & own).sum()) for mask, own in zip(masks, sinks, strict=True)]
    return torch.tensor(left_out), torch.tensor(taken)


# A mean over tokens is that of a sink where one is among them; who names one token has it.
MEANS = ("mean", "response")


def sink_warnings(pooling: AnyPooling, read: Sequence[Activations]) -> list[str]:
    """Say how many attention sinks were left out, or were read because they are what was asked for."""
    left_out, taken = (torch.cat(found) for found in zip(*((own.left_out, own.taken) for own in read), strict=True))
    warnings: list[str] = []
    if left_out.any():
        count = f"{int(left_out.sum())} tokens in {int((left_out > 0).sum())} of {len(left_out)} prompts"
        warnings.append(
            f"{count} are attention sinks (many times longer than the others, as the first token of a text without BOS "
            f"may be), and pooling={pooling!r} leaves them out."
        )
    if taken.any():
        otherwise = "it has no other token there" if pooling in MEANS else "pooling='mean' reads the others"
        warnings.append(
            f"In {int((taken > 0).sum())} of {len(taken)} prompts pooling={pooling!r} reads an attention sink, whose "
            f"activations hold little of the text: {otherwise}."
        )
    return warnings


# Reads prompts at some sites with nothing applied.
Read: TypeAlias = Callable[[Sequence[Prompt], Sequence[Site], Pooling], Mapping[Site, Tensor]]
