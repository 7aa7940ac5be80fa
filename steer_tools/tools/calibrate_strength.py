"""The tool that finds the strength which spends a damage or reaches an effect."""

from typing import Annotated

from annotated_types import Gt
from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, facts, figure, nats, stack, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, short

# No useful strength is larger, in the model's typical norms at the layer.
_LARGEST_RESIDUAL = 4.0


TargetDamage = Annotated[float | None, given.Doc("KL(unsteered to steered) to spend, in nats a token."), Gt(0)]
TargetEffect = Annotated[float | None, given.Doc("Mean change of log-odds to reach on behavior_name, in nats."), Gt(0)]


class CalibrationResult(TypedDict):
    """`strength`, in `unit`, reaches the target; `kl` and `log_odds_effect`, null without a behaviour, are what it
    does.

    `residual_strength` is the same strength in residual norms. `apply`: the arguments that apply it.
    """

    layer: int
    strength: float
    unit: str
    residual_strength: float | None
    apply: ApplyArguments
    kl: float
    log_odds_effect: float | None
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
    """Find the least strength that spends a target damage, for instance 0.5, or reaches a target effect; give one.

    An effect is measured on the questions of a behaviour that would choose its best layer, none of which judges.
    """
    from steer_tools.evaluation.damage import DamageMeter
    from steer_tools.evaluation.questions import questions
    from steer_tools.experiments.calibration import calibrate, divergence_of, effect_of
    from steer_tools.experiments.evaluation_set import evaluation_set_named, neutral_for
    from steer_tools.session.placement import PlacementOptions, place_once
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session(keeps=True) as session:
        engine = session.engine
        if (target_damage is None) == (target_effect is None):
            raise ArgumentError("One target is needed", valid="target_damage or target_effect")
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
        measure, target = (
            (damage, target_damage) if effect is None or target_damage is not None else (effect, target_effect)
        )
        assert target is not None
        found = calibrate(measure, target, _LARGEST_RESIDUAL / abs(per_unit))
        strength = short(found.strength)
        return CalibrationResult(
            layer=placed.layers[0],
            strength=strength,
            unit=unit,
            residual_strength=short(strength * per_unit),
            apply=repeating(session, vector_path, placed, strength, allow_other_model=allow_other_model),
            kl=short(damage([strength])[0]),
            log_odds_effect=None if effect is None else short(effect([strength])[0]),
            warnings=[
                *(() if evaluation_set is None else evaluation_set.behavior.notes),
                *placed.told(is_strength_given=True),
                *unreached_warnings(engine, asked, [placed.unit_placements]),
            ],
        )


def show(result: CalibrationResult) -> Shown:
    """Render the strength, and what it does."""
    residual, effect = result["residual_strength"], result["log_odds_effect"]
    known = {
        "strength": f"{figure(result['strength'])} ({result['unit']}) at layer {result['layer']}",
        "adds": None if residual is None else f"{nats(residual)} of the model's typical norm there",
        "damage": f"KL {brief(result['kl'])} nats a token",
        "effect": None if effect is None else f"{nats(effect)} nats",
    }
    return stack(facts(known), *warning_lines(result["warnings"]))


TOOL = Card(
    "Find the strength for a target",
    "evidence",
    command="calibrate",
    about="Find the least strength that spends a damage or reaches an effect.",
    positional=("vector_path",),
    is_read_only=True,
).tool(calibrate_strength, show)
