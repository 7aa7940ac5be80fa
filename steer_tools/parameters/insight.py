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
    strongest first. `chance`: the most that one of ten random directions does when it is taken out everywhere.
    """

    component: str
    method: str
    measure: str
    items: int
    effects: dict[str, list[float]]
    strongest: list[ComponentEffect]
    chance: float | None
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
