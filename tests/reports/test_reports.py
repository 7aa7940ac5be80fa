"""The reports: what a person reads is what was measured, whatever a model or a user wrote."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from helpers.pictures import size_of_png
from steer_tools import SteeringVector, load_model, save_vector, steering_experiment
from steer_tools.cli.app import app
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.core.vectors import VectorInfo
from steer_tools.directions.extraction import Extraction
from steer_tools.directions.session_methods import way_named
from steer_tools.errors import WorkspacePathError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.questions import Question
from steer_tools.experiments.evaluation_set import EvaluationSet, Splits, evaluation_set_of
from steer_tools.experiments.experiment import Example, Experiment, SideEffects, run_experiment
from steer_tools.experiments.grids import Cell, Grid
from steer_tools.experiments.judgement import Dose, Judgement
from steer_tools.experiments.null_distribution import KINDS, NullDistribution
from steer_tools.experiments.sweeps import Sweep, SweepOptions
from steer_tools.experiments.verdicts import Ruling, Verdict, rule
from steer_tools.figures import signed
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, heat_map
from steer_tools.prompts import ChatPrompt, TextPrompt
from steer_tools.reports.json_documents import Facts, experiment_document, sweep_document
from steer_tools.reports.provenance import Run
from steer_tools.reports.report_files import experiment_markdown, save_experiment, save_sweep, sweep_markdown
from steer_tools.session.placement import Placed
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

FACTS = Facts("models/small", 4, 32, "vectors/v.safetensors", "pca", "generated", 7, 61.0, "0.0.0")
UNHARMED, BROKEN = Damage(0.03, 1.02, 1.07, 0.91, 1.13), Damage(3.25, 4.5, 9.5, 0.11, 0.4)
SCORES = {"exact": (-0.12, 0.73), "refusal": (None, 0.5)}
HOSTILE = (
    "a | b",
    "a \\| b",
    "one\ntwo\r\nthree",
    "```\n# gone\n```",
    "`` ` ``",
    "<script>alert(1)</script><img src=x>",
    "</details></td></table>",
    "[link](javascript:alert(1)) ![](x.png)",
    "# heading",
    "- list\n\n1. item\n\n    code\n\n> quote\n\n---",
    "**bold** _it_ ~~gone~~ $x$",
    "&lt;b&gt; &amp; \\",
    "http://a.example www.a.example a@b.example <http://c.example>",
    "<!-- hidden",
    "[1]: http://x",
    "\x1b[31m\u202ereversed\u2028next\ud800",
)


def an_item(index: int) -> Item:
    return Item(TextPrompt(f"Question {index}"), f"yes {index}", f"no {index}", f"group {index // 2}")


def an_experiment(effects: tuple[float, ...] = (1.25, 2.5, -0.75, 3.0), controls: int = 21) -> Experiment:
    """Made-up numbers that are all different, so that one in the place of another is seen."""
    items = tuple(an_item(index) for index in range(8))
    behavior = Behavior(
        "candour", "Saying it.", ("frank", "evasive"), "Be frank.", "Nobody.", items[:3], items, items[:2]
    )
    asked = tuple(Question(TextPrompt(f"Question {i}"), f" yes {i}", f" no {i}", f"group {i // 2}") for i in range(4))
    cells = tuple(
        Cell(layer, s, np.array([s * (layer + 1), 6.0]), np.array([-s * (layer + 2), -7.0]), damage)
        for layer in (1, 2)
        for s, damage in ((0.1, UNHARMED), (0.4, UNHARMED), (0.8, BROKEN))
    )
    grid = Grid(cells, Budget())
    placement = Placement(Add(torch.ones(32)), Site(2), 1.0)
    values = np.array(effects)
    judgement = Judgement(
        asked=asked,
        unsteered=np.array([-0.5, -1.0, 0.25, 0.5]),
        effects=values,
        interval=Interval(0.61, 2.42),
        doses=tuple(Dose(s, 14.5 * s, Interval(14.5 * s - 0.37, 14.5 * s + 0.41)) for s in (-0.4, -0.1, 0.0, 0.1, 0.4)),
        slopes=np.array([3.0, -1.0, 2.0, 4.0]),
        prompting=5.55,
        unrelated=0.17,
        choices=0.83,
    )
    example = Example(asked[0], 3.0, "a plain text", "a steered text")
    vector = SteeringVector.from_directions({1: torch.ones(32), 2: torch.ones(32)}, info=VectorInfo(pooling="last"))
    null = NullDistribution(
        np.array([[0.01 * i - 0.04, 0.02 * i] * 2 for i in range(controls)]),
        tuple(KINDS[i % 3] for i in range(controls)),
    )
    return Experiment(
        extraction=Extraction(vector, {}, ("The sides differ in length.",)),
        evaluation_set=EvaluationSet(behavior, Splits(items[:2], items[2:]), (TextPrompt("n"),), {}, {}, 8),
        swept=Sweep(grid, grid.choose(), {2: Placed("v", "residual", (placement,), None, None, ())}, judgement),
        null=null,
        side_effects=SideEffects(
            Damage(0.21, 1.11, 1.31, 0.81, 1.61), {"poise": 0.44, "warmth": -1.2, "rigour": 2.22}, SCORES
        ),
        best=(example,),
        worst=(replace(example, effect=-0.75, steered="another text"),),
        ruling=rule(judgement, null, UNHARMED, grid.budget, was_within=True),
    )


def judged(experiment: Experiment, **changes: Any) -> Experiment:
    judgement = replace(experiment.swept.judgement, **changes)
    return replace(experiment, swept=replace(experiment.swept, judgement=judgement))


def behaving(experiment: Experiment, **changes: Any) -> Experiment:
    evaluation_set = experiment.evaluation_set
    return replace(
        experiment, evaluation_set=replace(evaluation_set, behavior=replace(evaluation_set.behavior, **changes))
    )


class Rendered(HTMLParser):
    """What a Markdown viewer makes of a report: its text, and the elements that are there."""

    def __init__(self, markdown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.links = "", list[str](), list[str]()
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def section(markdown: str, heading: str) -> str:
    _, found, rest = markdown.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def rows_of(markdown: str) -> dict[str, list[str]]:
    """Return the cells of each row of the tables, by their first cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for line in lines for cells in [re.split(r"(?<!\\) \| ", line.strip("| "))]}


