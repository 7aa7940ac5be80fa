"""The tool that says where in a prompt an answer is decided, by putting one prompt's activations into another."""

import numpy as np

from steer_tools.core.site import Site
from steer_tools.figures.heat_maps import Matrix, matrix
from steer_tools.figures.strips import readable
from steer_tools.inspection.patching import Pair, Patches, attribute, patch
from steer_tools.parameters import (
    AllLayers,
    Folder,
    OneCompletion,
    OnePrompt,
    PatchedComponent,
    PatchMethod,
    PatchResult,
    StrongestPatch,
)
from steer_tools.prompts import parse_prompt
from steer_tools.session.session import current_session
from steer_tools.tools.resolving import require_one_of, require_text, resolved_layers
from steer_tools.tools.results import short

_LISTED = 10
# Of the way from target to source: less is none.
_LEAST_SHOWN = 0.01
_PICTURE = "patches.png"


def patch_activations(
    source_prompt: OnePrompt,
    target_prompt: OnePrompt,
    positive: OneCompletion,
    negative: OneCompletion,
    component: PatchedComponent = "residual",
    layers: AllLayers = None,
    method: PatchMethod = "exact",
    save_folder: Folder = None,
) -> PatchResult:
    """Put the source's activation at each layer and token into the target, and say how far that moves its answer.

    The answer is log p(positive) - log p(negative). To denoise, the source is the prompt with the behaviour; to add
    noise, exchange both. `gradient` averages slopes between target and source: a fast first look, rough where the
    prompts agree in few tokens.
    """
    session = current_session()
    require_one_of("component", component, ("residual", "attention", "mlp"))
    require_one_of("method", method, ("exact", "gradient"))
    require_text("positive", positive)
    require_text("negative", negative)
    with session.lock:
        engine = session.engine
        pair = Pair(
            parse_prompt(source_prompt, "source_prompt"),
            parse_prompt(target_prompt, "target_prompt"),
            positive,
            negative,
        )
        sites = [Site(layer, component) for layer in resolved_layers(session, layers, engine.info.steerable_layers)]
        found = (patch if method == "exact" else attribute)(engine, pair, sites)
        picture = session.workspace.write(f"{save_folder or 'patches'}/{_PICTURE}", _patch_picture(found, component))
        recovered = found.recovered
        order = [
            index
            for index in np.argsort(-np.abs(recovered), axis=None, kind="stable").tolist()[:_LISTED]
            if abs(recovered.ravel()[index]) >= _LEAST_SHOWN
        ]
        return PatchResult(
            source=short(found.source),
            target=short(found.target),
            tokens=[list(tokens) for tokens in found.tokens],
            recovered={
                str(site.layer): [short(value) for value in row]
                for site, row in zip(found.sites, recovered.tolist(), strict=True)
            },
            strongest=[_strongest(found, *divmod(index, len(found.tokens))) for index in order],
            heat_map_path=str(picture),
        )


def _strongest(found: Patches, row: int, column: int) -> StrongestPatch:
    return StrongestPatch(
        layer=found.sites[row].layer, token=column, recovered=short(float(found.recovered[row, column]))
    )


def _patch_picture(found: Patches, component: str) -> bytes:
    names = [readable(source if source == target else f"{source}→{target}") for source, target in found.tokens]
    shown = Matrix(
        effects=found.recovered.tolist(),
        rows=[str(site.layer) for site in found.sites],
        columns=names,
        row_label="layer",
        column_label="token (source→target)",
        effect_label="share of the way to the source",
        decimals=2,
    )
    return matrix(shown, title=f"Patching the {component}")
