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


class NextTokensStatus(TypedDict):
    """One prompt: probabilities of the likeliest next tokens, unsteered and then at each strength; `kl` in nats."""

    tokens: dict[str, list[float]]
    kl: list[float]


class NextTokensResult(TypedDict):
    """The prompts in their order; a strength is null for several applied vectors.

    `steered`: 1 or 0 a prompt, null without a condition.
    """

    strengths: list[float | None]
    residual_strengths: list[float | list[float | None] | None]
    prompts: list[NextTokensStatus]
    steered: list[int] | None
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
