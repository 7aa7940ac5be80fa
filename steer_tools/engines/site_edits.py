"""One site's placements for every row of a batch, compiled: hidden states and geometry → edited hidden states.

Shared by the engines that hold hidden states as tensors. Knows rows, masks, dtype and device, so that interventions
need not. It must not know hooks or models.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from steer_tools.core.interventions import Add, Intervention
from steer_tools.core.plan import Placement
from steer_tools.core.positions import BatchGeometry, Scope
from steer_tools.core.site import Site
from steer_tools.errors import StrengthError

# x + (-0.0) is x for every x, the two zeros included, so that what is not edited stays bit-equal.
_NO_CHANGE = -0.0
# What needs no more digits for a sum in float32.
_WIDE = (torch.float32, torch.float64)
_Merged: TypeAlias = tuple[Scope, Intervention, float]


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

    def on(self, device: torch.device) -> "_Step":
        """Return the same with what is added, and how strongly, on a device."""
        deltas = None if self.deltas is None else self.deltas.to(device)
        return replace(self, strengths=self.strengths.to(device), deltas=deltas)


class _Share(NamedTuple):
    """A step's part of the touched tokens: `chosen` are their places among these, or None where it takes all of them;
    `line` are their lines in what the step adds."""

    step: int
    chosen: Tensor | None
    line: Tensor


class _Reach:
    """Which tokens of one pass the steps of a site touch, the same at all sites where equal rows have equal positions.

    Attributes:
        is_empty: Whether they touch none.
        whole: Where one step alone acts, and on all tokens of some rows: its place, and which rows these are.
    """

    def __init__(self, steps: Sequence[_Step], geometry: BatchGeometry, copies: int) -> None:
        self._steps, self._copies = steps, copies
        masks = [geometry.mask(s.scope) & (s.member >= 0).repeat_interleave(copies)[:, None] for s in steps]
        self._masks = {place: mask for place, mask in enumerate(masks) if bool(mask.any())}
        self._placed: tuple[torch.device, Tensor | None, list[_Share]] | None = None
        self.is_empty = not self._masks
        self.whole: tuple[int, tuple[bool, ...]] | None = None
        if len(self._masks) == 1:
            ((place, mask),) = self._masks.items()
            if bool((mask == mask[:, :1]).all()):
                self.whole = place, tuple(mask[:, 0].tolist())

    def on(self, device: torch.device) -> tuple[Tensor | None, list[_Share]]:
        """Return the touched tokens, counted through all rows, and each step's share; None where all are touched."""
        placed = self._placed
        if placed is None or placed[0] != device:
            tokens, shares = self._shares()
            moved = [s._replace(chosen=_moved(s.chosen, device), line=s.line.to(device)) for s in shares]
            self._placed = placed = device, _moved(tokens, device), moved
        return placed[1:]

    def _shares(self) -> tuple[Tensor | None, list[_Share]]:
        touched = torch.stack(list(self._masks.values())).any(dim=0)
        row, token = touched.nonzero(as_tuple=True)
        shares: list[_Share] = []
        for place, mask in self._masks.items():
            step, selected = self._steps[place], mask[row, token]
            line = step.member[row[selected] // self._copies]
            shares.append(_Share(place, None if bool(selected.all()) else selected.nonzero().squeeze(1), line))
        return None if bool(touched.all()) else row * touched.shape[1] + token, shares


class SiteEdits:
    """The compiled edits of one site.

    Adjacent additions with equal positions are summed in float32 and added once. All edits of a pass are done in
    float32 and rounded to the model's dtype once, out of place.

    What depends on positions is worked out once for all sites and passes that share a geometry's notes, on the CPU; a
    device keeps what is added there, so that a step whose rows are those of the step before only launches its sums.

    Attributes:
        row_count: The rows that it was compiled for.
        firings: How often it has edited something.
    """

    def __init__(self, placements_by_row: Sequence[Sequence[Placement]]) -> None:
        self.row_count = len(placements_by_row)
        self.firings = 0
        # Rows that hold the same placements share what is made of them.
        merged: dict[tuple[int, ...], list[_Merged]] = {}
        by_row: list[list[_Merged]] = []
        for placements in placements_by_row:
            same = tuple(map(id, placements))
            if same not in merged:
                merged[same] = _merge_additions(placements)
            by_row.append(merged[same])
        self._steps = [step for column in zip_longest(*by_row) for step in _steps_of(column)]
        self._reach = "; ".join(f"{step.scope} of {step.member.tolist()}" for step in self._steps)
        # Each is read once, and replaced whole: threads share the edits of what is applied.
        self._placed: tuple[torch.device, list[_Step]] = torch.device("cpu"), self._steps
        self._dense: tuple[object, torch.device, Tensor] | None = None

    def __call__(self, hidden: Tensor, geometry: BatchGeometry) -> Tensor | None:
        """Return the edited copy of `hidden` (rows, tokens, width), or None where no token is touched.

        A batch may hold each row several times in a run, as beam search does.
        """
        if self._reach not in geometry.notes:
            copies = hidden.shape[0] // self.row_count
            geometry.notes[self._reach] = _Reach(self._steps, geometry, copies)
        reach: _Reach = geometry.notes[self._reach]
        if reach.is_empty:
            return None
        self.firings += 1
        if reach.whole is not None and self._steps[reach.whole[0]].deltas is not None:
            return _plus(hidden, self._dense_delta(reach.whole, hidden.device))
        return self._edit_tokens(hidden, reach)

    def _dense_delta(self, whole: tuple[int, tuple[bool, ...]], device: torch.device) -> Tensor:
        """Return what is added to all tokens of each row, (rows, 1, width), the same object while the rows stay."""
        kept = self._dense
        if kept is None or kept[0] != whole or kept[1] != device:
            step, rows = self._on(device)[whole[0]], torch.tensor(whole[1])
            assert step.deltas is not None
            line = step.member.repeat_interleave(len(rows) // self.row_count).clamp(min=0)
            dense = torch.where(rows[:, None].to(device), step.deltas[line.to(device)], _NO_CHANGE)
            self._dense = kept = whole, device, dense[:, None]
        return kept[2]

    def _edit_tokens(self, hidden: Tensor, reach: _Reach) -> Tensor:
        """Edit the touched tokens only: gather them, run every step on its share, and put them back."""
        tokens, shares = reach.on(hidden.device)
        steps, flat = self._on(hidden.device), hidden.flatten(0, 1)
        work = flat if tokens is None else flat.index_select(0, tokens)
        work = work.to(torch.promote_types(hidden.dtype, torch.float32))
        for place, chosen, line in shares:
            step, part = steps[place], work if chosen is None else work.index_select(0, chosen)
            if step.deltas is None:
                edited = step.intervention.edit(part, step.strengths[line])
            else:
                edited = part + (step.deltas if len(step.deltas) == 1 else step.deltas[line])
            work = edited if chosen is None else work.index_copy(0, chosen, edited)
        work = work.to(hidden.dtype)
        return (work if tokens is None else flat.index_copy(0, tokens, work)).view_as(hidden)

    def _on(self, device: torch.device) -> list[_Step]:
        placed = self._placed
        if placed[0] != device:
            self._placed = placed = device, [step.on(device) for step in self._steps]
        return placed[1]


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


def _merge_additions(placements: Sequence[Placement]) -> list[_Merged]:
    """Sum each run of additions with equal positions into one of strength 1."""
    merged: list[_Merged] = []
    for (scope, is_addition), run in groupby(placements, lambda p: (p.positions, isinstance(p.intervention, Add))):
        if is_addition:
            deltas = [p.strength * p.intervention.direction for p in run if isinstance(p.intervention, Add)]
            total = deltas[0] if len(deltas) == 1 else torch.stack(deltas).sum(dim=0)
            merged.append((scope, Add(torch.where(total == 0, _NO_CHANGE, total)), 1.0))
        else:
            merged.extend((scope, p.intervention, p.strength) for p in run)
    return merged


def _steps_of(column: Sequence[_Merged | None]) -> list[_Step]:
    """Group what the rows do at the same place of their lists, so that a group is one operation."""
    groups: dict[object, dict[int, _Merged]] = {}
    for row, entry in enumerate(column):
        if entry is not None:
            scope, intervention, _ = entry
            groups.setdefault((scope, Add if isinstance(intervention, Add) else intervention), {})[row] = entry
    steps: list[_Step] = []
    for entries in groups.values():
        scope, intervention, _ = next(iter(entries.values()))
        distinct = {id(entry): entry for entry in entries.values()}
        lines = {key: line for line, key in enumerate(distinct)}
        member = torch.tensor([lines[id(entries[row])] if row in entries else -1 for row in range(len(column))])
        additions = [own.direction for _, own, _ in distinct.values() if isinstance(own, Add)]
        strengths = torch.tensor([[strength] for *_, strength in distinct.values()])
        steps.append(_Step(scope, intervention, member, strengths, torch.stack(additions) if additions else None))
    return steps


def _plus(hidden: Tensor, delta: Tensor) -> Tensor:
    """Return the sum in float32, rounded to the dtype of `hidden` once."""
    if hidden.dtype in _WIDE:
        return hidden + delta
    if torch.is_grad_enabled() and hidden.requires_grad:
        return (hidden + delta).to(hidden.dtype)
    return torch.add(hidden, delta, out=torch.empty_like(hidden))


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
