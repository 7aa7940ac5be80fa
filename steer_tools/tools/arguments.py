"""Every argument of the tools, described once, with its type and bounds. It must not know engines.

The types are what a schema is made of, so they are as narrow as JSON allows; the tools check the rest. No torch and no
pydantic here: the command line reads descriptions for its help.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike
from steer_tools.tools.choices import (
    CONTROL_METHODS,
    PAIRED_METHODS,
    SCALING_INTERVENTIONS,
    InterventionName,
    MethodName,
)


@dataclass(frozen=True)
class Doc:
    """An argument's description, as `pydantic.Field` has one, without what importing pydantic costs."""

    description: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Put the description into a JSON schema; pydantic calls this."""
        return {**handler(schema), "description": self.description}


class OnlyInPython:
    """Marks the values that Python takes and JSON cannot say, as `pydantic.json_schema.SkipJsonSchema` does."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: object) -> dict[str, Any]:
        """Leave the values out of a JSON schema; pydantic calls this."""
        from pydantic_core import PydanticOmit

        raise PydanticOmit


_ONLY_IN_PYTHON = OnlyInPython()
_PROMPT = "Each is a text, a list of {role, content} messages (for chat models), or a list of token ids."

Prompts = Annotated[list[PromptLike], Doc(f"Prompts to continue. {_PROMPT}"), MinLen(1)]
PositivePrompts = Annotated[list[PromptLike], Doc(f"Prompts that show the behaviour. {_PROMPT}")]
NegativePrompts = Annotated[
    list[PromptLike],
    Doc("Prompts that show its absence or opposite, otherwise like the positive ones."),
]
CreateLayer = Annotated[
    int | list[int] | Literal["all"],
    Doc("Decoder block whose output is read, from 0; negative counts from the end."),
]
ApplyLayer = Annotated[
    int | list[int] | None,
    Doc("Decoder block whose output is steered, from 0. Omit it to use every layer of the file."),
]
SavePath = Annotated[
    str, Doc("File in the workspace: .safetensors (default), .gguf for llama.cpp, or .npy (one layer).")
]
VectorPath = Annotated[str, Doc("The vector_path that create_steering_vector returned.")]
OptionalVectorPath = Annotated[
    str | None, Doc("A vector to try out by itself. Omit it to compare what is applied now.")
]
Method = Annotated[
    MethodName,
    Doc(f"{PAIRED_METHODS} need equally long lists whose items belong together; {CONTROL_METHODS} are controls."),
]


class MethodOptions(TypedDict, total=False):
    """Each method takes those that name it."""

    shrinkage: Annotated[float, Doc("lda: from 1e-6 to 1; Ledoit and Wolf's if omitted.")]
    penalty: Annotated[float, Doc("logistic: of the squared weights (1).")]
    sae: Annotated[str, Doc("sae_feature: safetensors file or SAELens folder.")]
    feature: Annotated[int, Doc("sae_feature: row of its decoder.")]
    budget: Annotated[float, Doc("trained: most length, in contrasts (1).")]
    steps: Annotated[int, Doc("trained (40).")]
    batch: Annotated[int, Doc("trained: pairs a step (16).")]
    seed: Annotated[int, Doc("lat, trained and controls (0).")]


