"""The commands of evidence: `experiment`, `sweep`, `best-layer`, `robustness` and `calibrate`."""

from __future__ import annotations

import inspect
import io
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from transformers.utils import logging as transformers_logging

import steer_tools.evaluation.judge as scorers
from helpers.small_models import make_model, make_tokenizer
from steer_tools import tools
from steer_tools.bundled_model.language import held_out_prompts
from steer_tools.cli import main, suggestions
from steer_tools.cli.inputs import ScorerSource
from steer_tools.cli.suggestions import Steering, steering_command
from steer_tools.cli.workbench import Workbench
from steer_tools.errors import ArgumentError
from steer_tools.session.session import current_session
from steer_tools.tools.calibrate_strength import CalibrationResult
from steer_tools.tools.calibrate_strength import show as calibration_shown
from steer_tools.tools.card import Tool
from steer_tools.tools.evaluate_steering_robustness import RobustnessResult
from steer_tools.tools.evaluate_steering_robustness import show as robustness_shown
from steer_tools.tools.rendering import stack
from steer_tools.tools.steering_experiment import ExperimentResult, SideEffectsStatus
from steer_tools.tools.steering_experiment import show as experiment_shown
from steer_tools.tools.sweep_results import LayerCells, SweepResult, grid_lines
from steer_tools.tools.sweep_results import show as sweep_shown

VECTOR = "experiments/sycophancy/vector.safetensors"
TINY = ("--layer", 1, "--strength", 0.1, "--strength", 0.2)


@dataclass(frozen=True)
class Done:
    """How a command left, and what it wrote."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Ran(Done):
    """An experiment: also what the tool returned, and the workspace."""

    result: ExperimentResult
    workspace: Path


@pytest.fixture(scope="module", autouse=True)
def plain_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "STEER_TOOLS_WORKSPACE"):
            patch.delenv(name, raising=False)
        transformers_logging.disable_progress_bar()
        session = current_session()
        before = session.workspace
        yield
        session.detach()
        session.workspace = before
        transformers_logging.enable_progress_bar()


def run(*arguments: object) -> Done:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main([str(argument) for argument in arguments])
    return Done(code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One small experiment on the bundled model, as it is shown."""
    workspace = tmp_path_factory.mktemp("workspace")
    results: list[ExperimentResult] = []
    experiment = tools.steering_experiment

    def recorded(*arguments: Any, **options: Any) -> ExperimentResult:
        results.append(experiment(*arguments, **options))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "steering_experiment", recorded)
        done = run("experiment", "sycophancy", *TINY, "--controls", 19, "--keyword", "right", "--workspace", workspace)
    assert done.code == 0, done.stderr
    return Ran(done.code, done.stdout, done.stderr, results[0], workspace)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, ran: Ran) -> list[tuple[str, dict[str, object]]]:
    """Record every call of the five tools by parameter name, and answer all with a result that is not shown."""
    calls: list[tuple[str, dict[str, object]]] = []

    def recorder(name: str) -> Callable[..., object]:
        signature = inspect.signature(getattr(tools, name))

        def call(*arguments: object, **options: object) -> object:
            bound = signature.bind(*arguments, **options)
            bound.apply_defaults()
            calls.append((name, bound.arguments))
            return {"of": name, **ran.result}

        return call

    for name in TOOL_OF.values():
        monkeypatch.setattr(tools, name, recorder(name))
    monkeypatch.setattr(tools, "load_model", lambda *arguments, **options: None)
    monkeypatch.setattr(Tool, "shown", lambda *arguments, **options: "")
    return calls


TOOL_OF = {
    "experiment": "steering_experiment",
    "sweep": "sweep_steering",
    "best-layer": "find_best_layer",
    "robustness": "evaluate_steering_robustness",
    "calibrate": "calibrate_strength",
}


def printed(rendered: RenderableType, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False, **options)
    console.print(rendered)
    return console.file.getvalue()  # type: ignore[attr-defined]


