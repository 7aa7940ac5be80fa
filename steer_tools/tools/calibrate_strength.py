"""The tool that finds the strength which spends a damage or reaches an effect, by log-odds or by what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt
from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, facts, figure, nats, stack, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, short

if TYPE_CHECKING:
    from steer_tools.engines.base import Engine
    from steer_tools.experiments.evaluation_set import EvaluationSet
    from steer_tools.session.placement import Placed

# No useful strength is larger, in the model's typical norms at the layer.
_LARGEST_RESIDUAL = 4.0


TargetDamage = Annotated[float | None, given.Doc("KL(unsteered to steered) to spend, in nats a token."), Gt(0)]
TargetEffect = Annotated[float | None, given.Doc("Mean change of log-odds to reach on behavior_name, in nats."), Gt(0)]


class CalibrationResult(TypedDict):
    """`strength`, in `unit`, reaches the target; `kl` and `log_odds_effect`, null without a behaviour, are what it
    does. `residual_strength`: in residual norms. `apply`: the arguments that apply it.

    Null with a target: `own_effect`, what its texts to `prompt_count` other prompts show more, -1 to 1, and
    `unbroken_strength`, the strongest whose texts are not broken.
    """

    layer: int
    strength: float
    unit: str
    residual_strength: float | None
    apply: ApplyArguments
    kl: float
    log_odds_effect: float | None
    own_effect: float | None
    prompt_count: int | None
    unbroken_strength: float | None
    warnings: list[str]


@checked
def calibrate_strength(
    vector_path: given.VectorPath,
    layer: given.SingleLayer = None,
    target_damage: TargetDamage = None,
    target_effect: TargetEffect = None,
    behavior_name: given.OptionalBehaviorName = None,
    unit: given.UnitName = "residual",
    positions: given.OptionalScoredPositions = None,
    seed: given.DrawSeed = 0,
    allow_other_model: given.AllowOtherModel = False,
) -> CalibrationResult:
    """Find the least strength that spends a target damage, for instance 0.5, or reaches a target effect.

    With a behaviour and no target: the gentlest whose texts show 80 % of the most that whole texts do.
    """
    from steer_tools.evaluation.damage import DamageMeter
    from steer_tools.evaluation.questions import questions
    from steer_tools.experiments.calibration import calibrate, divergence_of, effect_of
    from steer_tools.experiments.evaluation_set import evaluation_set_named, neutral_for
    from steer_tools.session.placement import PlacementOptions, place_once
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session(keeps=True) as session:
        engine = session.engine
        has_target = target_damage is not None or target_effect is not None
        if (target_damage is not None and target_effect is not None) or (not has_target and behavior_name is None):
            raise ArgumentError(
                "One target is needed", valid="target_damage or target_effect; or behavior_name alone, for its texts"
            )
        if target_effect is not None and behavior_name is None:
            raise ArgumentError("target_effect came without behavior_name", fix="Name what the effect is measured on.")
        evaluation_set = None if behavior_name is None else evaluation_set_named(session, behavior_name, seed=seed)
        options = PlacementOptions(unit, positions=positions, allow_other_model=allow_other_model)
        placed = place_once(session, vector_path, layer, options)
        per_unit = residual_unit(session, placed)
        neutral = neutral_for(engine)
        meter = DamageMeter(engine, neutral, [], 1)
        damage = divergence_of(meter, placed)
        effect, asked = None, neutral
        if evaluation_set is not None:
            choosing = questions(engine, evaluation_set.splits.choosing)
            effect, asked = effect_of(engine, placed, choosing), [question.prompt for question in choosing]
        texts = None
        if target_damage is not None:
            strength = short(calibrate(damage, target_damage, _LARGEST_RESIDUAL / abs(per_unit)).strength)
        elif target_effect is not None and effect is not None:
            strength = short(calibrate(effect, target_effect, _LARGEST_RESIDUAL / abs(per_unit)).strength)
        else:
            assert evaluation_set is not None
            texts = _by_texts(engine, evaluation_set, placed, _LARGEST_RESIDUAL / abs(per_unit), seed)
            strength = texts.strength
        return CalibrationResult(
            layer=placed.layers[0],
            strength=strength,
            unit=unit,
            residual_strength=short(strength * per_unit),
            apply=repeating(session, vector_path, placed, strength, allow_other_model=allow_other_model),
            kl=short(damage([strength])[0]),
            log_odds_effect=None if effect is None else short(effect([strength])[0]),
            own_effect=None if texts is None else short(texts.effect),
            prompt_count=None if texts is None else texts.prompts,
            unbroken_strength=None if texts is None else texts.unbroken,
            warnings=[
                *(() if evaluation_set is None else evaluation_set.behavior.notes),
                *placed.told(is_strength_given=True),
                *(() if texts is None else texts.warnings),
                *unreached_warnings(engine, asked, [placed.unit_placements]),
            ],
        )


@dataclass(frozen=True)
class _OfTexts:
    strength: float
    unbroken: float
    effect: float
    prompts: int
    warnings: tuple[str, ...]


def _by_texts(engine: Engine, evaluation_set: EvaluationSet, placed: Placed, largest: float, seed: int) -> _OfTexts:
    """Choose the strength by some prompts, and measure it on others; its sign is that of a cell that was chosen."""
    from steer_tools.experiments.calibration import calibrate_by_texts
    from steer_tools.experiments.meters import Meters, prepared_meters

    meters = prepared_meters(engine, evaluation_set, seed)
    if not isinstance(meters, Meters):
        raise ArgumentError(
            f"No target was given, and texts cannot tell the strength: {meters}",
            valid="target_damage or target_effect",
        )
    sign = -1 if placed.strength < 0 else 1
    found = calibrate_by_texts(meters.choosing, placed, sign, largest)
    strength, unbroken = short(found.strength), short(found.unbroken)
    (judged,) = meters.judging.measure([placed.plan(strength)])
    warnings = list[str]()
    if failures := judged.checked.failures:
        warnings.append(f"Texts to other prompts are {' and '.join(failures)} at this strength: take a gentler one.")
    if found.is_unbounded:
        warnings.append("Texts are not broken at any strength that was tried, so the strongest may be larger.")
    return _OfTexts(strength, unbroken, sign * judged.effect, len(meters.judging.prompts), tuple(warnings))


def show(result: CalibrationResult) -> Shown:
    """Render the strength, and what it does."""
    residual, effect = result["residual_strength"], result["log_odds_effect"]
    known = {
        "strength": f"{figure(result['strength'])} ({result['unit']}) at layer {result['layer']}",
        "adds": None if residual is None else f"{nats(residual)} of the model's typical norm there",
        "damage": f"KL {brief(result['kl'])} nats a token",
        "effect": None if effect is None else f"{nats(effect)} nats",
        "texts": None
        if result["own_effect"] is None
        else f"{nats(result['own_effect'])} on {result['prompt_count']} other prompts",
        "breaks": None
        if result["unbroken_strength"] is None
        else f"texts are whole up to {figure(result['unbroken_strength'])}",
    }
    return stack(facts(known), *warning_lines(result["warnings"]))


TOOL = Card(
    "Find the strength for a target",
    "evidence",
    command="calibrate",
    about="Find the least strength that spends a damage, reaches an effect, or that texts need.",
    positional=("vector_path",),
    is_read_only=True,
).tool(calibrate_strength, show)
