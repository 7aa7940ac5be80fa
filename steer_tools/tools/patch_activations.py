"""The tool that says where in a prompt an answer is decided, by putting one prompt's activations into another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError
from steer_tools.figures import PICTURE
from steer_tools.prompts import PromptLike, parse_prompt
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, effect_text, facts, line, stack
from steer_tools.tools.resolving import locked_session, require_one_of, require_text, resolved_layers
from steer_tools.tools.results import short

if TYPE_CHECKING:
    from steer_tools.inspection import patching

_LISTED = 10
# Of the way from target to source: less is none.
_LEAST_SHOWN = 0.01
_PICTURE = "patches.png"


OnePrompt = Annotated[PromptLike, given.Doc("A prompt.")]
OneCompletion = Annotated[str | given.LeftOut, given.Doc("How the answer may begin."), given.NEEDED]
PatchedComponent = Annotated[Literal["residual", "attention", "mlp"], given.Doc("What is put in.")]
PatchMethod = Annotated[Literal["exact", "gradient"], given.Doc("Run every patch, or estimate all.")]
LogitMetric = Annotated[
    Callable[[Any], Any] | None,
    given.Doc(
        "Instead of positive and negative: your own metric(logits), a number of any range. Only the next token's are "
        "there, as a tensor (1, 1, vocabulary) of log-probabilities: logits[0, -1, id] is a token's, and differences "
        "between tokens are those of logits. Its values are `source_value`, `target_value` and, under each patch, "
        "`patched`."
    ),
    given.ONLY_IN_PYTHON,
]
PatchedPosition = Annotated[
    int | list[int] | None,
    given.Doc(
        "Patch only these of the target's tokens; all if omitted. Negative ones count from the end of both prompts, "
        "which may then differ in length. The result tells of these alone, at the `token_places` in the target."
    ),
    given.ONLY_IN_PYTHON,
]


class StrongestPatch(TypedDict):
    """One layer and the place of one token."""

    layer: int
    token: int
    recovered: float


# Of a metric and of a position, which only Python has.
_ByLayer = Annotated[dict[str, list[float]], given.ONLY_IN_PYTHON]
_Places = Annotated[list[int], given.ONLY_IN_PYTHON]


class PatchResult(TypedDict):
    """`source_value` and `target_value`: log-odds in nats. `recovered`: by layer, of each token, as a share of the way
    from the target to the source; `tokens` and `ids` are source and target side by side.
    """

    source_value: float
    target_value: float
    tokens: list[list[str]]
    ids: list[list[int]]
    recovered: dict[str, list[float]]
    strongest: list[StrongestPatch]
    heat_map_path: str
    patched: NotRequired[_ByLayer]
    token_places: NotRequired[_Places]


@checked
def patch_activations(
    source_prompt: OnePrompt,
    target_prompt: OnePrompt,
    positive: OneCompletion = None,
    negative: OneCompletion = None,
    component: PatchedComponent = "residual",
    layers: given.AllLayers = None,
    method: PatchMethod = "exact",
    save_folder: given.Folder = None,
    metric: LogitMetric = None,
    position: PatchedPosition = None,
) -> PatchResult:
    """Put the source's activation at each layer and token into the target, and say how far that moves its answer.

    The answer is log p(positive) - log p(negative). To denoise, the source is the prompt with the behaviour; to add
    noise, exchange both. `gradient` averages slopes between target and source: a fast first look, rough where the
    prompts agree in few tokens.
    """
    import numpy as np

    from steer_tools.inspection.patching import Pair, attribute, patch
    from steer_tools.reports.pictures import patch_picture

    require_one_of("component", component, ("residual", "attention", "mlp"))
    require_one_of("method", method, ("exact", "gradient"))
    answer = _answer(positive, negative, metric)
    with locked_session() as session:
        engine = session.engine
        source, target = parse_prompt(source_prompt, "source_prompt"), parse_prompt(target_prompt, "target_prompt")
        sites = [Site(layer, component) for layer in resolved_layers(session, layers, engine.info.steerable_layers)]
        run = patch if method == "exact" else attribute
        found = run(engine, Pair(source, target, answer), sites, position)
        path, drawn = f"{save_folder or 'patches'}/{_PICTURE}", patch_picture(found, component)
        picture = session.workspace.write(path, drawn, replaces=PICTURE)
        recovered, places = found.recovered, [place for _, place in found.tokens.places]
        order = [
            divmod(index, recovered.shape[1])
            for index in np.argsort(-np.abs(recovered), axis=None, kind="stable").tolist()[:_LISTED]
            if abs(recovered.ravel()[index]) >= _LEAST_SHOWN
        ]
        result = short(
            PatchResult(
                source_value=found.source,
                target_value=found.target,
                tokens=[list(both) for both in found.tokens.texts],
                ids=[list(both) for both in found.tokens.ids],
                recovered={str(site.layer): row for site, row in zip(found.sites, recovered.tolist(), strict=True)},
                strongest=[
                    StrongestPatch(
                        layer=found.sites[row].layer, token=places[column], recovered=float(recovered[row, column])
                    )
                    for row, column in order
                ],
                heat_map_path=str(picture),
            )
        )
        if position is not None:
            result["token_places"] = places
        if metric is not None:
            patched = (found.target + found.effects).tolist()
            by_layer = {str(site.layer): row for site, row in zip(found.sites, patched, strict=True)}
            # In full, since of a metric of any range nobody knows which digits count.
            result = PatchResult(
                {**result, "source_value": found.source, "target_value": found.target, "patched": by_layer}
            )
        return result


def _answer(
    positive: str | None, negative: str | None, metric: Callable[[Any], Any] | None
) -> patching.LogOdds | patching.LogitMetric:
    """Return what is measured.

    Raises:
        ArgumentError: Both ways were given, or neither whole.
    """
    from steer_tools.inspection import patching

    if metric is not None:
        if positive is not None or negative is not None:
            raise ArgumentError(
                "A metric was given, and positive or negative, too", valid="one way to tell answers apart"
            )
        return patching.LogitMetric(metric)
    if positive is None or negative is None:
        lacking = [name for name, value in (("positive", positive), ("negative", negative)) if value is None]
        raise ArgumentError(
            f"patch_activations lacks {' and '.join(lacking)}",
            valid="two completions that the prompts decide between, such as ' Yes' and ' No'; in Python also metric=",
        )
    require_text("positive", positive)
    require_text("negative", negative)
    return patching.LogOdds(positive, negative)


def show(result: PatchResult, *, is_plain: bool) -> Shown:
    """Render shares by token and layer, the strongest patches, and where the picture lies."""
    from steer_tools.tools.colours import HeatTable, token_text

    tokens = [dict.fromkeys(token_text(piece).plain for piece in pair) for pair in result["tokens"]]
    places = result.get("token_places", range(len(tokens)))
    lines = {place: f"{place} {'→'.join(pair)}" for place, pair in zip(places, tokens, strict=True)}
    recovered = result["recovered"]
    by_token = [list(values) for values in zip(*recovered.values(), strict=True)]
    best = [
        f"layer {own['layer']} at {lines[own['token']]} {_percent(own['recovered'])}" for own in result["strongest"][:3]
    ]
    unit, what = ("", "metric") if "patched" in result else (" nats", "log-odds")
    answers = f"source {effect_text(result['source_value'])}, target {effect_text(result['target_value'])}{unit}"
    return stack(
        line("Share of the way from the target's answer to the source's", "bold"),
        *HeatTable("token / layer", [*lines.values()], list(recovered), by_token).shown(_percent, is_plain=is_plain),
        facts({what: answers, "strongest": "; ".join(best), "picture": result["heat_map_path"]}),
    )


def _percent(share: float) -> str:
    return f"{share:+.0%}" if round(share, 2) else "0"


TOOL = Card(
    "Patch activations between prompts",
    "inspect",
    command="patch",
    about="Find where in a prompt an answer is decided, by putting another prompt's activations into it.",
    positional=("source_prompt", "target_prompt"),
    required=("positive", "negative"),
    not_typed=("metric", "position"),
).tool(patch_activations, show)