def test_the_verdict_comes_first_in_a_sentence_with_every_reason() -> None:
    experiment = an_experiment()

    lines = experiment_markdown(experiment, FACTS).splitlines()

    assert lines[0] == "# Steering candour in `small`: works"
    assert lines[2].startswith("**The vector works: ")
    shown = Rendered("\n".join(lines[4:8])).text
    assert [line for line in shown.splitlines() if line] == list(experiment.ruling.reasons)
    assert len(experiment.ruling.reasons) == 4


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("works", "works:"),
        ("weak", "is weak:"),
        ("indistinguishable from random", "cannot be told from a random direction"),
        ("breaks the model", "breaks the model:"),
    ],
)
def test_each_verdict_has_its_own_sentence(verdict: Verdict, words: str) -> None:
    experiment = replace(an_experiment(), ruling=Ruling(verdict, ("Because.",)))

    lines = experiment_markdown(experiment, FACTS).splitlines()

    assert lines[0].endswith(f": {verdict}")
    assert words in lines[2]
    assert experiment_document(experiment, FACTS)["verdict"] == verdict


def test_the_effect_is_that_of_the_document() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "The effect")
    found: Any = experiment_document(experiment, FACTS)["judgement"]

    assert found["effect"] == 1.5
    assert found["interval"] == [0.61, 2.42]
    assert "**+1.50 nats**, 95 % interval +0.61 to +2.42" in text
    assert found["moved_wrong_way"] == found["anti_steerable"] == 0.25
    assert len(re.findall("25% of the items", text)) == 2
    assert f"{found['prompting']:+.2f} nats" in text
    assert f"{found['unrelated']:.2f} nats" in text
    assert f"{found['choices']:+.2f} nats" in text
    assert f"{np.mean([item['unsteered'] for item in found['items']]):+.2f} on average" in text
    rows = rows_of(text)
    assert len(found["doses"]) == 5
    assert sum(dose["strength"] == 0.1 for dose in found["doses"]) == 1
    for dose in [dose for dose in found["doses"] if dose["strength"]]:
        low, high = dose["interval"]
        name = f"{dose['strength']:+g}" + (" (chosen)" if dose["strength"] == 0.1 else "")
        damage = "within budget" if dose["strength"] > 0 else "not measured"
        assert rows[name] == [f"{dose['effect']:+.2f}", f"{low:+.2f} to {high:+.2f}", damage]
    assert found["absolute_effect"] == 1.875
    assert "those of the items themselves by 1.88." in text


