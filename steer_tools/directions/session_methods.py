"""Ways to a direction that need more than activations: an autoencoder's file, or the model's gradients.

A session, prompts and sites come in, ready directions leave, which are then measured like those of all methods. A new
way is one frozen class with `name`, `is_paired` and `find`, added to SESSION_METHODS; `make generate` tells the tools.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, cast

from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.directions.autoencoders import feature_direction, feature_site
from steer_tools.directions.methods import METHODS, Method, method_named
from steer_tools.directions.statistics import Activations
from steer_tools.directions.training import TrainingOptions, completion_pairs, train_direction
from steer_tools.errors import ArgumentError, DirectionError, quoted
from steer_tools.prompts import ContrastPrompts
from steer_tools.session.session import Session


@dataclass(frozen=True, eq=False)
class GivenDirection(Method):
    """A ready direction (width,), such as a sparse autoencoder's decoder row.

    Fitting gives it the length and sign of its contrast, so it may come at any length. It has no place in METHODS,
    where every entry is found from activations alone.

    Raises:
        DirectionError: It is not a finite vector, or is all zero.
    """

    name: ClassVar[str] = "given"
    direction: Tensor

    def __post_init__(self) -> None:
        if self.direction.dim() != 1 or not self.direction.isfinite().all() or not self.direction.any():
            raise DirectionError(
                f"The given direction has the shape {tuple(self.direction.shape)}, or is zero, or is not finite",
                valid="one vector (width,) of some length",
            )

    def raw(self, data: Activations) -> Tensor:
        """Return it.

        Raises:
            DirectionError: The activations have another width.
        """
        if self.direction.shape != data.contrast.shape:
            raise DirectionError(
                f"The given direction has the width {len(self.direction)}, the activations {len(data.contrast)}",
                valid="equal widths",
                fix="Take a direction that was found on this model, and at this component.",
            )
        return self.direction.detach().to("cpu").double()


@dataclass(frozen=True, eq=False)
class TrainedDirection(GivenDirection):
    """A ready direction whose length and sign are part of what was found, so that fitting leaves both alone."""

    name: ClassVar[str] = "trained"
    keeps_length: ClassVar[bool] = True


@dataclass(frozen=True)
class ReadyMethod:
    """A ready direction, as a method that gives nothing else, and what its maker should know."""

    method: Method
    warnings: tuple[str, ...] = ()


ReadyMethods: TypeAlias = dict[Site, ReadyMethod]


@dataclass(frozen=True)
class SaeFeature:
    """A feature of a sparse autoencoder: its decoder row (Bricken et al. 2023).

    Attributes:
        sae: The path of a safetensors file, of Gemma Scope's `params.npz`, or of a folder with one as SAELens saves it.
        feature: Which row.
    """

    name: ClassVar[str] = "sae_feature"
    is_paired: ClassVar[bool] = False
    sae: str = ""
    feature: int = -1

    def find(self, session: Session, contrast: ContrastPrompts, contrasts: Mapping[Site, Tensor]) -> ReadyMethods:
        """Read the row, the same for each site, where the prompts' mean activations differ by `contrasts` (width,)."""
        if type(self.sae) is not str or not self.sae:
            raise ArgumentError(
                f"sae is {self.sae!r}",
                valid="options={'sae': path of a safetensors or .npz file, or SAELens folder, 'feature': 0}",
            )
        direction = feature_direction(session.workspace, self.sae, self.feature)
        trained_at = feature_site(session.workspace, self.sae)
        found: ReadyMethods = {}
        for site, difference in contrasts.items():
            warnings: list[str] = []
            if trained_at not in (None, site):
                warnings.append(f"The autoencoder says that it reads {trained_at}, and the vector is for {site}.")
            if len(direction) == len(difference) and float(direction @ difference) < 0:
                warnings.append(
                    f"Feature {self.feature} points to the negative prompts, so the vector is its opposite: swap the "
                    "sides to add the feature."
                )
            found[site] = ReadyMethod(GivenDirection(direction), tuple(warnings))
        return found


@dataclass(frozen=True)
class Trained(TrainingOptions):
    """A direction trained on what makes the positive completions likelier (as in Cao et al. 2024, arXiv 2406.00045)."""

    name: ClassVar[str] = "trained"
    is_paired: ClassVar[bool] = True

    def find(self, session: Session, contrast: ContrastPrompts, contrasts: Mapping[Site, Tensor]) -> ReadyMethods:
        """Train one at each site by itself, where the prompts' mean activations differ by `contrasts` (width,)."""
        engine = session.engine
        pairs = completion_pairs(engine, contrast)
        return {
            site: ReadyMethod(TrainedDirection(train_direction(engine, pairs, site, float(difference.norm()), self)))
            for site, difference in contrasts.items()
        }


SessionMethod: TypeAlias = SaeFeature | Trained
SESSION_METHODS: dict[str, type[SessionMethod]] = {kind.name: kind for kind in (SaeFeature, Trained)}


def way_named(name: object, options: Mapping[str, object] | None) -> Method | SessionMethod:
    """Return the method or source called `name` with `options` in place of its defaults.

    Raises:
        ArgumentError: There is none, or it has no such option, or an option's value is out of range.
    """
    if not isinstance(name, str) or name not in (*METHODS, *SESSION_METHODS):
        raise ArgumentError(f"method is {quoted(name)}", valid=", ".join(map(repr, (*METHODS, *SESSION_METHODS))))
    if name in METHODS:
        return method_named(name, options)
    kind, given = SESSION_METHODS[name], dict(options or {})
    known = {field.name: field.default for field in fields(kind)}
    if strangers := given.keys() - known.keys():
        raise ArgumentError(
            f"The method {name!r} has no option {', '.join(sorted(map(quoted, strangers)))}",
            valid=", ".join(f"{option} (default {default!r})" for option, default in known.items()),
        )
    return kind(**cast(Any, given))