OptionalMethodOptions = Annotated[MethodOptions | None, Doc("Options of the method.")]
ComponentName = Annotated[
    Literal["residual", "embedding", "attention", "mlp"],
    Doc("What is read: a layer's output, or what its attention or MLP adds to it; embedding is layer 0."),
]
Head = Annotated[int | None, Doc("One head of component attention, from 0.")]
PoolingName = Annotated[
    # In Python also a function from a TokenizedPrompt to one bool a token.
    Literal["last", "first", "mean", "response"] | Annotated[Callable[[Any], Any], _ONLY_IN_PYTHON],
    Doc("Which tokens are read: mean skips special ones, response is the last assistant message."),
]
LabelledPositive = Annotated[
    list[PromptLike] | None,
    Doc("Instead of behavior_name: prompts that show it, 8 or more, not those that made the vector."),
]
LabelledNegative = Annotated[list[PromptLike] | None, Doc("As many or so that do not.")]
OptionalPooling = Annotated[
    Literal["last", "first", "mean", "response"] | Annotated[Callable[[Any], Any], _ONLY_IN_PYTHON] | None,
    Doc("Which tokens are a prompt's reading; as the behaviour or vector was read if omitted."),
]
ReadPrompts = Annotated[list[PromptLike] | None, Doc("Prompts whose tokens are projected.")]
ReadLayers = Annotated[list[int] | None, Doc("Layers to read; the vector's own if omitted.")]
Normalize = Annotated[bool, Doc("Save unit length instead of the length of one contrast.")]
Strength = Annotated[float, Doc("Multiplies the unit. 0 changes nothing, negative steers the other way.")]
Strengths = Annotated[
    list[float] | None,
    Doc("Strengths to try with vector_path; show both signs, as [-1, 1]. [1.0] if omitted."),
]
UnitName = Annotated[
    Literal["vector", "contrast", "residual"],
    Doc("What 1.0 means: the saved vector, one mean difference, or one typical residual norm there."),
]
Intervention = Annotated[
    InterventionName,
    Doc(
        f"What is done to the hidden state. Strength multiplies the direction in {SCALING_INTERVENTIONS}; of others 1 "
        "is the whole edit (rotate: the whole angle)."
    ),
]
Target = Annotated[
    float | None,
    Doc(
        "affine: 0 is the negative prompts' projection, 1 the positive's (0); clamp: the projection to "
        "hold (that of the positive prompts); rotate: degrees (90)."
    ),
]
Condition = Annotated[
    str | None,
    Doc(
        "Steer only prompts whose projection on this saved vector is above its threshold. Files may be "
        "joined by and, or, not and parentheses; FILE@LAYER picks one of several layers."
    ),
]
LayerWeights = Annotated[
    list[float] | None, Doc("Multiply the strength at each layer that is steered, in their order.")
]
VectorPaths = Annotated[list[str], Doc("Saved vectors."), MinLen(1)]
Weights = Annotated[list[float] | None, Doc("By what each is multiplied; 1.0 if omitted. Negative turns it round.")]
OrthogonalTo = Annotated[list[str] | None, Doc("Saved vectors whose directions are taken out of the result.")]
Positions = Annotated[
    str,
    Doc(
        "Tokens to steer: generated (last prompt token and all new ones), prompt, all, last_prompt, first, "
        "after_user (all after a chat's last user message), a slice of the prompt such as 0:4, or several joined by "
        "commas."
    ),
]
AllowOtherModel = Annotated[bool, Doc("Accept a vector of another model of the same width.")]
SteeringId = Annotated[str, Doc("From apply_steering_vector or steering_status.")]
MaxNewTokens = Annotated[int, Doc("The most new tokens for each text."), Ge(1)]
Temperature = Annotated[float, Doc("0 is greedy."), Ge(0)]
Seed = Annotated[int, Doc("For sampling; each prompt draws its own numbers from it.")]
ModelName = Annotated[str, Doc("A folder with a transformers checkpoint, a name on the model hub, or bundled.")]
EngineName = Annotated[Literal["huggingface"], Doc("What runs the model.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], Doc("auto keeps the checkpoint's own.")]
DeviceMap = Annotated[str | None, Doc("For instance auto, cuda or cpu.")]
CheckPrompts = Annotated[list[PromptLike] | None, Doc("Prompts to check on; built-in ones if omitted.")]
BehaviorName = Annotated[
    str,
    Doc(
        "A built-in behaviour: honesty, sycophancy, refusal, caution, sandbagging, corrigibility, "
        "confidence, formality, verbosity, sentiment, helpfulness, creativity, technical_depth, empathy, power_seeking "
        "or tool_restraint (of the bundled model its traits: sentiment, sycophancy, refusal, confidence, formality, "
        "honesty, verbosity); or a file of items with prompt, positive and negative (.json, .jsonl, .csv, .tsv, .txt)."
    ),
]
KnownBehavior = Annotated[str, Doc("A behaviour or file, or an experiment's dataset.")]
OptionalBehaviorName = Annotated[str | None, Doc("A behaviour or file, or an experiment's dataset.")]
OwnPositive = Annotated[
    list[PromptLike] | None,
    Doc("Texts or chats that show a behaviour of your own, which behavior_name then names."),
]
OwnNegative = Annotated[list[PromptLike] | None, Doc("Prompts that show its absence or opposite.")]
SingleLayer = Annotated[int | None, Doc("Decoder block that is steered, from 0; needed where the file has several.")]
Layers = Annotated[list[int] | None, Doc("Layers to try; up to 8, spread over the model, if omitted.")]
ScoredPositions = Annotated[str, Doc("As for apply_steering_vector.")]
GridStrengths = Annotated[
    list[float] | None,
    Doc("Each is tried with both signs; positive ones may be chosen. [0.05, 0.1, 0.2, 0.4, 0.8] if omitted."),
]
DamageBudget = Annotated[
    float,
    Doc("The most KL(unsteered to steered) on neutral prompts, in nats a token; texts may not break."),
    Gt(0),
]
Folder = Annotated[
    str | None,
    Doc(
        "Folder to write to; by tool and behaviour if omitted. Its files are replaced; a call that was cut off goes on."
    ),
]
Controls = Annotated[
    int, Doc("Control directions that the effect is held against; fewer tell nothing from chance."), Ge(19)
]
AblatedComponent = Annotated[
    Literal["head", "attention", "mlp", "block", "direction"],
    Doc("What is taken out, one at a time; a direction at each layer, and everywhere at once."),
]
AblationName = Annotated[
    Literal["zero", "mean", "mean_by_position", "resample"],
    Doc(
        "What stands in its place: nothing, its mean on the behaviour's prompts, or another prompt's. Of a "
        "direction: zero or mean."
    ),
]
MeasureName = Annotated[
    Literal["log_odds", "kl", "exact"],
    Doc(
        "Effects are in nats of log-odds, in KL of the model's own texts on the questions, or in the exact "
        "score of texts (bundled model's traits; each part writes them all: slow, and 0 where unsteered texts "
        "show no trait)."
    ),
]
AblatedDirection = Annotated[str | None, Doc("For component direction: the saved vector.")]
OnePrompt = Annotated[PromptLike, Doc("A prompt.")]
AllLayers = Annotated[list[int] | None, Doc("Layers to try; all if omitted.")]
OneCompletion = Annotated[str, Doc("How the answer may begin.")]
PatchedComponent = Annotated[Literal["residual", "attention", "mlp"], Doc("What is put in.")]
PatchMethod = Annotated[Literal["exact", "gradient"], Doc("Run every patch, or estimate all.")]
AnalyzedTexts = Annotated[list[str] | None, Doc("Texts whose tokens are projected on the vector, and drawn.")]
Top = Annotated[int, Doc("Tokens in each list."), Ge(1), Le(100)]
SubtractMeanToken = Annotated[bool, Doc("Take the mean row of the output matrix off every row.")]
CompareBehaviors = Annotated[bool, Doc("Also make every built-in behaviour's vector; takes a while.")]
PerToken = Annotated[bool, Doc("Divide log-probabilities by their tokens.")]
DrawSeed = Annotated[int, Doc("Draws which questions choose and which judge.")]
TestPrompts = Annotated[
    list[PromptLike] | None,
    Doc("Prompts to test on, before the completions of the dataset; its held-out prompts if omitted."),
]
CheckpointFolder = Annotated[str, Doc("New folder, or one that this tool wrote, which is replaced; in the workspace.")]
AuditedCheckpoint = Annotated[str, Doc("Folder of the checkpoint to examine.")]
BaseCheckpoint = Annotated[
    str | None,
    Doc("Folder of the checkpoint that it was made from; the attached model's own if omitted."),
]
AuditFolder = Annotated[str | None, Doc("Folder for recovered vectors; named after the checkpoint if omitted.")]
AblatedVector = Annotated[
    str | None,
    Doc("Vector to project out of all that is written to the stream, instead of what is applied."),
]
AblatedLayer = Annotated[int | None, Doc("Which of its directions, where it has several.")]
TargetDamage = Annotated[float | None, Doc("KL(unsteered to steered) to spend, in nats a token."), Gt(0)]
TargetEffect = Annotated[float | None, Doc("Mean change of log-odds to reach on behavior_name, in nats."), Gt(0)]


class TextScorer(TypedDict, total=False):
    """How unsteered and steered texts are scored: one of these."""

    keywords: Annotated[list[str], Doc("1 where a text holds one of them.")]
    pattern: Annotated[str, Doc("1 where a text holds a match of this regular expression.")]


OptionalScorer = Annotated[
    # In Python also a function of prompt and text, as `judge_scorer` makes one.
    TextScorer | Annotated[Callable[[str, str], float | None], _ONLY_IN_PYTHON] | None,
    Doc("Also score texts."),
]