def test_what_is_missing_is_left_out_and_is_null_in_the_document() -> None:
    whole = an_experiment()
    bare = judged(whole, interval=None, prompting=None, choices=None)
    bare = judged(bare, doses=tuple(replace(dose, interval=None) for dose in whole.swept.judgement.doses))
    bare = replace(bare, side_effects=replace(whole.side_effects, text_scores={}, others={}))

    text, full = (experiment_markdown(one, FACTS) for one in (bare, whole))
    document: Any = experiment_document(bare, FACTS)

    assert "too few groups for an interval" in text
    assert rows_of(section(text, "The effect"))["+0.1 (chosen)"] == ["+1.45", "–", "within budget"]
    for words in ("A prompt that simply asks", "(A) and (B)", "true score", "Other behaviours", "95 % interval +"):
        assert words in full
        assert words not in section(text, "The effect") + section(text, "Side effects")
    judgement = document["judgement"]
    assert [judgement[name] for name in ("interval", "prompting", "choices")] == [None] * 3
    assert document["side_effects"]["text_scores"] == {}


def test_the_controls_are_counted_by_kind_and_compared_item_by_item() -> None:
    experiment = judged(an_experiment(controls=9), effects=np.array([0.05] * 4))

    text = section(experiment_markdown(experiment, FACTS), "Against control directions")
    found: Any = experiment_document(experiment, FACTS)["controls"]

    assert found["count"] == 9
    assert {kind: len(means) for kind, means in found["means"].items()} == dict.fromkeys(KINDS, 3)
    assert found["largest"] == pytest.approx(0.1)
    assert found["reached"] == 4
    assert found["p"] == pytest.approx(0.5)
    assert found["moved_wrong_way"] == pytest.approx(4 / 18)
    assert (
        "4 of them reach the vector's +0.05 nats (p = 0.5). They move 22% of the items the wrong way, the vector 0%."
        in text
    )
    for (kind, means), cells in zip(found["means"].items(), list(rows_of(text).values())[2:], strict=True):
        assert cells[1:] == ["3", f"{np.mean(means):+.2f}", f"{max(means):+.2f}"], kind


