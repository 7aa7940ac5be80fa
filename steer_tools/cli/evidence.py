"""What experiments found out → what people read of it, as rich renderables. It must not know files or models."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli.marking import shown
from steer_tools.cli.rendering import prompt_text
from steer_tools.cli.wording import figure, warning_lines

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.tools.calibrate_strength import CalibrationResult
    from steer_tools.tools.evaluate_steering_robustness import RobustnessResult
    from steer_tools.tools.steering_experiment import ExperimentResult
    from steer_tools.tools.sweep_results import LayerCells, SweepResult, WindowStatus

_STYLES = {"works": "bold green", "weak": "bold yellow"}
# So many strengths stand beside each other in 80 columns.
_BESIDE = 6
_OTHERS = 4


def experiment(result: "ExperimentResult", strengths: Sequence[float], cells: "Sequence[LayerCells]") -> RenderableType:
    """Render the verdict with its reasons, the grid, what was chosen, its controls and its side effects."""
    controls, damage = result["controls"], result["side_effects"]
    others = sorted(damage["others"].items(), key=lambda own: -abs(own[1]))
    facts = {
        **_choice(result["best_layer"], result["best_strength"], result["unit"], result["window"]),
        "controls": f"{controls['reached']} of {controls['count']} reach its effect, the largest has "
        f"{_nats(controls['largest'])}; {controls['anti_steerable']:.0%} of their items move the wrong way",
        "asking": None if result["prompting"] is None else f"{_nats(result['prompting'])} nats by a prompt instead",
        "damage": f"KL {_brief(damage['kl'])}, perplexity × {_brief(damage['perplexity'])}, distinct-2 × "
        f"{_brief(damage['distinct_2'])}, length × {_brief(damage['length'])}",
        "others": ", ".join(f"{name} {_nats(shift)}" for name, shift in others[:_OTHERS])
        + (f"; {len(others) - _OTHERS} more move less" if len(others) > _OTHERS else ""),
        "texts": ", ".join(
            f"{name} {_brief(before)} → {_brief(after)}" for name, (before, after) in damage["text_scores"].items()
        ),
        "vector": result["vector_path"],
        "dataset": result["dataset"],
        "report": result["report_path"],
    }
    reasons = Table.grid(padding=(0, 1))
    for reason in result["reasons"]:
        reasons.add_row("-", shown(reason))
    verdict = result["verdict"]
    return Group(
        Text.assemble(("Verdict: ", "bold"), (verdict, _STYLES.get(verdict, "bold red"))),
        reasons,
        Text(),
        *_grid(strengths, cells, result["best_layer"], result["best_strength"]),
        facts_table(facts),
        *warning_lines(result["warnings"]),
    )


def sweep(result: "SweepResult", vector_path: str | None = None) -> RenderableType:
    """Render the grid, what was chosen, and what the choice does to the items that did not choose."""
    facts = {
        **_choice(result["best_layer"], result["best_strength"], result["unit"], result["window"]),
        "effect": f"{_effect(result['effect'], result['interval'], result['items'])}, that did not choose",
        "wrong way": f"{result['anti_steerable']:.0%} of them",
        "vector": vector_path,
        "picture": result["heat_map_path"],
        "data": result["data_path"],
    }
    return Group(
        *_grid(result["strengths"], result["cells"], result["best_layer"], result["best_strength"]),
        facts_table(facts),
        *warning_lines(result["warnings"]),
    )


def robustness(result: "RobustnessResult") -> RenderableType:
    """Render the score, what it is made of, and the items that fail worst."""
    share, without = result["paraphrase_share"], result["effect_without_template"]
    facts = {
        "score": f"{result['score']:.0%} of the questions move by at least a quarter of the median effect in "
        "every form",
        "effect": f"{_effect(result['effect'], result['interval'], result['items'])}, standard deviation "
        f"{_brief(result['standard_deviation'])}",
        "wrong way": f"{result['anti_steerable']:.0%} of the items as the strength grows"
        f"{_interval(result['anti_steerable_interval'], _share)}",
        "wordings": None if share is None else f"{share:.0%} of the variance lies between wordings of one question",
        "template": None if without is None else f"{_nats(without)} nats without the chat template",
        "failing": f"{result['failing_items']} of {result['items']} items do not move towards the behaviour",
    }
    return Group(facts_table(facts), *_failing(result), *warning_lines(result["warnings"]))


def calibration(result: "CalibrationResult") -> RenderableType:
    """Render the strength, and what it does."""
    residual = result["residual_strength"]
    facts = {
        "strength": f"{figure(result['strength'])} ({result['unit']}) at layer {result['layer']}",
        "adds": None if residual is None else f"{_nats(residual)} of the model's typical norm there",
        "damage": f"KL {_brief(result['kl'])} nats a token",
        "effect": None if result["effect"] is None else f"{_nats(result['effect'])} nats",
    }
    return Group(facts_table(facts), *warning_lines(result["warnings"]))


def _grid(
    strengths: Sequence[float], cells: "Sequence[LayerCells]", layer: int, strength: float
) -> list[RenderableType]:
    """Return the effects by layer and strength, and what their marks mean."""
    parts: list[RenderableType] = [Text("Effect in nats by layer and strength, on the items that chose", style="bold")]
    for start in range(0, len(strengths), _BESIDE):
        beside = range(start, min(start + _BESIDE, len(strengths)))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("layer", *(f"{strengths[i]:g}" for i in beside)):
            table.add_column(name, justify="right")
        for own in cells:
            is_best = [own["layer"] == layer and strengths[i] == strength for i in beside]
            table.add_row(
                str(own["layer"]),
                *(_cell(own, i, is_best=best) for i, best in zip(beside, is_best, strict=True)),
            )
        parts.append(table)
    legend = Text("> was chosen, (in brackets) breaks the budget", style="dim")
    return [*parts, legend, Text()]


def _cell(cells: "LayerCells", index: int, *, is_best: bool) -> Text:
    is_within = cells["within_budget"][index]
    effect = f"{cells['effects'][index]:+.2f}"
    written = f"{'>' if is_best else ''}{effect if is_within else f'({effect})'}"
    return Text(written, style="bold cyan" if is_best else "" if is_within else "dim")


def _choice(layer: int, strength: float, unit: str, window: "Sequence[WindowStatus]") -> dict[str, str]:
    ranges = [
        f"layer {own['layer']}: {own['least']:g}"
        + (f" to {own['largest']:g}" if own["least"] != own["largest"] else "")
        for own in window
    ]
    return {
        "chosen": f"layer {layer} at strength {strength:g} ({unit})",
        "window": "; ".join(ranges) or "no strength has enough effect within the budget",
    }


def _effect(effect: float, interval: Sequence[float] | None, items: int) -> str:
    return f"{_nats(effect)} nats{_interval(interval, _nats)} on {items} items"


def _interval(interval: Sequence[float] | None, written: Callable[[float], str]) -> str:
    return "" if interval is None else f" (95 % interval {' to '.join(map(written, interval))})"


def _failing(result: "RobustnessResult") -> list[RenderableType]:
    if not result["failing"]:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("nats", justify="right")
    table.add_column("the worst of them", overflow="fold")
    for item in result["failing"]:
        table.add_row(_nats(item["effect"]), prompt_text(item["prompt"]))
    return [table]


def facts_table(facts: Mapping[str, str | None]) -> Table:
    """Return one line a fact that is known."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, fact in facts.items():
        if fact:
            table.add_row(label, shown(fact))
    return table


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _nats(value: float) -> str:
    return f"{value:+.3g}"


def _share(value: float) -> str:
    return f"{value:.0%}"
