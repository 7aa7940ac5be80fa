"""The commands: each reads its arguments, calls one or two tools and shows their result. Rendering lies elsewhere.

What needs torch is imported inside the commands: `--help` and `--version` should not wait for it.
"""

from typing import Any, cast

import typer

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli import options as given
from steer_tools.cli import rendering
from steer_tools.cli.inputs import ContrastSource, read_prompts, require_prompts
from steer_tools.cli.output import is_plain, show, show_command, warn
from steer_tools.cli.suggestion import comparison_command
from steer_tools.cli.work import Target, VectorUse, spare_threads

LAW_BROKEN = 3


def demo(model: given.Model = BUNDLED, workspace: given.WorkspaceFolder = None, as_json: given.AsJson = False) -> None:
    """Show steering from a vector to the proof, in a minute."""
    spare_threads(model)
    from steer_tools.cli.demo import run_demo

    run_demo(model=model, workspace=workspace, as_json=as_json)


def serve(context: typer.Context) -> None:
    """Run the MCP server over stdio; `serve --help` lists its options."""
    from mcp_server.__main__ import main as serve_over_stdio

    raise typer.Exit(serve_over_stdio(context.args))


def create(
    layer: given.CreateLayers,
    save_path: given.SavePath,
    positive: given.Positive = None,
    negative: given.Negative = None,
    prompts: given.ContrastFile = None,
    trait: given.Trait = None,
    method: given.Method = "mean_difference",
    pooling: given.PoolingName = None,
    normalize: given.Normalize = False,
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Create a steering vector from prompts that show a behaviour and prompts that do not."""
    target = Target(model, workspace, dtype, device_map)
    positive_prompts, negative_prompts = ContrastSource(positive or [], negative or [], prompts, trait).read(model)
    with target.at_work():
        from steer_tools.tools import create_steering_vector

        result = create_steering_vector(
            positive_prompts,
            negative_prompts,
            _layers(layer),
            save_path,
            method=cast(Any, method),
            pooling=cast(Any, pooling or ("response" if trait is not None else "last")),
            normalize=normalize,
        )

    show(result, rendering.creation(result), as_json=as_json)
    if not as_json:
        show_command("Try it:", comparison_command(target, result, negative_prompts))


def compare(
    vector: given.Vector,
    prompts: given.Prompts = None,
    prompts_file: given.PromptsFile = None,
    chat: given.AsChat = False,
    layer: given.ApplyLayers = None,
    strength: given.Strengths = None,
    unit: given.Unit = "vector",
    positions: given.Positions = "generated",
    allow_other_model: given.AllowOtherModel = False,
    max_new_tokens: given.MaxNewTokens = 48,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Show unsteered and steered texts side by side."""
    asked = read_prompts(prompts or [], prompts_file, as_chat=chat)
    require_prompts(asked)
    with Target(model, workspace, dtype, device_map).at_work():
        from steer_tools.tools import compare_generations

        result = compare_generations(
            asked,
            vector,
            _one_or_several(layer),
            strength or None,
            unit=cast(Any, unit),
            positions=positions,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            allow_other_model=allow_other_model,
        )

    show(result, rendering.comparison(result, is_plain=is_plain()), as_json=as_json)


def generate(
    prompts: given.Prompts = None,
    prompts_file: given.PromptsFile = None,
    chat: given.AsChat = False,
    vector: given.OptionalVector = None,
    layer: given.ApplyLayers = None,
    strength: given.Strength = 1.0,
    unit: given.Unit = "vector",
    positions: given.Positions = "generated",
    allow_other_model: given.AllowOtherModel = False,
    max_new_tokens: given.MaxNewTokens = 64,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Continue prompts, with a vector or without."""
    asked = read_prompts(prompts or [], prompts_file, as_chat=chat)
    require_prompts(asked)
    use = VectorUse(vector, _one_or_several(layer), strength, unit, positions, allow_other_model)
    use.require_vector()
    with Target(model, workspace, dtype, device_map).at_work(), use.in_force() as warnings:
        from steer_tools.tools import generate as generate_texts

        result = generate_texts(asked, max_new_tokens, temperature, seed)

    warn(warnings)
    show(result, rendering.generation(asked, result), as_json=as_json)


def tokens(
    prompts: given.Prompts = None,
    prompts_file: given.PromptsFile = None,
    chat: given.AsChat = False,
    positions: given.Positions = "generated",
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Show what the model is given for prompts, chat template included, and which tokens would be steered."""
    asked = read_prompts(prompts or [], prompts_file, as_chat=chat)
    require_prompts(asked)
    with Target(model, workspace, dtype, device_map).at_work():
        from steer_tools.tools import show_tokens

        result = show_tokens(asked, positions)

    show(result, rendering.tokens(result, is_plain=is_plain()), as_json=as_json)


def check(
    vector: given.Vector,
    prompts: given.Prompts = None,
    prompts_file: given.PromptsFile = None,
    chat: given.AsChat = False,
    layer: given.ApplyLayers = None,
    strength: given.Strength = 1.0,
    unit: given.Unit = "vector",
    positions: given.Positions = "generated",
    allow_other_model: given.AllowOtherModel = False,
    max_new_tokens: given.MaxNewTokens = 8,
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Prove that a vector does exactly what it says, and that removing it restores; exit code 3 if a law is broken."""
    asked = read_prompts(prompts or [], prompts_file, as_chat=chat)
    use = VectorUse(vector, _one_or_several(layer), strength, unit, positions, allow_other_model)
    with Target(model, workspace, dtype, device_map).at_work(), use.in_force() as warnings:
        from steer_tools.tools import check_steering

        result = check_steering(asked or None, max_new_tokens)

    warn(warnings)
    show(result, rendering.proof(result), as_json=as_json)
    if not result["passed"]:
        raise typer.Exit(LAW_BROKEN)


def status(
    model: given.Model = BUNDLED,
    workspace: given.WorkspaceFolder = None,
    dtype: given.DtypeName = "auto",
    device_map: given.DeviceMapName = None,
    as_json: given.AsJson = False,
) -> None:
    """Show the model and the vectors that are saved in the workspace."""
    with Target(model, workspace, dtype, device_map).at_work():
        from steer_tools.tools import steering_status

        result = steering_status()

    show(result, rendering.standing(result), as_json=as_json)


def models(as_json: given.AsJson = False) -> None:
    """List the models that load without a network."""
    from steer_tools.cli.local_models import find_models

    result = find_models()
    show(result, rendering.local_models(result), as_json=as_json)


def _layers(typed: list[str]) -> Any:
    """Return what was typed as a layer, several, or "all"; the tool refuses what is none of these."""
    layers = [int(text) if text.removeprefix("-").isdecimal() else text for text in typed]
    return layers[0] if len(layers) == 1 else layers


def _one_or_several(layers: list[int] | None) -> int | list[int] | None:
    """Return one layer as itself, so that a vector's only direction may be used at another layer."""
    if not layers:
        return None
    return layers[0] if len(layers) == 1 else layers
