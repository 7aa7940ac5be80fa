"""Figures of `speed.py` → one picture: what each way costs as a part of another one's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_OURS, _FLOOR, _OTHER, _WANTED = "#1f5fa8", "#2f8f4e", "#a0a0a0", "#c03030"


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw a line a way: its ratio with the quartiles, and a red mark at the most that is wanted."""
    ways = [
        (name, way, told)
        for name, work in figures.items()
        for way, told in work["ways"].items()
        if way != told.get("to", next(iter(work["ways"]))) and work["unit"] == "s"
    ]
    figure = Figure(figsize=(9, 0.8 + 0.24 * (len(ways) + len({name for name, *_ in ways}))), layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[float, str]] = []
    place, last = 0.0, ""
    for name, way, told in ways:
        if name != last:
            place, last = place + 1, name
            axes.text(0.005, place - 0.1, name, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        place += 1
        low, middle, high = told["ratio"]
        colour = _OURS if way.startswith("ours") else _FLOOR if way.startswith(("floor", "a bare")) else _OTHER
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(middle, place, "o", color=colour, markersize=5)
        axes.annotate(f"{middle:.2f}", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=7)
        if "wanted" in told:
            axes.plot(told["wanted"], place, "|", color=_WANTED, markersize=10, markeredgewidth=2)
        first = next(iter(figures[name]["ways"]))
        labels.append((place, f"{way}  /  {told.get('to', first)}"))
    axes.set_yticks([at for at, _ in labels], [label for _, label in labels], fontsize=8)
    axes.set_ylim(place + 1, 0)
    axes.set_xscale("log")
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="#404040", linewidth=0.8)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("CPU time, as a part of the other way's (median and quartiles over rounds)")
    kinds = (("ours", _OURS), ("the passes alone, or bare hooks", _FLOOR), ("others", _OTHER))
    handles = [Line2D([], [], color=colour, marker="o", label=label) for label, colour in kinds]
    handles.append(Line2D([], [], color=_WANTED, marker="|", linestyle="", markersize=10, label="wanted at most"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    mpl.rcParams["svg.hashsalt"] = "speed"
    figure.savefig(path, metadata={"Date": None})
