"""What is known of a vector beside its tensors, and what stays true of it in algebra. It must not know tensors."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat


class VectorInfo(BaseModel):
    """What a vector remembers of its making; every field may be unknown, as in a bare array from elsewhere.

    All mappings are by layer: `contrast_norms` is |μ₊ − μ₋|, `residual_norms` the model's typical norm at the site,
    `positive_projections` and `negative_projections` are û·μ₊ and û·μ₋ for the unit direction û, and above `thresholds`
    the projection û·h of an activation counts as positive, which errs on the shares `misses` and `false_alarms` of the
    held-out positive and negative prompts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    method: str | None = None
    pooling: str | None = None
    is_unit: bool = False
    positive_count: int | None = Field(default=None, ge=0)
    negative_count: int | None = Field(default=None, ge=0)
    contrast_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    residual_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    positive_projections: dict[int, float] = Field(default_factory=dict)
    negative_projections: dict[int, float] = Field(default_factory=dict)
    thresholds: dict[int, float] = Field(default_factory=dict)
    misses: dict[int, float] = Field(default_factory=dict)
    false_alarms: dict[int, float] = Field(default_factory=dict)
    model_name: str | None = None
    model_family: str | None = None
    model_fingerprint: str | None = None
    model_layers: int | None = Field(default=None, ge=1)

    def negated(self) -> "VectorInfo":
        """Return what is true of −û, whose positive prompts are the negative ones."""
        swapped = {
            "positive_count": self.negative_count,
            "negative_count": self.positive_count,
            "positive_projections": {layer: -value for layer, value in self.negative_projections.items()},
            "negative_projections": {layer: -value for layer, value in self.positive_projections.items()},
            "thresholds": {layer: -value for layer, value in self.thresholds.items()},
            "misses": self.false_alarms,
            "false_alarms": self.misses,
        }
        return self.model_copy(update=swapped)

    @staticmethod
    def shared_by(infos: "Sequence[VectorInfo]", *, method: str) -> "VectorInfo":
        """Return what holds for a direction that mixes several: facts of the model and the reading on which all agree.

        It belongs to no contrast, so it has neither counts nor contrast norms, projections or thresholds.
        """
        kept = ("pooling", "residual_norms", "model_name", "model_family", "model_fingerprint", "model_layers")
        first, *others = infos
        agreed = {name for name in kept if all(getattr(info, name) == getattr(first, name) for info in others)}
        return VectorInfo(method=method, **first.model_dump(include=agreed))
