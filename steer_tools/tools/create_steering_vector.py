"""The tool that makes a vector from prompts."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError, LayerError
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.instructions import alone, completions_alone, reading_notes
from steer_tools.evaluation.behaviors.pair_lists import read_contrast_pairs
from steer_tools.prompts import ContrastPrompts, PromptLike
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, by_layer, figure, known, line, saved, stack, table, warning_lines
from steer_tools.tools.resolving import bypass_warnings, locked_session, overwritten_warnings
from steer_tools.tools.results import one_or_list, one_or_list_rounded

if TYPE_CHECKING:
    from steer_tools.core.positions import Pooling
    from steer_tools.core.vectors import SteeringVector
    from steer_tools.session.session import Session

# In Python also pairs in one list, with the second list left out.
PositivePrompts = Annotated[
    list[PromptLike] | given.Pairs | given.LeftOut,
    given.Doc(f"Prompts that show the behaviour; both lists, or behavior. {given.PROMPT}"),
]
NegativePrompts = Annotated[
    list[PromptLike] | given.LeftOut,
    given.Doc("Prompts that show its absence or opposite, otherwise like the positive ones."),
]
CreateLayer = Annotated[
    int | list[int] | Literal["all"] | given.LeftOut,
    given.Doc("Decoder block whose output is read, from 0; negative counts from the end."),
    given.NEEDED,
]
CreatePath = Annotated[
    str | given.LeftOut,
    given.Doc(
        "File in the workspace: .safetensors (default), .gguf for llama.cpp, or .npy (one layer). A name of its "
        "own if omitted."
    ),
]
BehaviorInstead = Annotated[
    str | given.LeftOut, given.Doc("Instead of both lists: a built-in behaviour, or a file of pairs.")
]


class MethodOptions(TypedDict, total=False):
    """Each method takes those that name it."""

    shrinkage: Annotated[float, given.Doc("lda: from 1e-6 to 1; Ledoit and Wolf's if omitted.")]
    penalty: Annotated[float, given.Doc("logistic: of the squared weights (1).")]
    sae: Annotated[str, given.Doc("sae_feature: safetensors or .npz file, or SAELens folder.")]
    feature: Annotated[int, given.Doc("sae_feature: row of its decoder.")]
    budget: Annotated[float, given.Doc("trained: most length, in contrasts (1).")]
    steps: Annotated[int, given.Doc("trained (40).")]
    batch: Annotated[int, given.Doc("trained: pairs a step (16).")]
    seed: Annotated[int, given.Doc("lat, trained and controls (0).")]


OptionalMethodOptions = Annotated[MethodOptions | given.LeftOut, given.Doc("Options of the method.")]
ComponentName = Annotated[
    Literal["residual", "embedding", "attention", "mlp"],
    given.Doc("What is read: a layer's output, or what its attention or MLP adds to it; embedding is layer 0."),
]
Head = Annotated[int | given.LeftOut, given.Doc("One head of component attention, from 0.")]
PoolingName = Annotated[
    given.Pooling | given.LeftOut,
    given.Doc(
        "Which tokens are read: mean skips special ones and sinks, response is the last assistant message. last if "
        "omitted, or a behaviour's own."
    ),
]
Normalize = Annotated[bool, given.Doc("Save unit length instead of the length of one contrast.")]


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


@checked
def create_steering_vector(
    positive_prompts: PositivePrompts = None,
    negative_prompts: NegativePrompts = None,
    layer: CreateLayer = None,
    save_path: CreatePath = None,
    method: given.Method = "mean_difference",
    pooling: PoolingName = None,
    normalize: Normalize = False,
    component: ComponentName = "residual",
    head: Head = None,
    options: OptionalMethodOptions = None,
    behavior: BehaviorInstead = None,
) -> CreateResult:
    """Find the direction from negative to positive prompts in the unsteered model and save it; applies nothing.

    Saved at full length, strength 1.0 adds one mean difference between the two prompt sets. An existing file is
    replaced. Start at a middle layer with at least 8 prompts a side, then use compare_generations to choose.
    separation: 1.0 tells all held-out pairs of prompts apart, 0.5 is chance; it does not mean that the vector steers.
    """
    from steer_tools.directions.extraction import Where, extract, layers_with
    from steer_tools.directions.session_methods import way_named
    from steer_tools.formats import format_for, write_vector

    with locked_session() as session:
        contrast, usual_pooling, notes = _contrast(session, positive_prompts, negative_prompts, behavior)
        if layer is None:
            raise _no_layer(session.engine.info.layers)
        if layer == "all":
            layers = layers_with(session.engine, component, head)
        else:
            named = layer if isinstance(layer, list | tuple | range) else [layer]
            layers = sorted(session.resolved_layers(named, "layer", "a layer, a list of layers, or 'all'"))
        if save_path is not None:
            session.workspace.resolve(save_path)
            format_for(save_path, len(layers))
        way = way_named(method, options)
        where = Where(layers, component, head, usual_pooling if pooling is None else pooling)
        extraction = extract(session, contrast, where, way, normalize=normalize)
        vector, info = extraction.vector, extraction.vector.info
        written = write_vector(vector, save_path or _name_for(vector, behavior), workspace=session.workspace)
        fits = [extraction.fits[own] for own in vector.layers]
        return CreateResult(
            success=True,
            vector_path=str(written.path),
            shape=[vector.width] if len(layers) == 1 else [len(layers), vector.width],
            magnitude=one_or_list_rounded([vector.magnitude(own) for own in vector.layers]),
            layer=one_or_list(vector.layers),
            method=method,
            contrast_norm=one_or_list_rounded([fitted.contrast_norm for fitted in fits]),
            residual_norm=one_or_list_rounded([info.residual_norms[own] for own in vector.layers]),
            prompt_counts=[len(contrast.positive), len(contrast.negative)],
            separation=one_or_list_rounded([fitted.separation for fitted in fits]),
            d_prime=one_or_list_rounded([fitted.d_prime for fitted in fits]),
            pair_agreement=one_or_list_rounded([fitted.pair_agreement for fitted in fits]),
            threshold=one_or_list_rounded([fitted.threshold for fitted in fits]),
            misses=one_or_list_rounded([fitted.misses for fitted in fits]),
            false_alarms=one_or_list_rounded([fitted.false_alarms for fitted in fits]),
            warnings=[
                *notes,
                *extraction.warnings,
                *bypass_warnings(session, (*contrast.positive, *contrast.negative)),
                *written.warnings,
                *overwritten_warnings(session),
            ],
        )


def _contrast(
    session: Session, positive: object, negative: object, behavior: str | None
) -> tuple[ContrastPrompts, Pooling, tuple[str, ...]]:
    """Return what the vector is of, which of its tokens are read where nobody says it, and what is told of that.

    Raises:
        ArgumentError: There is nothing, or two lists and a behaviour.
        PromptError: The prompts cannot be used.
    """
    from steer_tools.evaluation.questions import pooling_of
    from steer_tools.experiments.evaluation_set import behavior_named

    if (positive is None and negative is None) == (behavior is None):
        raise ArgumentError(
            "Nothing says what the vector is of" if behavior is None else "There are prompts as well as a behavior",
            valid="positive_prompts and negative_prompts, or behavior, which names a built-in behaviour or a file",
        )
    told = tuple[str, ...]()
    if behavior is not None:
        named = behavior_named(session, behavior)
        given_as, told = [*named.pairs], named.notes
    elif negative is not None:
        given_as = [] if positive is None else positive, negative
    else:
        given_as = read_contrast_pairs(positive, "positive_prompts")
    if isinstance(given_as, tuple):
        contrast = ContrastPrompts.parse(*given_as)
        return contrast, "last", reading_notes(alone(contrast.positive), alone(contrast.negative))
    contrast = contrast_prompts(given_as, session.engine.info.has_chat_template)
    return contrast, pooling_of(session.engine, given_as), (*told, *reading_notes(*completions_alone(given_as)))


def _no_layer(count: int) -> LayerError:
    return LayerError(
        f"layer was left out, and the model has {count} decoder blocks",
        valid=f"0 to {count - 1}, a list of these, or 'all'",
        fix=f"Start in the middle, with layer={count // 2}; find_best_layer measures which one works best.",
    )


def _name_for(vector: SteeringVector, behavior: str | None) -> str:
    """Return a file name that no other vector has: equal calls have one file, and nothing else is overwritten."""
    of = "prompts" if behavior is None else re.sub(r"[^\w-]+", "_", PurePath(behavior).stem)
    first, last = vector.layers[0], vector.layers[-1]
    where = f"layer{first}" if first == last else f"layers{first}-{last}"
    content = hashlib.sha256(f"{vector.component} {vector.head} {vector.info.model_dump_json()}".encode())
    for direction in vector.directions.values():
        content.update(direction.numpy().tobytes())
    return f"vectors/{of}-{where}-{content.hexdigest()[:8]}.safetensors"


_SEPARATION = "separation: 1 tells held-out prompts apart, 0.5 is chance."
_D_PRIME = "d': how far apart they lie, in their spread."
_AGREEMENT = "agreement: mean cosine of the pairs' differences."
_CAUTION = "A vector that tells prompts apart need not steer."


def show(result: CreateResult) -> Shown:
    """Render where the vector is, and for each layer those of its figures that are known and say something new."""
    columns = [
        ("layer", result["layer"], ""),
        ("magnitude", result["magnitude"], ""),
        ("contrast norm", result["contrast_norm"], ""),
        ("residual norm", result["residual_norm"], ""),
        ("separation", result["separation"], _SEPARATION),
        ("d'", result["d_prime"], _D_PRIME),
        ("agreement", result["pair_agreement"], _AGREEMENT),
    ]
    told = {name: [*map(figure, by_layer(values))] for name, values, _ in columns if known(values)}
    if told["contrast norm"] == told["magnitude"]:
        del told["contrast norm"]
    positive, negative = result["prompt_counts"]
    remarks = [remark for name, _, remark in columns if remark and name in told]
    return stack(
        saved(result["vector_path"]),
        line(f"{result['method']} of {positive} and {negative} prompts, shape {result['shape']}", "dim"),
        table(dict.fromkeys(told, "right"), zip(*told.values(), strict=True)),
        *_detection(result),
        *([line(" ".join((*remarks, _CAUTION)), "dim")] if remarks else []),
        *warning_lines(result["warnings"]),
    )


def _detection(result: CreateResult) -> list[Shown]:
    """Say what the threshold is and how often it errs, at the layer where it does so least."""
    figures = (by_layer(result[key]) for key in ("layer", "threshold", "misses", "false_alarms"))
    rows = [row for row in map(known, zip(*figures, strict=True)) if len(row) == 4]
    if not rows:
        return []
    layer, threshold, misses, alarms = min(rows, key=lambda row: row[2] + row[3])
    where = f" at layer {layer:g}, where it errs least" if isinstance(result["layer"], list) else ""
    errors = f"{misses:.0%} misses and {alarms:.0%} false alarms held out"
    return [line(f"threshold{where}: {threshold:.4g} on the projection, {errors}.", "dim")]


TOOL = Card(
    "Create a steering vector",
    "core",
    command="create",
    required=("layer", "save_path"),
    about="Create a steering vector from prompts that show a behaviour and prompts that do not.",
    is_repeatable=True,
    makes_vector=True,
).tool(create_steering_vector, show)
