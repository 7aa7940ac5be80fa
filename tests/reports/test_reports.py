"""The reports: what a person reads is what was measured, whatever a model or a user wrote."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from helpers.made_up_experiments import (
    BROKEN,
    CONTRAST,
    FACTS,
    PLACED,
    a_choice,
    a_sweep,
    a_text_judgement,
    an_experiment,
    an_undecided_experiment,
    ruled,
    written,
)
from helpers.pictures import size_of_png
from steer_tools import load_model, save_vector, steering_experiment
from steer_tools.cli.app import app
from steer_tools.directions.session_methods import way_named
from steer_tools.errors import WorkspacePathError
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.text_guards import LEAST_RELEVANCE, LEAST_VARIETY, LEAST_WHOLE
from steer_tools.experiments.evaluation_set import evaluation_set_of
from steer_tools.experiments.experiment import Experiment, ExperimentOptions, Spot, run_experiment
from steer_tools.experiments.grids import Grid
from steer_tools.experiments.null_distribution import KINDS
from steer_tools.experiments.verdicts import Ruling, Verdict
from steer_tools.figures import signed
from steer_tools.figures.doses import ControlGroup, Controls, Curve, DosePanel, Overview, Points, overview
from steer_tools.figures.heat_maps import HeatCell, HeatMap, Marks, heat_maps
from steer_tools.prompts import ChatPrompt, Prompt
from steer_tools.reports.experiment_documents import experiment_document
from steer_tools.reports.json_documents import Facts, sweep_document
from steer_tools.reports.provenance import Run, compare
from steer_tools.reports.report_files import experiment_markdown, save_experiment, save_sweep, sweep_markdown
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

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


def judged(experiment: Experiment, **changes: Any) -> Experiment:
    """Return an experiment whose log-odds are others."""
    return replace(experiment, log_odds=replace(experiment.log_odds, **changes))


def written_as(experiment: Experiment, **changes: Any) -> Experiment:
    """Return an experiment whose texts are judged otherwise."""
    assert experiment.texts is not None
    return replace(experiment, texts=replace(experiment.texts, **changes))


def chosen_from(experiment: Experiment, **changes: Any) -> Experiment:
    """Return an experiment whose cells are others."""
    assert experiment.choice is not None
    return replace(experiment, choice=replace(experiment.choice, **changes))


def showing(experiment: Experiment, **changes: Any) -> Experiment:
    """Return an experiment whose first example is another."""
    first, *others = experiment.examples
    return replace(experiment, examples=(replace(first, **changes), *others))


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
    shown = Rendered("\n".join(lines[4:10])).text
    assert [line for line in shown.splitlines() if line] == list(experiment.ruling.reasons)
    assert len(experiment.ruling.reasons) == 6


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("works", "The vector works:"),
        ("ranks, does not write", "ranks, but does not write:"),
        ("indistinguishable from random", "cannot be told from a random direction"),
        ("breaks the model", "breaks the model:"),
        ("cannot tell", "cannot tell:"),
    ],
)
def test_each_verdict_has_its_own_sentence(verdict: Verdict, words: str) -> None:
    experiment = replace(an_experiment(), ruling=Ruling(verdict, ("Because.",)))

    lines = experiment_markdown(experiment, FACTS).splitlines()

    assert lines[0].endswith(f": {verdict}")
    assert words in lines[2]
    assert experiment_document(experiment, FACTS)["verdict"] == verdict


def test_texts_come_before_numbers_and_facts_last() -> None:
    headings = re.findall(r"^## (.+)$", experiment_markdown(an_experiment(), FACTS), re.MULTILINE)

    assert headings == [
        "Texts",
        "The picture",
        "How the cell was chosen",
        "The effect on texts",
        "Against control directions",
        "Whether the texts are whole",
        "Log-odds beside it",
        "Side effects",
        "Whether the contrast acts at all",
        "What this does not show",
        "How to use it",
        "How to check it",
        "What was steered",
    ]


def test_the_scale_is_said_once_before_the_texts() -> None:
    report = experiment_markdown(an_experiment(), FACTS)

    assert report.count("have +1 on average") == 1
    assert "this behaviour's own frank answers have +1 on average, its evasive ones −1" in report.partition("## ")[0]


def test_every_judging_prompt_is_shown_with_its_three_texts_and_its_effect() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "Texts")
    found: Any = experiment_document(experiment, FACTS)

    shown = re.findall(
        r"- \*\*(\S+)\*\* (.+)\n  - unsteered: (.+)\n  - steered(?: \(\*\*broken\*\*\))?: (.+)\n  - opposite: (.+)",
        text,
    )
    items = found["texts"]["items"]
    assert shown == [
        (
            f"{item['effect']:+.2f}",
            item["prompt"],
            *(item[name]["text"] for name in ("unsteered", "steered", "opposite")),
        )
        for item in items
    ]
    assert [item["effect"] for item in items] == [0.4, 0.5, -0.1, 1.0]
    assert re.findall(r"(\w+) \(\*\*broken\*\*\): (.+)", text) == [("steered", "steered text 2")]
    assert [item["steered"]["is_whole"] for item in items] == [True, True, False, True]
    assert [(own["prompt"], own["steered"], own["effect"]) for own in found["examples"]] == [
        (item["prompt"], item["steered"]["text"], item["effect"]) for item in items
    ]


def test_the_effect_on_texts_is_that_of_the_document_with_both_signs_and_asking() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "The effect on texts")
    found: Any = experiment_document(experiment, FACTS)

    texts, rows = found["texts"], rows_of(text)
    assert texts["effect"] == pytest.approx(0.45)
    assert texts["own_effect"] == pytest.approx(0.625)
    assert "**+0.45**, 95 % interval +0.12 to +0.83 over prompts" in text
    assert texts["interval"] == [0.12, 0.83]
    assert "at least 0.25" in text and "at least 40% of it" in text and "it has +0.62" in text
    assert rows["the chosen strength, +0.1"] == ["+0.62", "+0.00", "+1.10"]
    assert rows["the opposite one, -0.1"] == ["-0.28", "-0.90", "+0.20"]
    assert rows["no steering, but a prompt that asks for it"] == ["+0.35", "–", "–"]
    assert texts["prompting"] == 0.35
    assert "at layer 2, without any judge" in text and "are 4.8 standard deviations apart" in text
    assert found["detector"] == {
        "layer": 2,
        "d_prime": 4.75,
        "d_primes": {"1": 3.5, "2": 4.75},
        "reads_prompts": True,
    } or found["detector"]["d_primes"] == {1: 3.5, 2: 4.75}


def test_what_is_missing_is_left_out_and_is_null_in_the_document() -> None:
    whole = an_experiment()
    bare = written_as(whole, interval=None, prompting=None, controls=None)
    bare = judged(bare, interval=None, prompting=None, choices=None)
    bare = judged(bare, doses=tuple(replace(dose, interval=None) for dose in whole.log_odds.doses))
    side_effects = replace(whole.side_effects, text_scores={}, others={})
    bare = replace(bare, side_effects=side_effects, contrast=None)

    text, full = (experiment_markdown(one, FACTS) for one in (bare, whole))
    document: Any = experiment_document(bare, FACTS)

    assert "too few prompts for an interval" in text
    assert "too few groups for an interval" in text
    assert rows_of(section(text, "Log-odds beside it"))["+0.1 (chosen)"] == ["+1.45", "–"]
    told = text.partition("\n## ")[2]
    for words in (
        "a prompt that asks for it",
        "A prompt that simply asks",
        "(A) and (B)",
        "true score",
        "other behaviours",
        "95 % interval +",
        "Against control",
        "Whether the contrast",
    ):
        assert words in full
        assert words not in told
    assert [document["texts"][name] for name in ("interval", "prompting", "controls")] == [None] * 3
    assert [document["log_odds"][name] for name in ("interval", "prompting", "choices", "controls")] == [None] * 4
    assert document["contrast"] is None
    assert document["side_effects"]["text_scores"] == {}


def test_the_cells_are_shown_by_what_was_written_and_why_some_fail() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "How the cell was chosen")
    found: Any = experiment_document(experiment, FACTS)["choice"]

    tables = text.split("\nSteered: ")[1:]
    assert [table.partition("\n")[0] for table in tables] == [
        "the last token of the prompt, and every new token (`generated`).",
        "every token (`all`).",
    ]
    assert rows_of(tables[0]) == {
        "layer": ["+0.1", "+0.4", "+0.8"],
        "---:": ["---:"] * 3,
        "1": ["–", "+0.30", "(broken, alike)"],
        "2": ["**+0.71** (chosen)", "+0.80", "(irrelevant)"],
    }
    assert rows_of(tables[1]) == {
        "layer": ["-0.4", "+0.1", "+0.4", "+0.8"],
        "---:": ["---:"] * 4,
        "1": ["+0.10", "–", "-0.20", "–"],
        "2": ["–", "–", "+0.03", "–"],
    }
    assert "Texts to 2 other prompts chose" in text
    assert "written at 8 cells. The other 5, shown as –, could not be chosen any more" in text
    assert len(found["cells"]) == 8 and len(found["not_written"]) == 5
    assert {"layer": 1, "positions": "generated", "strength": 0.1} in found["not_written"]
    assert "**layer 2 at strength +0.1, positions `generated`**, with +0.71 on the prompts that chose" in text
    for failure in ("broken", "alike", "irrelevant"):
        assert f"\n- {failure}: " in text
    for limit in (f"{LEAST_WHOLE:.0%}", f"{LEAST_VARIETY:g}", f"{LEAST_RELEVANCE:g}"):
        assert limit in text
    assert [cell["texts"] for cell in found["cells"]] == [list(cell.texts) for cell in a_choice().cells]
    assert found["unsteered"] == ["before 0", "before 1"]


def test_where_all_cells_were_written_and_pass_nothing_is_said_of_others() -> None:
    choice = a_choice()
    cells = tuple(replace(cell, failures=()) for cell in choice.cells if cell.place == (2, "generated"))

    experiment = chosen_from(an_experiment(), cells=cells, cell=cells[2])
    text = section(experiment_markdown(experiment, FACTS), "How the cell was chosen")

    assert "The other" not in text
    assert "do not pass as texts" not in text
    assert experiment_document(experiment, FACTS)["choice"]["not_written"] == []  # type: ignore[index]


@pytest.mark.parametrize(("place", "words"), [(4, "gentlest of all"), (3, "does most of those that pass")])
def test_a_cell_that_does_not_do_enough_is_said_to_be_none(place: int, words: str) -> None:
    cell = a_choice().cells[place]

    experiment = chosen_from(an_experiment(), cell=cell, does_enough=False)
    text = section(experiment_markdown(experiment, FACTS), "How the cell was chosen")

    assert "No cell passes whose texts show more of the behaviour." in text
    assert words in text
    assert "do enough, and the gentlest" not in text
    assert experiment_document(experiment, FACTS)["choice"]["does_enough"] is False  # type: ignore[index]


def test_the_controls_of_texts_are_counted_by_kind() -> None:
    experiment = an_experiment(controls=9)

    text = section(experiment_markdown(experiment, FACTS), "Against control directions")
    found: Any = experiment_document(experiment, FACTS)["texts"]["controls"]  # type: ignore[index]

    assert (found["count"], found["wanted"], found["reached"]) == (9, 9, 0)
    assert found["largest"] == pytest.approx(0.1)
    assert found["p"] == pytest.approx(0.1)
    assert "None of them reach the vector's +0.45, of either sign (p = 0.1)." in text
    assert "planned" not in text
    assert {kind: len(sizes) for kind, sizes in found["sizes"].items()} == dict.fromkeys(KINDS, 3)
    for (kind, sizes), cells in zip(found["sizes"].items(), list(rows_of(text).values())[2:], strict=True):
        assert cells[1:] == ["3", f"{np.mean(sizes):.2f}", f"{max(sizes):.2f}"], kind


def test_controls_that_ended_early_are_said_to() -> None:
    experiment = an_experiment(controls=9)
    assert experiment.texts is not None and experiment.texts.controls is not None
    controls = replace(experiment.texts.controls, wanted=19)
    controls = replace(controls, effects=np.where(np.arange(9)[:, None] == 4, -0.5, controls.effects))

    text = section(experiment_markdown(written_as(experiment, controls=controls), FACTS), "Against control directions")

    assert "9 directions (of 19 that were planned: one that does as much ends it)" in text
    assert "1 of them reaches the vector's +0.45" in text


def test_the_guards_are_shown_with_their_limits() -> None:
    experiment = an_experiment()
    failing = written("steered", (0.5, 0.9, 0.0, 1.1), variety=0.5, relevance=0.1)

    text = section(experiment_markdown(experiment, FACTS), "Whether the texts are whole")
    failed = section(experiment_markdown(written_as(experiment, steered=failing), FACTS), "Whether the texts are whole")
    found: Any = experiment_document(experiment, FACTS)["texts"]

    assert list(rows_of(text).values())[2:] == [
        ["75%", "100%", "57%"],
        ["0.93", "0.81", "0.64"],
        ["0.87", "not measurable", "0.51"],
    ]
    assert "do not pass" not in text
    assert "They do not pass: the texts to different prompts are too much alike; the texts hardly depend" in failed
    assert found["guards"]["steered"] == {"whole": 0.75, "variety": 0.93, "relevance": 0.87, "failures": []}
    assert found["guards"]["opposite"]["relevance"] is None


def test_the_log_odds_are_those_of_the_document_without_damage() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "Log-odds beside it")
    found: Any = experiment_document(experiment, FACTS)["log_odds"]

    assert "**+1.50 nats**, 95 % interval +0.61 to +2.42 over groups" in text
    for dose in [dose for dose in found["doses"] if dose["strength"]]:
        name = f"{dose['strength']:+g}" + (" (chosen)" if dose["strength"] == 0.1 else "")
        low, high = dose["interval"]
        assert rows_of(text)[name] == [f"{dose['effect']:+.2f}", f"{low:+.2f} to {high:+.2f}"]
    assert "damage" not in text
    assert found["controls"] is None


def test_log_odds_have_controls_where_texts_do_not_work() -> None:
    experiment = replace(an_experiment(), null=an_undecided_experiment().null)

    text = section(experiment_markdown(experiment, FACTS), "Against control directions, by log-odds")

    assert "21 directions" in text
    assert experiment_document(experiment, FACTS)["log_odds"]["controls"]["count"] == 21  # type: ignore[index]


def test_the_contrast_is_told_in_words_and_numbers() -> None:
    experiment = an_experiment()

    text = section(experiment_markdown(experiment, FACTS), "Whether the contrast acts at all")

    assert Rendered(text).text.strip() == CONTRAST.in_words()
    assert experiment_document(experiment, FACTS)["contrast"]["p"] == 0.021  # type: ignore[index]


def test_less_of_a_behaviour_is_told_as_such() -> None:
    experiment = an_experiment()
    cells = tuple(replace(cell, strength=-cell.strength) for cell in a_choice().cells)
    experiment = chosen_from(experiment, direction="less", cells=cells, cell=cells[6])
    experiment = written_as(experiment, direction="less")
    options = replace(experiment.options, direction="less")
    experiment = replace(experiment, options=options, spot=replace(experiment.spot, strength=-0.1))
    experiment = ruled(replace(experiment, null=an_undecided_experiment().null))

    report = experiment_markdown(experiment, FACTS)
    found: Any = experiment_document(experiment, FACTS)

    assert report.startswith("# Steering candour (less of it) in `small`: ")
    assert "effects above 0 mean less of it" in report
    assert "75% of the items move the wrong way there" in report
    assert found["log_odds"]["moved_wrong_way"] == 0.75
    controls = found["log_odds"]["controls"]
    assert (controls["reached"], controls["largest"]) == (21, pytest.approx(-0.02))
    assert controls["moved_wrong_way"] == pytest.approx(36 / 42)
    assert found["direction"] == "less"
    assert len(found["choice"]["not_written"]) == 5
    assert "strength=-0.1" in section(report, "How to use it")


def test_less_of_a_behaviour_by_log_odds_is_at_the_opposite_strength(tmp_path: Path) -> None:
    experiment = judged(an_undecided_experiment(), effects=np.array([-1.25, -2.5, 0.75, -3.0]))
    options, spot = replace(experiment.options, direction="less"), replace(experiment.spot, strength=-0.1)
    less = ruled(replace(experiment, options=options, spot=spot))

    report = experiment_markdown(less, FACTS)
    pictures = [
        save_experiment(Workspace(tmp_path), name, own, FACTS) for name, own in (("m", experiment), ("l", less))
    ]

    text = section(report, "The effect")
    assert "-0.1 (chosen)" in rows_of(text) and "+0.1" in rows_of(text)
    assert "25% of the items move the wrong way there" in text
    assert "at the opposite of that strength" in report
    assert "at the opposite of that strength" not in experiment_markdown(experiment, FACTS)
    assert pictures[0].heat_map.read_bytes() != pictures[1].heat_map.read_bytes()


def test_where_texts_cannot_decide_the_report_says_so_at_the_top_and_shows_log_odds() -> None:
    experiment = an_undecided_experiment()

    report = experiment_markdown(experiment, FACTS)
    found: Any = experiment_document(experiment, FACTS)

    assert report.startswith("# Steering candour in `small`: cannot tell\n")
    top = report.partition("\n## ")[0]
    assert "Too few prompts." in top
    assert "Texts could not decide here" in top and "have +1 on average" not in top
    assert [found[name] for name in ("choice", "texts", "detector")] == [None] * 3
    assert len(found["grid"]["cells"]) == 6
    text = section(report, "Texts")
    assert re.findall(r"- (Question \d)\n  - unsteered: (.+)\n  - steered: (.+)", text) == [
        (f"Question {i}", f"a plain text {i}", f"a steered text {i}") for i in range(4)
    ]
    for heading in ("How layer and strength were chosen", "The effect", "Against control directions, by log-odds"):
        assert section(report, heading)
    assert "Log-odds compare two completions" in section(report, "What this does not show")


def test_the_effect_of_a_grid_is_that_of_the_document() -> None:
    experiment = an_undecided_experiment()

    text = section(experiment_markdown(experiment, FACTS), "The effect")
    found: Any = experiment_document(experiment, FACTS)["log_odds"]

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


def test_the_controls_of_log_odds_are_counted_by_kind_and_compared_item_by_item() -> None:
    experiment = judged(an_undecided_experiment(controls=9), effects=np.array([0.05] * 4))

    text = section(experiment_markdown(experiment, FACTS), "Against control directions, by log-odds")
    found: Any = experiment_document(experiment, FACTS)["log_odds"]["controls"]  # type: ignore[index]

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
    experiment = an_undecided_experiment()

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


def test_a_cell_that_texts_chose_has_side_effects_without_a_budget() -> None:
    text = section(experiment_markdown(an_experiment(), FACTS), "Side effects")

    assert re.findall(r"\| (\d\.\d\d)(?: times)? \|$", text, re.MULTILINE) == ["0.21", "1.11", "1.31", "0.81", "1.61"]
    assert "allowed" not in text and "budget" not in text


def test_how_a_cell_of_a_grid_was_chosen_is_told_with_the_window_and_the_parts_of_the_items() -> None:
    experiment = an_undecided_experiment()

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
    experiment, swept = an_undecided_experiment(), a_sweep()
    grid = Grid(tuple(replace(cell, damage=BROKEN) for cell in swept.grid.cells), Budget())
    experiment = replace(experiment, swept=replace(swept, grid=grid, cell=grid.choose()))

    text = section(experiment_markdown(experiment, FACTS), "How layer and strength were chosen")
    found: Any = experiment_document(experiment, FACTS)["grid"]

    assert "no window" in text
    assert "layer 2 at strength 0.8" in text
    doses = section(experiment_markdown(experiment, FACTS), "The effect")
    assert re.findall(r"\*\*above budget\*\*", doses) == ["**above budget**"] * 2
    assert rows_of(text) == {}
    assert found["window"] == []
    assert [cell["is_within_budget"] for cell in found["cells"]] == [False] * 6
    assert "no window" not in experiment_markdown(an_undecided_experiment(), FACTS)


def test_the_document_holds_every_cell_and_every_item() -> None:
    experiment, swept = an_undecided_experiment(), a_sweep()

    found: Any = experiment_document(experiment, FACTS)

    for cell, own in zip(swept.grid.cells, found["grid"]["cells"], strict=True):
        assert (own["layer"], own["strength"]) == (cell.layer, cell.strength)
        assert (own["effect"], own["opposite_effect"]) == (cell.effect, cell.opposite_effect)
        assert own["effects"] == cell.effects.tolist()
        assert own["damage"]["divergence"] == cell.damage.divergence
        assert own["is_within_budget"] == own["is_in_window"] == (cell.strength < 0.8)
    assert [item["effect"] for item in found["log_odds"]["items"]] == [1.25, 2.5, -0.75, 3.0]
    assert [item["slope"] for item in found["log_odds"]["items"]] == [3.0, -1.0, 2.0, 4.0]
    assert found["examples"][0]["steered"] == "a steered text 0"
    assert found["facts"]["seed"] == 7
    assert found["unit"] == "residual"
    assert found["chosen"]["positions"] == "generated"


def test_the_document_holds_every_text_with_its_score() -> None:
    texts = a_text_judgement()

    found: Any = experiment_document(an_experiment(), FACTS)["texts"]

    for name in ("unsteered", "steered", "opposite"):
        own = getattr(texts, name)
        for index, item in enumerate(found["items"]):
            assert item[name] == {
                "text": own.texts[index],
                "score": own.scores[index],
                "effect": own.effects[index],
                "is_whole": own.checked.is_whole[index],
                "surprisal": own.checked.surprisals[index],
                "distinct": own.checked.distinct[index],
            }


def test_what_is_not_finite_is_null_in_the_document_and_ends_no_report() -> None:
    infinite = Damage(float("nan"), 1.5, float("inf"), 0.5, 1.0)
    experiment = judged(an_experiment(), interval=Interval(float("-inf"), float("inf")))
    experiment = replace(experiment, side_effects=replace(experiment.side_effects, damage=infinite))
    blank = replace(written("steered", (0.5, 0.9, 0.0, 1.1), 2), scores=np.array([np.nan, 1.0, 0.5, 0.2]))
    experiment = written_as(experiment, steered=blank)

    document = json.loads(json.dumps(experiment_document(experiment, FACTS), allow_nan=False))

    assert document["side_effects"]["damage"]["perplexity"] is None
    assert document["log_odds"]["interval"] == [None, None]
    assert document["texts"]["items"][0]["steered"]["score"] is None
    assert document["side_effects"]["damage"]["distinct"] == 0.5
    assert experiment_markdown(experiment, FACTS)


@pytest.mark.parametrize("makes", [an_experiment, an_undecided_experiment])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_model_or_a_user_changes_the_report(text: str, makes: Callable[[], Experiment]) -> None:
    plain = makes()
    prompt: Prompt = ChatPrompt((("system", text), ("user", text)))
    example = replace(plain.examples[0], prompt=prompt, unsteered=text, steered=text)
    if example.opposite is not None:
        example = replace(example, opposite=text)
    hostile = replace(plain, examples=(example, *plain.examples[1:]))
    hostile = behaving(hostile, name=text, description=text, source=text, poles=(text, text))
    hostile = replace(hostile, extraction=replace(plain.extraction, warnings=(text,)))

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


def test_positions_and_failures_of_a_file_are_shown_as_they_are() -> None:
    text = HOSTILE[7] + HOSTILE[0]
    cells = tuple(replace(cell, positions=text, failures=(text,)) for cell in a_choice().cells[:2])
    hostile = chosen_from(an_experiment(), cells=cells, cell=cells[0])
    hostile = replace(hostile, spot=Spot(2, text, 0.1, PLACED))

    shown, usual = (Rendered(experiment_markdown(own, FACTS)) for own in (hostile, an_experiment()))

    assert shown.links == usual.links
    assert shown.text.count(text) >= 4


@pytest.mark.parametrize("text", ["**bold** $x$", HOSTILE[-1]])
def test_a_hostile_text_is_saved_as_it_is(text: str, tmp_path: Path) -> None:
    experiment = showing(an_experiment(), steered=text)

    files = save_experiment(Workspace(tmp_path), "r", behaving(experiment, name=text), FACTS)

    assert json.loads(files.document.read_bytes())["examples"][0]["steered"] == text
    assert files.report.read_bytes()
    assert files.picture is not None and min(size_of_png(files.picture.read_bytes())) > 400


def test_a_link_that_a_viewer_would_make_by_itself_is_parted() -> None:
    texts = "see http://a.example and www.a.example and a@b.example"

    report = experiment_markdown(showing(an_experiment(), steered=texts), FACTS)

    assert not re.search(r"://|www\.|\w@", section(report, "Texts"))


def test_a_long_text_is_cut_and_says_so() -> None:
    report = experiment_markdown(showing(an_experiment(), steered="x" * 5000), FACTS)

    assert f"{'x' * 400} *… and 4,600 more characters*" in report
    assert "x" * 401 not in report


def test_the_limits_of_log_odds_name_what_a_behaviour_of_two_lists_cannot_show() -> None:
    whole_texts = (Item(None, "glad", "sad", "g"),)

    asked, listed, texts = (
        section(experiment_markdown(behaving(an_undecided_experiment(), **changes), FACTS), "What this does not show")
        for changes in ({}, {"instruction": None}, {"instruction": None, "pairs": whole_texts})
    )

    assert "Log-odds compare two completions" in asked
    assert "seed (7)" in asked
    assert "not whether it does the thing" not in asked
    assert "not whether it does the thing" in listed
    assert "two whole texts" not in listed
    assert "two whole texts" in texts


def test_the_limits_of_texts_are_told() -> None:
    whole_texts = (Item(None, "glad", "sad", "g"),)
    experiment = an_experiment()

    asked, unasked, texts = (
        section(experiment_markdown(own, FACTS), "What this does not show")
        for own in (experiment, written_as(experiment, prompting=None), behaving(experiment, pairs=whole_texts))
    )

    for words in ("read the texts", "greedy", "did not choose cells of their own", "seed (7)"):
        assert words in asked
    assert "No prompt that asks" not in asked and "two whole texts" not in asked
    assert "No prompt that asks" in unasked
    assert "two whole texts" in texts


def test_what_was_steered_is_told() -> None:
    texts, log_odds = (
        Rendered(section(experiment_markdown(own, FACTS), "What was steered")).text
        for own in (an_experiment(), an_undecided_experiment())
    )

    for words in (
        "models/small, 4 layers, hidden size 32",
        "candour: Saying it.",
        "frank, evasive",
        "Nobody.",
        "vectors/v.safetensors, method pca",
        "3 pairs of texts; of each, the last token was read",
        "1 and 2, one at a time",
        "seed 7, 61 s, steer-tools 0.0.0",
        "The sides differ in length.",
    ):
        assert words in texts
        assert words in log_odds
    assert "0.1, 0.4 and 0.8, each with both signs; 1 is the usual norm" in log_odds
    assert "0.1, 0.4 and 0.8, with the positive sign, and the other one where texts moved the wrong way" in texts
    assert "the last token of the prompt, and every new token; or every token" in texts
    assert "or every token" not in log_odds


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


def test_the_pictures_show_texts_by_strength_the_cells_and_the_controls(tmp_path: Path) -> None:
    experiment = an_experiment()
    marks = Marks("enough effect, and texts pass", "texts do not pass", "not written: could not be chosen any more")
    label, strength = "change of the text's score", "strength, in residual norms"

    def cells(positions: str, effects: dict[tuple[int, float], float | None]) -> HeatMap:
        columns = (-0.4, 0.1, 0.4, 0.8)
        every = {(layer, s): effects.get((layer, s)) for layer in (1, 2) for s in columns}
        shown = [
            HeatCell(
                *place,
                effect,
                is_damaged=place[1] == 0.8 and effect is not None,
                is_in_window=effect is not None and effect > 0.64,
                is_chosen=place == (2, 0.1) and effect is not None,
            )
            for place, effect in every.items()
        ]
        return HeatMap(shown, label, strength, f"2 choosing prompts, positions: {positions}", marks)

    mean = (0.2 + 0.4) / 2, (0.9 + 0.7) / 2, (0.7 + 0.72) / 2
    maps = [
        cells("generated", {(1, 0.4): mean[0], (2, 0.4): mean[1], (1, 0.8): 0.06, (2, 0.8): 0.0, (2, 0.1): mean[2]}),
        cells("all", {(1, 0.4): -0.2, (2, 0.4): 0.03, (1, -0.4): 0.1}),
    ]
    curve = Curve("mean of the 2 prompts that chose", [0.0, 0.1, 0.4, 0.8], [0.0, mean[2], mean[1], 0.0], broken=[0.8])
    doses = DosePanel(
        "Layer 2, positions: generated",
        curve,
        chosen=0.1,
        reference=("a prompt that asks for it", 0.35),
        points=[
            Points("the 4 prompts that judge", 0.1, [0.5, 0.9, 0.0, 1.1]),
            Points("the same at the opposite strength", -0.1, [-0.3, -0.1, 0.2, -0.9]),
        ],
    )
    labels = ("random", "random, spread like the activations", "shuffled labels")
    sizes = np.abs(np.array([0.015 * i - 0.02 for i in range(21)]))
    controls = Controls([ControlGroup(name, sizes[i::3].tolist()) for i, name in enumerate(labels)], 0.45, (0.12, 0.83))
    parts = Overview(doses, maps, controls, "21 control directions", "effect of both signs (half the difference)")

    files = save_experiment(Workspace(tmp_path), "r", experiment, FACTS)

    assert files.heat_map.read_bytes() == heat_maps(maps, title="candour in small")
    assert files.picture is not None and files.picture.read_bytes() == overview(parts, title="candour in small: works")


def test_the_pictures_of_log_odds_show_the_cells_the_doses_and_the_controls(tmp_path: Path) -> None:
    experiment, swept = an_undecided_experiment(), a_sweep()
    null, chosen = experiment.null, (2, 0.1)
    assert null is not None
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
    title = "All cells, 2 choosing items; damage measured for + only"
    shown = HeatMap(cells, "change of log-odds (nats)", "strength, in residual norms", title)
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
        [shown],
        Controls(groups, 1.5, (0.61, 2.42)),
        "21 control directions",
        "change of log-odds (nats)",
    )

    files = save_experiment(Workspace(tmp_path), "r", experiment, FACTS)
    alone = save_sweep(Workspace(tmp_path), "s", swept, experiment.evaluation_set, FACTS)

    assert files.picture is not None
    assert files.picture.read_bytes() == overview(parts, title="candour in small: cannot tell")
    assert files.heat_map.read_bytes() == heat_maps([shown], title="candour in small")
    own = "candour in small, 2 choosing items; damage measured for + only"
    assert alone.heat_map.read_bytes() == heat_maps([replace(shown, title="")], title=own)


@pytest.mark.parametrize("makes", [an_experiment, an_undecided_experiment])
def test_two_documents_of_one_experiment_do_not_differ(makes: Callable[[], Experiment]) -> None:
    first, second = (json.loads(json.dumps(experiment_document(makes(), FACTS))) for _ in range(2))

    same, other = compare(first, second), compare(first, {**second, "verdict": "works well"})

    assert same.numbers > 100 and not same.changed and not same.others
    assert other.others == ["verdict"]


def test_a_folder_outside_a_confined_workspace_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "in", is_confined=True)

    with pytest.raises(WorkspacePathError):
        save_experiment(workspace, "../out", an_experiment(), FACTS)

    assert not (tmp_path / "out").exists()
    assert save_experiment(workspace, "here", an_experiment(), FACTS).report.exists()


def test_a_sweep_has_no_verdict_and_says_why(tmp_path: Path) -> None:
    swept, evaluation_set = a_sweep(), an_undecided_experiment().evaluation_set

    files = save_sweep(Workspace(tmp_path), "s", swept, evaluation_set, FACTS)

    report = files.report.read_text(encoding="utf-8")
    assert files.report.read_bytes() == signed(sweep_markdown(swept, evaluation_set, FACTS))
    assert report.startswith("# Steering candour in `small`: layer 2, strength 0.1\n")
    assert "not that it works" in report
    assert "made of" not in report
    assert set(Rendered(report).links) == {"heat_map.png", "sweep.json"}
    found: Any = json.loads(files.document.read_bytes())
    assert found == json.loads(json.dumps(sweep_document(swept, evaluation_set, FACTS)))
    whole: Any = json.loads(json.dumps(experiment_document(an_undecided_experiment(), FACTS)))
    whole["judgement"] = {name: value for name, value in whole["log_odds"].items() if name != "controls"}
    del whole["chosen"]["positions"]
    assert found == {name: whole[name] for name in found}
    assert {"verdict", "controls", "side_effects"}.isdisjoint(found)
    assert min(size_of_png(files.heat_map.read_bytes())) > 400


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Experiment, Facts]]:
    """A small experiment on the bundled model."""
    session = Session(workspace=Workspace(tmp_path_factory.mktemp("experiment")))
    session.load("bundled", "huggingface", "auto", None)
    options = ExperimentOptions(strengths=[0.1, 0.2], positions=("generated",), controls=9)
    evaluation_set = evaluation_set_of(session.engine, trait_behavior("sentiment", pairs=16, items=10))
    way = way_named("paired_mean_difference", None)
    experiment = run_experiment(session, evaluation_set, [1], way, options, "cells.json")
    path = str(session.workspace.resolve("v.safetensors"))
    save_vector(experiment.extraction.vector, path)
    run = Run.of(steering_experiment, {"controls": 9}, vars(session.engine.info), session.workspace, [])
    yield session, experiment, Facts.of(session.engine.info, experiment, path, way.name, 1.0, run)
    session.detach()


def test_a_real_experiment_is_reported(measured: tuple[Session, Experiment, Facts]) -> None:
    session, experiment, facts = measured

    files = save_experiment(session.workspace, "report", experiment, facts)

    report = files.report.read_text(encoding="utf-8")
    document: Any = json.loads(files.document.read_bytes())
    assert report.startswith(f"# Steering sentiment in `bundled`: {experiment.ruling.verdict}\n")
    assert f"**{document['texts']['effect']:+.2f}**" in report
    assert document["extraction"]["magnitudes"]["1"] > 0
    assert len(document["examples"]) == len(document["texts"]["items"]) >= 5
    shown = re.sub(r"\s", "", Rendered(report).text)
    for example in document["examples"]:
        for name in ("unsteered", "steered", "opposite"):
            assert re.sub(r"\s", "", example[name])[:200] in shown
    assert facts.model_layers == document["facts"]["model_layers"] == session.engine.info.layers


def test_the_calls_that_a_report_gives_steer_with_the_chosen_cell(
    measured: tuple[Session, Experiment, Facts], empty_session: Session
) -> None:
    _, experiment, facts = measured
    spot = experiment.spot
    text = section(experiment_markdown(experiment, facts), "How to use it")
    python, command = (block.strip() for block in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL))

    load_model("bundled")
    applied: Any = eval(python, {"apply_steering_vector": __import__("steer_tools").apply_steering_vector})
    ended = CliRunner().invoke(app, [*shlex.split(command)[1:], "--max-new-tokens", "2", "--json"])

    assert (applied["layer"], applied["strength"]) == (spot.layer, spot.strength)
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["variants"][0]["strength"] == spot.strength
