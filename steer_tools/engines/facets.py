"""What some runtimes can do beside the core of `Engine`, each asked for by `require`. It must not know any runtime.

An engine has a facet when its class has all that the facet adds; nothing is declared, and nothing else is asked.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import getmro
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from typing_extensions import TypeIs

from steer_tools.core.plan import Plan
from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, CompletionGradients, Engine, Observation, Row
from steer_tools.errors import UnsupportedFeatureError
from steer_tools.prompts import Prompt


class AmbientPlans(Engine, Protocol):
    """Steering that every other caller of the model sees, as what is applied."""

    def ambient(self) -> Plan:
        """Return the plan that every other caller of the model sees now."""
        ...

    def set_ambient(self, plan: Plan) -> None:
        """Make every other caller of the model see `plan`."""
        ...

    def hooks_are_live(self) -> bool:
        """Return whether all that makes the model follow the plan is still on it."""
        ...


class Gradients(Engine, Protocol):
    """Passes there and back."""

    def gradients(
        self, rows: Sequence[Row], completions: Sequence[Completion], sites: Sequence[Site]
    ) -> list[CompletionGradients]:
        """Return how the log-probability of row i's completion i changes with the edited activations at each site."""
        ...


class Heads(Engine, Protocol):
    """Attentions whose heads are sites of their own."""

    def heads(self, layer: int) -> int:
        """Return how many heads the attention of a layer has, or raise what reading one would."""
        ...


class Replay(AmbientPlans, Protocol):
    """Generations that can be repeated in each way and watched from outside, which proves what is applied."""

    def replay(
        self, rows: Sequence[Row], completions: Sequence[Sequence[int]], *, use_cache: bool, batched: bool
    ) -> list[Tensor]:
        """Return the logits before each given token, (tokens, vocabulary), taken the way `generate` would take them."""
        ...

    def observe(self, prompt: Prompt, max_new_tokens: int) -> Observation:
        """Generate greedily under what is applied, recording each edited block before and after the edit."""
        ...

    def restoration(self) -> tuple[float, float]:
        """Return the largest logit difference, on a fixed input, between now without what is applied and before attach.

        The second number is that between two runs now: 0 unless the device itself is not deterministic.
        """
        ...


@dataclass(frozen=True)
class Watched:
    """What was at one site in one pass.

    Attributes:
        hidden: (rows, tokens, width), a copy in the model's dtype and on its device.
        start: The tokens before them that a cache holds.
        generation: The same object in all passes of one `generate`; None in other calls.
    """

    site: Site
    hidden: Tensor
    start: int
    generation: object | None


class WatchedCalls(Engine, Protocol):
    """Calls of the model by the user that can be looked into while they run."""

    def watching(self, sites: Sequence[Site], see: Callable[[Watched], None]) -> AbstractContextManager[None]:
        """Show `see` what is at each site, after all edits, in this thread's own calls of the model."""
        ...


class LiveModel(Engine, Protocol):
    """A model object that the user holds, too."""

    tokenizer: Any

    @property
    def module(self) -> nn.Module:
        """The model, as transformers loads and saves it."""
        ...

    def holds(self, model: object) -> bool:
        """Return whether this engine steers exactly this model object."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Let this thread's calls of the model go as if this engine were not there."""
        ...

    def changes(self) -> tuple[str, ...]:
        """Return what of the model or its tokenizer was changed since this engine was made, in words."""
        ...

    def renewed(self, tokenizer: Any, name: str, template_options: Mapping[str, object] | None) -> AmbientPlans:
        """Return another engine of the same model; until this one is detached, both have their hooks on it.

        Raises:
            ArgumentError: It is no tokenizer, or the chat template does not use an option.
            UnsupportedModelError: The model cannot be steered any more.
        """
        ...


@dataclass(frozen=True)
class OutputParameter:
    """A parameter of the model; `axis` is the one that lies along the residual stream."""

    name: str
    axis: int


@dataclass(frozen=True)
class Writer:
    """What makes one addend of one site.

    Attributes:
        site: Where its output, times `scale`, is.
        name: Of the module in the model; `kind` is its class.
        parameters: All that make its output, biases included; empty where they could not be told.
        bias: The bias's name, also of a linear module that has none; None for other kinds.
        has_bias: Whether it has it.
    """

    site: Site
    name: str
    kind: str
    scale: float
    parameters: tuple[OutputParameter, ...]
    bias: str | None
    has_bias: bool


class EditableWeights(LiveModel, Replay, Protocol):
    """Weights of a module in this process, of which it is known what they write to the residual stream.

    What they are edited to do is proved by replay.
    """

    def find_writers(self) -> tuple[Writer, ...]:
        """Return the parameters that make what is written to the residual stream."""
        ...


_Facet = TypeVar("_Facet", bound=Engine)


def has(engine: Engine, facet: type[_Facet]) -> TypeIs[_Facet]:
    """Return whether an engine has all that a facet adds."""
    added = {name for part in getmro(facet) if part not in getmro(Engine) for name in vars(part)}
    return all(hasattr(type(engine), name) for name in added if not name.startswith("_"))


def require(engine: Engine, facet: type[_Facet], feature: str) -> _Facet:
    """Return the engine as one with the facet; `feature` is what needs it, such as a tool's name.

    Raises:
        UnsupportedFeatureError: It is an engine without.
    """
    if has(engine, facet):
        return engine
    words = re.sub(r"(?<=.)(?=[A-Z])", " ", facet.__name__).lower()
    raise UnsupportedFeatureError(
        f"{feature} needs {words}, and the engine {engine.info.engine!r} has none",
        valid="engines that have them",
        fix="Load the model with another engine: load_model(name_or_path, engine='huggingface').",
    )