def test_the_side_effects_are_those_of_the_document_and_the_largest_shift_is_first() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "Side effects")
    found: Any = experiment_document(experiment, FACTS)["side_effects"]

    assert list(found["damage"].values()) == [0.21, 1.11, 1.31, 0.81, 1.61]
    assert re.findall(r"\| (\d\.\d\d)(?: times)? \| (?:at|–)", text) == [
        f"{value:.2f}" for value in found["damage"].values()
    ]
    limit = Budget().relaxed()
    for words in (
        f"at most {limit.divergence:.2f}",
        f"at most {limit.surprisal:.2f}",
        f"at least {limit.distinct:.2f}",
    ):
        assert text.count(words) == 1
    assert found["other_behaviors"] == {"poise": 0.44, "warmth": -1.2, "rigour": 2.22}
    assert re.findall(r"\| `(poise|warmth|rigour)` \|", text) == ["rigour", "warmth", "poise"]
    assert "or further, move: `rigour`." in text
    assert "or further, move" not in experiment_markdown(judged(experiment, effects=np.array([2.3] * 4)), FACTS)
    assert rows_of(text)["`exact`"] == ["-0.12", "+0.73"]
    assert rows_of(text)["`refusal`"] == ["–", "+0.50"]
    assert found["text_scores"]["exact"] == {"unsteered": -0.12, "steered": 0.73}
    assert found["text_scores"]["refusal"] == {"unsteered": None, "steered": 0.5}


def test_how_the_cell_was_chosen_is_told_with_the_window_and_the_parts_of_the_items() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "How layer and strength were chosen")
    found: Any = experiment_document(experiment, FACTS)

    chosen, behavior = found["chosen"], found["behavior"]
    assert f"**layer {chosen['layer']} at strength {chosen['strength']:g}**" in text
    assert f"{chosen['choosing_effect']:+.2f} nats on the items that chose" in text
    assert [behavior[f"{part}_{what}"] for part in ("choosing", "judging") for what in ("items", "groups")] == [
        2,
        1,
        6,
        3,
    ]
    assert "2 items in 1 group chose. 6 other items in 3 groups judge" in text
    rows = rows_of(text)
    assert found["grid"]["window"] == [
        {"layer": 1, "least": 0.1, "largest": 0.4},
        {"layer": 2, "least": 0.1, "largest": 0.4},
    ]
    for window in found["grid"]["window"]:
        assert rows[str(window["layer"])] == [f"{window['least']:g}", f"{window['largest']:g}"]
    for limit in found["grid"]["budget"].values():
        assert f"{limit:g}" in text or f"{limit:.0%}" in text


def test_without_a_window_the_report_says_so() -> None:
    experiment = an_experiment()
    grid = Grid(tuple(replace(cell, damage=BROKEN) for cell in experiment.swept.grid.cells), Budget())
    experiment = replace(experiment, swept=replace(experiment.swept, grid=grid, cell=grid.choose()))

    text = section(experiment_markdown(experiment, FACTS), "How layer and strength were chosen")
    found: Any = experiment_document(experiment, FACTS)["grid"]

    assert "no window" in text
    assert "layer 2 at strength 0.8" in text
    doses = section(experiment_markdown(experiment, FACTS), "The effect")
    assert re.findall(r"\*\*above budget\*\*", doses) == ["**above budget**"] * 2
    assert rows_of(text) == {}
    assert found["window"] == []
    assert [cell["is_within_budget"] for cell in found["cells"]] == [False] * 6
    assert "no window" not in experiment_markdown(an_experiment(), FACTS)


def test_the_document_holds_every_cell_and_every_item() -> None:
    experiment = an_experiment()

    found: Any = experiment_document(experiment, FACTS)

    for cell, own in zip(experiment.swept.grid.cells, found["grid"]["cells"], strict=True):
        assert (own["layer"], own["strength"]) == (cell.layer, cell.strength)
        assert (own["effect"], own["opposite_effect"]) == (cell.effect, cell.opposite_effect)
        assert own["effects"] == cell.effects.tolist()
        assert own["damage"]["divergence"] == cell.damage.divergence
        assert own["is_within_budget"] == own["is_in_window"] == (cell.strength < 0.8)
    assert [item["effect"] for item in found["judgement"]["items"]] == [1.25, 2.5, -0.75, 3.0]
    assert [item["slope"] for item in found["judgement"]["items"]] == [3.0, -1.0, 2.0, 4.0]
    assert found["best"][0]["steered"] == "a steered text"
    assert found["worst"][0]["effect"] == -0.75
    assert found["facts"]["seed"] == 7
    assert found["unit"] == "residual"


