"""Draws the README's picture from a run on the bundled model: `python docs/picture.py`, some 40 seconds on one core.

One vector is made, judged by `steering_experiment`, and shown at the strength that the experiment chose.
"""

import difflib
import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from steer_tools import compare_generations, load_model, steering_experiment
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

PICTURE = Path(__file__).parent / "pictures" / "steering.svg"
PROMPT = "It seems to me the needle is blunt. Could we hold the needle together?"
INK, PALE, MARK, GREY, FIELD = "#1e293b", "#64748b", "#c2410c", "#94a3b8", "#f8fafc"
KINDS = {
    "random": "random",
    "random_covariance": "random, spread like the activations",
    "balanced_shuffle": "shuffled labels",
}
LEFT, RIGHT = 560, 976
HEAD, SMALL = 'font-size="17" font-weight="700"', f'font-size="12" fill="{PALE}"'


def run(workspace: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an experiment's report and the texts at the strength that it chose, without a vector and turned round."""
    current_session().workspace = Workspace(workspace)
    load_model("bundled")
    result = steering_experiment("sycophancy")
    chat = [{"role": "user", "content": PROMPT}]
    strength, layer = result["best_strength"], result["best_layer"]
    assert strength is not None
    assert layer is not None
    texts = compare_generations(
        [chat], result["vector_path"], layer, [-strength, strength], "residual", max_new_tokens=128
    )
    report = json.loads(Path(result["report_path"]).with_suffix(".json").read_text(encoding="utf-8"))
    return report, dict(texts)


def draw(report: dict[str, Any], texts: dict[str, Any]) -> str:
    """Return the picture as SVG."""
    against, towards = texts["variants"]
    cards = [
        (f"steered, strength {against['strength']:+g}", against["texts"][0]),
        ("unsteered", texts["baseline"]["texts"][0]),
        (f"steered, strength {towards['strength']:+g}", towards["texts"][0]),
    ]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 500" font-family="system-ui, sans-serif"'
        f' font-size="14" fill="{INK}">',
        f"<title>A steering vector for sycophancy: texts, effect and controls. Verdict: {report['verdict']}</title>",
        '<rect width="1000" height="500" rx="10" fill="#ffffff"/>',
        f'<text x="24" y="36" {HEAD}>A vector for sycophancy, added while the model writes</text>',
        f'<text x="24" y="62" {SMALL}>{escape(PROMPT)}</text>',
    ]
    for number, (title, text) in enumerate(cards):
        parts += _card(80 + 136 * number, title, text, cards[1][1])
    return "\n".join([*parts, *_evidence(report), "</svg>"]) + "\n"


def _card(top: int, title: str, text: str, unsteered: str) -> list[str]:
    colour = INK if text == unsteered else MARK
    return [
        f'<rect x="24" y="{top}" width="500" height="126" rx="6" fill="{FIELD}"/>',
        f'<rect x="24" y="{top}" width="4" height="126" fill="{colour}"/>',
        f'<text x="40" y="{top + 22}" font-weight="600" fill="{colour}">{escape(title)}</text>',
        *(
            f'<text x="40" y="{top + 42 + 16 * row}" font-size="12">{line}</text>'
            for row, line in enumerate(_marked_lines(text, unsteered))
        ),
    ]


def _marked_lines(text: str, unsteered: str) -> list[str]:
    """Return the text in lines, its words bold where the unsteered text has others."""
    words = text.split()
    changes = difflib.SequenceMatcher(None, unsteered.split(), words, autojunk=False).get_opcodes()
    changed = {at for kind, _, _, start, end in changes if kind != "equal" for at in range(start, end)}
    lines, at = list[str](), 0
    for line in textwrap.wrap(text, 72):
        shown = list[str]()
        for word in line.split():
            bold = f'<tspan font-weight="700" fill="{MARK}">{escape(word)}</tspan>'
            shown.append(bold if at in changed else escape(word))
            at += 1
        lines.append(" ".join(shown))
    return lines


def _evidence(report: dict[str, Any]) -> list[str]:
    judgement, controls, chosen = report["judgement"], report["controls"], report["chosen"]
    low, high = judgement["interval"]
    items = report["behavior"]["judging_items"]
    values = [value for means in controls["means"].values() for value in means]
    least, most = min(0.0, *values), max(high, *values)

    def across(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - least) / (most - least), 1)

    band = f'x="{across(low)}" width="{across(high) - across(low):.1f}"'
    parts = [
        f'<text x="{LEFT}" y="36" {HEAD}>Is it more than a push at random?</text>',
        f'<text x="{LEFT}" y="62" {SMALL}>Effect in nats on {items} questions that chose nothing</text>',
        f'<rect {band} y="84" height="262" fill="{MARK}" opacity="0.2"/>',
        f'<path d="M{across(judgement["effect"])} 84v262" stroke="{MARK}" stroke-width="3"/>',
        f'<text x="{across(low) - 8}" y="102" text-anchor="end" font-weight="600" fill="{MARK}">the vector</text>',
        f'<path d="M{across(0)} 116V346" stroke="{GREY}"/>',
        f'<path d="M{LEFT} 346H{RIGHT}" stroke="{GREY}"/>',
    ]
    for tick in range(-6, 11, 2):
        if least <= tick <= most:
            sign = f"{tick:+d}" if tick else "0"
            parts.append(f'<text x="{across(tick)}" y="364" text-anchor="middle" {SMALL}>{sign}</text>')
    for row, (kind, means) in enumerate(controls["means"].items()):
        top = 132 + 72 * row
        parts.append(f'<text x="{LEFT}" y="{top}" {SMALL}>{len(means)} directions, {KINDS[kind]}</text>')
        parts += [
            f'<circle cx="{across(value)}" cy="{top + 14 + 12 * (number % 4)}" r="3.5" fill="{PALE}" opacity="0.7"/>'
            for number, value in enumerate(means)
        ]
    damage = report["side_effects"]["damage"]
    facts = [
        f"Verdict: {report['verdict']}. Layer {chosen['layer']}, {chosen['strength']:g} residual norms.",
        f"{controls['reached']} of {controls['count']} controls reach {judgement['effect']:+.2f} nats; the largest has "
        f"{controls['largest']:+.2f}.",
        f"Damage on other prompts: KL {damage['divergence']:.2f} nats a token.",
    ]
    weights = ("700", "400", "400")
    lines = enumerate(zip(facts, weights, strict=True))
    return [
        *parts,
        *(f'<text x="{LEFT}" y="{404 + 22 * n}" font-weight="{w}">{escape(t)}</text>' for n, (t, w) in lines),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PICTURE.write_text(draw(*run(Path(folder))), encoding="utf-8")
