"""The model and the workspace that a command works on, and the vector that acts while it does.

Its options are those of the tools that load a model and apply a vector. It must not know results.
"""

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Annotated, Any

import typer

from steer_tools import tools
from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.options import Option, Place, options_of
from steer_tools.cli.terminal import progress_bar
from steer_tools.reports.words import option_texts

WorkspaceFolder = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        metavar="FOLDER",
        help="Where vectors are saved and found. (default: $STEER_TOOLS_WORKSPACE, else ./workspace)",
    ),
]
RequireVerified = Annotated[
    bool,
    typer.Option(
        "--require-verified",
        help="Refuse a vector unless its certificate says that it works as it is used here. "
        "(default: as $STEER_TOOLS_REQUIRE_VERIFIED says)",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
WORKSPACE = Parameter("workspace", Parameter.KEYWORD_ONLY, default=None, annotation=WorkspaceFolder)
REQUIRE_VERIFIED = Parameter("require_verified", Parameter.KEYWORD_ONLY, default=False, annotation=RequireVerified)
AS_JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)


def model_options() -> list[Option]:
    """Return the options that say which model is loaded, and how."""
    return options_of(_function("load_model"), Place(defaults={"name_or_path": BUNDLED}))


def vector_options(*, is_required: bool) -> list[Option]:
    """Return the options that say which vector acts while a tool runs, and how."""
    place = Place(required=("vector_path",)) if is_required else Place(defaults={"vector_path": None})
    return options_of(_function("apply_steering_vector"), place)


def spare_threads() -> None:
    """Have torch run a small model on one thread; call it before torch is imported.

    On the bundled model more gain nothing, and on a busy machine they wait for each other five times as long; the demo
    on SmolLM2 takes a tenth less by the clock with two, and half as much again of both.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def choose_workspace(folder: str | None) -> None:
    """Have the tools read and write files below `folder`, or below the default one.

    Raises:
        SteeringError: It cannot be a workspace.
    """
    from steer_tools.session.session import current_session
    from steer_tools.workspace import Workspace

    current_session().workspace = Workspace(folder)


@dataclass(frozen=True)
class Workbench:
    """The model, as `load_model` takes it, and the workspace of a command."""

    model: str = BUNDLED
    workspace: str | None = None
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, typed: Mapping[str, Any]) -> "Workbench":
        """Return the workbench of all that was typed."""
        loading = {option.argument: option.read(typed[option.typed.name]) for option in model_options()}
        return cls(loading.pop("name_or_path"), typed["workspace"], loading)

    def flags(self) -> list[str]:
        """Return what is to be typed for the same workbench."""
        said: dict[str, tuple[Any, Any]] = {"--workspace": (self.workspace, None), "--model": (self.model, BUNDLED)}
        for option in model_options()[1:]:
            usual = option.typed.default
            said[option.flag] = (self.loading.get(option.argument, usual), usual)
        return [
            word
            for flag, (value, usual) in said.items()
            if value != usual
            for text in (option_texts(value) if isinstance(value, Mapping) else [str(value)])
            for word in (flag, text)
        ]

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Load the model and work on it inside a `with` block, with progress on stderr.

        Raises:
            SteeringError: The model cannot be loaded.
        """
        if self.model == BUNDLED:
            spare_threads()
        with progress_bar("loading the model"):
            # stdout is for the result: what imports and a checkpoint's loader print goes elsewhere.
            with redirect_stdout(sys.stderr):
                choose_workspace(self.workspace)
                tools.load_model(self.model, **self.loading)
            yield


@contextmanager
def verified_only(is_required: bool) -> Generator[None]:
    """Have only verified vectors applied inside a `with` block where that is required, or is before."""
    from steer_tools.session.session import current_session

    session = current_session()
    before = session.require_verified
    session.require_verified = is_required or before
    try:
        yield
    finally:
        session.require_verified = before


@contextmanager
def in_force(arguments: Mapping[str, Any]) -> Generator[list[str]]:
    """Steer inside a `with` block and give the warnings about it; on leaving, also by an error, it is taken off."""
    if arguments.get("vector_path") is None:
        yield []
        return
    applied = tools.apply_steering_vector(**arguments)
    try:
        yield applied["warnings"]
    finally:
        tools.remove_steering_vector(applied["steering_id"])


def _function(name: str) -> Callable[..., object]:
    return next(tool.function for tool in tools.TOOLS if tool.name == name)
