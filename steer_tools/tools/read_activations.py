"""The tool that reads a model along a vector, and says how well that tells a behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.figures.strips import Strip
from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_one_of, resolved_layers
from steer_tools.tools.results import short, short_interval

if TYPE_CHECKING:
    from steer_tools.core.positions import Pooling
    from steer_tools.core.vectors import SteeringVector
    from steer_tools.inspection.readings import Labelled, Reading
    from steer_tools.session.session import Session

# Prompts that get a picture.
_DRAWN = 8
# Layers whose values are told where none are named.
_MOST_SHOWN = 4


LabelledPositive = Annotated[
    list[PromptLike] | None,
    given.Doc("Instead of behavior_name: prompts that show it, 8 or more, not those that made the vector."),
]
LabelledNegative = Annotated[list[PromptLike] | None, given.Doc("As many or so that do not.")]
OptionalPooling = Annotated[
    given.Pooling | None,
    given.Doc("Which tokens are a prompt's reading; as the behaviour or vector was read if omitted."),
]
ReadPrompts = Annotated[list[PromptLike] | None, given.Doc("Prompts whose tokens are projected.")]
ReadLayers = Annotated[list[int] | None, given.Doc("Layers to read; the vector's own if omitted.")]


class DetectorStatus(TypedDict):
    """How well û·h tells held-out prompts at a layer: `auc` with its 95 % interval; one in twenty random directions
    reaches `chance`. At `threshold`, fitted on other prompts: the error rates `misses` and `false_alarms`.
    """

    layer: int
    auc: float
    interval: list[float] | None
    chance: float
    threshold: float
    misses: float
    false_alarms: float


class PromptReading(TypedDict):
    """By layer: `values`, û·h of each token for the unit direction û; `scores`, that of the tokens which `pooling`
    takes, and whether it is above the threshold. The first token and special ones lie elsewhere than others.
    """

    tokens: list[str]
    values: dict[str, list[float]]
    scores: dict[str, float]
    detected: dict[str, bool]


class ReadResult(TypedDict):
    """By layer: `residual_norms`, the typical norm there; `thresholds`, the file's own where none was fitted."""

    vector_path: str
    component: str
    pooling: str
    residual_norms: dict[str, float]
    detectors: list[DetectorStatus]
    thresholds: dict[str, float]
    prompts: list[PromptReading]
    picture_paths: list[str]
    warnings: list[str]


def read_activations(
    vector_path: given.VectorPath,
    prompts: ReadPrompts = None,
    layers: ReadLayers = None,
    behavior_name: given.OptionalBehaviorName = None,
    positive: LabelledPositive = None,
    negative: LabelledNegative = None,
    pooling: OptionalPooling = None,
    save_folder: given.Folder = None,
    allow_other_model: given.AllowOtherModel = False,
) -> ReadResult:
    """Project the unsteered model's activations on a vector, token by token, and use it as a detector (a probe).

    With behavior_name, or positive and negative prompts, a threshold is fitted on some and judged on the others; use
    prompts that did not make the vector.
    """
    from steer_tools.core.positions import POOLINGS
    from steer_tools.inspection.readings import detect, directions_at, read_along
    from steer_tools.reports.pictures import projection_picture
    from steer_tools.session.vector_loading import load_for_model

    if pooling is not None and not callable(pooling):
        require_one_of("pooling", pooling, POOLINGS)
    with locked_session() as session:
        engine = session.engine
        wanted = resolved_layers(session, layers, [])
        parsed = () if prompts is None else parse_prompts(prompts)
        first = wanted[0] if wanted else None
        loaded = load_for_model(session, vector_path, first, allow_other_model=allow_other_model)
        vector = loaded.vector
        directions = directions_at(vector, wanted or resolved_layers(session, vector.layers, []))
        labelled, usual = _labelled(session, vector, behavior_name, positive, negative)
        if prompts is None and labelled is None:
            raise ArgumentError("There is nothing to read", valid="prompts, a behavior_name, or positive and negative")
        read_as = pooling or usual
        detectors = {} if labelled is None else detect(engine, directions, labelled, read_as)
        thresholds = {site: found.threshold for site, found in detectors.items()}
        if labelled is None and read_as == vector.info.pooling:
            known = vector.info.thresholds
            thresholds = {site: known[site.layer] for site in directions if site.layer in known}
        readings = read_along(engine, directions, list(thresholds), parsed, read_as)
        shown = list(directions) if layers else _spread(list(directions))
        norms = {site: session.typical_norm(site) for site in directions}
        name = Path(loaded.source).stem
        folder = save_folder or f"readings/{name}"
        pictures = {
            f"{folder}/prompt_{i}.png": projection_picture(own.projection, norms, f"Prompt {i} along {name}")
            for i, own in enumerate(readings[:_DRAWN])
        }
        paths = session.workspace.write_together(pictures) if pictures else []
        return ReadResult(
            vector_path=loaded.source,
            component=vector.component,
            pooling=read_as if isinstance(read_as, str) else "custom",
            residual_norms=short(_by_layer(norms)),
            detectors=[
                DetectorStatus(
                    layer=site.layer,
                    auc=short(found.area),
                    interval=short_interval(found.interval),
                    chance=short(found.chance),
                    threshold=short(found.threshold),
                    misses=short(found.misses),
                    false_alarms=short(found.false_alarms),
                )
                for site, found in detectors.items()
            ],
            thresholds=short(_by_layer(thresholds)),
            prompts=[_reading(own, thresholds, shown) for own in readings],
            picture_paths=[*map(str, paths)],
            warnings=[*loaded.warnings, *_warnings(vector, list(directions), shown, readings, thresholds)],
        )


