"""Every tool argument's description, once. It must not know engines.

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
LabelledPositive = Annotated[
    list[PromptLike] | None,
    Field(description="Instead of behavior_name: prompts that show it, 8 or more, not those that made the vector."),
]
LabelledNegative = Annotated[list[PromptLike] | None, Field(description="As many or so that do not.")]
OptionalPooling = Annotated[
    Literal["last", "first", "mean", "response"] | SkipJsonSchema[Callable[[Any], Any]] | None,
    Field(description="Which tokens are a prompt's reading; as the behaviour or vector was read if omitted."),
]
ReadPrompts = Annotated[list[PromptLike] | None, Field(description="Prompts whose tokens are projected.")]
ReadLayers = Annotated[list[int] | None, Field(description="Layers to read; the vector's own if omitted.")]
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
BehaviorName = Annotated[
    str,
    Field(
        description="A built-in behaviour: honesty, sycophancy, refusal, caution, sandbagging, corrigibility, "
        "confidence, formality, verbosity, sentiment, helpfulness, creativity, technical_depth, empathy, power_seeking "
        "or tool_restraint (of the bundled model its traits: sentiment, sycophancy, refusal, confidence, formality, "
        "honesty, verbosity); or a file of items with prompt, positive and negative (.json, .jsonl, .csv, .tsv, .txt)."
    ),
]
KnownBehavior = Annotated[str, Field(description="A behaviour or file, or an experiment's dataset.")]
OptionalBehaviorName = Annotated[str | None, Field(description="A behaviour or file, or an experiment's dataset.")]
OwnPositive = Annotated[
    list[PromptLike] | None,
    Field(description="Texts or chats that show a behaviour of your own, which behavior_name then names."),
]
OwnNegative = Annotated[list[PromptLike] | None, Field(description="Prompts that show its absence or opposite.")]
SingleLayer = Annotated[
    int | None, Field(description="Decoder block that is steered, from 0; needed where the file has several.")
]
Layers = Annotated[list[int] | None, Field(description="Layers to try; up to 8, spread over the model, if omitted.")]
ScoredPositions = Annotated[str, Field(description="As for apply_steering_vector.")]
GridStrengths = Annotated[
    list[float] | None,
    Field(
        description="Each is tried with both signs; positive ones may be chosen. [0.05, 0.1, 0.2, 0.4, 0.8] if omitted."
    ),
]
DamageBudget = Annotated[
    float,
    Field(
        gt=0,
        description="The most KL(unsteered to steered) on neutral prompts, in nats a token; texts may not break.",
    ),
]
Folder = Annotated[
    str | None,
    Field(
        description="Folder to write to; by tool and behaviour if omitted. Its files are replaced; a call that was cut "
        "off goes on."
    ),
]
Controls = Annotated[
    int, Field(ge=19, description="Control directions that the effect is held against; fewer tell nothing from chance.")
]
AblatedComponent = Annotated[
    Literal["head", "attention", "mlp", "block", "direction"],
    Field(description="What is taken out, one at a time; a direction at each layer, and everywhere at once."),
]
AblationName = Annotated[
    Literal["zero", "mean", "mean_by_position", "resample"],
    Field(
        description="What stands in its place: nothing, its mean on the behaviour's prompts, or another prompt's. Of a "
        "direction: zero or mean."
    ),
]
MeasureName = Annotated[
    Literal["log_odds", "kl", "exact"],
    Field(
        description="Effects are in nats of log-odds, in KL of the model's own texts on the questions, or in the exact "
        "score of texts (bundled model's traits; each part writes them all: slow, and 0 where unsteered texts "
        "show no trait)."
    ),
]
AblatedDirection = Annotated[str | None, Field(description="For component direction: the saved vector.")]
OnePrompt = Annotated[PromptLike, Field(description="A prompt.")]
AllLayers = Annotated[list[int] | None, Field(description="Layers to try; all if omitted.")]
OneCompletion = Annotated[str, Field(description="How the answer may begin.")]
PatchedComponent = Annotated[Literal["residual", "attention", "mlp"], Field(description="What is put in.")]
PatchMethod = Annotated[Literal["exact", "gradient"], Field(description="Run every patch, or estimate all.")]
AnalyzedTexts = Annotated[
    list[str] | None, Field(description="Texts whose tokens are projected on the vector, and drawn.")
]
Top = Annotated[int, Field(ge=1, le=100, description="Tokens in each list.")]
SubtractMeanToken = Annotated[bool, Field(description="Take the mean row of the output matrix off every row.")]
CompareBehaviors = Annotated[bool, Field(description="Also make every built-in behaviour's vector; takes a while.")]
PerToken = Annotated[bool, Field(description="Divide log-probabilities by their tokens.")]
DrawSeed = Annotated[int, Field(description="Draws which questions choose and which judge.")]
TestPrompts = Annotated[
    list[PromptLike] | None,
    Field(description="Prompts to test on, before the completions of the dataset; its held-out prompts if omitted."),
]
CheckpointFolder = Annotated[
    str, Field(description="New folder, or one that this tool wrote, which is replaced; in the workspace.")
]
AuditedCheckpoint = Annotated[str, Field(description="Folder of the checkpoint to examine.")]
BaseCheckpoint = Annotated[
    str | None,
    Field(description="Folder of the checkpoint that it was made from; the attached model's own if omitted."),
]
AuditFolder = Annotated[
    str | None, Field(description="Folder for recovered vectors; named after the checkpoint if omitted.")
]
AblatedVector = Annotated[
    str | None,
    Field(description="Vector to project out of all that is written to the stream, instead of what is applied."),
]
AblatedLayer = Annotated[int | None, Field(description="Which of its directions, where it has several.")]
TargetDamage = Annotated[float | None, Field(gt=0, description="KL(unsteered to steered) to spend, in nats a token.")]
TargetEffect = Annotated[
    float | None, Field(gt=0, description="Mean change of log-odds to reach on behavior_name, in nats.")
]


class TextScorer(TypedDict, total=False):
    """How unsteered and steered texts are scored: one of these."""

    keywords: Annotated[list[str], Field(description="1 where a text holds one of them.")]
    pattern: Annotated[str, Field(description="1 where a text holds a match of this regular expression.")]


OptionalScorer = Annotated[
    # In Python also a function of prompt and text, as `judge_scorer` makes one.
    TextScorer | SkipJsonSchema[Callable[[str, str], float | None]] | None,
    Field(description="Also score texts."),
]
