"""Vectors that were made → what people read of them, as rich renderables. It must not know terminals or models."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli.marking import shown
from steer_tools.cli.wording import figure, known, layer_names, listed, span, warning_lines

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.tools.combine_steering_vectors import CombineResult
    from steer_tools.tools.create_steering_vector import CreateResult

_SEPARATION = "separation: 1 tells held-out prompts apart, 0.5 is chance."
_D_PRIME = "d': how far apart they lie, in their spread."
_AGREEMENT = "agreement: mean cosine of the pairs' differences."
_CAUTION = "A vector that tells prompts apart need not steer."


def creation(result: "CreateResult") -> RenderableType:
    """Render where the vector is, and for each layer those of its figures that are known and say something new."""
    columns = [
        ("layer", result["layer"], ""),
        ("magnitude", result["magnitude"], ""),
        ("contrast norm", result["contrast_norm"], ""),
        ("residual norm", result["residual_norm"], ""),
        ("separation", result["separation"], _SEPARATION),
        ("d'", result["d_prime"], _D_PRIME),
        ("agreement", result["pair_agreement"], _AGREEMENT),
    ]
    told = {name: [*map(figure, listed(values))] for name, values, _ in columns if known(values)}
    if told["contrast norm"] == told["magnitude"]:
        del told["contrast norm"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in told:
        table.add_column(name, justify="right")
    for row in zip(*told.values(), strict=True):
        table.add_row(*row)
    positive, negative = result["prompt_counts"]
    remarks = [remark for name, _, remark in columns if remark and name in told]
    return Group(
        Text.assemble(("Saved ", "bold"), shown(result["vector_path"])),
        Text(f"{result['method']} of {positive} and {negative} prompts, shape {result['shape']}", style="dim"),
        table,
        *_detection(result),
        *([Text(" ".join((*remarks, _CAUTION)), style="dim")] if remarks else []),
        *warning_lines(result["warnings"]),
    )


def combination(vectors: Sequence[str], result: "CombineResult") -> RenderableType:
    """Render where the sum is, and the cosine of each pair of its vectors, the nearest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("cosine", justify="right")
    table.add_column("of", overflow="fold")
    table.add_column("and", overflow="fold")
    pairs = [(result["cosines"][i][j], vectors[i], vectors[j]) for i, j in combinations(range(len(vectors)), 2)]
    for cosine, first, second in sorted(pairs, key=lambda pair: -pair[0]):
        table.add_row(f"{cosine:.2f}", shown(first), shown(second))
    noun = "layers" if isinstance(result["layer"], list) else "layer"
    magnitude = span(sorted(known(result["magnitude"])), figure)
    return Group(
        Text.assemble(("Saved ", "bold"), shown(result["vector_path"])),
        Text(f"{noun} {layer_names(result['layer'])}, magnitude {magnitude}", style="dim"),
        *([table] if pairs else []),
        *warning_lines(result["warnings"]),
    )


def _detection(result: "CreateResult") -> list[Text]:
    """Say what the threshold is and how often it errs, at the layer where it does so least."""
    figures = (listed(result[key]) for key in ("layer", "threshold", "misses", "false_alarms"))
    rows = [row for row in map(known, zip(*figures, strict=True)) if len(row) == 4]
    if not rows:
        return []
    layer, threshold, misses, alarms = min(rows, key=lambda row: row[2] + row[3])
    where = f" at layer {layer:g}, where it errs least" if isinstance(result["layer"], list) else ""
    errors = f"{misses:.0%} misses and {alarms:.0%} false alarms held out"
    return [Text(f"threshold{where}: {threshold:.4g} on the projection, {errors}.", style="dim")]