def _spread(sites: list[Site]) -> list[Site]:
    """Return some of the sites at even distances, since values of every token are long."""
    steps = max(1, min(_MOST_SHOWN, len(sites)) - 1)
    return list(dict.fromkeys(sites[round(i * (len(sites) - 1) / steps)] for i in range(steps + 1)))


def _warnings(
    vector: SteeringVector,
    sites: Sequence[Site],
    shown: Sequence[Site],
    readings: Sequence[Reading],
    thresholds: Mapping[Site, float],
) -> list[str]:
    found: list[str] = []
    moved = [site.layer for site in sites if site.layer not in vector.directions]
    if moved:
        found.append(f"The vector's only direction, made at layer {vector.layers[0]}, is used at the layers {moved}.")
    if readings and len(shown) < len(sites):
        found.append(f"values are of {len(shown)} of {len(sites)} layers; name others by layers.")
    if readings and not thresholds:
        found.append("No threshold is known for these layers and this pooling, so nothing is detected.")
    unread = [i for i, own in enumerate(readings) if thresholds and not own.scores]
    if unread:
        found.append(f"The prompts {unread} have no token that the pooling reads, so they have values and no score.")
    return found


def _labelled(
    session: Session,
    vector: SteeringVector,
    behavior_name: str | None,
    positive: Sequence[PromptLike] | None,
    negative: Sequence[PromptLike] | None,
) -> tuple[Labelled | None, Pooling]:
    """Return the prompts that fit and judge a threshold, if any were given, and the tokens at which to read."""
    from steer_tools.core.positions import POOLINGS
    from steer_tools.evaluation.questions import pooling_of
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.inspection.readings import Labelled

    own: Pooling | None = next((known for known in POOLINGS if known == vector.info.pooling), None)
    if positive is None and negative is None:
        if behavior_name is None:
            return None, own or "last"
        evaluation_set, is_chat = evaluation_set_named(session, behavior_name), session.engine.info.has_chat_template
        behavior, splits = evaluation_set.behavior, evaluation_set.splits
        # Not on its pairs, which make vectors, and which may be longer texts than the held-out items.
        groups = [item.group for item in splits.judging]
        seen, held_out = (contrast_prompts(items, is_chat) for items in (splits.choosing, splits.judging))
        return Labelled(seen, held_out, (groups, groups)), pooling_of(session.engine, behavior)
    if behavior_name is not None or positive is None or negative is None:
        raise ArgumentError(
            "behavior_name, positive and negative were not given as one source of labels",
            valid="behavior_name by itself, or positive and negative together",
        )
    return Labelled.halves(parse_prompts(positive, "positive"), parse_prompts(negative, "negative")), own or "last"


def _by_layer(figures: Mapping[Site, float]) -> dict[str, float]:
    return {str(site.layer): figure for site, figure in figures.items()}


def _reading(found: Reading, thresholds: Mapping[Site, float], shown: Sequence[Site]) -> PromptReading:
    return PromptReading(
        tokens=list(found.projection.pieces),
        values={str(site.layer): [float(f"{v:.3g}") for v in found.projection.values[site]] for site in shown},
        scores=short(_by_layer(found.scores)),
        detected={str(site.layer): score > thresholds[site] for site, score in found.scores.items()},
    )


_DETECTOR = ("layer", "AUC", "95 % interval", "by chance", "threshold", "misses", "false alarms")
_REMARK = "One random direction in twenty reaches the AUC by chance; believe what is well above it."


def show(result: ReadResult, *, is_plain: bool) -> Shown:
    """Render the detector of each layer, and each prompt on colours at each layer, with its reading."""
    parts: list[Shown] = []
    if result["detectors"]:
        parts += [line(f"As a detector, on held-out prompts read at: {result['pooling']}", "bold")]
        parts += [table(dict.fromkeys(_DETECTOR, "right"), map(_detector, result["detectors"]))]
        parts += [line(_REMARK, "dim"), line("")]
    for i, prompt in enumerate(result["prompts"]):
        parts += _lines(prompt, is_plain=is_plain)
        if i < len(result["picture_paths"]):
            parts.append(line(f"picture: {result['picture_paths'][i]}", "dim"))
    return stack(*parts, *warning_lines(result["warnings"]))


def _detector(own: DetectorStatus) -> tuple[str, ...]:
    ends = "–" if own["interval"] is None else " to ".join(f"{end:.3f}" for end in own["interval"])
    rates = (f"{own['misses']:.0%}", f"{own['false_alarms']:.0%}")
    return str(own["layer"]), f"{own['auc']:.3f}", ends, f"{own['chance']:.3f}", f"{own['threshold']:.4g}", *rates


def _lines(prompt: PromptReading, *, is_plain: bool) -> list[Shown]:
    """Render one prompt at each layer; the first token, which lies elsewhere, has no colour."""
    from steer_tools.tools.colours import coloured

    lines: list[Shown] = []
    for layer, values in prompt["values"].items():
        strip = Strip.of(prompt["tokens"], values, [place > 0 for place in range(len(values))])
        score = prompt["scores"].get(layer)
        found = "" if score is None else f", reading {score:.4g}: {'yes' if prompt['detected'][layer] else 'no'}"
        lines += [line(f"layer {layer}{found}", "bold"), *coloured([strip], is_plain=is_plain)]
    return lines


TOOL = Card(
    "Read a model along a vector",
    "inspect",
    command="read",
    about="Project prompts on a vector, token by token, and say how well it detects a behaviour.",
    positional=("prompts",),
).tool(read_activations, show)
