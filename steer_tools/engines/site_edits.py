"""One site's placements for every row of a batch, compiled: hidden states and geometry → edited hidden states.

Shared by the engines that hold hidden states as tensors. Knows rows, masks, dtype and device, so that interventions
need not. It must not know hooks or models.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import torch
from torch import Tensor

from steer_tools.core.interventions import Add, Intervention
from steer_tools.core.plan import Placement
from steer_tools.core.positions import BatchGeometry, Scope
from steer_tools.core.site import Site
from steer_tools.errors import StrengthError

# x + (-0.0) is x for every x, the two zeros included, so that what is not edited stays bit-equal.
_NO_CHANGE = -0.0


@dataclass(frozen=True)
class _Step:
    """One intervention of some rows: `member[r]` is the row's line in `strengths` and `deltas`, -1 if it has none.

    For additions `deltas` holds strength · direction, (lines, width) float32; else it is None.
    """

    scope: Scope
    intervention: Intervention
    member: Tensor
    strengths: Tensor
    deltas: Tensor | None


class SiteEdits:
    """The compiled edits of one site.

    Adjacent additions with equal positions are summed in float32 and added once. All edits of a pass are done in
    float32 and rounded to the model's dtype once, out of place.
    """

    def __init__(self, placements_by_row: Sequence[Sequence[Placement]]) -> None:
        self.row_count = len(placements_by_row)
        merged = [_merge_additions(placements) for placements in placements_by_row]
        self._steps = [step for column in zip_longest(*merged) for step in _steps_of(column)]
        self._dense_cache: tuple[tuple[bool, ...], Tensor] | None = None

    def __call__(self, hidden: Tensor, geometry: BatchGeometry) -> Tensor | None:
        """Return the edited copy of `hidden` (rows, tokens, width), or None where no token is touched.

        A batch may hold each row several times in a run, as beam search does.
        """
        copies = hidden.shape[0] // self.row_count
        masks = [self._mask(step, geometry, copies) for step in self._steps]
        if not any(bool(mask.any()) for mask in masks):
            return None
        takes_whole_rows = bool((masks[0] == masks[0][:, :1]).all())
        if len(masks) == 1 and self._steps[0].deltas is not None and takes_whole_rows:
            return self._add_to_rows(hidden, masks[0], copies)
        return self._edit_tokens(hidden, masks, copies)

    def _mask(self, step: _Step, geometry: BatchGeometry, copies: int) -> Tensor:
        return geometry.mask(step.scope) & (step.member >= 0).repeat_interleave(copies)[:, None]

    def _add_to_rows(self, hidden: Tensor, mask: Tensor, copies: int) -> Tensor:
        """Add one delta to all tokens of each selected row: a single addition over the whole tensor."""
        rows = tuple(mask[:, 0].tolist())
        cached = self._dense_cache  # Read once: threads share the edits of what is applied.
        if cached is None or cached[0] != rows or cached[1].device != hidden.device:
            (step,) = self._steps
            assert step.deltas is not None
            member = step.member.repeat_interleave(copies)
            dense = torch.where(mask[:, :1], step.deltas[member.clamp(min=0)], _NO_CHANGE)
            self._dense_cache = cached = (rows, dense[:, None].to(hidden.device))
        delta = cached[1]
        if torch.is_grad_enabled() and hidden.requires_grad:
            return (hidden + delta).to(hidden.dtype)
        return torch.add(hidden, delta, out=torch.empty_like(hidden))

    def _edit_tokens(self, hidden: Tensor, masks: Sequence[Tensor], copies: int) -> Tensor:
        """Edit the touched tokens only: gather them, run every step on its share, and put them back."""
        touched = torch.stack(list(masks)).any(dim=0)
        row, token = touched.nonzero(as_tuple=True)
        where = (row.to(hidden.device), token.to(hidden.device))
        work = hidden[where].to(torch.promote_types(hidden.dtype, torch.float32))
        for step, mask in zip(self._steps, masks, strict=True):
            selected = mask[row, token]
            line = step.member[row[selected] // copies]
            chosen = selected.nonzero().squeeze(1).to(hidden.device)
            if step.deltas is not None:
                edited = work[chosen] + step.deltas[line].to(hidden.device)
            else:
                edited = step.intervention.edit(work[chosen], step.strengths[line].to(hidden.device))
            work = work.index_copy(0, chosen, edited)
        return hidden.index_put(where, work.to(hidden.dtype))


def refuse_overflow(placements: Iterable[Placement], dtype: torch.dtype, width: Callable[[Site], int]) -> None:
    """Refuse edits that make something infinite of small activations.

    Raises:
        StrengthError: What is edited would be infinite, and every later text empty or broken.
    """
    for placement in {(p.intervention, p.strength): p for p in placements}.values():
        strength, size = torch.tensor(placement.strength, dtype=torch.float32), width(placement.site)
        edited = placement.intervention.edit(torch.stack([torch.zeros(size), torch.ones(size)]), strength)
        if not edited.abs().max() <= torch.finfo(dtype).max:
            raise StrengthError(
                f"strength {placement.strength:g} of {placement.intervention.name!r} at {placement.site} makes the "
                f"activations larger than {str(dtype).removeprefix('torch.')} can hold",
                valid="a finite number that adds about as much as the activations themselves, or less",
                fix="Use unit='residual', where 1.0 is their typical norm, or a smaller target.",
            )


def _merge_additions(placements: Sequence[Placement]) -> list[tuple[Scope, Intervention, float]]:
    """Sum each run of additions with equal positions into one of strength 1."""
    merged: list[tuple[Scope, Intervention, float]] = []
    for (scope, is_addition), run in groupby(placements, lambda p: (p.positions, isinstance(p.intervention, Add))):
        if is_addition:
            deltas = [p.strength * p.intervention.direction for p in run if isinstance(p.intervention, Add)]
            total = torch.stack(deltas).sum(dim=0)
            merged.append((scope, Add(torch.where(total == 0, _NO_CHANGE, total)), 1.0))
        else:
            merged.extend((scope, p.intervention, p.strength) for p in run)
    return merged


def _steps_of(column: Sequence[tuple[Scope, Intervention, float] | None]) -> list[_Step]:
    """Group what the rows do at the same place of their lists, so that a group is one operation."""
    groups: dict[object, dict[int, tuple[Scope, Intervention, float]]] = {}
    for row, entry in enumerate(column):
        if entry is not None:
            scope, intervention, _ = entry
            groups.setdefault((scope, Add if isinstance(intervention, Add) else intervention), {})[row] = entry
    steps: list[_Step] = []
    for entries in groups.values():
        scope, intervention, _ = next(iter(entries.values()))
        member = torch.full((len(column),), -1)
        member[list(entries)] = torch.arange(len(entries))
        additions = [own.direction for _, own, _ in entries.values() if isinstance(own, Add)]
        strengths = torch.tensor([[strength] for *_, strength in entries.values()])
        steps.append(_Step(scope, intervention, member, strengths, torch.stack(additions) if additions else None))
    return steps
