"""The commands that say which parts of a model matter. What needs torch is imported inside them, as in commands.py."""

from typing import Annotated, Any, cast

import typer

from steer_tools.cli import options as given
from steer_tools.cli.heat import ablation, patches
from steer_tools.cli.inputs import read_behavior_name
from steer_tools.cli.output import is_plain, show
from steer_tools.cli.work import Workbench
from steer_tools.prompts import PromptLike

TriedLayers = Annotated[
    list[int] | None, typer.Option("--layer", metavar="N", help="{AllLayers} Repeat it for several.")
]
AblatedComponent = Annotated[str, typer.Option("--component", help="{AblatedComponent}")]
AblationName = Annotated[str, typer.Option("--method", help="{AblationName}")]
MeasureName = Annotated[str, typer.Option("--measure", help="{MeasureName}")]
AblatedDirection = Annotated[str | None, typer.Option("--vector", metavar="FILE", help="{AblatedDirection}")]
AblatedLayer = Annotated[int | None, typer.Option("--vector-layer", metavar="N", help="{AblatedLayer}")]
SourcePrompt = Annotated[str, typer.Argument(metavar="SOURCE", help="{OnePrompt} Its activations are taken.")]
TargetPrompt = Annotated[str, typer.Argument(metavar="TARGET", help="{OnePrompt} They are put into it.")]
PositiveCompletion = Annotated[str, typer.Option("--positive", metavar="TEXT", help="{OneCompletion}")]
NegativeCompletion = Annotated[str, typer.Option("--negative", metavar="TEXT", help="Or how it may begin instead.")]
PatchedComponent = Annotated[str, typer.Option("--component", help="{PatchedComponent}")]
PatchMethod = Annotated[str, typer.Option("--method", help="{PatchMethod}")]


def ablate(
    *,
    behavior: given.Behavior,
    component: AblatedComponent = "head",
    layer: TriedLayers = None,
    method: AblationName = "mean",
    measure: MeasureName = "log_odds",
    vector: AblatedDirection = None,
    vector_layer: AblatedLayer = None,
    seed: given.DrawSeed = 0,
    save: given.SaveFolder = None,
    allow_other_model: given.AllowOtherModel = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Find the parts that a behaviour needs, by taking each out."""
    with bench.at_work():
        from steer_tools.tools import ablate_component

        result = ablate_component(
            read_behavior_name(behavior),
            cast(Any, component),
            layer or None,
            cast(Any, method),
            save,
            seed,
            measure=cast(Any, measure),
            vector_path=vector,
            vector_layer=vector_layer,
            allow_other_model=allow_other_model,
        )

    show(result, ablation(result, is_plain=is_plain()), as_json=as_json)


def patch(
    *,
    source: SourcePrompt,
    target: TargetPrompt,
    positive: PositiveCompletion,
    negative: NegativeCompletion,
    chat: given.AsChat = False,
    component: PatchedComponent = "residual",
    layer: TriedLayers = None,
    method: PatchMethod = "exact",
    save: given.SaveFolder = None,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Find where in a prompt an answer is decided, by putting another prompt's activations into it."""
    asked: list[PromptLike] = [[{"role": "user", "content": text}] if chat else text for text in (source, target)]
    with bench.at_work():
        from steer_tools.tools import patch_activations

        result = patch_activations(
            *asked,
            positive=positive,
            negative=negative,
            component=cast(Any, component),
            layers=layer or None,
            method=cast(Any, method),
            save_folder=save,
        )

    show(result, patches(result, is_plain=is_plain()), as_json=as_json)
