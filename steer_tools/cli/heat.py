"""What ablations and patches found → small tables on colours for the terminal. It must not know tools."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli.evidence import facts_table
from steer_tools.cli.insight import background
from steer_tools.cli.marking import shown
from steer_tools.cli.wording import figure, span, warning_lines
from steer_tools.figures.strips import readable

if TYPE_CHECKING:  # At run time this would import numpy.
    from steer_tools.tools.ablate_component import AblationResult, ComponentEffect
    from steer_tools.tools.patch_activations import PatchResult

# So many stand beside each other in 80 columns, and so many lines in a terminal.
_MOST_COLUMNS, _MOST_LINES = 8, 12
_MEASURES = {
    "log_odds": "Change of log-odds, in nats",
    "kl": "KL of the model's own texts, in nats a token",
    "exact": "Change of the exact score",
}


@dataclass(frozen=True)
class Heat:
    """Values with the names of their lines and columns; `corner` says what both are."""

    corner: str
    lines: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


def ablation(result: "AblationResult", *, is_plain: bool) -> RenderableType:
    """Render effects by layer and head, the strongest parts with their intervals, and where the picture lies."""
    effects = result["effects"]
    columns = [str(head) for head in range(max(map(len, effects.values())))]
    kind = result["component"]
    heat = Heat(
        "layer / head" if kind == "head" else "layer",
        list(effects),
        columns if kind == "head" else [kind],
        list(effects.values()),
    )
    strongest = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("strongest", "effect", "95 % interval", "halves", "KL"):
        strongest.add_column(name, justify="left" if name == "strongest" else "right")
    if result["chance"]:
        strongest.add_column("by chance", justify="right")
    for own in result["strongest"]:
        interval, halves = ("–" if ends is None else span(ends, _signed) for ends in (own["interval"], own["halves"]))
        strongest.add_row(
            _name(own, kind), _signed(own["effect"]), interval, halves, figure(own["kl"]), *_chance(result, own)
        )
    facts = {
        "items": str(result["items"]),
        "picture": result["heat_map_path"],
    }
    return Group(
        Text(f"{_MEASURES[result['measure']]} ({result['method']} in place of each)", style="bold"),
        *table_of(heat, _signed, is_plain=is_plain),
        strongest,
        facts_table(facts),
        *warning_lines(result["warnings"]),
    )


def _chance(result: "AblationResult", own: "ComponentEffect") -> list[str]:
    """Return the most that a random direction does at the place of a direction."""
    place = "everywhere" if own["layer"] is None else str(own["layer"])
    return [] if result["chance"] is None else [f"±{figure(result['chance'][place])}"]


def patches(result: "PatchResult", *, is_plain: bool) -> RenderableType:
    """Render shares by token and layer, the strongest patches, and where the picture lies."""
    tokens = [dict.fromkeys(shown(readable(piece)).plain for piece in pair) for pair in result["tokens"]]
    lines = [f"{place} {'→'.join(pair)}" for place, pair in enumerate(tokens)]
    recovered = result["recovered"]
    by_token = [list(values) for values in zip(*recovered.values(), strict=True)]
    best = [
        f"layer {own['layer']} at {lines[own['token']]} {_percent(own['recovered'])}" for own in result["strongest"][:3]
    ]
    facts: dict[str, str | None] = {
        "log-odds": f"source {_signed(result['source'])}, target {_signed(result['target'])} nats",
        "strongest": "; ".join(best),
        "picture": result["heat_map_path"],
    }
    return Group(
        Text("Share of the way from the target's answer to the source's", style="bold"),
        *table_of(Heat("token / layer", lines, list(recovered), by_token), _percent, is_plain=is_plain),
        facts_table(facts),
    )


def table_of(heat: Heat, written: Callable[[float], str], *, is_plain: bool) -> list[RenderableType]:
    """Return the strongest lines and columns in their order, and how many are left out."""
    # Layers of one model may have different numbers of heads.
    across = list(zip_longest(*heat.values, fillvalue=0.0))
    lines, columns = _strongest(heat.values, _MOST_LINES), _strongest(across, _MOST_COLUMNS)
    limit = max((abs(value) for line in heat.values for value in line), default=0.0) or 1.0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(heat.corner, no_wrap=True, max_width=24)
    for column in columns:
        table.add_column(heat.columns[column], justify="right")
    for line in lines:
        own = heat.values[line]
        cells = [own[column] if column < len(own) else None for column in columns]
        table.add_row(
            Text(heat.lines[line]),
            *(
                Text("" if value is None else written(value), _style(value, limit, is_plain=is_plain))
                for value in cells
            ),
        )
    left_out = {"lines": len(heat.lines) - len(lines), "columns": len(heat.columns) - len(columns)}
    notes = " and ".join(f"{count} more {name}" for name, count in left_out.items() if count)
    return [table, *([Text(f"({notes} of weaker effects in the picture)", style="dim")] if notes else [])]


def _strongest(values: Sequence[Sequence[float]], most: int) -> list[int]:
    ranked = sorted(range(len(values)), key=lambda index: -max(map(abs, values[index]), default=0.0))
    return sorted(ranked[:most])


def _style(value: float | None, limit: float, *, is_plain: bool) -> str:
    share = (value or 0.0) / limit
    # Beneath a twelfth of the largest there is no colour to be seen.
    return "" if is_plain or abs(share) < 1 / 12 else f"black on {background(share)}"


def _name(own: "ComponentEffect", kind: str) -> str:
    where = "everywhere" if own["layer"] is None else f"layer {own['layer']}"
    return where if kind == "direction" else f"{where} {kind}" + ("" if own["head"] is None else f" {own['head']}")


def _signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.1g}" if value else "0"


def _percent(share: float) -> str:
    return f"{share:+.0%}" if round(share, 2) else "0"
