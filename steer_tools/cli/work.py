"""The model that a command works on and the vector that it uses. It must not know results.

What loads a model is imported late: it imports torch.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, cast

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.bar import progress_bar
from steer_tools.errors import ArgumentError


def spare_threads(model: str) -> None:
    """Have torch run the bundled model on one thread; call it before torch is imported.

    More gain nothing on so small a model, and on a busy machine they wait for each other five times as long.
    """
    if model == BUNDLED:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Target:
    """The model and the workspace of a command."""

    model: str
    workspace: str | None
    dtype: str
    device_map: str | None

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Load the model and work on it inside a `with` block, with progress on stderr.

        Raises:
            SteeringError: The model cannot be loaded.
        """
        spare_threads(self.model)
        with progress_bar("loading the model"):
            # stdout is for the result: what imports and a checkpoint's loader print goes elsewhere.
            with redirect_stdout(sys.stderr):
                from steer_tools.session import current_session
                from steer_tools.tools import load_model
                from steer_tools.workspace import Workspace

                current_session().workspace = Workspace(self.workspace or Workspace.default().root)
                load_model(self.model, dtype=cast(Any, self.dtype), device_map=self.device_map)
            yield


@dataclass(frozen=True)
class VectorUse:
    """A saved vector, or none, and how it acts."""

    path: str | None
    layer: int | list[int] | None = None
    strength: float = 1.0
    unit: str = "vector"
    positions: str = "generated"
    allow_other_model: bool = False

    def require_vector(self) -> None:
        """Refuse options of a vector that is not there.

        Raises:
            ArgumentError: There is no path, and something else is not as without a vector.
        """
        if self.path is None and self != VectorUse(None):
            raise ArgumentError(
                "--layer, --strength, --unit, --positions or --allow-other-model was given without --vector",
                valid="a vector with its options, or neither",
            )

    @contextmanager
    def in_force(self) -> Generator[list[str]]:
        """Steer inside a `with` block and give the warnings about it; on leaving, also by an error, it is taken off."""
        if self.path is None:
            yield []
            return
        from steer_tools.tools import apply_steering_vector, remove_steering_vector

        applied = apply_steering_vector(
            self.path,
            self.layer,
            self.strength,
            unit=cast(Any, self.unit),
            positions=self.positions,
            allow_other_model=self.allow_other_model,
        )
        try:
            yield applied["warnings"]
        finally:
            remove_steering_vector(applied["steering_id"])
