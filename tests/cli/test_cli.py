"""The command line: what each command does, what it prints where, and how it leaves."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging as transformers_logging

import steer_tools
from helpers.small_models import HARD, NEGATIVE, POSITIVE, PROMPTS, WORDS, make_model, make_tokenizer
from steer_tools import tools
from steer_tools.cli import main
from steer_tools.cli.options import description_of, read_options
from steer_tools.cli.tool_commands import command_of
from steer_tools.cli.workbench import in_force
from steer_tools.errors import SteeringError
from steer_tools.prompts import PromptLike
from steer_tools.session.checks import Check, Proof
from steer_tools.session.session import Session, current_session
from steer_tools.tools.arguments import Doc
from steer_tools.tools.card import Card, Tool
from steer_tools.tools.colours import HeatTable
from steer_tools.tools.create_steering_vector import MethodOptions
from steer_tools.workspace import Workspace

HEAVY = ("torch", "transformers", "numpy", "pydantic", "rich", "matplotlib", "mcp", "steer_tools.session")


@dataclass(frozen=True)
class Done:
    """How a command left, and what it wrote."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "STEER_TOOLS_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    # A process that starts reads the variable above; in this one transformers is there already.
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.enable_progress_bar()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def steer(
    empty_session: Session, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run a command in this process, on the tiny model and a workspace of its own."""

    def run(command: str, *arguments: object, of_the_model: bool = True) -> Done:
        common = ["--model", checkpoint, "--workspace", tmp_path / "workspace"] if of_the_model else []
        code = main([command, *map(str, [*common, *arguments])])
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return run


@pytest.fixture
def vector(steer: Callable[..., Done]) -> str:
    """A vector at layer 2, made by the command line."""
    done = steer("create", *contrast(), "--layer", 2, "--save", "vectors/v", "--json")
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)["vector_path"]


def contrast() -> list[str]:
    positive = [argument for text in POSITIVE for argument in ("--positive", text)]
    return [*positive, *(argument for text in NEGATIVE for argument in ("--negative", text))]


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steer_tools.cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


# What needs no model.


def test_the_version_is_told() -> None:
    done = in_a_process("--version")

    assert (done.returncode, done.stdout) == (0, f"steer-tools {steer_tools.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["sweep", "--help"], ["create", "-h"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom steer_tools.cli import main\n"
        f"code = main({arguments!r})\nprint(repr((code, [name for name in {HEAVY!r} if name in sys.modules])))"
    )

    done = python(code)

    assert ast.literal_eval(done.stdout.splitlines()[-1]) == (0 if arguments else 2, [])


def test_the_watch_on_imports_sees_a_heavy_one() -> None:
    code = (
        "import sys\nfrom steer_tools.cli import main\n"
        f"main(['behaviors', 'list'])\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )

    assert "'rich'" in python(code).stdout.splitlines()[-1]


def test_a_command_is_built_when_it_is_asked_for_and_no_other() -> None:
    code = (
        "import steer_tools.cli.app as app\nbuilt, build = [], app._built\n"
        "app._built = lambda name: built.append(name) or build(name)\n"
        "app.main(['--help'])\napp.main(['sweep', '--help'])\nprint(built)"
    )

    assert python(code).stdout.splitlines()[-1] == "['sweep']"


def test_the_help_lists_every_command(steer: Callable[..., Done]) -> None:
    done = steer("--help", of_the_model=False)

    assert done.code == 0
    for command in (
        *("demo", "serve", "create", "combine", "compare", "generate"),
        *("experiment", "sweep", "best-layer", "robustness", "calibrate"),
        *("analyze", "project", "activations", "next-tokens"),
        *("analyze", "ablate", "patch"),
        *("tokens", "check", "status", "models", "convert", "behaviors"),
    ):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("command", "tool", "parameter"),
    [
        ("create", "create_steering_vector", "layer"),
        ("combine", "combine_steering_vectors", "orthogonal_to"),
        ("compare", "compare_generations", "unit"),
        ("generate", "apply_steering_vector", "layer_weights"),
        ("check", "apply_steering_vector", "condition"),
        # What the tool says of it is where it is said.
        ("sweep", "apply_steering_vector", "positions"),
        ("status", "load_model", "dtype"),
        ("compare", "compare_generations", "target"),
    ],
)
def test_an_option_is_described_as_the_parameter_of_the_tool(
    steer: Callable[..., Done], command: str, tool: str, parameter: str
) -> None:
    done = steer(command, "--help", of_the_model=False)

    hint = get_type_hints(getattr(tools, tool), include_extras=True)[parameter]
    if description_of(hint) == "As for apply_steering_vector.":
        hint = get_type_hints(tools.apply_steering_vector, include_extras=True)[parameter]
    assert description_of(hint)
    assert " ".join(description_of(hint).split()) in " ".join(done.stdout.split())


def test_a_description_speaks_of_what_is_typed(steer: Callable[..., Done]) -> None:
    told = " ".join(steer("compare", "--help", of_the_model=False).stdout.split())

    assert "Strengths to try with --vector;" in told
    assert "vector_path" not in told


def test_help_names_the_values_that_an_option_may_have(steer: Callable[..., Done]) -> None:
    def told(command: str) -> str:
        return " ".join(steer(command, "--help", of_the_model=False).stdout.split())

    assert "One of vector, contrast, residual." in told("compare")
    created = told("create")
    assert "One of last, first, mean, response." in created
    assert "One of all." not in created
    assert "or say 'all'" in created
    seed = description_of(get_type_hints(MethodOptions, include_extras=True)["seed"])
    assert f"seed ({seed.removesuffix('.')})" in created


def paint_walls(
    colour: Annotated[Literal["red", "blue"], Doc("Of the walls.")],
    rooms: Annotated[list[int], Doc("Which rooms.")],
    layers: Annotated[int | list[int] | None, Doc("How often.")] = None,
    save_path: Annotated[str | None, Doc("Where.")] = None,
    prompt: Annotated[PromptLike, Doc("A prompt.")] = "a",
    quickly: Annotated[bool, Doc("At once.")] = False,
) -> dict[str, object]:
    """Paint."""
    return {"colour": colour, "rooms": rooms, "layers": layers, "path": save_path, "prompt": prompt, "quickly": quickly}


def test_a_tool_of_no_kind_gets_its_command_from_its_signature_and_its_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Card("Paint", "core", command="paint", about="Paint walls.", positional=("colour",), needs_model=False)
    monkeypatch.setattr(tools, "paint_walls", paint_walls, raising=False)
    single = typer.Typer(add_completion=False)
    single.command()(command_of(Tool(paint_walls, card)))
    command = typer.main.get_command(single)

    def run(*arguments: str) -> dict[str, Any]:
        command([*arguments, "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    assert run("red", "--rooms", "1", "--rooms", "2", "--layer", "3", "--prompt", "b", "--chat") == {
        "colour": "red",
        "rooms": [1, 2],
        "layers": 3,
        "path": None,
        "prompt": [{"role": "user", "content": "b"}],
        "quickly": False,
    }
    assert run("red", "--rooms", "1", "--layer", "3", "--layer", "4", "--save", "x", "--quickly") == {
        "colour": "red",
        "rooms": [1],
        "layers": [3, 4],
        "path": "x",
        "prompt": "a",
        "quickly": True,
    }
    command(["red", "--rooms", "1"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["colour"] == "red"


def test_an_unknown_command_is_wrong_usage() -> None:
    done = in_a_process("sing")

    assert (done.returncode, done.stdout) == (2, "")
    assert "sing" in done.stderr


def test_serve_is_the_server_with_its_own_options() -> None:
    help_text, unusable = in_a_process("serve", "--help"), in_a_process("serve", "--dtype", "sung", "--model", "m")

    assert help_text.returncode == 0
    assert "--workspace" in help_text.stdout
    assert (unusable.returncode, unusable.stdout) == (2, "")
    assert "--dtype" in unusable.stderr


def test_serve_hands_on_every_argument_in_order(steer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []
    monkeypatch.setattr("mcp_server.__main__.main", lambda arguments: handed.append(arguments) or 7)

    done = steer("serve", "--model", "a", "--model=b", "-x", "--dtype", "float32", "rest", of_the_model=False)

    assert handed == [["--model", "a", "--model=b", "-x", "--dtype", "float32", "rest"]]
    assert done.code == 7


def test_demo_hands_on_its_options(steer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[dict[str, object]] = []
    monkeypatch.setattr("steer_tools.cli.demo.run_demo", lambda **options: handed.append(options))

    done = steer("demo", "--model", "m", "--json", of_the_model=False)

    assert (done.code, handed) == (0, [{"model": "m", "workspace": None, "as_json": True, "is_fallback": False}])


# The scenario.


def test_create_compare_generate_and_check_follow_each_other(steer: Callable[..., Done], tmp_path: Path) -> None:
    created = steer("create", *contrast(), "--layer", 2, "--save", "vectors/v")
    path = str(tmp_path / "workspace" / "vectors" / "v.safetensors")
    compared = steer("compare", "keke lili", "mora", "--vector", path, "--strength", -1.5, "--strength", 2)
    generated = steer("generate", "keke lili", "--vector", path, "--strength", -1.5, "--max-new-tokens", 8)
    checked = steer("check", "--vector", path, "--strength", -1)
    stood = steer("status")

    assert [done.code for done in (created, compared, generated, checked, stood)] == [0, 0, 0, 0, 0]
    assert [done.stderr for done in (created, compared, generated, checked, stood)] == [""] * 5
    assert path in created.stdout.replace("\n", "")
    assert "Only 4 different prompts" in created.stdout
    assert "keke lili" in compared.stdout
    assert all(label in compared.stdout for label in ("baseline", "-1.5", "+2", "perplexity", "residual"))
    assert "keke lili" in generated.stdout
    assert "All 8 laws hold." in checked.stdout
    assert "mean_difference" in stood.stdout


def test_the_scenario_holds_in_processes_of_their_own(vector: str, checkpoint: str) -> None:
    arguments = ("--model", checkpoint, "--vector", vector, "--strength", "-1.5", "--max-new-tokens", "6")

    done = in_a_process("compare", "keke", *arguments, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    assert [variant["strength"] for variant in json.loads(done.stdout)["variants"]] == [-1.5]


def test_the_command_that_create_suggests_runs_as_it_is_pasted(
    steer: Callable[..., Done], checkpoint: str, tmp_path: Path
) -> None:
    chats = [[{"role": "user", "content": "-keke 'lili'"}, {"role": "assistant", "content": text}] for text in POSITIVE]
    others = [
        [{"role": "user", "content": "-keke 'lili'"}, {"role": "assistant", "content": text}] for text in NEGATIVE
    ]
    file = tmp_path / "my prompts.json"
    file.write_text(json.dumps({"positive": chats, "negative": others}), encoding="utf-8")

    created = steer("create", "--prompts", file, "--layer", "all", "--save", "vectors/my vector", "--dtype", "float32")
    suggested = shlex.split(created.stdout.rstrip("\n").rpartition("\n")[2])

    assert suggested[0] == "steer-tools"
    done = steer(*suggested[1:], of_the_model=False)
    assert done.code == 0, done.stderr
    assert "user: -keke 'lili'" in done.stdout
    assert "Warning: All" not in done.stdout


# --json is the tool's own result.


def test_json_is_the_result_of_compare_generations(steer: Callable[..., Done], vector: str) -> None:
    arguments = ("--layer", 2, "--strength", -1.5, "--strength", 0.5, "--unit", "residual", "--positions", "all")
    sampled = ("--max-new-tokens", 6, "--temperature", 0.8, "--seed", 3)

    done = steer("compare", "keke", "mora seti", "--vector", vector, *arguments, *sampled, "--json")

    assert done.stderr == ""
    assert json.loads(done.stdout) == tools.compare_generations(
        ["keke", "mora seti"],
        vector,
        2,
        [-1.5, 0.5],
        unit="residual",
        positions="all",
        max_new_tokens=6,
        temperature=0.8,
        seed=3,
    )


@HARD
def test_json_is_the_result_of_generate_under_the_vector(steer: Callable[..., Done], vector: str) -> None:
    plain = steer("generate", "keke", "--max-new-tokens", 6, "--json")
    steered = steer("generate", "keke", "--vector", vector, "--strength", -4, "--max-new-tokens", 6, "--json")

    with steer_tools.steering(vector, strength=-4.0):
        expected = tools.generate(["keke"], max_new_tokens=6)

    assert json.loads(steered.stdout) == expected
    assert expected["active"] == 1
    assert json.loads(plain.stdout) == tools.generate(["keke"], max_new_tokens=6)
    assert json.loads(plain.stdout)["texts"] != expected["texts"]


def test_json_is_the_result_of_another_intervention_under_a_condition(steer: Callable[..., Done], vector: str) -> None:
    arguments = ("--intervention", "clamp", "--target", 40, "--condition", f"not {vector}", "--strength", 1)

    done = steer("compare", POSITIVE[2], NEGATIVE[2], "--vector", vector, *arguments, "--max-new-tokens", 6, "--json")

    expected = tools.compare_generations(
        [POSITIVE[2], NEGATIVE[2]],
        vector,
        strengths=[1.0],
        max_new_tokens=6,
        intervention="clamp",
        target=40.0,
        condition=f"not {vector}",
    )
    assert json.loads(done.stdout) == expected
    assert expected["variants"][0]["residual_strength"] is None
    is_changed = [a != b for a, b in zip(expected["baseline"]["texts"], expected["variants"][0]["texts"], strict=True)]
    assert is_changed == [False, True]


@pytest.mark.parametrize("command", ["generate", "check"])
def test_all_that_is_said_about_a_vector_reaches_the_model(
    steer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    applied: list[dict[str, object]] = []

    def apply(**options: object) -> None:
        applied.append(options)
        raise KeyboardInterrupt  # Far enough.

    monkeypatch.setattr(tools, "apply_steering_vector", apply)
    amount = ("--strength", -2, "--layer", 1, "--layer", 2, "--layer-weight", 0.5, "--layer-weight", -1)
    others = ("--unit", "residual", "--positions", "all", "--condition", "c", "--allow-other-model")
    steer(command, "keke", "--vector", "v", *amount, *others, "--intervention", "rotate", "--target", 45)

    assert applied == [
        {
            "vector_path": "v",
            "layer": [1, 2],
            "strength": -2.0,
            "unit": "residual",
            "intervention": "rotate",
            "positions": "all",
            "allow_other_model": True,
            "target": 45.0,
            "condition": "c",
            "layer_weights": [0.5, -1.0],
        }
    ]


def test_a_methods_options_and_the_component_reach_the_tool(steer: Callable[..., Done]) -> None:
    method = ("--method", "lat", "--option", "seed=3")

    done = steer(
        "create", *contrast(), "--layer", 1, "--save", "v", *method, "--component", "attention", "--head", 2, "--json"
    )

    expected = tools.create_steering_vector(
        POSITIVE, NEGATIVE, 1, "v", method="lat", component="attention", head=2, options={"seed": 3}
    )
    assert json.loads(done.stdout) == expected
    assert expected["shape"] == [8]
    assert tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "v", method="lat", options={"seed": 4}) != expected


def test_a_methods_option_is_json_or_else_a_text() -> None:
    typed = ["seed=3", "shrinkage=null", "sae=my=file.safetensors", 'name="4"', "deep=" + "[" * 100_000]

    options = read_options(typed)

    assert options == {
        "seed": 3,
        "shrinkage": None,
        "sae": "my=file.safetensors",
        "name": "4",
        "deep": "[" * 100_000,
    }
    assert read_options([]) is None


def test_vectors_are_combined_without_a_model(steer: Callable[..., Done], vector: str, tmp_path: Path) -> None:
    other = steer("create", *contrast(), "--layer", 2, "--save", "w", "--method", "random", "--json")
    third = steer("create", *contrast(), "--layer", 2, "--save", "u", "--method", "lat", "--json")
    assert (other.code, third.code) == (0, 0)
    current_session().detach()
    current_session().workspace = Workspace(tmp_path / "elsewhere")
    arguments = ("--weight", 1, "--weight", -0.5, "--orthogonal-to", "u", "--save", "sum", "--workspace")

    done = steer("combine", "vectors/v", "w", *arguments, tmp_path / "workspace", "--json", of_the_model=False)
    shown = steer(
        "combine", "vectors/v", "w", "--save", "sum", "--workspace", tmp_path / "workspace", of_the_model=False
    )

    assert not current_session().is_attached
    assert done.stderr == shown.stderr == ""
    assert json.loads(done.stdout) == tools.combine_steering_vectors(["vectors/v", "w"], "sum", [1.0, -0.5], ["u"])
    cosine = json.loads(done.stdout)["cosines"][0][1]
    assert [f"{cosine:.2f}", "vectors/v", "w"] in [line.split() for line in shown.stdout.splitlines()]


def test_a_unit_vector_is_suggested_by_its_contrast(steer: Callable[..., Done]) -> None:
    suggested = [
        shlex.split(steer("create", *contrast(), "--layer", 2, "--save", "v", *normalize).stdout.splitlines()[-1])
        for normalize in ([], ["--normalize"])
    ]

    assert ["--unit" in command for command in suggested] == [False, True]
    assert suggested[1][suggested[1].index("--unit") + 1] == "contrast"


def test_json_is_the_result_of_create_steering_vector(steer: Callable[..., Done], tmp_path: Path) -> None:
    options = ("--method", "paired_mean_difference", "--pooling", "mean", "--normalize")

    done = steer("create", *contrast(), "--layer", 1, "--layer", -1, "--save", "v", *options, "--json")

    assert json.loads(done.stdout) == tools.create_steering_vector(
        POSITIVE, NEGATIVE, [1, -1], "v", method="paired_mean_difference", pooling="mean", normalize=True
    )
    assert (tmp_path / "workspace" / "v.safetensors").exists()


def test_tokens_shows_what_the_model_is_given_and_marks_what_would_be_steered(steer: Callable[..., Done]) -> None:
    shown = steer("tokens", "keke lili", "--chat", "--positions", "after_user")
    as_json = steer("tokens", "keke lili", "--json")

    assert shown.stdout.splitlines()[0] == "<s> user : keke lili {+<end>+} {+assistant+} {+:+}"
    assert "every new token, too" in shown.stdout
    assert json.loads(as_json.stdout) == tools.show_tokens(["keke lili"])
    assert steer("tokens", "keke", "--positions", "after_user").code == 1


@HARD
def test_json_is_the_result_of_check_steering_and_of_the_status(steer: Callable[..., Done], vector: str) -> None:
    checked = steer("check", "keke lili", "--vector", vector, "--max-new-tokens", 4, "--json")
    stood = steer("status", "--json")

    assert json.loads(stood.stdout) == tools.steering_status()
    with steer_tools.steering(vector):
        assert json.loads(checked.stdout) == tools.check_steering(["keke lili"], 4)


def test_a_chat_is_sent_through_the_template(steer: Callable[..., Done], vector: str, tmp_path: Path) -> None:
    file = tmp_path / "more.json"
    file.write_text(json.dumps(["mora", [{"role": "system", "content": "seti"}]]), encoding="utf-8")

    done = steer("compare", "keke", "--vector", vector, "--prompts-file", file, "--chat", "--json")

    assert json.loads(done.stdout)["prompts"] == [
        [{"role": "user", "content": "keke"}],
        [{"role": "user", "content": "mora"}],
        [{"role": "system", "content": "seti"}],
    ]


def test_a_file_of_another_ending_has_one_text_a_line(steer: Callable[..., Done], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text('keke\n\n["mora"]\n', encoding="utf-8")

    done = steer("generate", "--prompts-file", file, "--max-new-tokens", 4, "--json")

    result = json.loads(done.stdout)
    expected = tools.generate(["keke", '["mora"]'], max_new_tokens=4)
    told = "prompts.txt: 1 of 3 rows was left out: 1 empty."
    assert result == {**expected, "warnings": [told, *expected["warnings"]]}


@pytest.mark.parametrize("command", ["generate", "tokens"])
def test_what_a_file_lacks_is_told_once_in_the_result_and_in_the_terminal(
    steer: Callable[..., Done], tmp_path: Path, command: str
) -> None:
    file = tmp_path / "p.txt"
    for content, times in (("keke\n\n", 1), ("keke\n", 0)):
        file.write_text(content, encoding="utf-8")

        as_json, shown = (steer(command, "--prompts-file", file, *more) for more in (["--json"], []))

        assert [as_json.code, shown.code] == [0, 0]
        warnings = json.loads(as_json.stdout).get("warnings", [])
        assert warnings.count("p.txt: 1 of 2 rows was left out: 1 empty.") == times
        assert (shown.stdout + shown.stderr).count("1 of 2 rows was left out") == times


def test_a_table_of_pairs_makes_the_vector_of_its_texts_and_the_command_to_try_it(
    steer: Callable[..., Done], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    rows = [";".join(row) for row in zip(POSITIVE, NEGATIVE, strict=True)]
    file.write_text("\r".join(["positive;negative", *rows, ";"]), encoding="utf-8")

    done, shown = (steer("create", "--prompts", file, "--layer", 2, "--save", "v", *more) for more in (["--json"], []))

    result = json.loads(done.stdout)
    assert result["prompt_counts"] == [len(POSITIVE), len(NEGATIVE)]
    assert result["warnings"][0] == f"pairs.csv: 1 of {len(rows) + 1} rows was left out: 1 empty."
    assert shown.stdout.count("steer-tools compare") == 1


def test_the_prompts_of_a_file_make_the_same_vector_as_typed_ones(steer: Callable[..., Done], tmp_path: Path) -> None:
    file = tmp_path / "contrast.json"
    file.write_text(json.dumps({"positive": POSITIVE, "negative": NEGATIVE, "openings": ["keke"]}), encoding="utf-8")

    from_file = steer("create", "--prompts", file, "--layer", 2, "--save", "v", "--json")
    typed = steer("create", *contrast(), "--layer", 2, "--save", "v", "--json")

    assert json.loads(from_file.stdout) == json.loads(typed.stdout)


def test_a_behaviour_reaches_the_tool_by_name_and_a_file_by_its_path_from_here(
    steer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def create(*arguments: object, **options: object) -> None:
        asked.append(options)
        raise KeyboardInterrupt  # Far enough.

    monkeypatch.setattr(tools, "load_model", lambda *arguments, **options: None)
    monkeypatch.setattr(tools, "create_steering_vector", create)
    for behavior in ("sentiment", "mine.jsonl"):
        steer("create", "--behavior", behavior, "--layer", 2, "--save", "v", of_the_model=False)

    assert [options["behavior"] for options in asked] == ["sentiment", str(Path.cwd() / "mine.jsonl")]
    assert all("positive_prompts" not in options and options["pooling"] is None for options in asked)


# Errors.


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SteeringError) as caught:
        call()
    return f"Error: {caught.value}\n"


def test_an_error_is_the_text_of_the_tool_on_stderr(steer: Callable[..., Done], vector: str) -> None:
    for arguments, call in (
        (["keke", "--layer", 9], lambda: tools.compare_generations(["keke"], vector, 9)),
        (["keke", "--strength", "nan"], lambda: tools.compare_generations(["keke"], vector, strengths=[float("nan")])),
        (["keke", "--unit", "metre"], lambda: tools.compare_generations(["keke"], vector, unit="metre")),  # type: ignore[arg-type]
        ([" "], lambda: tools.compare_generations([" "], vector)),
    ):
        done = steer("compare", "--vector", vector, "--json", *arguments)

        assert (done.code, done.stdout) == (1, "")
        assert done.stderr == refusal(call)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "keke", "--vector", "none"), "There is no file"),
        (("generate", "keke", "--prompts-file", "none.txt"), "cannot be read (No such file"),
        (("generate", "keke", "--prompts-file", "."), "cannot be read (Is a directory)"),
        (("generate",), "No prompt was given"),
        (("generate", "keke", "--strength", "2"), "--strength came without --vector"),
        (("generate", "keke", "--target", "0", "--layer-weight", "1"), "--layer-weight and --target came without"),
        (("create", "--layer", "2", "--save", "v", "--positive", "a", "--option", "seed"), "'seed' has no name or no"),
        (("create", "--layer", "2", "--save", "v", "--positive", "a", "--option", "=3"), "'=3' has no name or no"),
        (("create", "--layer", "2", "--save", "v", "--positive", "a", "--option", "seed="), "'seed=' has no name or"),
        (
            ("create", "--layer", "2", "--save", "v", "--positive", "a", "--option", "a=1", "--option", "a=1"),
            "--option a was given twice",
        ),
        (
            ("create", "--layer", "2", "--save", "v", "--positive", "a", "--negative", "b", "--option", "tune=1"),
            "has no option 'tune'",
        ),
        (("compare", "keke", "--vector", "none", "--intervention", "sing"), "'sing'"),
        (("create", "--layer", "2", "--save", "v"), "No source of contrast prompts was given"),
        (("create", "--layer", "2", "--save", "v", "--positive", "a", "--behavior", "b"), "as well as --behavior was"),
        (("create", "--layer", "2", "--save", "v", "--behavior", "refusals"), "Did you mean 'refusal'?"),
        (("create", "--layer", "x", "--save", "v", "--positive", "a", "--negative", "b"), "'x'"),
        (("create", "--layer", "2", "--save", "v", "--positive", "a"), "negative_prompts is empty"),
    ],
)
def test_what_cannot_be_done_is_a_text_and_not_a_traceback(
    steer: Callable[..., Done], arguments: tuple[str, ...], words: str
) -> None:
    done = steer(*arguments)

    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"{", "a.json"),
        ("a.json", b"[" * 100_000, "a.json"),
        ("a.json", b"{}", "holds no list"),
        ("a.json", b"[3]", "a.json, line 1, [0] is 3"),
        ("a.txt", b"\xff", "byte 1 of the line is 0xff, which is no UTF-8"),
        ("a.txt", b"", "No prompt was given"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(
    steer: Callable[..., Done], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    done = steer("generate", "--prompts-file", file)

    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr


@pytest.mark.parametrize("content", ["[]", '{"positive": ["a"]}', '{"positive": "a", "negative": "b"}'])
def test_a_contrast_file_without_two_sides_is_refused(steer: Callable[..., Done], tmp_path: Path, content: str) -> None:
    file = tmp_path / "contrast.json"
    file.write_text(content, encoding="utf-8")

    done = steer("create", "--prompts", file, "--layer", 2, "--save", "v")

    assert (done.code, done.stdout) == (1, "")
    assert "contrast.json" in done.stderr


def test_a_model_that_is_not_there_is_a_text_and_not_a_traceback(steer: Callable[..., Done], tmp_path: Path) -> None:
    done = steer("status", "--model", tmp_path / "none", of_the_model=False)

    assert (done.code, done.stdout) == (1, "")
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "keke"),
        ("combine", "--save", "v"),
        ("combine", "v"),
        ("create", "--layer", "2"),
        ("generate", "keke", "--max-new-tokens", "0"),
        ("status", "x"),
        (),
    ],
)
def test_wrong_usage_leaves_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2


def test_a_broken_law_leaves_with_3(steer: Callable[..., Done], vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Proof((Check("only_the_scope_is_edited", False, 2.0, "0 wrong of 5"), Check("other", True, 0.0, "0")), "")
    monkeypatch.setattr("steer_tools.session.checks.run_checks", lambda *arguments: broken)

    shown, as_json = steer("check", "--vector", vector), steer("check", "--vector", vector, "--json")

    assert (shown.code, as_json.code) == (3, 3)
    assert "1 of 2 laws are broken." in shown.stdout
    assert json.loads(as_json.stdout)["passed"] is False


# What stays.


def test_a_vector_is_in_force_inside_the_block_only(steer: Callable[..., Done], vector: str) -> None:
    registry = current_session().registry

    with pytest.raises(KeyboardInterrupt), in_force({"vector_path": vector}):
        assert len(registry) == 1
        raise KeyboardInterrupt

    assert len(registry) == 0


@pytest.mark.parametrize("command", ["compare", "generate", "check"])
@pytest.mark.parametrize("prompt", ["keke", "keke " * 200])
def test_nothing_stays_applied_after_a_command(
    steer: Callable[..., Done], vector: str, command: str, prompt: str
) -> None:
    done = steer(command, prompt, "--vector", vector, "--strength", -4, "--max-new-tokens", 4)

    assert done.code == (0 if prompt == "keke" else 1), done.stderr
    assert tools.steering_status()["applied"] == []
    assert tools.steering_status()["in_force"]


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize("command", ["generate", "check"])
def test_a_command_can_refuse_vectors_that_are_not_verified(
    steer: Callable[..., Done], vector: str, command: str, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (command, "keke", "--vector", vector, "--max-new-tokens", 4)
    if by_environment:
        monkeypatch.setenv("STEER_TOOLS_REQUIRE_VERIFIED", "true")

    refused = steer(*asked, *([] if by_environment else ["--require-verified"]))
    monkeypatch.delenv("STEER_TOOLS_REQUIRE_VERIFIED", raising=False)
    allowed = steer(*asked)

    assert (refused.code, refused.stdout) == (1, "")
    assert "it has no certificate" in refused.stderr
    assert "steering_experiment" in refused.stderr
    assert allowed.code == 0


def test_what_apply_warns_of_is_told_on_stderr(steer: Callable[..., Done], vector: str) -> None:
    done = steer("generate", "keke", "--vector", vector, "--layer", 1, "--max-new-tokens", 4, "--json")

    assert done.stderr.startswith("Warning: The vector has no direction for layer 1")
    assert len(json.loads(done.stdout)["texts"]) == 1


def test_an_interrupt_leaves_with_130_and_without_a_traceback(vector: str, checkpoint: str) -> None:
    code = f"""
import os, signal, sys
import steer_tools.engines.huggingface.decoding as decoding
from steer_tools.cli import main
from steer_tools.session.session import current_session

def interrupt(*_):
    if current_session().is_attached:  # Not while the model is looked at.
        print(len(current_session().registry))
        os.kill(os.getpid(), signal.SIGINT)

# A process that a shell runs in the background is born deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
decoding.report = interrupt
code = main(["generate", "keke", "--model", {checkpoint!r}, "--vector", {vector!r}])
print(len(current_session().registry))
sys.exit(code)
"""

    done = python(code)

    assert done.returncode == 130
    assert done.stdout.split() == ["1", "0"]
    assert "Traceback" not in done.stderr


def test_what_a_loader_prints_stays_off_stdout(
    steer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = tools.load_model
    monkeypatch.setattr(tools, "load_model", lambda *a, **k: print("noise") or load(*a, **k))

    done = steer("status", "--json")

    assert "noise" in done.stderr
    assert json.loads(done.stdout)["model"]["layer_count"] == 4


# Into the weights and out again.


def test_a_vector_is_baked_and_taken_out_again(steer: Callable[..., Done], vector: str, checkpoint: str) -> None:
    before = (Path(checkpoint) / "model.safetensors").read_bytes()

    use = ["--vector", vector, "--positions", "all", "--strength", 2, "--json"]
    baked = steer("bake", "keke", "--save", "baked", *use)
    result = json.loads(baked.stdout)
    texts = steer("generate", "keke", "lili", "--model", result["folder"], "--json", of_the_model=False)
    steered = steer("generate", "keke", "lili", *use)
    undone = steer(*shlex.split(result["undo"])[1:], "--json", of_the_model=False)

    assert (baked.code, result["kind"], result["prompt_count"]) == (0, "addition", 1)
    assert json.loads(texts.stdout)["texts"] == json.loads(steered.stdout)["texts"]
    assert json.loads(steer("generate", "keke", "lili", "--json").stdout)["texts"] != json.loads(texts.stdout)["texts"]
    assert json.loads(undone.stdout) == {"restored": 0, "removed": 12}
    assert (Path(result["folder"]) / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", ["addition", "ablation"])
def test_what_was_baked_is_found_again(kind: str, steer: Callable[..., Done], vector: str, checkpoint: str) -> None:
    use = ["--vector", vector, "--positions", "all"] if kind == "addition" else ["--ablate", vector]
    folder = json.loads(steer("bake", "keke", "--save", "baked", *use, "--json").stdout)["folder"]

    workspace = ["--workspace", Path(folder).parent]
    done = steer("audit", "baked", checkpoint, *workspace, of_the_model=False)
    result = json.loads(steer("audit", "baked", checkpoint, *workspace, "--json", of_the_model=False).stdout)

    assert (done.code, result["verdict"]) == (0, kind)
    article = "an added vector" if kind == "addition" else "an ablated direction"
    assert done.stdout.startswith(f"Found {article}: {result['differing']} of ")
    printed = " ".join(done.stdout.split())
    assert ("layer 2 (residual), in 1 tensors" if kind == "addition" else "4 layers from 0 to 3") in printed
    assert f"{result['findings'][0]['known'][0]['cosine']:.4f}" == "1.0000"
    assert ("norm" in printed, "of the direction is still in them" in printed) == (
        kind == "addition",
        kind == "ablation",
    )
    (finding,) = result["findings"]
    again = steer("generate", "keke", "--vector", finding["vector_path"], "--positions", "all", "--json")
    assert again.code == 0, again.stderr


def test_an_audit_says_first_that_checkpoints_are_equal_or_that_nothing_explains_them(
    steer: Callable[..., Done], checkpoint: str, tmp_path: Path
) -> None:
    other = make_model("llama", seed=1)
    other.save_pretrained(tmp_path / "other")

    equal = steer("audit", checkpoint, checkpoint, of_the_model=False)
    differs = steer("audit", tmp_path / "other", checkpoint, "--workspace", tmp_path, of_the_model=False)
    missing = steer("audit", tmp_path / "nothing", checkpoint, of_the_model=False)

    count = len(other.state_dict())
    assert equal.stdout == f"Equal: all {count} tensors are the same.\n"
    assert differs.stdout.startswith("Other changes: ")
    assert "neither an added vector nor an ablated direction" in " ".join(differs.stdout.split())
    assert (missing.code, "holds no safetensors checkpoint" in missing.stderr) == (1, True)


def test_an_ablation_is_baked_with_its_figures_and_how_it_comes_out(steer: Callable[..., Done], vector: str) -> None:
    done = steer("bake", "--ablate", vector, "--save", "ablated")

    assert done.code == 0
    assert "ablation: 9 tensors changed, 0 added" in done.stdout
    assert "8 of 8 greedy continuations are the same" in done.stdout
    folder = re.search(r"steer-tools undo (\S+)", done.stdout)
    assert folder is not None
    assert "llama-cli" not in done.stdout
    undone = steer("undo", folder[1], of_the_model=False)
    assert undone.stdout == "9 tensors restored, 0 removed\n"
    again = steer("undo", folder[1], of_the_model=False)
    assert (again.code, "undo.safetensors" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vector", "VECTOR"], "positions is 'generated'"),
        ([], "One vector is needed"),
        (["--vector", "VECTOR", "--ablate", "VECTOR"], "One vector is needed"),
        (["--ablate", "VECTOR", "--strength", "2"], "--strength came without --vector"),
    ],
)
def test_what_cannot_be_baked_is_refused(
    arguments: list[str], words: str, steer: Callable[..., Done], vector: str, tmp_path: Path
) -> None:
    done = steer("bake", "--save", "baked", *(vector if argument == "VECTOR" else argument for argument in arguments))

    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr
    assert not (tmp_path / "workspace" / "baked").exists()


# Looking inside

SIDE_ENDS = (("positive", "baba"), ("negative", "zuzu"))


def test_the_next_tokens_stand_side_by_side(steer: Callable[..., Done], vector: str) -> None:
    arguments = ("next-tokens", PROMPTS[0], "--vector", vector, "--strength", 0, "--strength", 3, "--top", 2)

    table = steer(*arguments).stdout
    told = json.loads(steer(*arguments, "--json").stdout)

    (own,) = told["prompts"]
    assert own["kl"][0] == 0 < own["kl"][1]
    assert re.search(r"next token +baseline +0 +\+3", table)
    likeliest, (unsteered, *_) = next(iter(own["probabilities"].items()))
    assert re.search(rf"{re.escape(likeliest.strip('▁Ġ'))} .*{unsteered:.1%}", table)
    assert "KL, nats" in table


def test_a_reading_shows_the_detector_and_the_tokens(steer: Callable[..., Done], vector: str, tmp_path: Path) -> None:
    sides = {key: [f"{WORDS[i]} {WORDS[i + 1]} {end}" for i in range(16)] for key, end in SIDE_ENDS}
    labelled = tmp_path / "labelled.json"
    labelled.write_text(json.dumps(sides), encoding="utf-8")
    arguments = (
        "project",
        sides["positive"][0],
        "--vector",
        vector,
        "--labelled",
        labelled,
        "--layer",
        2,
        "--layer",
        1,
    )

    table = steer(*arguments).stdout
    told = json.loads(steer(*arguments, "--json").stdout)

    first = told["detectors"][0]
    assert re.search(rf"1 +{first['auc']:.3f} +\S+ to \S+ +{first['auc_chance']:.3f}", table)
    answer = "yes" if told["prompts"][0]["detected"]["1"] else "no"
    assert f"layer 1, reading {told['prompts'][0]['scores']['1']:.4g}: {answer}" in table
    assert "levels from -3 to +3" in table
    assert steer("project", "--vector", vector).code == 1


# Which parts matter


def test_ablate_shows_layers_the_strongest_parts_and_chance(
    steer: Callable[..., Done], vector: str, tmp_path: Path
) -> None:
    file = tmp_path / "items.json"
    words = ("lili", "keke", "mora", "seti", "baba", "zuzu", "lili keke", "mora seti", "keke lili", "seti mora")
    items = [{"prompt": f"ratisemo {word}", "positive": "baba", "negative": "zuzu"} for word in words]
    file.write_text(json.dumps(items), encoding="utf-8")
    asked = (file, "--component", "direction", "--method", "zero", "--vector", vector, "--layer", 1)

    read, found = steer("ablate", *asked), steer("ablate", *asked, "--json")

    assert read.code == 0, read.stderr
    document = json.loads(found.stdout)
    assert re.search(r"everywhere +[+-]", read.stdout)
    assert f"±{document['measure_chance']['everywhere']:.4g}" in read.stdout
    assert document["heat_map_path"] in read.stdout.replace("\n", "").replace(" ", "")
    assert list(document["measure_changes"]) == ["1", "everywhere"]
    refused = steer("ablate", file, "--measure", "exact")
    assert (refused.code, "no exact score" in refused.stderr) == (1, True)


def test_patch_shows_tokens_by_layers(steer: Callable[..., Done]) -> None:
    asked = ("ratisemo lili", "ratisemo keke", "--positive", "baba", "--negative", "zuzu", "--layer", 0, "--layer", 2)

    read, document = steer("patch", *asked), json.loads(steer("patch", *asked, "--json").stdout)

    assert read.code == 0, read.stderr
    head = next(line for line in read.stdout.splitlines() if line.split()[:3] == ["token", "/", "layer"])
    assert head.split()[3:] == ["0", "2"] == list(document["recovered"])
    last = len(document["tokens"]) - 1
    assert re.search(rf"^ *{last} ", read.stdout, re.MULTILINE)
    assert f"{document['recovered']['0'][last]:+.0%}" in read.stdout
    estimated = steer("patch", *asked, "--method", "gradient", "--component", "mlp", "--json")
    assert json.loads(estimated.stdout)["recovered"] != document["recovered"]


def test_of_many_lines_and_columns_the_strongest_are_shown_in_their_order() -> None:
    values = [[float(line * column) for column in range(20)] for line in range(30)]
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True)
    shown = HeatTable("x", [f"l{line}" for line in range(30)], [f"c{column}" for column in range(20)], values)

    console.print(*shown.shown(str, is_plain=False))

    text = console.export_text(clear=False)
    assert [f"c{column}" for column in range(12, 20)] == re.findall(r"c\d+", text)
    assert [f"l{line}" for line in range(18, 30)] == re.findall(r"l\d+", text)[:12]
    assert "18 more lines and 12 more columns" in text
    coloured, plain = (
        {
            cell.style
            for part in shown.shown(str, is_plain=is_plain)
            if isinstance(part, Table)
            for column in part.columns[1:]
            for cell in column.cells
            if isinstance(cell, Text)
        }
        for is_plain in (False, True)
    )
    assert plain == {""}
    assert len(coloured) > 10


def test_activations_are_saved_and_told_of(steer: Callable[..., Done]) -> None:
    arguments = (
        "activations",
        *PROMPTS[:2],
        "--layer",
        1,
        "--pooling=-2",
        "--label",
        "a",
        "--label",
        "b",
        "--save",
        "acts",
    )

    told = json.loads(steer(*arguments, "--json").stdout)
    shown = steer(*arguments).stdout

    assert (told["pooling"], told["layers"], told["shape"][0]) == (-2, [1], 2)
    assert Path(told["path"]).name == "acts.safetensors"
    assert "2 prompts × 32" in shown
