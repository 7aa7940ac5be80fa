"""The model that a command works on and the vector that it uses. It must not know results.

What loads a model is imported late: it imports torch.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from typing import Any, cast

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli import options as given
from steer_tools.cli.bar import progress_bar
from steer_tools.errors import ArgumentError


def spare_threads(model: str) -> None:
    """Have torch run the bundled model on one thread; call it before torch is imported.

    More gain nothing on so small a model, and on a busy machine they wait for each other five times as long.
    """
    if model == BUNDLED:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def choose_workspace(folder: str | None) -> None:
    """Have the tools read and write files below `folder`, or below the default one.

    Raises:
        SteeringError: It cannot be a workspace.
    """
    from steer_tools.session.session import current_session
    from steer_tools.workspace import Workspace

    current_session().workspace = Workspace(folder or Workspace.default().root)


@dataclass(frozen=True)
class Workbench:
    """The model and the workspace of a command."""

    model: given.Model = BUNDLED
    dtype: given.DtypeName = "auto"
    device_map: given.DeviceMapName = None
    workspace: given.WorkspaceFolder = None

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
                choose_workspace(self.workspace)
                from steer_tools.tools import load_model

                load_model(self.model, dtype=cast(Any, self.dtype), device_map=self.device_map)
            yield


@dataclass(frozen=True)
class ActingOptions:
    """How a vector acts, at whatever strength, on every prompt."""

    layer: given.ApplyLayers = None
    unit: given.Unit = "vector"
    intervention: given.Intervention = "add"
    target: given.Target = None
    positions: given.Positions = "generated"
    allow_other_model: given.AllowOtherModel = False

    @property
    def layers(self) -> int | list[int] | None:
        """The layers; one as itself, so that a vector's only direction may be used at another layer."""
        if not self.layer:
            return None
        return self.layer[0] if len(self.layer) == 1 else self.layer


@dataclass(frozen=True)
class SteeringOptions(ActingOptions):
    """How a vector acts, and on which prompts."""

    condition: given.Condition = None


@dataclass(frozen=True)
class Amount:
    """How much of a vector acts."""

    strength: given.Strength = 1.0
    layer_weight: given.LayerWeight = None


@dataclass(frozen=True)
class VectorUse(SteeringOptions, Amount):
    """How a vector acts while a command runs; its fields begin with the last base's."""

    def require(self, vector: str | None) -> None:
        """Refuse what was said about a vector that is not there.

        Raises:
            ArgumentError: There is no vector, and something is not as without one.
        """
        said = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if vector is None and said:
            options = " and ".join(f"--{name.replace('_', '-')}" for name in said)
            raise ArgumentError(f"{options} came without --vector", valid="a vector with its options, or neither")

    @contextmanager
    def in_force(self, vector: str | None) -> Generator[list[str]]:
        """Steer inside a `with` block and give the warnings about it; on leaving, also by an error, it is taken off."""
        if vector is None:
            yield []
            return
        from steer_tools.tools import apply_steering_vector, remove_steering_vector

        applied = apply_steering_vector(
            vector,
            self.layers,
            self.strength,
            unit=cast(Any, self.unit),
            intervention=cast(Any, self.intervention),
            positions=self.positions,
            allow_other_model=self.allow_other_model,
            target=self.target,
            condition=self.condition,
            layer_weights=self.layer_weight or None,
        )
        try:
            yield applied["warnings"]
        finally:
            remove_steering_vector(applied["steering_id"])
