"""The commands that say what a vector means and does, and what a model holds along it.

What needs torch is imported inside them, as in commands.py.
"""

from typing import Any, cast

from steer_tools.cli import options as given
from steer_tools.cli.inputs import PromptSource, read_labels
from steer_tools.cli.insight import analysis, readings
from steer_tools.cli.output import is_plain, show
from steer_tools.cli.work import Workbench


def analyze(
    *,
    vector: given.SavedVector,
    layer: given.SingleLayer = None,
    text: given.AnalyzedTexts = None,
    top: given.Top = 10,
    subtract_mean_token: given.SubtractMeanToken = False,
    compare_behaviors: given.CompareBehaviors = False,
    save: given.SaveFolder = None,
    allow_other_model: given.AllowOtherModel = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Say what a vector means: tokens, norms, and what is like it."""
    with bench.at_work():
        from steer_tools.tools import analyze_steering_vector

        result = analyze_steering_vector(
            vector,
            layer,
            text or None,
            top,
            subtract_mean_token=subtract_mean_token,
            compare_behaviors=compare_behaviors,
            save_folder=save,
            allow_other_model=allow_other_model,
        )

    show(result, analysis(result, is_plain=is_plain()), as_json=as_json)


def read(
    *,
    source: PromptSource,
    vector: given.Vector,
    layer: given.ReadLayers = None,
    behavior: given.OptionalBehavior = None,
    labelled: given.LabelledPrompts = None,
    pooling: given.ReadPooling = None,
    save: given.SaveFolder = None,
    allow_other_model: given.AllowOtherModel = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Project prompts on a vector, token by token, and say how well it detects a behaviour."""
    name, positive, negative = read_labels(behavior, labelled)
    prompts = source.read()
    with bench.at_work():
        from steer_tools.tools import read_activations

        result = read_activations(
            vector,
            prompts or None,
            layer or None,
            name,
            positive,
            negative,
            cast(Any, pooling),
            save_folder=save,
            allow_other_model=allow_other_model,
        )

    show(result, readings(result, is_plain=is_plain()), as_json=as_json)
