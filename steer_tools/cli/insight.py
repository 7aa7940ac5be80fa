"""What a vector means → what people read in the terminal. It must not know tools."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli.evidence import facts_table
from steer_tools.cli.marking import shown
from steer_tools.cli.rendering import warning_lines
from steer_tools.figures.strips import Scale, Strip, readable

if TYPE_CHECKING:
    from steer_tools.tools.analyze_steering_vector import AnalysisResult, TextProjection, TokenRanking
    from steer_tools.tools.read_activations import DetectorStatus, PromptReading, ReadResult

_LEVELS = 3
_LIKE = 5
_REMARK = Text("One random direction in twenty reaches the AUC by chance; believe what is well above it.", style="dim")


def analysis(result: "AnalysisResult", *, is_plain: bool) -> RenderableType:
    """Render tokens by the lens and as observed side by side, relations, and the texts on colours."""
    lens, observed = result["lens"], result["observed"]
    facts = {
        "layer": f"{result['layer']} ({result['component']})",
        "norm": f"{result['norm']:.3g}, {result['norm'] / result['residual_norm']:.3g} of the typical norm there",
        "layers": _named({f"layer {layer}": value for layer, value in result["layer_cosines"].items()}),
        "saved": _named(result["saved"]),
        "behaviors": _named(result["behaviors"] or {}),
        "picture": result["picture_path"],
        "page": result["page_path"],
    }
    chance = f"By chance: lens {lens['chance']:.3g}, " if lens else "By chance: "
    return Group(
        Text(
            "Tokens by cosine with their row of the unembedding (lens), and by nats at "
            f"{result['observed_strength']:g} residual norms (observed)",
            style="bold",
        ),
        _tokens(lens, observed),
        Text(f"{chance}observed {observed['chance']:.3g}, cosines ±{result['cosine_chance']:.2g}", style="dim"),
        Text(),
        facts_table(facts),
        *_texts(result["texts"], is_plain=is_plain),
        *warning_lines(result["warnings"]),
    )


def readings(result: "ReadResult", *, is_plain: bool) -> RenderableType:
    """Render the detector of each layer, and each prompt on colours at each layer, with its reading."""
    parts: list[RenderableType] = []
    if result["detectors"]:
        parts += [Text(f"As a detector, on held-out prompts read at: {result['pooling']}", style="bold")]
        parts += [_detectors(result["detectors"]), _REMARK, Text()]
    for i, prompt in enumerate(result["prompts"]):
        parts += [*_lines(prompt, is_plain=is_plain)]
        if i < len(result["picture_paths"]):
            parts.append(Text(f"picture: {result['picture_paths'][i]}", style="dim"))
    return Group(*parts, *warning_lines(result["warnings"]))


def _detectors(detectors: "list[DetectorStatus]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", "AUC", "95 % interval", "by chance", "threshold", "misses", "false alarms"):
        table.add_column(name, justify="right")
    for own in detectors:
        interval = "–" if own["interval"] is None else " to ".join(f"{end:.3f}" for end in own["interval"])
        rates = (f"{own['misses']:.0%}", f"{own['false_alarms']:.0%}")
        auc, chance = f"{own['auc']:.3f}", f"{own['chance']:.3f}"
        table.add_row(str(own["layer"]), auc, interval, chance, f"{own['threshold']:.4g}", *rates)
    return table


def _lines(prompt: "PromptReading", *, is_plain: bool) -> list[RenderableType]:
    """Render one prompt at each layer; the first token, which lies elsewhere, has no colour."""
    lines: list[RenderableType] = []
    for layer, values in prompt["values"].items():
        strip = Strip(
            tuple(map(readable, prompt["tokens"])), tuple(values), tuple(place > 0 for place in range(len(values)))
        )
        scale = Scale.of([strip])
        score = prompt["scores"].get(layer)
        found = "" if score is None else f", reading {score:.4g}: {'yes' if prompt['detected'][layer] else 'no'}"
        lines += [Text(f"layer {layer}{found}", style="bold"), _line(strip, scale, is_plain=is_plain)]
        lines.append(_legend(scale, is_plain=is_plain))
    return lines


def background(share: float) -> str:
    """Return the colour behind a value that is such a share of the largest: red above 0, blue below."""
    faded = round(235 - 110 * abs(share))
    return f"rgb(255,{faded},{faded - 40})" if share > 0 else f"rgb({faded - 40},{faded},255)"


def _tokens(lens: "TokenRanking | None", observed: "TokenRanking") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    sides = [own for ranking in (lens, observed) if ranking for own in (ranking["boosted"], ranking["suppressed"])]
    names = ["lens +", "lens -", "observed +", "observed -"][-len(sides) :]
    for name in names:
        table.add_column(name, no_wrap=True)
    columns = [[f"{value:+.2f} {readable(token)}" for token, value in own.items()] for own in sides]
    for row in range(max(map(len, columns), default=0)):
        table.add_row(*(shown(column[row]) if row < len(column) else "" for column in columns))
    return table


def _texts(texts: "list[TextProjection]", *, is_plain: bool) -> list[RenderableType]:
    """Render each text with its tokens on colours, or in plain text with a level from -3 to +3 behind each."""
    strips = [
        Strip(
            tuple(map(readable, own["tokens"])),
            tuple(value or 0.0 for value in own["values"]),
            tuple(value is not None for value in own["values"]),
        )
        for own in texts
    ]
    if not strips:
        return []
    scale = Scale.of(strips)
    lines = (_line(strip, scale, is_plain=is_plain) for strip in strips)
    return [Text(), *lines, _legend(scale, is_plain=is_plain)]


def _line(strip: Strip, scale: Scale, *, is_plain: bool) -> Text:
    line = Text()
    for token, value, counts in zip(strip.tokens, strip.values, strip.counts, strict=True):
        share = scale.share(value) if counts else 0.0
        words = shown(token).plain if token.strip() else token
        line.append(" " if token.startswith(" ") else "")
        level = round(_LEVELS * share)
        line.append(words, None if is_plain or not level else f"black on {background(share)}")
        if is_plain and level:
            line.append(f"[{level:+d}]")
    return line


def _legend(scale: Scale, *, is_plain: bool) -> Text:
    levels = f"levels from -{_LEVELS} to +{_LEVELS}: " if is_plain else ""
    return Text(f"({levels}{scale.legend})", style="dim")


def _named(cosines: dict[str, float]) -> str | None:
    shown_ = [f"{name} {value:+.2f}" for name, value in list(cosines.items())[:_LIKE]]
    return ", ".join(shown_) + (f"; {len(cosines) - _LIKE} more" if len(cosines) > _LIKE else "") or None
