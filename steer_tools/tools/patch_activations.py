"""The tool that says where in a prompt an answer is decided, by putting one prompt's activations into another."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from steer_tools.core.site import Site
from steer_tools.prompts import PromptLike, parse_prompt
from steer_tools.tools import arguments as given
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, effect_text, facts, line, stack
from steer_tools.tools.resolving import locked_session, require_one_of, require_text, resolved_layers
from steer_tools.tools.results import short

_LISTED = 10
# Of the way from target to source: less is none.
_LEAST_SHOWN = 0.01
_PICTURE = "patches.png"


OnePrompt = Annotated[PromptLike, given.Doc("A prompt.")]
OneCompletion = Annotated[str, given.Doc("How the answer may begin.")]
PatchedComponent = Annotated[Literal["residual", "attention", "mlp"], given.Doc("What is put in.")]
PatchMethod = Annotated[Literal["exact", "gradient"], given.Doc("Run every patch, or estimate all.")]


class StrongestPatch(TypedDict):
    """One layer and the place of one token."""

    layer: int
    token: int
    recovered: float


class PatchResult(TypedDict):
    """`source` and `target`: log-odds in nats. `recovered`: by layer, of each token, as a share of the way from the
    target to the source; `tokens` and `ids` are source and target side by side.
    """

    source: float
    target: float
    tokens: list[list[str]]
    ids: list[list[int]]
    recovered: dict[str, list[float]]
    strongest: list[StrongestPatch]
    heat_map_path: str


def patch_activations(
    source_prompt: OnePrompt,
    target_prompt: OnePrompt,
    positive: OneCompletion,
    negative: OneCompletion,
    component: PatchedComponent = "residual",
    layers: given.AllLayers = None,
    method: PatchMethod = "exact",
    save_folder: given.Folder = None,
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
    require_text("positive", positive)
    require_text("negative", negative)
    with locked_session() as session:
        engine = session.engine
        source, target = parse_prompt(source_prompt, "source_prompt"), parse_prompt(target_prompt, "target_prompt")
        pair = Pair(source, target, positive, negative)
        sites = [Site(layer, component) for layer in resolved_layers(session, layers, engine.info.steerable_layers)]
        found = (patch if method == "exact" else attribute)(engine, pair, sites)
        picture = session.workspace.write(f"{save_folder or 'patches'}/{_PICTURE}", patch_picture(found, component))
        recovered = found.recovered
        order = [
            index
            for index in np.argsort(-np.abs(recovered), axis=None, kind="stable").tolist()[:_LISTED]
            if abs(recovered.ravel()[index]) >= _LEAST_SHOWN
        ]
        places = [divmod(index, recovered.shape[1]) for index in order]
        prompts = found.source_prompt, found.target_prompt
        return short(
            PatchResult(
                source=found.source,
                target=found.target,
                tokens=[list(both) for both in zip(*(own.texts for own in prompts), strict=True)],
                ids=[list(both) for both in zip(*(own.tokens for own in prompts), strict=True)],
                recovered={str(site.layer): row for site, row in zip(found.sites, recovered.tolist(), strict=True)},
                strongest=[
                    StrongestPatch(layer=found.sites[row].layer, token=token, recovered=float(recovered[row, token]))
                    for row, token in places
                ],
                heat_map_path=str(picture),
            )
        )


def show(result: PatchResult, *, is_plain: bool) -> Shown:
    """Render shares by token and layer, the strongest patches, and where the picture lies."""
    from steer_tools.tools.colours import HeatTable, token_text

    tokens = [dict.fromkeys(token_text(piece).plain for piece in pair) for pair in result["tokens"]]
    lines = [f"{place} {'→'.join(pair)}" for place, pair in enumerate(tokens)]
    recovered = result["recovered"]
    by_token = [list(values) for values in zip(*recovered.values(), strict=True)]
    best = [
        f"layer {own['layer']} at {lines[own['token']]} {_percent(own['recovered'])}" for own in result["strongest"][:3]
    ]
    log_odds = f"source {effect_text(result['source'])}, target {effect_text(result['target'])} nats"
    return stack(
        line("Share of the way from the target's answer to the source's", "bold"),
        *HeatTable("token / layer", lines, list(recovered), by_token).shown(_percent, is_plain=is_plain),
        facts({"log-odds": log_odds, "strongest": "; ".join(best), "picture": result["heat_map_path"]}),
    )


def _percent(share: float) -> str:
    return f"{share:+.0%}" if round(share, 2) else "0"


TOOL = Card(
    "Patch activations between prompts",
    "inspect",
    command="patch",
    about="Find where in a prompt an answer is decided, by putting another prompt's activations into it.",
    positional=("source_prompt", "target_prompt"),
).tool(patch_activations, show)
