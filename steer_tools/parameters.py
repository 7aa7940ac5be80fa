"""Every tool argument's description, once, and every tool's result. It must not know engines.

The types are what a schema is made of, so they are as narrow as JSON allows; the tools check the rest. No torch here:
the command line reads descriptions for its help.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike

_PROMPT = "Each is a text, a list of {role, content} messages (for chat models), or a list of token ids."

Prompts = Annotated[list[PromptLike], Field(min_length=1, description=f"Prompts to continue. {_PROMPT}")]
PositivePrompts = Annotated[list[PromptLike], Field(description=f"Prompts that show the behaviour. {_PROMPT}")]
NegativePrompts = Annotated[
    list[PromptLike],
    Field(description="Prompts that show its absence or opposite, otherwise like the positive ones."),
]
CreateLayer = Annotated[
    int | list[int] | Literal["all"],
    Field(description="Decoder block whose output is read, from 0; negative counts from the end."),
]
ApplyLayer = Annotated[
    int | list[int] | None,
    Field(description="Decoder block whose output is steered, from 0. Omit it to use every layer of the file."),
]
SavePath = Annotated[
    str, Field(description="File in the workspace: .safetensors (default), .gguf for llama.cpp, or .npy (one layer).")
]
VectorPath = Annotated[str, Field(description="The vector_path that create_steering_vector returned.")]
OptionalVectorPath = Annotated[
    str | None, Field(description="A vector to try out by itself. Omit it to compare what is applied now.")
]
MethodName = Literal[
    "mean_difference",
    "paired_mean_difference",
    "act_add",
    "pca",
    "lat",
    "lda",
    "logistic",
    "sae_feature",
    "trained",
    "random",
    "random_covariance",
    "balanced_shuffle",
]
InterventionName = Literal[
    "add", "add_keeping_norm", "project_out", "affine", "clamp", "rotate", "replace", "zero", "mean", "erase"
]
Method = Annotated[
    MethodName,
    Field(
        description="paired_mean_difference, pca and trained need equally long lists whose items belong together; the "
        "last three are controls."
    ),
]


class MethodOptions(TypedDict, total=False):
    """Each method takes those that name it."""

    shrinkage: Annotated[float, Field(description="lda: from 1e-6 to 1; Ledoit and Wolf's if omitted.")]
    penalty: Annotated[float, Field(description="logistic: of the squared weights (1).")]
    sae: Annotated[str, Field(description="sae_feature: safetensors file or SAELens folder.")]
    feature: Annotated[int, Field(description="sae_feature: row of its decoder.")]
    budget: Annotated[float, Field(description="trained: most length, in contrasts (1).")]
    steps: Annotated[int, Field(description="trained (40).")]
    batch: Annotated[int, Field(description="trained: pairs a step (16).")]
    seed: Annotated[int, Field(description="lat, trained and controls (0).")]


OptionalMethodOptions = Annotated[MethodOptions | None, Field(description="Options of the method.")]
ComponentName = Annotated[
    Literal["residual", "embedding", "attention", "mlp"],
    Field(description="What is read: a layer's output, or what its attention or MLP adds to it; embedding is layer 0."),
]
Head = Annotated[int | None, Field(description="One head of component attention, from 0.")]
PoolingName = Annotated[
    # In Python also a function from a TokenizedPrompt to one bool a token.
    Literal["last", "first", "mean", "response"] | SkipJsonSchema[Callable[[Any], Any]],
    Field(description="Which tokens are read: mean skips special ones, response is the last assistant message."),
]
Normalize = Annotated[bool, Field(description="Save unit length instead of the length of one contrast.")]
Strength = Annotated[float, Field(description="Multiplies the unit. 0 changes nothing, negative steers the other way.")]
Strengths = Annotated[
    list[float] | None,
    Field(description="Strengths to try with vector_path; show both signs, as [-1, 1]. [1.0] if omitted."),
]
UnitName = Annotated[
    Literal["vector", "contrast", "residual"],
    Field(description="What 1.0 means: the saved vector, one mean difference, or one typical residual norm there."),
]
Intervention = Annotated[
    InterventionName,
    Field(
        description="What is done to the hidden state. Beside the first two, strength 1 is the whole edit (rotate: the "
        "whole angle)."
    ),
]
Target = Annotated[
    float | None,
    Field(
        description="affine: 0 is the negative prompts' projection, 1 the positive's (0); clamp: the projection to "
        "hold (that of the positive prompts); rotate: degrees (90)."
    ),
]
Condition = Annotated[
    str | None,
    Field(
        description="Steer only prompts whose projection on this saved vector is above its threshold. Files may be "
        "joined by and, or, not and parentheses; FILE@LAYER picks one of several layers."
    ),
]
LayerWeights = Annotated[
    list[float] | None, Field(description="Multiply the strength at each layer that is steered, in their order.")
]
VectorPaths = Annotated[list[str], Field(min_length=1, description="Saved vectors.")]
Weights = Annotated[
    list[float] | None, Field(description="By what each is multiplied; 1.0 if omitted. Negative turns it round.")
]
OrthogonalTo = Annotated[
    list[str] | None, Field(description="Saved vectors whose directions are taken out of the result.")
]
Positions = Annotated[
    str,
    Field(
        description="Tokens to steer: generated (last prompt token and all new ones), prompt, all, last_prompt, first, "
        "after_user (all after a chat's last user message), a slice of the prompt such as 0:4, or several joined by "
        "commas."
    ),
]
AllowOtherModel = Annotated[bool, Field(description="Accept a vector of another model of the same width.")]
SteeringId = Annotated[str, Field(description="From apply_steering_vector or steering_status.")]
MaxNewTokens = Annotated[int, Field(ge=1, description="The most new tokens for each text.")]
Temperature = Annotated[float, Field(ge=0, description="0 is greedy.")]
Seed = Annotated[int, Field(description="For sampling; each prompt draws its own numbers from it.")]
ModelName = Annotated[
    str, Field(description="A folder with a transformers checkpoint, a name on the model hub, or bundled.")
]
EngineName = Annotated[Literal["huggingface"], Field(description="What runs the model.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], Field(description="auto keeps the checkpoint's own.")
]
DeviceMap = Annotated[str | None, Field(description="For instance auto, cuda or cpu.")]
CheckPrompts = Annotated[list[PromptLike] | None, Field(description="Prompts to check on; built-in ones if omitted.")]


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