def facts_in(text: str) -> dict[str, str]:
    """Return what stands behind each label; a path that was folded is whole again."""
    facts: dict[str, str] = {}
    label = ""
    for line in text.splitlines():
        if line[:1].isalpha() and "  " in line:
            label, _, rest = line.partition("  ")
            facts[label] = rest.strip()
        elif line.startswith("   ") and label:
            facts[label] += f" {line.strip()}"
    return facts


# What is shown.


def test_an_experiment_shows_its_verdict_with_reasons_and_where_the_report_is(ran: Ran) -> None:
    told = " ".join(ran.stdout.split())

    # How far it is, where it takes longer than ten seconds.
    assert all(" left" in heard for heard in ran.stderr.splitlines())
    assert ran.stdout.splitlines()[0] == f"Verdict: {ran.result['verdict']}"
    assert all(f"- {' '.join(reason.split())}" in told for reason in ran.result["reasons"])
    assert ran.result["report_path"] in ran.stdout.replace(" ", "").replace("\n", "")
    assert all(f"Warning: {warning}" in told for warning in ran.result["warnings"])


def test_an_experiment_shows_the_chosen_cell_its_controls_and_its_side_effects(ran: Ran) -> None:
    result, facts = ran.result, facts_in(ran.stdout)

    controls, positions = result["controls"], result["positions"]
    assert facts["chosen"] == f"layer 1 at strength {result['best_strength']:g} (residual), tokens: {positions}"
    assert facts["effect"].startswith(f"{result['effect']:+.3g}")
    assert controls is not None
    assert facts["controls"].startswith(f"{controls['reached']} of 19 reach it, the largest has ")
    assert facts["log-odds"].startswith(f"{result['log_odds']['log_odds_effect']:+.3g}")
    assert facts["damage"].startswith(f"KL {result['side_effects']['kl']:.3g}, perplexity × ")
    others = result["side_effects"]["others"]
    strongest = max(others, key=lambda name: abs(others[name]))
    assert facts["others"].startswith(f"{strongest} {others[strongest]:+.3g}, ")
    assert facts["others"].endswith("; 2 more move less")
    (exact, keyword) = (result["side_effects"]["text_scores"][name] for name in ("exact", "keywords"))
    assert facts["scores"] == f"exact {exact[0]:.3g} → {exact[1]:.3g}, keywords {keyword[0]:.3g} → {keyword[1]:.3g}"


def test_an_experiment_shows_only_what_is_known(ran: Ran) -> None:
    few = {"honesty": 0.5, "sentiment": -0.25}
    damage: SideEffectsStatus = {
        **ran.result["side_effects"],
        "others": few,
        "text_scores": {"a": [None, 0.5]},
    }
    more = facts_in(printed(experiment_shown({**ran.result, "prompting": -0.5, "side_effects": damage})))
    unread: ExperimentResult = {**ran.result, "effect": None, "controls": None, "interval": None, "guard": None}
    less = facts_in(printed(experiment_shown({**unread, "side_effects": {**damage, "text_scores": {}}})))

    assert more["asking"] == "-0.5 by a prompt instead"
    assert more["others"] == "honesty +0.5, sentiment -0.25"
    assert more["scores"] == "a – → 0.5"
    assert ran.result["prompting"] is None
    assert not less.keys() & {"asking", "scores", "effect", "controls"}


def test_an_experiment_shows_some_of_its_texts(ran: Ran) -> None:
    told, document = " ".join(ran.stdout.split()), ran.workspace / "experiments/sycophancy/report.json"
    written = json.loads(document.read_text(encoding="utf-8"))["texts"]["items"]

    assert len(ran.result["examples"]) == 3
    for example in ran.result["examples"]:
        assert example["unsteered"] != example["steered"]
        assert all(" ".join(text.split()) in told for text in example.values())  # type: ignore[attr-defined]  # Texts.
        assert any(example["prompt"].removesuffix(" ...") in item["prompt"] for item in written)


