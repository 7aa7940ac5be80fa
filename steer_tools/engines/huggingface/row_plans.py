"""Rows with their own plans and a padded batch of their prompts → one run of the hooks.

Conditions are decided first, each row's on its own prompt. It must not run models.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from steer_tools.core.conditions import Condition, Reading
from steer_tools.core.plan import Plan, decided
from steer_tools.core.positions import NOWHERE, POOLINGS, Pooling
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.admission import refuse_placements
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.batch_layout import Layout
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks, compile_plans
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
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
