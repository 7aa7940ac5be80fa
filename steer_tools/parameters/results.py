"""Every tool's result, as it is written to JSON. It must not know engines."""

from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike


class ModelStatus(TypedDict):
    """The attached model; `context_length` counts prompt and new tokens, null for no limit."""

    name: str
    family: str
    layers: int
    hidden_size: int
    dtype: str
    device: str
    engine: str
    chat_template: bool
    context_length: int | None


class CreateResult(TypedDict):
    """Lists run over the layers where several were asked for.

    `magnitude` is the norm of what was saved, `contrast_norm` that of the mean difference, `residual_norm` the model's
    typical norm there. On held-out prompts, null with fewer than 8 on a side: `separation` (ROC area), `d_prime`, and
    the error rates `misses` and `false_alarms` of `threshold` on the projection. `pair_agreement`: mean cosine of
    pairs' differences, null for unpaired methods.
    """

    success: bool
    vector_path: str
    shape: list[int]
    magnitude: float | list[float]
    layer: int | list[int]
    method: str
    contrast_norm: float | list[float]
    residual_norm: float | list[float]
    prompt_counts: list[int]
    separation: float | list[float | None] | None
    d_prime: float | list[float | None] | None
    pair_agreement: float | list[float | None] | None
    threshold: float | list[float | None] | None
    misses: float | list[float | None] | None
    false_alarms: float | list[float | None] | None
    warnings: list[str]


class CombineResult(TypedDict):
    """`cosines`: of each pair of the given vectors, averaged over their layers; `magnitude` is that of the result."""

    success: bool
    vector_path: str
    layer: int | list[int]
    magnitude: float | list[float]
    cosines: list[list[float]]
    warnings: list[str]


class ApplyResult(TypedDict):
    """`residual_strength` is what is added, in typical norms there, null for edits that do not add; `active` counts."""

    success: bool
    steering_id: str
    layer: int | list[int]
    strength: float
    unit: str
    positions: str
    vector_shape: list[int]
    residual_strength: float | list[float | None] | None
    active: int
    warnings: list[str]


class RemoveResult(TypedDict):
    """How many applied vectors were taken off, and how many stay."""

    removed: int
    active: int


class TextMetrics(TypedDict):
    """`changed`: share of tokens unlike the baseline's; `perplexity`: under the unsteered model; `distinct_2`."""

    changed: float | None
    perplexity: float | None
    distinct_2: float | None


class BaselineTexts(TypedDict):
    """New tokens only, one text a prompt."""

    texts: list[str]
    metrics: TextMetrics


class VariantTexts(TypedDict):
    """One strength; both are null for several applied vectors. `steered`: 1 or 0 a prompt, null without a condition."""

    strength: float | None
    residual_strength: float | list[float | None] | None
    steered: list[int] | None
    texts: list[str]
    metrics: TextMetrics


class CompareResult(TypedDict):
    """Baseline and steered texts in the order of the prompts."""

    prompts: list[PromptLike]
    baseline: BaselineTexts
    variants: list[VariantTexts]
    warnings: list[str]


class PromptTokensStatus(TypedDict):
    """One prompt: its ids, the vocabulary's writing of each, and the positions that would be steered."""

    ids: list[int]
    tokens: list[str]
    steered: list[int]


class TokensResult(TypedDict):
    """The prompts in their order; `new_tokens_steered` says whether each new token would be steered, too."""

    prompts: list[PromptTokensStatus]
    new_tokens_steered: bool


class GenerateResult(TypedDict):
    """New tokens only; `ended` says whether a text ended by itself; `active` counts the vectors that are applied.

    `steered` counts those that act on each prompt, null where none has a condition.
    """

    texts: list[str]
    ended: list[bool]
    active: int
    steered: list[int] | None


class AppliedStatus(TypedDict):
    """One applied vector."""

    steering_id: str
    vector_path: str
    layer: int | list[int]
    strength: float
    unit: str
    component: str
    intervention: str
    target: float | None
    positions: str
    condition: str | None


class SavedStatus(TypedDict):
    """One vector file of the workspace; `problem` says why it cannot be read."""

    vector_path: str
    layer: int | list[int] | None
    method: str | None
    problem: str | None


class StatusResult(TypedDict):
    """`in_force`: whether the hooks on the live model are those of `applied`."""

    model: ModelStatus
    in_force: bool
    applied: list[AppliedStatus]
    workspace: str
    saved: list[SavedStatus]
    saved_total: int


class CheckFigure(TypedDict):
    """One law with its figure."""

    name: str
    passed: bool
    figure: float | None
    expected: str


class CheckResult(TypedDict):
    """Whether all laws hold; `warnings` says if nothing was edited, so that they say little."""

    passed: bool
    checks: list[CheckFigure]
    warnings: list[str]


class LoadResult(TypedDict):
    """The model that is attached now; `dropped` counts the vectors that were applied before."""

    success: bool
    model: ModelStatus
    dropped: int


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


class SaveModelResult(TypedDict):
    """`changed` and `added` count tensors; `kind` is addition or ablation.

    `difference`: the largest between logits of the reloaded checkpoint and of the steered model, on `prompts` and
    greedy new tokens, of which `same_tokens` are the same; `effect`: between the unsteered and the steered model.
    `undo` and `llama_cpp` are commands; null where llama.cpp cannot add it.
    """

    success: bool
    folder: str
    kind: str
    changed: int
    added: int
    prompts: int
    same_tokens: int
    difference: float
    tolerance: float
    effect: float
    undo: str
    llama_cpp: str | None
    warnings: list[str]
