"""The options of the commands, each once, and the descriptions they take from the tools' parameters.

`{Name}` in a help text stands for the description of that alias in `parameters.py`. It is filled in when a command's
help is asked for, because the types there need torch, and `steer-tools --help` should not wait for it.
"""

from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typing_extensions import is_typeddict

_SOURCE, _STEERING, _TEXT, _MODEL = "Contrast prompts, from one of these", "Steering", "Text", "Model"
_EVIDENCE, _SCORER = "Evidence", "Scores of texts, from one of these"

Model = Annotated[
    str,
    typer.Option(
        "--model", help="{ModelName} The bundled one is small and ships with the package.", rich_help_panel=_MODEL
    ),
]
WorkspaceFolder = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        metavar="FOLDER",
        help="Where vectors are saved and found. (default: $STEER_TOOLS_WORKSPACE, else ./workspace)",
    ),
]
DtypeName = Annotated[str, typer.Option("--dtype", help="{Dtype}", rich_help_panel=_MODEL)]
DeviceMapName = Annotated[
    str | None, typer.Option("--device-map", metavar="NAME", help="{DeviceMap}", rich_help_panel=_MODEL)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPTS", help="Texts.")]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts-file",
        metavar="FILE",
        help="More prompts: a list in a .json file, each a text or chat messages; any other file has one text a line.",
    ),
]
AsChat = Annotated[bool, typer.Option("--chat", help="Send each text as a user's message, by the chat template.")]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, help="{MaxNewTokens}", rich_help_panel=_TEXT)
]
Temperature = Annotated[
    float, typer.Option("--temperature", metavar="X", min=0, help="{Temperature}", rich_help_panel=_TEXT)
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="{Seed}", rich_help_panel=_TEXT)]

_VECTOR = "A saved vector; a relative path is meant below the workspace."
Vector = Annotated[str, typer.Option("--vector", metavar="FILE", help=_VECTOR, rich_help_panel=_STEERING)]
OptionalVector = Annotated[
    str | None,
    typer.Option(
        "--vector", metavar="FILE", help=f"{_VECTOR} Without it nothing is steered.", rich_help_panel=_STEERING
    ),
]
ApplyLayers = Annotated[
    list[int] | None,
    typer.Option("--layer", metavar="N", help="{ApplyLayer} Repeat it for several.", rich_help_panel=_STEERING),
]
Strength = Annotated[float, typer.Option("--strength", metavar="X", help="{Strength}", rich_help_panel=_STEERING)]
Strengths = Annotated[
    list[float] | None,
    typer.Option(
        "--strength",
        metavar="X",
        help="{Strength} Repeat it to compare several. (default: 1.0)",
        rich_help_panel=_STEERING,
    ),
]
LayerWeight = Annotated[
    list[float] | None,
    typer.Option("--layer-weight", metavar="X", help="{LayerWeights} Repeat it.", rich_help_panel=_STEERING),
]
Unit = Annotated[str, typer.Option("--unit", help="{UnitName}", rich_help_panel=_STEERING)]
Intervention = Annotated[str, typer.Option("--intervention", help="{Intervention}", rich_help_panel=_STEERING)]
Target = Annotated[float | None, typer.Option("--target", metavar="X", help="{Target}", rich_help_panel=_STEERING)]
Positions = Annotated[str, typer.Option("--positions", help="{Positions}", rich_help_panel=_STEERING)]
Condition = Annotated[
    str | None, typer.Option("--condition", metavar="FILES", help="{Condition}", rich_help_panel=_STEERING)
]
AllowOtherModel = Annotated[
    bool, typer.Option("--allow-other-model", help="{AllowOtherModel}", rich_help_panel=_STEERING)
]

Positive = Annotated[
    list[str] | None,
    typer.Option(
        "--positive",
        metavar="TEXT",
        help="A prompt that shows the behaviour. Repeat it; at least 8 are good.",
        rich_help_panel=_SOURCE,
    ),
]
Negative = Annotated[
    list[str] | None,
    typer.Option("--negative", metavar="TEXT", help="{NegativePrompts} Repeat it.", rich_help_panel=_SOURCE),
]
ContrastFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A JSON object with the lists 'positive' and 'negative', of texts or chats.",
        rich_help_panel=_SOURCE,
    ),
]
Trait = Annotated[
    str | None,
    typer.Option(
        "--trait",
        metavar="NAME",
        help="A trait of the bundled model's language, with its pairs.",
        rich_help_panel=_SOURCE,
    ),
]
CreateLayers = Annotated[
    list[str], typer.Option("--layer", metavar="N", help="{CreateLayer} Repeat it for several, or say 'all'.")
]
SavePath = Annotated[str, typer.Option("--save", metavar="PATH", help="{SavePath}")]
Method = Annotated[str, typer.Option("--method", help="{Method}")]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="NAME=VALUE", help="An option of the method; repeat it for several. {MethodOptions}."
    ),
]
ComponentName = Annotated[str, typer.Option("--component", help="{ComponentName}")]
Head = Annotated[int | None, typer.Option("--head", metavar="N", help="{Head}")]
PoolingName = Annotated[
    str | None, typer.Option("--pooling", help="{PoolingName} (default: last; response with --trait)")
]
Normalize = Annotated[bool, typer.Option("--normalize", help="{Normalize}")]

VectorFiles = Annotated[
    list[str], typer.Argument(metavar="VECTORS", help="{VectorPaths} A relative path is meant below the workspace.")
]
Weights = Annotated[
    list[float] | None,
    typer.Option("--weight", metavar="X", help="{Weights} Repeat it, in the order of the vectors."),
]
OrthogonalTo = Annotated[
    list[str] | None, typer.Option("--orthogonal-to", metavar="FILE", help="{OrthogonalTo} Repeat it for several.")
]

