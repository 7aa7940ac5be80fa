"""The options of the commands, each once, and the descriptions they take from the tools' parameters.

`{Name}` in a help text stands for the description of that alias in `parameters.py`. It is filled in when a command's
help is asked for, because the types there need torch, and `steer-tools --help` should not wait for it.
"""

from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

Model = Annotated[str, typer.Option("--model", help="{ModelName} The bundled one is small and ships with the package.")]
WorkspaceFolder = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        metavar="FOLDER",
        help="Where vectors are saved and found. (default: $STEER_TOOLS_WORKSPACE, else ./workspace)",
    ),
]
DtypeName = Annotated[str, typer.Option("--dtype", help="{Dtype}")]
DeviceMapName = Annotated[str | None, typer.Option("--device-map", metavar="NAME", help="{DeviceMap}")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]

Prompts = Annotated[list[str] | None, typer.Argument(metavar="[PROMPTS]...", help="Texts.")]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts-file",
        metavar="FILE",
        help="More prompts: a list in a .json file, each a text or chat messages; any other file has one text a line.",
    ),
]
AsChat = Annotated[bool, typer.Option("--chat", help="Send each text as a user's message, by the chat template.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="{MaxNewTokens}")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="{Temperature}")]
Seed = Annotated[int, typer.Option("--seed", help="{Seed}")]

_VECTOR = "A saved vector; a relative path is meant below the workspace."
Vector = Annotated[str, typer.Option("--vector", metavar="FILE", help=_VECTOR)]
OptionalVector = Annotated[
    str | None, typer.Option("--vector", metavar="FILE", help=f"{_VECTOR} Without it nothing is steered.")
]
ApplyLayers = Annotated[
    list[int] | None, typer.Option("--layer", metavar="N", help="{ApplyLayer} Repeat it for several.")
]
Strength = Annotated[float, typer.Option("--strength", metavar="X", help="{Strength}")]
Strengths = Annotated[
    list[float] | None,
    typer.Option("--strength", metavar="X", help="{Strength} Repeat it to compare several. (default: 1.0)"),
]
Unit = Annotated[str, typer.Option("--unit", help="{UnitName}")]
Positions = Annotated[str, typer.Option("--positions", help="{Positions}")]
AllowOtherModel = Annotated[bool, typer.Option("--allow-other-model", help="{AllowOtherModel}")]

Positive = Annotated[
    list[str] | None,
    typer.Option(
        "--positive", metavar="TEXT", help="A prompt that shows the behaviour. Repeat it; at least 8 are good."
    ),
]
Negative = Annotated[list[str] | None, typer.Option("--negative", metavar="TEXT", help="{NegativePrompts} Repeat it.")]
ContrastFile = Annotated[
    str | None,
    typer.Option(
        "--prompts", metavar="FILE", help="A JSON object with the lists 'positive' and 'negative', of texts or chats."
    ),
]
Trait = Annotated[
    str | None, typer.Option("--trait", metavar="NAME", help="A trait of the bundled model's language, with its pairs.")
]
CreateLayers = Annotated[
    list[str], typer.Option("--layer", metavar="N", help="{CreateLayer} Repeat it for several, or say 'all'.")
]
SavePath = Annotated[str, typer.Option("--save", metavar="PATH", help="{SavePath}")]
Method = Annotated[str, typer.Option("--method", help="{Method}")]
PoolingName = Annotated[
    str | None, typer.Option("--pooling", help="{PoolingName} (default: last; response with --trait)")
]
Normalize = Annotated[bool, typer.Option("--normalize", help="{Normalize}")]


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
        annotated = getattr(import_module("steer_tools.parameters"), alias)
        kind, field = get_args(annotated)
        choices = f" One of {', '.join(get_args(kind))}." if get_origin(kind) is Literal else ""
        return f"{field.description}{choices}"
