"""What of beginnings a model allows to share, found by trial: the same rows whole, and with parts of them run once.

It must not know what is shared later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.branch_passes import Branch, BranchPasses, Path, Sharing, Tokens, required
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks
from steer_tools.engines.huggingface.memory import is_out_of_memory
from steer_tools.engines.huggingface.probe import Behaviour
from steer_tools.engines.huggingface.prompt_caches import Beginning, cache_of, is_divisible

# Of the largest of a token's logits, by which two ways of the same may differ.
_TOLERANCE = 1e-3
# What models raise that keep something of their own from pass to pass, and mix it up with the next one's.
MODEL_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


class SharingTrial:
    """Tries one model; `follow` makes a batch of prompts generate given tokens, and returns the logits before each."""

    def __init__(
        self,
        architecture: Architecture,
        hooks: SteeringHooks,
        behaviour: Behaviour,
        passes: BranchPasses,
        follow: Callable[..., Tensor],
        *,
        pad_token: int,
    ) -> None:
        self._architecture, self._hooks, self._behaviour = architecture, hooks, behaviour
        self._passes, self._follow, self._pad_token = passes, follow, pad_token

    def outcome(self) -> Sharing | None:
        """Return what the model allows; None where it is nothing."""
        if not (self._behaviour.right_is_exact and self._behaviour.company != "alone"):
            return None
        a, b, c, d, e = self._architecture.text_tokens(5)
        paths = [Path((a, b), (c, d)), Path((a, b), (c, e)), Path((b,), (e, d))]
        can_pass, last = self._hooks.make_passable(), self._passes.last
        with self._hooks.running(Run()), torch.no_grad():
            ids, real = pad([path.before + path.tokens for path in paths], self._pad_token, left=False)
            logits, template = forward(self._architecture, ids, real, cache=True)
        if not is_divisible(template, last + 1):
            return None
        whole = {path: logits[row, (ends := len(path.before)) : ends + 2] for row, path in enumerate(paths)}
        for pads in (True, False) if self._behaviour.company == "padded" else (False,):
            # Without padding, two rows that begin alike.
            some = paths if pads else paths[:2]
            expected = [whole[path] for path in some]
            self._passes.sharing = sharing = Sharing(template, pads)
            if self._agrees(partial(self._resumed, some, -1), expected):
                starts = {0, last // 2, last - 1, last}.difference(self._architecture.idle_layers, {-1})
                return replace(
                    sharing,
                    resumes=can_pass and all(self._agrees(partial(self._resumed, some, at), expected) for at in starts),
                    generates=self._agrees(partial(self._generated, some), self._generated(some, shares=False)),
                )
        return None

    def _resumed(self, paths: Iterable[Path], start: int) -> Tensor:
        """Return the logits after the tokens of paths, behind what they begin with, and behind a block."""
        beginnings = self._heads(paths)
        traces = self._passes.unsteered({path: {start} for path in paths}, beginnings)
        branches = [Branch(path, beginnings[path.before], traces[path].hidden.get(start)) for path in paths]
        return required(self._passes.run(branches, start=start))

    def _generated(self, paths: Iterable[Path], *, shares: bool = True) -> Tensor:
        """Return the logits before tokens that are forced behind the first of each path's."""
        beginnings = self._heads(paths)
        own = [beginnings[path.before] for path in paths]
        return self._follow(
            [path.before + path.tokens[:1] for path in paths],
            [path.tokens[::-1] for path in paths],
            _unsteered_run,
            cache=cache_of(self._passes.template, own, reserved=8) if shares else None,
        )

    def _heads(self, paths: Iterable[Path]) -> dict[Tokens, Beginning]:
        heads = self._passes.unsteered({Path((), path.before): () for path in paths}, leave_beginnings=True)
        return {path.tokens: required(trace.beginning) for path, trace in heads.items()}

    def _agrees(self, way: Callable[[], Tensor], expected: Sequence[Tensor] | Tensor) -> bool:
        """Return whether logits (rows, tokens, vocabulary) are as expected."""
        try:
            found = way()
        except MODEL_ERRORS as error:
            if is_out_of_memory(error):
                raise
            return False
        wanted = torch.stack(list(expected))
        gap, largest = (found - wanted).abs().amax(dim=-1), wanted.abs().amax(dim=-1)
        return bool((gap <= max(_TOLERANCE, 8 * torch.finfo(self._architecture.dtype).eps) * largest).all())


def _unsteered_run(real: Tensor) -> Run:
    return Run()
