"""The commands: each reads its arguments, calls one or two tools and shows their result. Rendering lies elsewhere.

What needs torch is imported inside the commands: `--help` and `--version` should not wait for it. A parameter that is a
dataclass stands for the options that are its fields.
"""

from typing import Any, cast

import typer

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli import making, rendering
from steer_tools.cli import options as given
from steer_tools.cli.inputs import ContrastSource, PromptSource, read_options
from steer_tools.cli.output import is_plain, show, show_command, warn
from steer_tools.cli.suggestion import comparison_command
from steer_tools.cli.work import ActingOptions, SteeringOptions, VectorUse, Workbench, choose_workspace, spare_threads

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
    *,
    layer: given.CreateLayers,
    save_path: given.SavePath,
    source: ContrastSource,
    method: given.Method = "mean_difference",
    option: given.MethodOptions = None,
    component: given.ComponentName = "residual",
    head: given.Head = None,
    pooling: given.PoolingName = None,
    normalize: given.Normalize = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Create a steering vector from prompts that show a behaviour and prompts that do not."""
    options = read_options(option)
    positive, negative = source.read(bench.model)
    with bench.at_work():
        from steer_tools.tools import create_steering_vector

        result = create_steering_vector(
            positive,
            negative,
            _layers(layer),
            save_path,
            method=cast(Any, method),
            pooling=cast(Any, pooling or ("response" if source.trait is not None else "last")),
            normalize=normalize,
            component=cast(Any, component),
            head=head,
            options=cast(Any, options),
        )

    show(result, making.creation(result), as_json=as_json)
    if not as_json:
        unit = "contrast" if normalize else "vector"
        show_command("Try it:", comparison_command(bench, result, negative, unit=unit))


def combine(
    vectors: given.VectorFiles,
    save_path: given.SavePath,
    weight: given.Weights = None,
    orthogonal_to: given.OrthogonalTo = None,
    workspace: given.WorkspaceFolder = None,
    as_json: given.AsJson = False,
) -> None:
    """Save the weighted sum of vectors, and show how they lie to each other."""
    choose_workspace(workspace)
    from steer_tools.tools import combine_steering_vectors

    result = combine_steering_vectors(vectors, save_path, weight or None, orthogonal_to or None)
    show(result, making.combination(vectors, result), as_json=as_json)


def compare(
    *,
    source: PromptSource,
    vector: given.Vector,
    strength: given.Strengths = None,
    steering: SteeringOptions,
    max_new_tokens: given.MaxNewTokens = 48,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Show unsteered and steered texts side by side."""
    prompts = source.read_any()
    with bench.at_work():
        from steer_tools.tools import compare_generations

        result = compare_generations(
            prompts,
            vector,
            steering.layers,
            strength or None,
            unit=cast(Any, steering.unit),
            positions=steering.positions,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            allow_other_model=steering.allow_other_model,
            intervention=cast(Any, steering.intervention),
            target=steering.target,
            condition=steering.condition,
        )

    show(result, rendering.comparison(result, is_plain=is_plain()), as_json=as_json)


def next_tokens(
    *,
    source: PromptSource,
    vector: given.Vector,
    strength: given.Strengths = None,
    steering: ActingOptions,
    top: given.Top = 5,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Show the likeliest next tokens, unsteered and steered, of one forward pass."""
    prompts = source.read_any()
    with bench.at_work():
        from steer_tools.tools import compare_next_tokens

        result = compare_next_tokens(
            prompts,
            vector,
            steering.layers,
            strength or None,
            unit=cast(Any, steering.unit),
            positions=steering.positions,
            top=top,
            allow_other_model=steering.allow_other_model,
            intervention=cast(Any, steering.intervention),
            target=steering.target,
        )

    show(result, rendering.next_tokens(prompts, result), as_json=as_json)


def generate(
    *,
    source: PromptSource,
    vector: given.OptionalVector = None,
    use: VectorUse,
    max_new_tokens: given.MaxNewTokens = 64,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Continue prompts, with a vector or without."""
    prompts = source.read_any()
    use.require(vector)
    with bench.at_work(), use.in_force(vector) as warnings:
        from steer_tools.tools import generate as generate_texts

        result = generate_texts(prompts, max_new_tokens, temperature, seed)

    warn(warnings)
    show(result, rendering.generation(prompts, result), as_json=as_json)


def tokens(
    *,
    source: PromptSource,
    positions: given.Positions = "generated",
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Show what the model is given for prompts, chat template included, and which tokens would be steered."""
    prompts = source.read_any()
    with bench.at_work():
        from steer_tools.tools import show_tokens

        result = show_tokens(prompts, positions)

    show(result, rendering.tokens(result, is_plain=is_plain()), as_json=as_json)


def check(
    *,
    source: PromptSource,
    vector: given.Vector,
    use: VectorUse,
    max_new_tokens: given.MaxNewTokens = 8,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Prove that a vector does exactly what it says, and that removing it restores; exit code 3 if a law is broken."""
    prompts = source.read()
    with bench.at_work(), use.in_force(vector) as warnings:
        from steer_tools.tools import check_steering

        result = check_steering(prompts or None, max_new_tokens)

    warn(warnings)
    show(result, rendering.proof(result), as_json=as_json)
    if not result["passed"]:
        raise typer.Exit(LAW_BROKEN)


def status(bench: Workbench, as_json: given.AsJson = False) -> None:
    """Show the model and the vectors that are saved in the workspace."""
    with bench.at_work():
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
