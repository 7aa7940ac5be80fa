"""What the demo found → what the terminal shows, a Markdown report, a panel of the picture, a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.evaluation.intervals import Interval, cluster_interval
from steer_tools.figures.doses import Curve, DosePanel
from steer_tools.prompts import PromptLike
from steer_tools.reports.markdown import table as markdown_table
from steer_tools.tools.check_steering import CheckResult
from steer_tools.tools.compare_generations import TextMetrics
from steer_tools.tools.create_steering_vector import CreateResult
from steer_tools.tools.rendering import brief, marked, shown, table
from steer_tools.tools.results import ModelStatus

PICTURE = "dose_response.png"
_NOTHING = "–"


@dataclass(frozen=True)
class Dose:
    """One strength, in contrasts: a text and each score for every prompt, and what else was measured."""

    strength: float
    residual_strength: float
    texts: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    metrics: TextMetrics
    grammatical: float | None = None

    def mean(self, name: str) -> float:
        """Return the mean of a score over the prompts."""
        return fmean(self.scores[name])


@dataclass(frozen=True)
class Study:
    """What a vector does: doses from the lowest strength to the highest, the unsteered one among them."""

    name: str
    created: CreateResult
    prompts: tuple[PromptLike, ...]
    doses: tuple[Dose, ...]
    planted_cosine: float | None = None

    @property
    def baseline(self) -> Dose:
        """The unsteered dose."""
        return next(dose for dose in self.doses if dose.strength == 0)

    @property
    def samples(self) -> list[tuple[str, Dose]]:
        """The doses of the lowest strength, of none and of the highest, with their names."""
        return [(_label(dose), dose) for dose in (self.doses[0], self.baseline, self.doses[-1])]

    def other_names(self) -> list[str]:
        """Return the scores that the vector should leave alone."""
        return [name for name in self.baseline.scores if name != self.name]


@dataclass(frozen=True)
class Part:
    """A vector and how much of it is applied, in contrasts."""

    study: Study
    strength: float


@dataclass(frozen=True)
class Combination:
    """Several vectors at once: the unsteered and the steered answers to the same prompts."""

    parts: tuple[Part, ...]
    prompts: tuple[PromptLike, ...]
    baseline: Dose
    steered: Dose


@dataclass(frozen=True)
class Findings:
    """All that a demo found out; `score_label` says what the scores are."""

    model: ModelStatus
    studies: tuple[Study, ...]
    combination: Combination | None
    proof: CheckResult
    score_label: str


def described(model: ModelStatus) -> str:
    """Name a model with its size."""
    name = "the bundled model" if model["name"] == BUNDLED else model["name"].rstrip("/").rpartition("/")[2]
    return f"{name} ({model['layers']} layers, hidden size {model['hidden_size']})"


def opening(model: ModelStatus, remark: str) -> RenderableType:
    """Say which model is steered."""
    return Group(Rule(Text.assemble(("steer-tools demo", "bold"), " · ", described(model))), Text(remark, style="dim"))


def study(found: Study, *, is_plain: bool) -> RenderableType:
    """Show the scores of a vector in both directions, and the answers to its first prompt."""
    columns, rows = _scores([dose for _, dose in found.samples], found)
    scores = Table(
        *(Column(name, justify="right", no_wrap=True) for name in columns), box=box.SIMPLE_HEAD, pad_edge=False
    )
    for row in rows:
        scores.add_row(*row)
    made = found.created
    facts = f"layer {made['layer']}, contrast norm {made['contrast_norm']}, separation {made['separation']}"
    if found.planted_cosine is not None:
        facts += f", cosine with the planted direction {found.planted_cosine:.2f}"
    return Group(
        Text(),
        Text.assemble((found.name, "bold"), f"  {facts}"),
        scores,
        _samples(found.prompts[0], found.samples, found.baseline, is_plain=is_plain),
    )


def combination(found: Combination, *, is_plain: bool) -> RenderableType:
    """Show several vectors at once."""
    samples = [("baseline", found.baseline), ("together", found.steered)]
    return Group(
        Text(),
        Text.assemble(("Two at once  ", "bold"), _sum_of(found.parts)),
        table({"exact score": "left", "baseline": "right", "together": "right"}, _scores_together(found)),
        _samples(found.prompts[0], samples, found.baseline, is_plain=is_plain),
    )


def proven(laws: RenderableType) -> RenderableType:
    """Show what `check_steering` found."""
    return Group(Text(), Text("Proof, while that is applied", style="bold"), laws)


def closing(report_path: Path, picture_path: Path, seconds: float) -> RenderableType:
    """Say where the report is."""
    return Group(
        Text(),
        Text.assemble(("Report   ", "bold"), shown(str(report_path))),
        Text.assemble(("Picture  ", "bold"), shown(str(picture_path))),
        Text(f"All taken off again. {seconds:.0f} s.", style="dim"),
    )


def panel(found: Study) -> DosePanel:
    """Return a study's curves for the picture."""
    strengths = [dose.strength for dose in found.doses]
    effect = Curve(
        found.name,
        strengths,
        [dose.mean(found.name) for dose in found.doses],
        [_interval(dose, found.name) for dose in found.doses],
    )
    others = [Curve(name, strengths, [dose.mean(name) for dose in found.doses]) for name in found.other_names()]
    return DosePanel(f"{found.name}, layer {found.created['layer']}", effect, others)