Behavior = Annotated[str, typer.Argument(metavar="BEHAVIOR", help="{BehaviorName}")]
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="{BehaviorName}")]
SavedVector = Annotated[str, typer.Argument(metavar="VECTOR", help=_VECTOR)]
OwnPrompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts of your own, which BEHAVIOR then only names: a JSON object with the lists 'positive' and "
        "'negative', of texts or chats.",
    ),
]
TestPromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts-file", metavar="FILE", help="{TestPrompts} A list in a .json file, or else one text a line."
    ),
]
GridLayers = Annotated[
    list[int] | None,
    typer.Option("--layer", metavar="N", help="{Layers} Repeat it for several.", rich_help_panel=_STEERING),
]
GridStrengths = Annotated[
    list[float] | None,
    typer.Option("--strength", metavar="X", help="{GridStrengths} Repeat it.", rich_help_panel=_STEERING),
]
SingleLayer = Annotated[
    int | None, typer.Option("--layer", metavar="N", help="{SingleLayer}", rich_help_panel=_STEERING)
]
DamageBudget = Annotated[
    float, typer.Option("--damage-budget", metavar="X", help="{DamageBudget}", rich_help_panel=_EVIDENCE)
]
Controls = Annotated[int, typer.Option("--controls", metavar="N", min=19, help="{Controls}", rich_help_panel=_EVIDENCE)]
ReadLayers = Annotated[
    list[int] | None,
    typer.Option("--layer", metavar="N", help="{ReadLayers} Repeat it for several.", rich_help_panel=_STEERING),
]
ReadPooling = Annotated[str | None, typer.Option("--pooling", help="{OptionalPooling}")]
LabelledPrompts = Annotated[
    str | None,
    typer.Option(
        "--labelled",
        metavar="FILE",
        help="Instead of a behaviour: a JSON object with the lists 'positive' and 'negative', of texts or chats.",
    ),
]
AnalyzedTexts = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="TEXT", help="{AnalyzedTexts} Repeat it for several."),
]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, max=100, help="{Top}")]
SubtractMeanToken = Annotated[bool, typer.Option("--subtract-mean-token", help="{SubtractMeanToken}")]
CompareBehaviors = Annotated[bool, typer.Option("--compare-behaviors", help="{CompareBehaviors}")]
PerToken = Annotated[bool, typer.Option("--per-token", help="{PerToken}", rich_help_panel=_EVIDENCE)]
DrawSeed = Annotated[int, typer.Option("--seed", metavar="N", help="{DrawSeed}", rich_help_panel=_EVIDENCE)]
SaveFolder = Annotated[str | None, typer.Option("--save", metavar="FOLDER", help="{Folder}")]
TargetDamage = Annotated[float | None, typer.Option("--target-damage", metavar="X", help="{TargetDamage}")]
TargetEffect = Annotated[float | None, typer.Option("--target-effect", metavar="X", help="{TargetEffect}")]
OptionalBehavior = Annotated[str | None, typer.Option("--behavior", metavar="NAME", help="{OptionalBehaviorName}")]

Keywords = Annotated[
    list[str] | None,
    typer.Option(
        "--keyword", metavar="WORD", help="1 where a text holds it, or another one. Repeat it.", rich_help_panel=_SCORER
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="REGEX",
        help="1 where a text holds a match of this regular expression.",
        rich_help_panel=_SCORER,
    ),
]
JudgeEndpoint = Annotated[
    str | None,
    typer.Option(
        "--judge-endpoint",
        metavar="URL",
        help="Ask another model there, by chat completions; prompts and texts are sent to it. Its key is read from "
        "STEER_TOOLS_JUDGE_KEY.",
        rich_help_panel=_SCORER,
    ),
]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", metavar="NAME", help="The judge's name there.", rich_help_panel=_SCORER)
]
JudgeQuestion = Annotated[
    str | None,
    typer.Option(
        "--judge-question",
        metavar="TEXT",
        help="What it is asked of each text, to be answered from 0 to 100.",
        rich_help_panel=_SCORER,
    ),
]


class DescribedCommand(TyperCommand):
    """A command whose help texts hold the descriptions of the tools' parameters."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill in the descriptions, then write the help."""
        descriptions = _Descriptions()
        for parameter in self.params:
            help_text = getattr(parameter, "help", None)
            if help_text:
                parameter.help = help_text.format_map(descriptions)  # pyright: ignore[reportAttributeAccessIssue]  # Options and arguments have it.
        super().format_help(ctx, formatter)


class _Descriptions(dict[str, str]):
    """The alias's name → its description, with the values that it may have."""

    def __missing__(self, alias: str) -> str:
        annotated = getattr(import_module("steer_tools.tools.arguments"), alias)
        if is_typeddict(annotated):
            hints = get_type_hints(annotated, include_extras=True)
            return ", ".join(f"{name} ({_field(hint).description.removesuffix('.')})" for name, hint in hints.items())
        kind = get_args(annotated)[0]
        # A pooling may in Python be a function, too; its names come first.
        named = kind if get_origin(kind) is Literal else next(iter(get_args(kind)), None)
        choices = f" One of {', '.join(get_args(named))}." if get_origin(named) is Literal else ""
        return f"{_field(annotated).description}{choices}"


def _field(annotated: Any) -> Any:
    return get_args(annotated)[1]
