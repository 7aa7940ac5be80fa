"""The tool that reads a model along a vector, and says how well that tells a behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError
from steer_tools.figures import PICTURE
from steer_tools.figures.strips import Strip
from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_one_of, resolved_layers
from steer_tools.tools.results import short, short_interval

if TYPE_CHECKING:
    from steer_tools.inspection.readings import Detector, Labelled, Reading, Readings, UnitDirections
    from steer_tools.session.session import Session

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
    reaches `auc_chance`. At `threshold`, fitted on other prompts: the error rates `misses` and `false_alarms`.
    """

    layer: int
    auc: float
    auc_interval: list[float] | None
    auc_chance: float
    threshold: float
    misses: float
    false_alarms: float


class PromptReading(TypedDict):
    """By layer: `values`, û·h of each token for the unit direction û; `scores`, that of the tokens which `pooling`
    takes, and whether it is above the threshold. The first token and special ones lie elsewhere than others.
    """

    tokens: list[str]
    ids: list[int]
    values: dict[str, list[float]]
    scores: dict[str, float]
    detected: dict[str, bool]


class ProjectionResult(TypedDict):
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


@checked
def project_activations(
    vector_path: given.VectorPath,
    prompts: ReadPrompts = None,
    layers: ReadLayers = None,
    behavior_name: given.OptionalBehaviorName = None,
    positive: LabelledPositive = None,
    negative: LabelledNegative = None,
    pooling: OptionalPooling = None,
    save_folder: given.Folder = None,
    allow_other_model: given.AllowOtherModel = False,
) -> ProjectionResult:
    """Project the unsteered model's activations on a vector, token by token, and use it as a detector (a probe).

    With behavior_name, or positive and negative prompts, a threshold is fitted on some and judged on the others; use
    prompts that did not make the vector.
    """
    from steer_tools.core.positions import POOLINGS
    from steer_tools.inspection.readings import UnitDirections, read_along
    from steer_tools.reports.pictures import projection_pictures
    from steer_tools.session.vector_loading import load_for_model

    if pooling is not None and not isinstance(pooling, int) and not callable(pooling):
        require_one_of("pooling", pooling, POOLINGS)
    with locked_session() as session:
        engine, wanted = session.engine, resolved_layers(session, layers, [])
        parsed = () if prompts is None else parse_prompts(prompts)
        loaded = load_for_model(session, vector_path, next(iter(wanted), None), allow_other_model=allow_other_model)
        along = UnitDirections.at(loaded.vector, wanted or [*map(engine.resolve_layer, loaded.vector.layers)])
        labelled = _labelled(session, behavior_name, positive, negative)
        found = read_along(session, along, parsed, labelled, pooling)
        name, shown = Path(loaded.source).stem, list(along.by_site) if wanted else _spread(list(along.by_site))
        pictures = projection_pictures(found, name, save_folder or f"projections/{name}")
        kinds = dict.fromkeys(pictures, PICTURE)
        return ProjectionResult(
            vector_path=loaded.source,
            component=loaded.vector.component,
            pooling="custom" if callable(found.pooling) else str(found.pooling),
            residual_norms=short(_by_layer(found.norms)),
            detectors=[_status(site, detector) for site, detector in found.detectors.items()],
            thresholds=short(_by_layer(found.thresholds)),
            prompts=[_reading(reading, found.thresholds, shown) for reading in found.prompts],
            picture_paths=[*map(str, session.workspace.write_together(pictures, replaces=kinds))] if pictures else [],
            warnings=[
                *(() if labelled is None else labelled.notes),
                *loaded.warnings,
                *_warnings(along, found, shown),
            ],
        )


def _labelled(
    session: Session, behavior_name: str | None, positive: LabelledPositive, negative: LabelledNegative
) -> Labelled | None:
    """Return the prompts that fit and judge a threshold, if any were given."""
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.inspection.readings import Labelled

    if positive is None and negative is None:
        if behavior_name is None:
            return None
        return Labelled.held_out_of(session.engine, evaluation_set_named(session, behavior_name, is_judged_on=False))
    if behavior_name is not None or positive is None or negative is None:
        raise ArgumentError(
            "behavior_name, positive and negative were not given as one source of labels",
            valid="behavior_name by itself, or positive and negative together",
        )
    return Labelled.halves(parse_prompts(positive, "positive"), parse_prompts(negative, "negative"))


def _spread(sites: list[Site]) -> list[Site]:
    """Return some of the sites at even distances, since values of every token are long."""
    steps = max(1, min(_MOST_SHOWN, len(sites)) - 1)
    return list(dict.fromkeys(sites[round(i * (len(sites) - 1) / steps)] for i in range(steps + 1)))


def _status(site: Site, detector: Detector) -> DetectorStatus:
    return DetectorStatus(
        layer=site.layer,
        auc=short(detector.area),
        auc_interval=short_interval(detector.interval),
        auc_chance=short(detector.chance),
        threshold=short(detector.threshold),
        misses=short(detector.misses),
        false_alarms=short(detector.false_alarms),
    )


def _warnings(along: UnitDirections, found: Readings, shown: Sequence[Site]) -> list[str]:
    vector, sites, readings = along.vector, list(along.by_site), found.prompts
    told: list[str] = []
    moved = [site.layer for site in sites if site.layer not in vector.directions]
    if moved:
        told.append(f"The vector's only direction, made at layer {vector.layers[0]}, is used at the layers {moved}.")
    if readings and len(shown) < len(sites):
        told.append(f"values are of {len(shown)} of {len(sites)} layers; name others by layers.")
    if readings and not found.thresholds:
        told.append("No threshold is known for these layers and this pooling, so nothing is detected.")
    unread = [i for i, reading in enumerate(readings) if found.thresholds and not reading.scores]
    if unread:
        told.append(f"The prompts {unread} have no token that the pooling reads, so they have values and no score.")
    return [*told, *found.warnings]


def _by_layer(figures: Mapping[Site, float]) -> dict[str, float]:
    return {str(site.layer): figure for site, figure in figures.items()}


def _reading(found: Reading, thresholds: Mapping[Site, float], shown: Sequence[Site]) -> PromptReading:
    return PromptReading(
        tokens=list(found.projection.texts),
        ids=list(found.projection.tokens),
        values={str(site.layer): [float(f"{v:.3g}") for v in found.projection.values[site]] for site in shown},
        scores=short(_by_layer(found.scores)),
        detected={str(site.layer): score > thresholds[site] for site, score in found.scores.items()},
    )


_DETECTOR = ("layer", "AUC", "95 % interval", "by chance", "threshold", "misses", "false alarms")
_REMARK = "One random direction in twenty reaches the AUC by chance; believe what is well above it."


def show(result: ProjectionResult, *, is_plain: bool) -> Shown:
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
    ends = "–" if own["auc_interval"] is None else " to ".join(f"{end:.3f}" for end in own["auc_interval"])
    rates = (f"{own['misses']:.0%}", f"{own['false_alarms']:.0%}")
    return str(own["layer"]), f"{own['auc']:.3f}", ends, f"{own['auc_chance']:.3f}", f"{own['threshold']:.4g}", *rates


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
    command="project",
    about="Project prompts on a vector, token by token, and say how well it detects a behaviour.",
    positional=("prompts",),
).tool(project_activations, show)
