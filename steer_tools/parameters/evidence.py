"""The results of the tools that measure whether a vector works. It must not know engines."""

from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike


class LayerCells(TypedDict):
    """One layer, a value for each strength; `opposite_effects` are those of the strengths with the other sign.

    `within_budget` holds to the whole damage budget, texts included.
    """

    layer: int
    effects: list[float]
    opposite_effects: list[float]
    kl: list[float]
    within_budget: list[bool]


class WindowStatus(TypedDict):
    """Strengths within the budget that have at least 80 % of the largest effect there."""

    layer: int
    least: float
    largest: float


class SweepResult(TypedDict):
    """Effects are mean changes of log-odds, in nats.

    Those of `cells` are on the items that chose the best cell, `effect` and its 95 % `interval` on the `items` others.
    There are no controls: the interval of a random direction is often clear of 0, too.
    `anti_steerable`: share of these that the strengths move the wrong way.
    """

    unit: str
    strengths: list[float]
    cells: list[LayerCells]
    window: list[WindowStatus]
    best_layer: int
    best_strength: float
    effect: float
    interval: list[float] | None
    items: int
    anti_steerable: float
    heat_map_path: str
    data_path: str
    warnings: list[str]


class BestLayerResult(SweepResult):
    """As from sweep_steering; `vector_path` is the vector at all layers that were tried.

    `dataset` names the behaviour for other tools: lists of your own are a file now.
    """

    vector_path: str
    dataset: str


class ControlsStatus(TypedDict):
    """`reached` of `count` controls have the vector's effect; `anti_steerable`: their share of items below 0."""

    count: int
    reached: int
    largest: float
    anti_steerable: float


class SideEffectsStatus(TypedDict):
    """Of the chosen cell: KL in nats a token; perplexity, distinct-2 and length as multiples of the unsteered text's.

    `others`: mean change of log-odds of other behaviours.
    """

    kl: float
    perplexity: float
    distinct_2: float
    length: float
    others: dict[str, float]
    text_scores: dict[str, list[float | None]]


class ExperimentResult(TypedDict):
    """`effect` (nats), with its 95 % `interval`, is on `items` that did not choose.

    `prompting` is that of a prompt which simply asks for the behaviour, null where nobody wrote one. `text_scores`: of
    the unsteered and the steered texts; `exact` is the bundled language's own, from -1 to 1. `dataset` names the
    behaviour for other tools: lists of your own are a file now.
    """

    verdict: str
    reasons: list[str]
    vector_path: str
    dataset: str
    best_layer: int
    best_strength: float
    unit: str
    effect: float
    interval: list[float] | None
    items: int
    prompting: float | None
    controls: ControlsStatus
    side_effects: SideEffectsStatus
    window: list[WindowStatus]
    report_path: str
    warnings: list[str]


class FailingItem(TypedDict):
    """An item that moved the wrong way, or not."""

    prompt: PromptLike
    effect: float


class RobustnessResult(TypedDict):
    """Effects are changes of log-odds in nats, positive towards the behaviour; a negative strength is to lower them.

    `score`: share of questions that move the asked way by at least a quarter of the median effect in all wordings, with
    the chat template and without. `failing`: the worst 5 of the `failing_items` that do not move that way.
    `anti_steerable`: share that the strength moves the wrong way from its opposite on. `paraphrase_share`: part of the
    variance that lies between wordings of one question.
    """

    layer: int
    strength: float
    unit: str
    score: float
    effect: float
    interval: list[float] | None
    standard_deviation: float
    items: int
    failing_items: int
    failing: list[FailingItem]
    anti_steerable: float
    anti_steerable_interval: list[float] | None
    paraphrase_share: float | None
    effect_without_template: float | None
    warnings: list[str]


class CalibrationResult(TypedDict):
    """`strength`, in `unit`, reaches the target; `kl` and `effect` are what it does, `effect` null without a behaviour.

    `residual_strength` is the same strength in residual norms.
    """

    layer: int
    strength: float
    unit: str
    residual_strength: float | None
    kl: float
    effect: float | None
    warnings: list[str]
