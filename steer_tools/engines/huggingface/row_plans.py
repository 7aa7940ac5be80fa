"""Rows with their own plans and a padded batch of their prompts → one run of the hooks.

Sites and plans that the model cannot take are refused before anything runs or is applied; conditions are decided
first, each row's on its own prompt. It must not run models.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import NOWHERE
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, rows_decided
from steer_tools.engines.huggingface.architecture import Architecture, refuse_unsteerable_state
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks, compile_plans
from steer_tools.engines.huggingface.pass_geometry import Layout
from steer_tools.engines.huggingface.site_taps import Taps
from steer_tools.engines.huggingface.tokenization import PromptTokens, Tokenization
from steer_tools.engines.pooling import Read
from steer_tools.engines.site_edits import refuse_overflow
from steer_tools.prompts import TokenPrompt, require_user_message


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
        after_user = [self.after_user(*pair) for pair in zip(rows, encoded, strict=True)]
        layout = Layout(real, torch.tensor(lengths), torch.tensor(first), torch.tensor(after_user))
        return Run(compile_plans([row.plan for row in rows]), layout)

    def ambient(self, plan: Plan) -> Run | None:
        """Compile the plan for calls that others make; with conditions, their rows are decided when they come."""
        if not plan:
            return None
        self._hooks.reach(placement.site for placement in plan)
        if all(placement.condition is None for placement in plan):
            return Run(compile_plans([plan]), plan=plan)

        def decide(prompts: Sequence[Sequence[int]]) -> Run:
            rows = self.decided([Row(TokenPrompt(tuple(ids)), plan) for ids in prompts])
            return Run(compile_plans([row.plan for row in rows]))

        return Run(decide=decide, plan=plan)

    def decided(self, rows: Sequence[Row]) -> list[Row]:
        """Check and hook what the rows do, decide their conditions, and return them with what acts on each."""
        placements = [placement for row in rows for placement in row.plan]
        refuse_placements(self._architecture, self._taps, placements)
        self._hooks.reach({placement.site for placement in placements})
        return rows_decided(rows, self._read)

    def after_user(self, row: Row, encoded: PromptTokens) -> int:
        """Return the position after the row's last user message, where its plan asks for it.

        Raises:
            PromptError: It does, and the prompt has none.
        """
        if not any(placement.positions.needs_chat for placement in row.plan):
            return NOWHERE
        require_user_message(row.prompt)
        return encoded.after_user


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
    refuse_overflow(placements, architecture.dtype, lambda site: taps.at(site).width)
