"""The results of the tools that look inside a vector or a model. It must not know engines."""

from typing_extensions import TypedDict


class TokenRanking(TypedDict):
    """Tokens with their values, the strongest first; `chance` is what a random direction's best token has."""

    boosted: dict[str, float]
    suppressed: dict[str, float]
    chance: float


class TextProjection(TypedDict):
    """û·h of each token, for the unit direction û; null at the first token and special ones, which lie elsewhere."""

    tokens: list[str]
    values: list[float | None]


class AnalysisResult(TypedDict):
    """`lens`: cosines with what raises each token's logit; null at a single head. `observed`: changes in nats of the
    next token's log-probability at `observed_strength` residual norms.

    `layer_cosines`: with the vector's other layers. `saved`: vectors of the workspace. `behaviors`: mean differences of
    the built-in behaviours, null if not asked for; by chance, cosines reach `cosine_chance`.
    """

    vector_path: str
    layer: int
    component: str
    norm: float
    residual_norm: float
    lens: TokenRanking | None
    observed: TokenRanking
    observed_strength: float
    layer_cosines: dict[str, float]
    saved: dict[str, float]
    behaviors: dict[str, float] | None
    cosine_chance: float
    texts: list[TextProjection]
    picture_path: str | None
    page_path: str | None
    warnings: list[str]


class DetectorStatus(TypedDict):
    """How well û·h tells held-out prompts at a layer: `auc` with its 95 % interval; one in twenty random directions
    reaches `chance`. At `threshold`, fitted on other prompts: the error rates `misses` and `false_alarms`.
    """

    layer: int
    auc: float
    interval: list[float] | None
    chance: float
    threshold: float
    misses: float
    false_alarms: float


class PromptReading(TypedDict):
    """By layer: `values`, û·h of each token for the unit direction û; `scores`, that of the tokens which `pooling`
    takes, and whether it is above the threshold. The first token and special ones lie elsewhere than others.
    """

    tokens: list[str]
    values: dict[str, list[float]]
    scores: dict[str, float]
    detected: dict[str, bool]


class ReadResult(TypedDict):
    """By layer: `residual_norms`, the typical norm there; `thresholds`, the file's own where none was fitted."""

    vector_path: str
    component: str
    pooling: str
    residual_norms: dict[str, float]
    detectors: list[DetectorStatus]
    thresholds: dict[str, float]
    prompts: list[PromptReading]
    picture_paths: list[str]
    warnings: list[str]


class ComponentEffect(TypedDict):
    """What taking one part out changes: the mean, with its 95 % interval, also on each half of the items, and KL on
    neutral prompts in nats a token. Only a head has a `head`; a direction everywhere has no `layer`.
    """

    layer: int | None
    head: int | None
    effect: float
    interval: list[float] | None
    halves: list[float]
    kl: float


class AblationResult(TypedDict):
    """`effects`: by layer, of each head or of the one part, in what `measure` says; `strongest` at most ten, the
    strongest first. `chance`, of a direction: the most that one of ten random ones does there.
    """

    component: str
    method: str
    measure: str
    items: int
    effects: dict[str, list[float]]
    strongest: list[ComponentEffect]
    chance: dict[str, float] | None
    heat_map_path: str
    warnings: list[str]


class StrongestPatch(TypedDict):
    """One layer and the place of one token."""

    layer: int
    token: int
    recovered: float


class PatchResult(TypedDict):
    """`source` and `target`: log-odds in nats. `recovered`: by layer, of each token, as a share of the way from the
    target to the source; `tokens` are source and target side by side.
    """

    source: float
    target: float
    tokens: list[list[str]]
    recovered: dict[str, list[float]]
    strongest: list[StrongestPatch]
    heat_map_path: str


class KnownVector(TypedDict):
    """A saved vector, and its cosine with a recovered one; without a sign beside an ablation, which has none."""

    vector_path: str
    layer: int
    cosine: float


class AuditFinding(TypedDict):
    """A vector that was recovered from weights: an `addition` at one layer, which is what the file adds at strength 1,
    or an `ablation`, one direction of length 1 and of arbitrary sign projected out at `layers`.

    `tensors` counts those that hold it. Of an ablation, `explained` is its share of their squared change, and `left`
    is |ûᵀW'| / |ûᵀW|: the share of the direction that they kept.
    """

    kind: str
    layers: list[int]
    component: str
    norm: float
    tensors: int
    explained: float | None
    left: float | None
    vector_path: str
    saved: list[KnownVector]


class TensorChange(TypedDict):
    """`change`: |W' − W| / |W|, null where W is zero. `first_direction`: share of |W' − W|² along its first singular
    direction, null for vectors. `kind`: addition, ablation or other.
    """

    name: str
    kind: str
    change: float | None
    first_direction: float | None


class AuditResult(TypedDict):
    """`verdict`: equal, or the kinds that there are, such as "addition", "ablation, other"; other is training, merging
    or whatever else is neither, and no vector is claimed of it.

    `stand_ins` counts compared tensors that one of the two lacks: they stand beside zeros, or what they are tied to;
    `only_in_checkpoint` and `only_in_base` name those that stand beside nothing. `tensors`: the largest changes. By
    chance, cosines reach `cosine_chance`.
    """

    verdict: str
    checkpoint: str
    base: str
    equal: int
    differing: int
    stand_ins: int
    only_in_checkpoint: list[str]
    only_in_base: list[str]
    tensors: list[TensorChange]
    findings: list[AuditFinding]
    cosine_chance: float
    warnings: list[str]
