"""The tools that look closer at one vector at one layer: how evenly it works, and what strength spends or reaches."""

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.damage import DamageMeter
from steer_tools.evaluation.questions import questions
from steer_tools.experiments.calibration import calibrate, divergence_of, effect_of
from steer_tools.experiments.evaluation_set import evaluation_set_named, neutral_for
from steer_tools.experiments.robustness import evaluate, with_prompts
from steer_tools.parameters import (
    AllowOtherModel,
    CalibrationResult,
    DrawSeed,
    FailingItem,
    KnownBehavior,
    OptionalBehaviorName,
    PerToken,
    RobustnessResult,
    ScoredPositions,
    SingleLayer,
    Strength,
    TargetDamage,
    TargetEffect,
    TestPrompts,
    UnitName,
    VectorPath,
)
from steer_tools.prompts import parse_prompts, plain
from steer_tools.session.placement import PlacementOptions, place_once, require_finite, residual_strengths
from steer_tools.session.session import current_session
from steer_tools.tools.results import short, short_interval

# The items that failed worst are listed; all are counted.
_LISTED = 5
# No useful strength is larger, in the model's typical norms at the layer.
_LARGEST_RESIDUAL = 4.0


def evaluate_steering_robustness(
    vector_path: VectorPath,
    dataset: KnownBehavior,
    layer: SingleLayer = None,
    strength: Strength = 1.0,
    test_prompts: TestPrompts = None,
    unit: UnitName = "residual",
    positions: ScoredPositions = "generated",
    seed: DrawSeed = 0,
    per_token: PerToken = False,
    allow_other_model: AllowOtherModel = False,
) -> RobustnessResult:
    """Measure how evenly a vector works over prompts, wordings and the chat template, and on which prompts it fails.

    Give best_layer as layer and best_strength as strength, as sweep_steering or steering_experiment found them, and
    their seed: it is measured on the questions that did not choose.
    """
    session = current_session()
    with session.lock:
        wanted = require_finite(strength)
        if wanted == 0:
            raise ArgumentError("strength is 0, which changes nothing", valid="a number above or below 0")
        evaluation_set = evaluation_set_named(session, dataset, seed=seed)
        items = evaluation_set.splits.judging
        if test_prompts is not None:
            items = with_prompts(items, parse_prompts(test_prompts, "test_prompts"))
        placed = place_once(
            session,
            vector_path,
            layer,
            PlacementOptions(unit, positions=positions, allow_other_model=allow_other_model),
        )
        found = evaluate(session.engine, placed, wanted, items, per_token=per_token)
        failing = found.failing
        return RobustnessResult(
            layer=placed.layers[0],
            strength=wanted,
            unit=unit,
            score=short(found.score),
            effect=short(float(found.effects.mean())),
            interval=short_interval(found.interval),
            standard_deviation=short(float(found.effects.std(ddof=1)) if len(found.effects) > 1 else 0.0),
            items=len(found.effects),
            failing_items=len(failing),
            failing=[
                FailingItem(prompt=plain(found.asked[i].prompt), effect=short(float(found.effects[i])))
                for i in failing[:_LISTED]
            ],
            anti_steerable=short(found.anti_steerable),
            anti_steerable_interval=short_interval(found.anti_steerable_interval),
            paraphrase_share=None if found.paraphrase_share is None else short(found.paraphrase_share),
            effect_without_template=None
            if found.without_template is None
            else short(float(found.without_template.mean())),
            warnings=list(placed.warnings),
        )


def calibrate_strength(
    vector_path: VectorPath,
    layer: SingleLayer = None,
    target_damage: TargetDamage = None,
    target_effect: TargetEffect = None,
    behavior_name: OptionalBehaviorName = None,
    unit: UnitName = "residual",
    positions: ScoredPositions = "generated",
    seed: DrawSeed = 0,
    allow_other_model: AllowOtherModel = False,
) -> CalibrationResult:
    """Find the least strength that spends a target damage, for instance 0.5, or reaches a target effect; give one.

    An effect is measured on the questions of a behaviour that would choose its best layer, none of which judges.
    """
    session = current_session()
    with session.lock:
        engine = session.engine
        if (target_damage is None) == (target_effect is None):
            raise ArgumentError("One target is needed", valid="target_damage or target_effect")
        if target_effect is not None and behavior_name is None:
            raise ArgumentError("target_effect came without behavior_name", fix="Name what the effect is measured on.")
        evaluation_set = None if behavior_name is None else evaluation_set_named(session, behavior_name, seed=seed)
        options = PlacementOptions(unit, positions=positions, allow_other_model=allow_other_model)
        placed = place_once(session, vector_path, layer, options)
        (per_unit,) = residual_strengths(session, placed.plan(1.0))
        assert per_unit is not None  # Additions have a length.
        meter = DamageMeter(engine, neutral_for(engine), [], 1)
        damage = divergence_of(meter, placed)
        effect = None
        if evaluation_set is not None:
            effect = effect_of(engine, placed, questions(engine, evaluation_set.splits.choosing))
        measure, target = (
            (damage, target_damage) if effect is None or target_damage is not None else (effect, target_effect)
        )
        assert target is not None
        found = calibrate(measure, target, _LARGEST_RESIDUAL / abs(per_unit))
        return CalibrationResult(
            layer=placed.layers[0],
            strength=short(found.strength),
            unit=unit,
            residual_strength=short(found.strength * per_unit),
            kl=short(damage([found.strength])[0]),
            effect=None if effect is None else short(effect([found.strength])[0]),
            warnings=list(placed.warnings),
        )
