"""The command that says what a vector means and does. What needs torch is imported inside it, as in commands.py."""

from steer_tools.cli import options as given
from steer_tools.cli.insight import analysis
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