def test_what_is_not_finite_is_null_in_the_document_and_ends_no_report() -> None:
    infinite = Damage(float("nan"), 1.5, float("inf"), 0.5, 1.0)
    experiment = an_experiment()
    experiment = judged(experiment, interval=Interval(float("-inf"), float("inf")))
    experiment = replace(experiment, side_effects=replace(experiment.side_effects, damage=infinite))

    document = json.loads(json.dumps(experiment_document(experiment, FACTS), allow_nan=False))

    assert document["side_effects"]["damage"]["perplexity"] is None
    assert document["judgement"]["interval"] == [None, None]
    assert document["side_effects"]["damage"]["distinct"] == 0.5
    assert experiment_markdown(experiment, FACTS)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_model_or_a_user_changes_the_report(text: str) -> None:
    plain = an_experiment()
    question = Question(ChatPrompt((("system", text), ("user", text))), text, text, text)
    example = Example(question, 1.0, text, text)
    hostile = behaving(replace(plain, best=(example,), worst=(example,)), name=text, description=text, source=text)
    hostile = behaving(hostile, poles=(text, text))
    hostile = replace(hostile, extraction=replace(plain.extraction, warnings=(text,)))
    hostile = replace(
        hostile, side_effects=replace(plain.side_effects, others={text: -1.2, "poise": 0.44, "rigour": 2.22})
    )

    report = experiment_markdown(hostile, replace(FACTS, model=text, vector_path=text, method=text))
    shown, tabled = Rendered(report), Rendered(section(report, "What was steered"))

    usual = Rendered(experiment_markdown(plain, FACTS))
    assert [tag for tag in shown.tags if tag != "br"] == [tag for tag in usual.tags if tag != "br"]
    assert shown.links == usual.links
    letters = re.sub(r"\s", "", shown.text)
    for line in text.splitlines():
        visible = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        assert letters.count(re.sub(r"\s", "", visible)) >= 8
        assert re.sub(r"\s", "", tabled.text).count(re.sub(r"\s", "", visible)) >= 6
    assert "\u202e" not in shown.text and "\x1b" not in shown.text


@pytest.mark.parametrize("text", ["**bold** $x$", HOSTILE[-1]])
def test_a_hostile_text_is_saved_as_it_is(text: str, tmp_path: Path) -> None:
    experiment = an_experiment()
    experiment = replace(experiment, best=(replace(experiment.best[0], steered=text),))

    files = save_experiment(Workspace(tmp_path), "r", behaving(experiment, name=text), FACTS)

    assert json.loads(files.document.read_bytes())["best"][0]["steered"] == text
    assert files.report.read_bytes()
    assert files.picture is not None and min(size_of_png(files.picture.read_bytes())) > 400


def test_a_link_that_a_viewer_would_make_by_itself_is_parted() -> None:
    experiment = an_experiment()
    texts = "see http://a.example and www.a.example and a@b.example"

    report = experiment_markdown(replace(experiment, best=(replace(experiment.best[0], steered=texts),)), FACTS)

    assert not re.search(r"://|www\.|\w@", section(report, "Texts"))


def test_a_long_text_is_cut_and_says_so() -> None:
    experiment = an_experiment()

    report = experiment_markdown(replace(experiment, best=(replace(experiment.best[0], steered="x" * 5000),)), FACTS)

    assert f"{'x' * 400} *… and 4,600 more characters*" in report
    assert "x" * 401 not in report


def test_the_limits_name_what_a_behaviour_of_two_lists_cannot_show() -> None:
    whole_texts = (Item(None, "glad", "sad", "g"),)

    asked, listed, texts = (
        section(experiment_markdown(behaving(an_experiment(), **changes), FACTS), "What this does not show")
        for changes in ({}, {"instruction": None}, {"instruction": None, "pairs": whole_texts})
    )

    assert "Log-odds compare two completions" in asked
    assert "seed (7)" in asked
    assert "not whether it does the thing" not in asked
    assert "not whether it does the thing" in listed
    assert "two whole texts" not in listed
    assert "two whole texts" in texts