def test_a_pipe_gets_80_columns_without_colour(ran: Ran) -> None:
    *shown, command = ran.stdout.splitlines()

    assert max(map(len, shown)) <= 80
    assert "\x1b" not in ran.stdout
    assert len(command) > 80


def test_the_command_that_an_experiment_suggests_runs_as_it_is_pasted(ran: Ran) -> None:
    program, *suggested = shlex.split(ran.stdout.splitlines()[-1])

    done = run(*suggested, "--json")

    assert program == "steer-tools"
    assert done.code == 0, done.stderr
    strength = ran.result["best_strength"]
    variants = json.loads(done.stdout)["variants"]
    assert [variant["residual_strength"] for variant in variants] == pytest.approx([-strength, strength])


@pytest.mark.parametrize(
    ("verdict", "colour"),
    [("works", "32"), ("cannot tell", "33"), ("indistinguishable from random", "31"), ("breaks the model", "31")],
)
def test_a_verdict_has_its_colour_on_a_terminal_only(ran: Ran, verdict: str, colour: str) -> None:
    rendered = experiment_shown({**ran.result, "verdict": verdict})

    assert f"\x1b[1;{colour}m{verdict}" in printed(rendered, force_terminal=True, color_system="standard")
    assert "\x1b" not in printed(rendered)


def test_cells_outside_the_budget_stand_in_brackets() -> None:
    cells: LayerCells = {
        "layer": 1,
        "log_odds_effects": [1.0, -2.5, 3.25],
        "opposite_log_odds_effects": [0.0, 0.0, 0.0],
        "kl": [0.1, 0.2, 0.9],
        "within_budget": [True, True, False],
    }
    other: LayerCells = {**cells, "layer": 12, "within_budget": [False, True, True]}

    shown = printed(stack(*grid_lines([0.1, 0.2, 0.4], [cells, other], 12, 0.1)))

    lines = [line.split() for line in shown.splitlines()]

    assert ["1", "+1.00", "-2.50", "(+3.25)"] in lines
    assert ["12", ">(+1.00)", "-2.50", "+3.25"] in lines


def test_many_strengths_fit_beside_and_below_each_other() -> None:
    count = 14
    cells: LayerCells = {
        "layer": 31,
        "log_odds_effects": [-100.0 - i for i in range(count)],
        "opposite_log_odds_effects": [0.0] * count,
        "kl": [9.0] * count,
        "within_budget": [False] * count,
    }

    text = printed(stack(*grid_lines([0.125 + i for i in range(count)], [cells], 1, 0.5)))

    assert max(map(len, text.splitlines())) <= 80
    assert [f"(-{100 + i}.00)" for i in range(count)] == [word for word in text.split() if word.startswith("(-1")]
    assert [f"{0.125 + i:g}" for i in range(count)] == [word for word in text.split() if word.endswith(".125")]