def document(findings: Findings, report_path: Path, picture_path: Path) -> dict[str, Any]:
    """Return the findings as JSON."""
    together = findings.combination
    return {
        "model": findings.model,
        "score": findings.score_label,
        "vectors": [
            {
                "name": found.name,
                "vector_path": found.created["vector_path"],
                "layer": found.created["layer"],
                "planted_cosine": found.planted_cosine,
                "prompts": len(found.prompts),
                "doses": [_dose_document(dose) for dose in found.doses],
            }
            for found in findings.studies
        ],
        "combined": together
        and {
            "strengths": {part.study.name: part.strength for part in together.parts},
            "baseline": _dose_document(together.baseline),
            "steered": _dose_document(together.steered),
        },
        "proof": findings.proof,
        "report_path": str(report_path),
        "picture_path": str(picture_path),
    }


def markdown(findings: Findings) -> str:
    """Write the report."""
    count = len(findings.studies[0].prompts)
    blocks = [
        f"# Steering {described(findings.model)}",
        f"Written by `steer-tools demo`. Scores are the {findings.score_label} over {count} held-out prompts, greedy, "
        "with a 95 % interval of the mean. Strength 1 is one mean difference between the two prompt sets.",
        f"![dose response]({PICTURE})",
    ]
    for found in findings.studies:
        blocks += [f"## {found.name}", _markdown_table(*_scores(found.doses, found))]
        blocks += [f"Prompt: {_question(found.prompts[0])}", _texts(found.samples)]
    if together := findings.combination:
        rows = _scores_together(together)
        blocks += [f"## Together: {_sum_of(together.parts)}", _markdown_table(("score", "baseline", "together"), rows)]
        blocks.append(_texts((("baseline", together.baseline), ("together", together.steered))))
    laws = [
        (law["name"].replace("_", " "), str(law["figure"]), law["expected"], "yes" if law["passed"] else "NO")
        for law in findings.proof["checks"]
    ]
    blocks += ["## Proof", _markdown_table(("law", "figure", "expected", "holds"), laws)]
    return "\n\n".join(blocks) + "\n"


def _scores(doses: Sequence[Dose], found: Study) -> tuple[list[str], list[list[str]]]:
    """Return the columns that say something about these doses, and a row for each."""
    every = [_score_row(dose, found) for dose in doses]
    told = [column for column in every[0] if any(row[column] != _NOTHING for row in every)]
    return told, [[row[column] for column in told] for row in every]


def _score_row(dose: Dose, found: Study) -> dict[str, str]:
    low, high = _interval(dose, found.name)
    # Where the grammar is known, nothing need be guessed from perplexity and repetition.
    is_judged_blind = dose.grammatical is None
    shifts = [abs(dose.mean(name) - found.baseline.mean(name)) for name in found.other_names()]
    return {
        "strength": _label(dose),
        "residual": f"{dose.residual_strength:+.2f}" if dose.strength else "",
        "score": _mean(dose, found.name),
        "95 % interval": f"{low:+.2f} to {high:+.2f}",
        "others moved": f"{sum(shifts) / len(shifts):.2f}" if shifts and dose.strength else _NOTHING,
        "grammatical": _NOTHING if dose.grammatical is None else f"{dose.grammatical:.0%}",
        "perplexity": brief(dose.metrics["perplexity"] if is_judged_blind else None),
        "distinct_2": brief(dose.metrics["distinct_2"] if is_judged_blind else None),
    }


def _scores_together(found: Combination) -> list[tuple[str, str, str]]:
    names = [part.study.name for part in found.parts]
    return [(name, _mean(found.baseline, name), _mean(found.steered, name)) for name in names]


def _samples(
    prompt: PromptLike, samples: Sequence[tuple[str, Dose]], baseline: Dose, *, is_plain: bool
) -> RenderableType:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("prompt", justify="right", no_wrap=True)
    table.add_column(shown(_question(prompt)), ratio=1)
    for label, dose in samples:
        text = shown(dose.texts[0]) if dose is baseline else marked(dose.texts[0], baseline.texts[0], is_plain=is_plain)
        table.add_row(label, text)
    return table


def _question(prompt: PromptLike) -> str:
    """Return what the user said last, or the text."""
    if isinstance(prompt, str):
        return prompt
    return next(item["content"] for item in reversed(prompt) if not isinstance(item, int))


def _label(dose: Dose) -> str:
    return f"{dose.strength:+g}" if dose.strength else "baseline"


def _sum_of(parts: Sequence[Part]) -> str:
    return " ".join(f"{part.strength:+g} {part.study.name}" for part in parts)


def _dose_document(dose: Dose) -> dict[str, Any]:
    return {
        "strength": dose.strength,
        "residual_strength": dose.residual_strength,
        "scores": {name: round(dose.mean(name), 4) for name in dose.scores},
        "grammatical": dose.grammatical,
        "metrics": dose.metrics,
    }


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(columns, rows, numbers_from=len(columns))


def _texts(samples: Sequence[tuple[str, Dose]]) -> str:
    return "\n".join(f"- **{label}** {dose.texts[0].strip()}" for label, dose in samples)


def _interval(dose: Dose, name: str) -> Interval:
    """Return the interval of a mean score, each prompt its own group."""
    scores = dose.scores[name]
    interval = cluster_interval(scores, range(len(scores)))
    assert interval is not None  # The demo always asks several prompts.
    return interval


def _mean(dose: Dose, name: str) -> str:
    return f"{dose.mean(name):+.2f}"
