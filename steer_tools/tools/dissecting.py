"""The tools that say which parts of a model a behaviour needs: ablations and patches."""

from collections.abc import Sequence

import numpy as np

from steer_tools.causal import (
    ABLATIONS,
    KINDS,
    Component,
    Pair,
    Patches,
    ablate,
    ablation_plans,
    attribute,
    components_of,
    patch,
)
from steer_tools.experiments.material import material_named
from steer_tools.experiments.measuring import DamageMeter, Floats, Question, questions
from steer_tools.figures import Matrix, matrix, readable
from steer_tools.metrics import cluster_interval
from steer_tools.parameters import (
    AblatedComponent,
    AblationName,
    AblationResult,
    AllLayers,
    ComponentEffect,
    DrawSeed,
    Folder,
    KnownBehavior,
    OneCompletion,
    OnePrompt,
    PatchedComponent,
    PatchMethod,
    PatchResult,
    StrongestPatch,
)
from steer_tools.prompts import parse_prompt
from steer_tools.session import current_session
from steer_tools.sites import Site
from steer_tools.tools.resolving import require_one_of, resolved_layers
from steer_tools.tools.results import short, short_interval

# Items of each half; more make the ranking no other, only slower.
_MOST_ITEMS = 20
_LISTED = 10
_ABLATIONS, _PATCHES = "ablation.png", "patches.png"


def ablate_component(
    behavior_name: KnownBehavior,
    component: AblatedComponent = "head",
    layers: AllLayers = None,
    method: AblationName = "mean",
    save_folder: Folder = None,
    seed: DrawSeed = 0,
) -> AblationResult:
    """Take each head, attention, MLP or block out by itself, and say what that does to a behaviour.

    A part that matters moves the behaviour on both halves of the questions, at little KL: one with much KL breaks the
    model instead.
    """
    session = current_session()
    require_one_of("component", component, KINDS)
    require_one_of("method", method, ABLATIONS)
    with session.lock:
        engine, material = session.engine, material_named(session, behavior_name, seed=seed)
        halves = [questions(engine, own[:_MOST_ITEMS]) for own in (material.splits.choosing, material.splits.judging)]
        parts = components_of(engine, component, resolved_layers(session, layers, engine.info.steerable_layers))
        asked = [question for half in halves for question in half]
        plans = ablation_plans(engine, parts, method, list(dict.fromkeys(own.prompt for own in asked)), seed)
        effects = ablate(engine, plans, asked)
        order = np.argsort(-np.abs(effects.mean(axis=1)), kind="stable").tolist()[:_LISTED]
        meter = DamageMeter(engine, material.neutral, [], 1)
        divergences = meter.divergences([plans[index][0] for index in order])
        folder = save_folder or f"ablations/{component}_{material.behavior.name}"
        picture = session.workspace.write(
            f"{folder}/{_ABLATIONS}", _ablation_picture(parts, effects.mean(axis=1), material.behavior.name)
        )
        return AblationResult(
            component=component,
            method=method,
            items=len(asked),
            effects=_by_layer(parts, effects.mean(axis=1)),
            strongest=[
                _component_effect(parts[index], effects[index], asked, len(halves[0]), divergence)
                for index, divergence in zip(order, divergences, strict=True)
            ],
            heat_map_path=str(picture),
        )


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
    noise, exchange both. `gradient` estimates all patches from one pass: a fast first look.
    """
    session = current_session()
    require_one_of("component", component, ("residual", "attention", "mlp"))
    require_one_of("method", method, ("exact", "gradient"))
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
        picture = session.workspace.write(f"{save_folder or 'patches'}/{_PATCHES}", _patch_picture(found, component))
        recovered = found.recovered
        order = np.argsort(-recovered, axis=None, kind="stable").tolist()[:_LISTED]
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


def _by_layer(parts: Sequence[Component], effects: Floats) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for part, effect in zip(parts, effects.tolist(), strict=True):
        found.setdefault(str(part.layer), []).append(short(effect))
    return found


def _component_effect(
    part: Component, effects: Floats, asked: Sequence[Question], first_half: int, divergence: float
) -> ComponentEffect:
    return ComponentEffect(
        layer=part.layer,
        head=part.head,
        effect=short(float(effects.mean())),
        interval=short_interval(cluster_interval(effects, [question.group for question in asked])),
        halves=[short(float(half.mean())) for half in (effects[:first_half], effects[first_half:])],
        kl=short(divergence),
    )


def _strongest(found: Patches, row: int, column: int) -> StrongestPatch:
    return StrongestPatch(
        layer=found.sites[row].layer, token=column, recovered=short(float(found.recovered[row, column]))
    )


def _ablation_picture(parts: Sequence[Component], effects: Floats, behavior: str) -> bytes:
    layers = sorted({part.layer for part in parts})
    most = max((part.head or 0) for part in parts) + 1
    table = [[0.0] * most for _ in layers]
    for part, effect in zip(parts, effects.tolist(), strict=True):
        table[layers.index(part.layer)][part.head or 0] = effect
    kind = parts[0].kind
    shown = Matrix(
        effects=table,
        rows=[str(layer) for layer in layers],
        columns=[str(head) for head in range(most)] if kind == "head" else [kind],
        row_label="layer",
        column_label=kind,
        effect_label="change of log-odds (nats)",
        decimals=2,
    )
    return matrix(shown, title=f"{behavior} without each {kind}")


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
