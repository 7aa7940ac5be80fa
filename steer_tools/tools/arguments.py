"""The arguments that several tools take, each described once, with its type and bounds. It must not know engines.

An argument of one tool is described in that tool's file.

The types are what a schema is made of, so they are as narrow as JSON allows; the tools check the rest. No torch and no
pydantic here: the command line reads descriptions for its help.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

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


class Needed:
    """Marks what a schema says must be given, though the tool answers itself where it is not: it knows more to say."""


ONLY_IN_PYTHON, NEEDED = OnlyInPython(), Needed()
# Of a parameter that a schema says is given or not there at all: JSON's null would only make it longer.
LeftOut: TypeAlias = Annotated[None, ONLY_IN_PYTHON]
# (positive, negative) tuples, or records with both.
Pairs: TypeAlias = Annotated[Sequence[Any], ONLY_IN_PYTHON]
# What every tool means by a layer that is left out.
LEFT_OUT = "If omitted: an experiment's choice for the file, else all it has"
PROMPT = "Each is a text, a list of {role, content} messages (for chat models), or a list of token ids."

Prompts = Annotated[list[PromptLike], Doc(f"Prompts to continue. {PROMPT}"), MinLen(1)]
ApplyLayer = Annotated[
    int | list[int] | None,
    Doc(f"Decoder block whose output is steered, from 0. {LEFT_OUT}."),
]
# In Python also a token's index, or a function from a TokenizedPrompt to one bool a token.
Pooling: TypeAlias = (
    Literal["last", "first", "mean", "response"]
    | Annotated[int, ONLY_IN_PYTHON]
    | Annotated[Callable[[Any], Any], ONLY_IN_PYTHON]
)
SavePath = Annotated[
    str, Doc("File in the workspace: .safetensors (default), .gguf for llama.cpp, or .npy (one layer).")
]
VectorPath = Annotated[str, Doc("A saved vector's file.")]
OptionalVectorPath = Annotated[
    str | None, Doc("A vector to try out by itself. Omit it to compare what is applied now.")
]
Method = Annotated[
    MethodName,
    Doc(f"{PAIRED_METHODS} need equally long lists whose items belong together; {CONTROL_METHODS} are controls."),
]


Strength = Annotated[float, Doc("Multiplies the unit. 0 changes nothing, negative steers the other way.")]
OptionalStrength = Annotated[
    float | LeftOut,
    Doc("Multiplies the unit; negative steers the other way. If omitted: an experiment's choice, else 1."),
]
Strengths = Annotated[
    list[float] | None,
    Doc(
        "Strengths to try with vector_path; show both signs, as [-1, 1]. An experiment's choice, or [1.0], if omitted."
    ),
]
Unit: TypeAlias = Literal["vector", "contrast", "residual"]
_UNITS = "What 1.0 means: the saved vector, one mean difference, or one typical norm there."
UnitName = Annotated[Unit, Doc(_UNITS)]
OptionalUnit = Annotated[Unit | None, Doc(_UNITS)]
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
_TOKENS = (
    "Tokens to steer: generated (last prompt token and all new ones), prompt, all, last_prompt, first, "
    "after_user (all after a chat's last user message), a slice of the prompt such as 0:4, or several joined by "
    "commas."
)
OptionalPositions = Annotated[str | None, Doc(_TOKENS)]
AllowOtherModel = Annotated[bool, Doc("Accept another model's vector of equal width.")]
SteeringId = Annotated[str, Doc("From apply_steering_vector or steering_status.")]
MaxNewTokens = Annotated[int, Doc("The most new tokens for each text."), Ge(1)]
Temperature = Annotated[float, Doc("0 is greedy."), Ge(0)]
Seed = Annotated[int, Doc("For sampling; each prompt draws its own numbers from it.")]
CheckPrompts = Annotated[list[PromptLike] | LeftOut, Doc("Prompts to check on; built-in ones if omitted.")]
# In Python also the positive of two lists, or one list of pairs: a behaviour of one's own without a name.
KnownBehavior = Annotated[str | Pairs, Doc("A behaviour or file, or an experiment's dataset.")]
OptionalBehaviorName = Annotated[str | LeftOut, Doc("A behaviour or file, or an experiment's dataset.")]
OwnPositive = Annotated[
    list[PromptLike] | LeftOut,
    Doc("Texts or chats that show a behaviour of your own, which behavior_name then names."),
]
OwnNegative = Annotated[list[PromptLike] | LeftOut, Doc("Prompts that show its absence or opposite.")]
SingleLayer = Annotated[int | LeftOut, Doc(f"Decoder block that is steered, from 0. {LEFT_OUT}, which must be one.")]
Layers = Annotated[list[int] | LeftOut, Doc("Layers to try; up to 8, spread over the model, if omitted.")]
_AS_APPLIED = Doc("As for apply_steering_vector.")
ScoredPositions = Annotated[str, _AS_APPLIED]
OptionalScoredPositions = Annotated[str | None, _AS_APPLIED]
TriedTarget = Annotated[float | None, _AS_APPLIED]
TriedCondition = Annotated[str | None, _AS_APPLIED]
GridStrengths = Annotated[
    list[float] | LeftOut,
    Doc("Each is tried with both signs; positive ones may be chosen. [0.05, 0.1, 0.2, 0.4, 0.8] if omitted."),
]
DamageBudget = Annotated[
    float,
    Doc("The most KL(unsteered to steered) on neutral prompts, in nats a token; texts may not break."),
    Gt(0),
]
Folder = Annotated[
    str | LeftOut,
    Doc("Folder whose files are replaced; by tool and behaviour if omitted. What was cut off goes on."),
]
AllLayers = Annotated[list[int] | LeftOut, Doc("Layers to try; all if omitted.")]
Top = Annotated[int, Doc("Tokens in each list."), Ge(1), Le(100)]
PerToken = Annotated[bool, Doc("Divide log-probabilities by their tokens.")]
DrawSeed = Annotated[int, Doc("Draws which questions choose and which judge.")]
AblatedLayer = Annotated[int | LeftOut, Doc(f"Which of its directions. {LEFT_OUT}, which must be one.")]


class TextScorer(TypedDict, total=False):
    """How texts are scored: one of these."""

    keywords: Annotated[list[str], Doc("1 where a text holds one of them.")]
    pattern: Annotated[str, Doc("1 where a text holds a match of this regular expression.")]


OptionalScorer = Annotated[
    # In Python also a function of prompt and text, as `judge_scorer` makes one.
    TextScorer | Annotated[Callable[[str, str], float | None], ONLY_IN_PYTHON] | LeftOut,
    Doc("Also score texts."),
]
OwnMetric = Annotated[
    Callable[..., Any] | None,
    Doc("Your own metric(text) or metric(prompt, text): a number of any range."),
    ONLY_IN_PYTHON,
]
MetricName = Annotated[str | None, Doc("What the metric is called; its function's name if omitted."), ONLY_IN_PYTHON]
RepetitionPenalty = Annotated[
    float,
    Doc(
        "The logits of tokens in the prompt and the text so far are divided by it where positive, multiplied where "
        "negative, as by transformers; 1 is none. Metrics of texts are without it."
    ),
    ONLY_IN_PYTHON,
]