def test_a_sweep_and_a_best_layer_show_the_grid_and_what_was_judged(ran: Ran) -> None:
    cells: LayerCells = {
        "layer": 1,
        "log_odds_effects": [1.0, 2.0],
        "opposite_log_odds_effects": [0.0, 0.0],
        "kl": [0.1, 0.2],
        "within_budget": [True, True],
    }
    result: SweepResult = {
        "unit": "contrast",
        "strengths": [0.5, 1.0],
        "cells": [cells],
        "window": [
            {"layer": 1, "least_strength": 0.5, "largest_strength": 1.0},
            {"layer": 3, "least_strength": 1.0, "largest_strength": 1.0},
        ],
        "best_layer": 1,
        "best_strength": 0.5,
        "log_odds_effect": 1.5,
        "log_odds_interval": [1.25, -0.5],
        "metric_effect": None,
        "metric_interval": None,
        "items": 20,
        "anti_steerable": 0.125,
        "metric": None,
        "unsteered_score": None,
        "heat_map_path": "/w/heat_map.png",
        "data_path": "/w/sweep.json",
        "warnings": ["Odd [b]one[/b]."],
    }

    text = printed(sweep_shown(result))
    facts, of_a_vector = facts_in(text), facts_in(printed(sweep_shown({**result, "vector_path": "/w/v.safetensors"})))
    without = facts_in(printed(sweep_shown({**result, "log_odds_interval": None, "window": []})))

    assert ["1", ">+1.00", "+2.00"] in [line.split() for line in text.splitlines()]
    assert facts["chosen"] == "layer 1 at strength 0.5 (contrast)"
    assert facts["window"] == "layer 1: 0.5 to 1; layer 3: 1"
    assert facts["effect"] == "+1.5 nats (95 % interval +1.25 to -0.5) on 20 items, that did not choose"
    assert facts["wrong way"] == "12% of them"
    assert (facts["picture"], facts["data"]) == ("/w/heat_map.png", "/w/sweep.json")
    assert "vector" not in facts
    assert of_a_vector["vector"] == "/w/v.safetensors"
    assert without["effect"] == "+1.5 nats on 20 items, that did not choose"
    assert without["window"] == "no strength has enough effect within the budget"
    assert "Warning: Odd [b]one[/b]." in text


def test_a_sweep_of_texts_shows_the_metric_with_its_signs_and_no_window() -> None:
    cells: LayerCells = {
        "layer": 1,
        "metric_scores": [0.5, 4.0],
        "metric_effects": [-1.5, 2.0],
        "kl": [0.1, 0.2],
        "within_budget": [True, True],
    }
    result: Any = {
        "unit": "vector",
        "strengths": [-0.5, 0.5],
        "cells": [cells],
        "window": [],
        "best_layer": 1,
        "best_strength": 0.5,
        "log_odds_effect": None,
        "log_odds_interval": None,
        "metric_effect": 1.75,
        "metric_interval": None,
        "items": 4,
        "anti_steerable": None,
        "metric": "words",
        "unsteered_score": 2.0,
        "heat_map_path": "/w/heat_map.png",
        "data_path": "/w/sweep.json",
        "warnings": [],
    }

    text = printed(sweep_shown(result))

    assert "Change of words by layer and strength, on the prompts that chose" in text
    assert "-1.50   >+2.00" in text
    shown = facts_in(text)
    assert (shown["effect"], shown["unsteered"]) == ("+1.75 in words on 4 prompts", "2 words")
    assert not {"window", "wrong way"} & shown.keys()


def test_robustness_shows_what_is_known_and_the_items_that_fail() -> None:
    result: RobustnessResult = {
        "even_share": 0.75,
        "log_odds_effect": 1.5,
        "log_odds_interval": [1.0, 2.0],
        "standard_deviation": 0.25,
        "items": 40,
        "failing_items": 1,
        "failing": [{"prompt": [{"role": "user", "content": "Why\x1b[31m?"}], "log_odds_effect": -0.5}],
        "anti_steerable": 0.05,
        "anti_steerable_interval": [0.01, 0.2],
        "paraphrase_share": 0.5,
        "log_odds_effect_without_template": 0.75,
        "written": {
            "effect": 0.5,
            "interval": [0.25, 0.75],
            "own_effect": 0.4,
            "whole": 1.0,
            "prompt_count": 16,
            "texts_wrong_way": 0.125,
        },
        "warnings": [],
    }

    text = printed(robustness_shown(result))
    facts = facts_in(text)
    less = facts_in(
        printed(
            robustness_shown(
                {
                    **result,
                    "paraphrase_share": None,
                    "log_odds_effect_without_template": None,
                    "written": None,
                    "failing_items": 0,
                    "failing": [],
                }
            )
        )
    )

    assert facts["score"].startswith("75% of the questions")
    assert facts["effect"] == "+1.5 nats (95 % interval +1 to +2) on 40 items, standard deviation 0.25"
    assert facts["wrong way"] == "5% of the items as the strength grows (95 % interval 1% to 20%)"
    assert facts["texts"] == "+0.5 (95 % interval +0.25 to +0.75) on 16 prompts, 12% the wrong way, 100% whole"
    assert facts["wordings"].startswith("50% of the variance")
    assert facts["template"].startswith("+0.75 nats")
    assert facts["failing"].startswith("1 of 40 items")
    assert ["-0.5", "user:", r"Why\x1b[31m?"] in [line.split() for line in text.splitlines()]
    assert not less.keys() & {"wordings", "template", "texts"}
    assert less["failing"].startswith("0 of 40 items")