def test_what_was_steered_is_told() -> None:
    text = section(experiment_markdown(an_experiment(), FACTS), "What was steered")

    shown = Rendered(text).text
    for words in (
        "models/small, 4 layers, hidden size 32",
        "candour: Saying it.",
        "frank, evasive",
        "Nobody.",
        "vectors/v.safetensors, method pca",
        "3 pairs of texts; of each, the last token was read",
        "1 and 2, one at a time",
        "0.1, 0.4 and 0.8, each with both signs; 1 is the usual norm",
        "the last token of the prompt, and every new token",
        "seed 7, 61 s, steer-tools 0.0.0",
        "The sides differ in length.",
    ):
        assert words in shown


def test_the_files_lie_together_and_the_report_names_its_pictures(tmp_path: Path) -> None:
    files = save_experiment(Workspace(tmp_path), "a/b", an_experiment(), FACTS)

    assert {path.parent for path in vars(files).values()} == {tmp_path / "a" / "b"}
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["heat_map.png", "report.json", "report.md", "report.png"]
    links = Rendered(files.report.read_text(encoding="utf-8")).links
    assert set(links) == set(names) - {"report.md"}
    assert files.picture is not None and size_of_png(files.picture.read_bytes())[0] >= 1800
    assert min(size_of_png(files.heat_map.read_bytes())) > 400
    assert json.loads(files.document.read_bytes()) == json.loads(
        json.dumps(experiment_document(an_experiment(), FACTS))
    )
    assert files.report.read_bytes() == signed(experiment_markdown(an_experiment(), FACTS))


def test_the_pictures_show_the_cells_the_doses_and_the_controls(tmp_path: Path) -> None:
    experiment = an_experiment()
    swept, null = experiment.swept, experiment.null
    chosen = (2, 0.1)
    cells = [
        shown
        for cell in swept.grid.cells
        for shown in (
            HeatCell(
                cell.layer,
                cell.strength,
                float(cell.effects.mean()),
                is_damaged=cell.strength == 0.8,
                is_in_window=cell.strength < 0.8,
                is_chosen=(cell.layer, cell.strength) == chosen,
            ),
            HeatCell(cell.layer, -cell.strength, float(cell.opposite_effects.mean())),
        )
    ]
    shown = HeatMap(cells, "change of log-odds (nats)", "strength, in residual norms")
    strengths = [-0.4, -0.1, 0.0, 0.1, 0.4]
    curve = Curve(
        "the vector, 95 % interval",
        strengths,
        [14.5 * s for s in strengths],
        [(14.5 * s - 0.37, 14.5 * s + 0.41) for s in strengths],
    )
    labels = ("random", "random, spread like the activations", "shuffled labels")
    groups = [ControlGroup(label, null.effects[i::3].mean(axis=1).tolist()) for i, label in enumerate(labels)]
    parts = Overview(
        DosePanel("Layer 2, 4 judging items", curve, chosen=0.1, reference=("a prompt that asks for it", 5.55)),
        shown,
        "All cells, 2 choosing items; damage measured for + only",
        Controls(groups, 1.5, (0.61, 2.42)),
        "21 control directions",
    )

    files = save_experiment(Workspace(tmp_path), "r", experiment, FACTS)

    title = "candour in small, 2 choosing items; damage measured for + only"
    assert files.heat_map.read_bytes() == heat_map(shown, title=title)
    assert files.picture is not None and files.picture.read_bytes() == overview(parts, title="candour in small: works")


