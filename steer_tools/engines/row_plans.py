"""Rows with their own plans and a padded batch of their prompts → one run of the hooks. It must not run models."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steer_tools.architecture import Architecture
from steer_tools.engines.admission import refuse_placements
from steer_tools.engines.base import Row
from steer_tools.engines.hooks import Run, compile_plans
from steer_tools.engines.layout import Layout
from steer_tools.engines.tokenization import PromptTokens, Tokenization
from steer_tools.positions import NOWHERE


class RowPlans:
    """Compiles the plans of rows for one model."""

    def __init__(self, architecture: Architecture, tokens: Tokenization) -> None:
        self._architecture, self._tokens = architecture, tokens

    def run(self, rows: Sequence[Row], encoded: Sequence[PromptTokens], real: Tensor) -> Run:
        """Compile the plans with the layout of the batch; `real` (rows, columns) is false at padding."""
        refuse_placements(self._architecture, (placement for row in rows for placement in row.plan))
        lengths = [len(tokens.tokens) for tokens in encoded]
        first = [self._tokens.first_position(tokens) for tokens in encoded]
        after_user = [self.after_user(row) for row in rows]
        layout = Layout(real, torch.tensor(lengths), torch.tensor(first), torch.tensor(after_user))
        return Run(compile_plans([row.plan for row in rows]), layout)

    def after_user(self, row: Row) -> int:
        """Return the position after the row's last user message, where its plan asks for it."""
        if not any(placement.positions.needs_chat for placement in row.plan):
            return NOWHERE
        return self._tokens.after_user(row.prompt)
