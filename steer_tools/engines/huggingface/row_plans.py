"""Rows with their own plans and a padded batch of their prompts → one run of the hooks.

Sites and plans that the model cannot take are refused before anything runs or is applied; conditions are decided
first, each row's on its own prompt. It must not run models.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from steer_tools.core.conditions import Condition, Reading
from steer_tools.core.plan import Placement, Plan, decided
from steer_tools.core.positions import NOWHERE, POOLINGS, Pooling
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.architecture import Architecture, refuse_unsteerable_state
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks, compile_plans
from steer_tools.engines.huggingface.pass_geometry import Layout
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.errors import StrengthError
from steer_tools.prompts import Prompt, TokenPrompt

Read: TypeAlias = Callable[[Sequence[Prompt], Sequence[Site], Pooling], dict[Site, Tensor]]


class RowPlans:
    """Compiles plans for one model; `read` reads prompts with nothing applied."""

    def __init__(
        self, architecture: Architecture, taps: Taps, hooks: SteeringHooks, tokens: Tokenization, read: Read
    ) -> None:
        self._architecture, self._taps, self._hooks = architecture, taps, hooks
        self._tokens, self._read = tokens, read

    def run(self, rows: Sequence[Row], encoded: Sequence[PromptTokens], real: Tensor) -> Run:
        """Compile plans without conditions with the layout of the batch; `real` (rows, columns) is false at padding."""
        lengths = [len(tokens.tokens) for tokens in encoded]
        first = [self._tokens.first_position(tokens) for tokens in encoded]
        after_user = [self.after_user(row) for row in rows]
        layout = Layout(real, torch.tensor(lengths), torch.tensor(first), torch.tensor(after_user))
        return Run(compile_plans([row.plan for row in rows]), layout)

    def ambient(self, plan: Plan) -> Run | None:
        """Compile the plan for calls that others make; with conditions, their rows are decided when they come."""
        if not plan:
            return None
        self._hooks.reach(placement.site for placement in plan)
        if all(placement.condition is None for placement in plan):
            return Run(compile_plans([plan]))

        def decide(prompts: Sequence[Sequence[int]]) -> Run:
            rows = self.decided([Row(TokenPrompt(tuple(ids)), plan) for ids in prompts])
            return Run(compile_plans([row.plan for row in rows]))

        return Run(decide=decide)

    def decided(self, rows: Sequence[Row]) -> list[Row]:
        """Check and hook what the rows do, decide their conditions, and return them with what acts on each."""
        placements = [placement for row in rows for placement in row.plan]
        refuse_placements(self._architecture, self._taps, placements)
        self._hooks.reach({placement.site for placement in placements})
        waiting = [i for i, row in enumerate(rows) if any(p.condition is not None for p in row.plan)]
        conditions = {p.condition for i in waiting for p in rows[i].plan if p.condition is not None}
        readings: set[Reading] = {reading for condition in conditions for reading in condition.readings}
        prompts = list(dict.fromkeys(rows[i].prompt for i in waiting))
        read: dict[Reading, Tensor] = {}
        for pooling in POOLINGS:
            sites = [reading.site for reading in readings if reading.pooling == pooling]
            if sites:
                found = self._read(prompts, sites, pooling)
                read |= {Reading(site, pooling): values for site, values in found.items()}
        answers = {
            condition: dict(zip(prompts, condition.holds(read).tolist(), strict=True)) for condition in conditions
        }

        def acting(row: Row) -> Plan:
            def holds(condition: Condition) -> bool:
                return answers[condition][row.prompt]

            return decided(row.plan, holds)

        return [replace(row, plan=acting(row)) for row in rows]

    def after_user(self, row: Row) -> int:
        """Return the position after the row's last user message, where its plan asks for it."""
        if not any(placement.positions.needs_chat for placement in row.plan):
            return NOWHERE
        return self._tokens.after_user(row.prompt)


def refuse_sites(architecture: Architecture, taps: Taps, sites: Iterable[Site]) -> None:
    """Refuse sites that are not in the model, and a model in a wrong state.

    Raises:
        LayerError: The model lacks the layer.
        ArgumentError: The attention lacks the head.
        UnsupportedFeatureError: The block has no such part, or none that could be told.
        UnsupportedModelError: The model is compiled or in train mode.
    """
    refuse_unsteerable_state(architecture.model)
    for site in sites:
        architecture.resolve_layer(site.layer)
        taps.at(site)


def refuse_placements(architecture: Architecture, taps: Taps, placements: Iterable[Placement]) -> None:
    """Refuse placements at such sites, or with conditions there, and edits that the model's dtype cannot hold.

    Raises:
        StrengthError: What is edited would be infinite, and every later text empty or broken.
    """
    placements = tuple(placements)
    conditions = [placement.condition for placement in placements if placement.condition is not None]
    read = {reading.site for condition in conditions for reading in condition.readings}
    refuse_sites(architecture, taps, {*(placement.site for placement in placements), *read})
    for placement in {(p.intervention, p.strength): p for p in placements}.values():
        _refuse_overflow(placement, architecture.dtype, taps.at(placement.site).width)


def _refuse_overflow(placement: Placement, dtype: torch.dtype, width: int) -> None:
    """Refuse an edit that makes something infinite of small activations."""
    strength = torch.tensor(placement.strength, dtype=torch.float32)
    edited = placement.intervention.edit(torch.stack([torch.zeros(width), torch.ones(width)]), strength)
    if not edited.abs().max() <= torch.finfo(dtype).max:
        raise StrengthError(
            f"strength {placement.strength:g} of {placement.intervention.name!r} at {placement.site} makes the "
            f"activations larger than {str(dtype).removeprefix('torch.')} can hold",
            valid="a finite number that adds about as much as the activations themselves, or less",
            fix="Use unit='residual', where 1.0 is their typical norm, or a smaller target.",
        )
