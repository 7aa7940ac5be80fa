"""Which columns of a batch are real, and where in each row the places are that scopes count from.

Masks and token ids come in, a layout leaves. It must not know calls, hooks or plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenMarks:
    """Ids by which places in a prompt are told.

    Attributes:
        bos: What starts a text, if anything does.
        answer_start: What the chat template puts between the last user message and the answer; empty without one.
        user_start: What it puts between an answer and the next user message.
    """

    bos: int | None = None
    answer_start: tuple[int, ...] = ()
    user_start: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What is known of a batch before the model is called; tensors on the CPU.

    Attributes:
        real: (rows, columns) bool, false at padding; columns beyond are generated, hence real.
        prompt_lengths: (rows,) real prompt tokens.
        first: (rows,) position of the first prompt token that is neither padding nor BOS; None where it is not known.
        after_user: (rows,) position of the first token after the last user message; None where it is not known.
    """

    real: Tensor
    prompt_lengths: Tensor
    first: Tensor | None = None
    after_user: Tensor | None = None


def layout_of(mask: Tensor, ids: Tensor | None, start: int, marks: TokenMarks) -> Layout:
    """Return the layout of a prompt of which `mask` (rows, columns) is known, and the ids from column `start` on."""
    lengths = mask.sum(dim=1)
    if ids is not None:
        ids = rows_of(ids.cpu(), len(mask))
    return Layout(mask, lengths, _first(ids, mask, start, marks.bos), _after_user(ids, mask, start, marks))


def rows_of(ids: Tensor, rows: int) -> Tensor:
    """Return `rows` rows of ids: beams and return sequences repeat each, in the ids or in what tells of them."""
    return ids[torch.arange(rows, device=ids.device) * len(ids) // rows]


def extended(real: Tensor, columns: int) -> Tensor:
    """Return a mask of at least `columns` columns; those that are added are generated tokens, hence real."""
    missing = max(0, columns - real.shape[1])
    return torch.cat([real, torch.ones(len(real), missing, dtype=torch.bool)], dim=1)


def _first(ids: Tensor | None, real: Tensor, start: int, bos: int | None) -> Tensor | None:
    """Return the position of the first prompt token after BOS; 0 for rows that do not start with BOS."""
    if bos is None or start > 1:
        return torch.zeros(len(real), dtype=torch.long)  # With two tokens cached, the first is not in this pass.
    if ids is None or start > 0:
        return None
    return (ids.gather(1, real.long().argmax(dim=1, keepdim=True)).squeeze(1) == bos).long()


def _after_user(ids: Tensor | None, real: Tensor, start: int, marks: TokenMarks) -> Tensor | None:
    """Return the position of the last place in each row where the chat template begins an answer; None if one lacks."""
    if ids is None or start > 0 or not marks.answer_start:
        return None
    column = _last(ids, marks.answer_start)
    if bool((column < 0).any()) or (marks.user_start and bool((column < _last(ids, marks.user_start)).any())):
        return None
    return column - (~real).sum(dim=1)


def _last(ids: Tensor, sought: Sequence[int]) -> Tensor:
    """Return the column where `sought` begins for the last time in each row; -1 where it does not."""
    if ids.shape[1] < len(sought):
        return torch.full((len(ids),), -1)
    found = (ids.unfold(1, len(sought), 1) == torch.tensor(sought)).all(dim=2)
    column = found.shape[1] - 1 - found.flip(1).long().argmax(dim=1)
    return torch.where(found.any(dim=1), column, -1)