def test_a_calibration_shows_the_strength_and_what_is_known_of_it() -> None:
    result: CalibrationResult = {
        "layer": 3,
        "strength": 1.234567,
        "unit": "vector",
        "residual_strength": 0.25,
        "kl": 0.5,
        "log_odds_effect": 2.0,
        "own_effect": 0.5,
        "prompt_count": 16,
        "unbroken_strength": 2.5,
        "warnings": ["Odd."],
    }

    text = printed(calibration_shown(result))
    less = facts_in(
        printed(
            calibration_shown(
                {
                    **result,
                    "residual_strength": None,
                    "log_odds_effect": None,
                    "own_effect": None,
                    "unbroken_strength": None,
                }
            )
        )
    )

    assert facts_in(text) == {
        "strength": "1.235 (vector) at layer 3",
        "adds": "+0.25 of the model's typical norm there",
        "damage": "KL 0.5 nats a token",
        "effect": "+2 nats",
        "texts": "+0.5 on 16 other prompts",
        "breaks": "texts are whole up to 2.5",
    }
    assert "Warning: Odd." in text
    assert less.keys() == {"strength", "damage"}


# What reaches the tools, and what comes back.

PLACES = ("--layer", 1, "--layer", -1, "--strength", 0.5, "--strength", -2, "--positions", "all")
GRID = (*PLACES, "--damage-budget", 0.25, "--per-token")
PLACE_ARGUMENTS = {"layers": [1, -1], "strengths": [0.5, -2.0], "positions": "all"}
GRID_ARGUMENTS = {**PLACE_ARGUMENTS, "damage_budget": 0.25, "per_token": True}
UNIT = ("--unit", "contrast", "--allow-other-model")
UNIT_ARGUMENTS = {"unit": "contrast", "allow_other_model": True}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            (
                "experiment",
                "honesty",
                *PLACES,
                "--per-token",
                "--capability",
                "q.json",
                "--direction",
                "less",
                "--quick",
                "--seed",
                3,
                "--method",
                "lda",
                "--controls",
                20,
                "--pattern",
                "a+",
                "--save",
                "f",
            ),
            {"behavior_name": "honesty", **PLACE_ARGUMENTS, "method": "lda", "controls": 20, "save_folder": "f"}
            | {"per_token": True, "direction": "less", "quick": True, "capability": "q.json"}
            | {"scorer": {"pattern": "a+"}, "positive": None, "negative": None, "seed": 3}
            | {"metric": None, "metric_name": None, "max_new_tokens": None},
        ),
        (
            ("sweep", "v", "honesty", *GRID, "--seed", 3, *UNIT, "--save", "f"),
            {"vector_path": "v", "behavior_name": "honesty", **GRID_ARGUMENTS, **UNIT_ARGUMENTS}
            | {"save_folder": "f", "seed": 3, "prompts": None, "scorer": None, "max_new_tokens": 48}
            | {"metric": None, "metric_name": None},
        ),
        (
            ("best-layer", "honesty", *GRID, "--seed", 3, "--save", "f"),
            {"behavior_name": "honesty", **GRID_ARGUMENTS, "save_folder": "f"}
            | {"positive": None, "negative": None, "seed": 3, "metric": None, "metric_name": None}
            | {"test_prompts": None, "max_new_tokens": 48},
        ),
        (
            ("robustness", "v", "honesty", "--layer", -1, "--strength", -2, *UNIT, "--positions", "all"),
            {"vector_path": "v", "dataset": "honesty", "layer": -1, "strength": -2.0, "positions": "all"}
            | {**UNIT_ARGUMENTS, "test_prompts": None, "seed": 0, "per_token": False},
        ),
        (
            ("calibrate", "v", "--layer", -1, "--target-damage", 0.5, *UNIT, "--positions", "all"),
            {"vector_path": "v", "layer": -1, "target_damage": 0.5, "target_effect": None, "positions": "all"}
            | {**UNIT_ARGUMENTS, "behavior_name": None, "seed": 0},
        ),
        (
            ("calibrate", "v", "--target-effect", 2, "--behavior", "honesty"),
            {"vector_path": "v", "layer": None, "target_damage": None, "target_effect": 2.0, "positions": None}
            | {"unit": "residual", "allow_other_model": False, "behavior_name": "honesty", "seed": 0},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_all_that_is_said_reaches_the_tool_and_json_is_its_result(
    asked: list[tuple[str, dict[str, object]]], arguments: tuple[object, ...], expected: dict[str, object], ran: Ran
) -> None:
    done = run(*arguments, "--workspace", ran.workspace, "--json")

    tool = TOOL_OF[str(arguments[0])]
    assert (done.code, done.stderr) == (0, "")
    assert asked == [(tool, expected)]
    assert json.loads(done.stdout) == {"of": tool, **ran.result}


@pytest.mark.parametrize("command", ["experiment", "best-layer"])
def test_prompts_of_ones_own_come_with_a_name(
    asked: list[tuple[str, dict[str, object]]], command: str, ran: Ran, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"positive": ["a", "b"], "negative": ["c", "d"]}), encoding="utf-8")

    run(command, "notes.json", "--prompts", file, "--workspace", ran.workspace, "--json")

    ((_, given),) = asked
    assert (given["behavior_name"], given["positive"], given["negative"]) == ("notes.json", ["a", "b"], ["c", "d"])