def test_a_folder_outside_a_confined_workspace_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "in", is_confined=True)

    with pytest.raises(WorkspacePathError):
        save_experiment(workspace, "../out", an_experiment(), FACTS)

    assert not (tmp_path / "out").exists()
    assert save_experiment(workspace, "here", an_experiment(), FACTS).report.exists()


def test_a_sweep_has_no_verdict_and_says_why(tmp_path: Path) -> None:
    experiment = an_experiment()
    swept, evaluation_set = experiment.swept, experiment.evaluation_set

    files = save_sweep(Workspace(tmp_path), "s", swept, evaluation_set, FACTS)

    report = files.report.read_text(encoding="utf-8")
    assert files.report.read_bytes() == signed(sweep_markdown(swept, evaluation_set, FACTS))
    assert report.startswith("# Steering candour in `small`: layer 2, strength 0.1\n")
    assert "not that it works" in report
    assert "made of" not in report
    assert set(Rendered(report).links) == {"heat_map.png", "sweep.json"}
    found: Any = json.loads(files.document.read_bytes())
    assert found == json.loads(json.dumps(sweep_document(swept, evaluation_set, FACTS)))
    whole: Any = json.loads(json.dumps(experiment_document(experiment, FACTS)))
    assert found == {name: whole[name] for name in found}
    assert {"verdict", "controls", "side_effects"}.isdisjoint(found)
    assert min(size_of_png(files.heat_map.read_bytes())) > 400


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Experiment, Facts]]:
    """A small experiment on the bundled model."""
    session = Session(workspace=Workspace(tmp_path_factory.mktemp("experiment")))
    session.load("bundled", "huggingface", "auto", None)
    options = SweepOptions(strengths=[0.1, 0.2])
    evaluation_set = evaluation_set_of(session.engine, trait_behavior("sentiment", pairs=16, items=24))
    way = way_named("paired_mean_difference", None)
    experiment = run_experiment(session, evaluation_set, [1], way, options, "cells.json", controls=9)
    path = str(session.workspace.resolve("v.safetensors"))
    save_vector(experiment.extraction.vector, path)
    run = Run.of(steering_experiment, {"controls": 9}, vars(session.engine.info), session.workspace, [])
    yield session, experiment, Facts.of(session.engine.info, options, path, way.name, 1.0, run)
    session.detach()


def test_a_real_experiment_is_reported(measured: tuple[Session, Experiment, Facts]) -> None:
    session, experiment, facts = measured

    files = save_experiment(session.workspace, "report", experiment, facts)

    report = files.report.read_text(encoding="utf-8")
    document: Any = json.loads(files.document.read_bytes())
    assert report.startswith(f"# Steering sentiment in `bundled`: {experiment.ruling.verdict}\n")
    assert f"**{document['judgement']['effect']:+.2f} nats**" in report
    assert document["extraction"]["magnitudes"]["1"] > 0
    assert len(document["best"]) == len(document["worst"]) == 5
    shown = re.sub(r"\s", "", Rendered(report).text)
    for example in document["best"] + document["worst"]:
        for name in ("unsteered", "steered"):
            assert re.sub(r"\s", "", example[name])[:200] in shown
    assert facts.model_layers == document["facts"]["model_layers"] == session.engine.info.layers


def test_the_calls_that_a_report_gives_steer_with_the_chosen_cell(
    measured: tuple[Session, Experiment, Facts], empty_session: Session
) -> None:
    _, experiment, facts = measured
    cell = experiment.swept.cell
    text = section(experiment_markdown(experiment, facts), "How to use it")
    python, command = (block.strip() for block in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL))

    load_model("bundled")
    applied: Any = eval(python, {"apply_steering_vector": __import__("steer_tools").apply_steering_vector})
    ended = CliRunner().invoke(app, [*shlex.split(command)[1:], "--max-new-tokens", "2", "--json"])

    assert (applied["layer"], applied["strength"]) == (cell.layer, cell.strength)
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["variants"][0]["strength"] == cell.strength