def test_a_file_of_a_behaviour_is_meant_from_the_current_folder(
    asked: list[tuple[str, dict[str, object]]], ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("--workspace", ran.workspace, "--json")

    for file in ("of/mine.JSONL", "/else/mine.csv", "~/mine.tsv"):
        run("experiment", file, *common)
        run("best-layer", file, *common)
        run("sweep", "v", file, *common)
        run("robustness", "v", file, *common)
        run("calibrate", "v", "--behavior", file, *common)

    files = [given.get("behavior_name", given.get("dataset")) for _, given in asked]
    assert files == [str(tmp_path / "of/mine.JSONL")] * 5 + ["/else/mine.csv"] * 5 + ["~/mine.tsv"] * 5


def test_test_prompts_come_from_a_file(asked: list[tuple[str, dict[str, object]]], ran: Ran, tmp_path: Path) -> None:
    file, empty = tmp_path / "prompts.txt", tmp_path / "empty.txt"
    file.write_text("a\nb\n", encoding="utf-8")
    empty.write_text("\n", encoding="utf-8")
    common = ("robustness", "v", "honesty", "--workspace", ran.workspace, "--json", "--prompts-file")

    with_prompts, without = run(*common, file), run(*common, empty)

    assert (with_prompts.code, without.code) == (0, 1)
    assert [given["test_prompts"] for _, given in asked] == [["a", "b"]]
    assert "No prompt was given" in without.stderr


def test_the_suggestion_says_everything_about_the_vector(
    asked: list[tuple[str, dict[str, object]]], ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestions, "_question", lambda *arguments: "-Ask?")
    common = ("--model", "m", "--workspace", ran.workspace)
    cell = {**ran.result["apply"], "vector_path": "my v", "positions": "all"}
    commands: list[list[str]] = []
    for options in ({}, {"allow_other_model": True}):
        monkeypatch.setitem(ran.result, "apply", cell | options)
        commands.append(shlex.split(run("sweep", "my v", "honesty", *common).stdout.splitlines()[-1]))

    strength = f"{ran.result['best_strength']:g}"
    assert [command.count("--allow-other-model") for command in commands] == [0, 1]
    assert commands[0][:4] == ["steer-tools", "compare", "--vector", "my v"]
    assert commands[0][4:8] == ["--unit", "residual", "--positions", "all"]
    assert commands[0][-7:] == ["1", "--strength", f"-{strength}", "--strength", strength, "--", "-Ask?"]


def test_the_first_layer_is_suggested_as_any_other() -> None:
    commands = [steering_command(Workbench(), Steering("v", layer, 1.0, "vector"), ["a"]) for layer in (0, None)]

    assert ["--layer 0 " in command for command in commands] == [True, False]


# Scorers.


def test_a_scorer_is_one_of_words_a_pattern_and_a_judge() -> None:
    judge = ScorerSource(None, None, "http://localhost:1/v1", "judge", "Is it polite?").read()

    assert ScorerSource().read() is None
    assert ScorerSource(["right", "true"]).read() == {"keywords": ["right", "true"]}
    assert ScorerSource(None, "r.ght").read() == {"pattern": "r.ght"}
    assert isinstance(judge, scorers.Judge)
    assert (judge.endpoint, judge.model, judge.question) == ("http://localhost:1/v1", "judge", "Is it polite?")
    for two in (ScorerSource(["a"], "b"), ScorerSource(None, "b", judge_model="m")):
        with pytest.raises(ArgumentError, match="as well as"):
            two.read()
    whole = ScorerSource(judge_endpoint="http://localhost:1/v1", judge_model="judge", judge_question="Is it?")
    for missing in ("judge_endpoint", "judge_model", "judge_question"):
        with pytest.raises(ArgumentError, match=r"by halves.*--judge-question"):
            replace(whole, **{missing: None}).read()


def test_a_judge_reaches_the_tool_and_its_missing_answers_are_told(
    asked: list[tuple[str, dict[str, object]]], ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: Counter[str] = Counter()
    judge_scorer = scorers.judge_scorer

    def unreliable(*arguments: Any) -> scorers.Judge:
        return replace(judge_scorer(*arguments), failures=failures)

    monkeypatch.setattr(scorers, "judge_scorer", unreliable)
    monkeypatch.setenv("STEER_TOOLS_JUDGE_KEY", "secret-key")
    judge = ("--judge-endpoint", "https://judge.example/v1", "--judge-model", "j", "--judge-question", "Polite?")
    common = ("experiment", "honesty", *judge, "--workspace", ran.workspace, "--json")

    silent = run(*common)
    failures.update({"timeout": 2, "HTTP 500": 1})
    told = run(*common)

    assert silent.stderr == ""
    assert told.stderr == "Warning: The judge gave no score to 3 texts: timeout (2), HTTP 500 (1).\n"
    assert json.loads(told.stdout) == json.loads(silent.stdout)
    used = [given["scorer"] for _, given in asked]
    assert all(isinstance(one, scorers.Judge) for one in used)
    assert [one.key for one in used] == ["secret-key"] * 2  # type: ignore[attr-defined]


# On the bundled model, and with what it refuses.


def test_a_sweep_measures_the_vector_of_an_experiment_by_log_odds(ran: Ran) -> None:
    folder = ("--save", "experiments/sycophancy", "--workspace", ran.workspace)

    done = run("sweep", VECTOR, "sycophancy", *TINY, *folder)

    *shown, _, command = done.stdout.splitlines()
    assert (done.code, done.stderr) == (0, "")
    assert max(map(len, shown)) <= 80
    facts = facts_in(done.stdout)
    assert facts["chosen"].startswith("layer 1 at strength 0.")
    assert facts["effect"].endswith("items, that did not choose")
    again = shlex.split(command)
    assert again[again.index("--vector") + 1] == VECTOR


def test_robustness_is_measured_on_prompts_of_a_file(ran: Ran, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    prompts = [prompt[0]["content"] for prompt in held_out_prompts("sycophancy", 4)]
    file.write_text(json.dumps(prompts), encoding="utf-8")
    where = ("--unit", "residual", "--prompts-file", file, "--workspace", ran.workspace)

    steered, opposite = (run("robustness", VECTOR, "sycophancy", "--strength", sign * 0.2, *where) for sign in (1, -1))

    assert (steered.code, steered.stderr, opposite.code) == (0, "", 0)
    assert " on 4 items" in facts_in(steered.stdout)["effect"]
    # A negative strength asks for less, and gets it.
    assert [facts_in(done.stdout)["failing"][:4] for done in (steered, opposite)] == ["0 of", "0 of"]
    assert ["+" in facts_in(done.stdout)["effect"].split()[0] for done in (steered, opposite)] == [True, False]


def test_a_calibrated_strength_spends_the_damage(ran: Ran) -> None:
    done = run("calibrate", VECTOR, "--target-damage", 0.05, "--workspace", ran.workspace, "--json")
    told = run("calibrate", VECTOR, "--target-damage", 0.05, "--workspace", ran.workspace)

    assert (done.code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["kl"] == pytest.approx(0.05, rel=0.1)
    assert result["layer"] == ran.result["best_layer"]  # The experiment's file knows it.
    strength = f"{result['strength']:g}"
    command = shlex.split(told.stdout.splitlines()[-1])
    assert command[:2] == ["steer-tools", "compare"]
    assert command[command.index("--strength") :][:4] == ["--strength", f"-{strength}", "--strength", strength]


@pytest.mark.parametrize("command", [("experiment",), ("best-layer",), ("sweep", "v"), ("robustness", "v")])
def test_a_behaviour_that_is_not_there_is_answered_with_those_that_are(command: tuple[str, ...], ran: Ran) -> None:
    done = run(*command, "sycophansy", "--workspace", ran.workspace)

    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert "sycophancy" in done.stderr


def test_another_model_is_answered_with_the_closest_name(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")

    done = run("experiment", "sentimint", "--model", tmp_path / "m", "--workspace", tmp_path)

    assert (done.code, done.stdout) == (1, "")
    assert "Did you mean 'sentiment'?" in done.stderr


def test_a_malformed_file_is_named_with_its_line(ran: Ran, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"positive": "a", "negative": "b"}\n{"positive": "a"}\n', encoding="utf-8")

    done = run("experiment", file, "--workspace", ran.workspace)

    assert (done.code, done.stdout) == (1, "")
    assert "mine.jsonl, line 2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("experiment", "none.csv"), "There is no file"),
        (("experiment", "mine", "--prompts", "none.json"), "cannot be read (No such file"),
        (("experiment", "mine", "--keyword", "a", "--pattern", "b"), "--keyword as well as --pattern was given"),
        (("sweep", "none", "sycophancy"), "There is no file"),
        (("calibrate", "none"), "One target is needed"),
        (("calibrate", "none", "--target-effect", "1"), "behavior_name"),
        (("robustness", "none", "sycophancy", "--strength", "0"), "strength is 0"),
    ],
)
def test_what_cannot_be_done_is_a_text_and_not_a_traceback(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--workspace", tmp_path)

    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments", [("experiment",), ("sweep", "v"), ("robustness", "v"), ("calibrate",), ("experiment", "honesty", "x")]
)
def test_wrong_usage_leaves_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).code == 2


@pytest.mark.parametrize("controls", [0, 8, "x"])
def test_too_few_controls_are_wrong_usage(controls: object) -> None:
    assert run("experiment", "honesty", "--controls", controls).code == 2
