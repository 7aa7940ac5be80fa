"""Hostile texts through every way in, to every way out: none acts, and its words are read."""

from __future__ import annotations

import io
import re
from typing import Any

import anyio
import pytest
from mcp import Client
from rich.progress import Progress

import steer_tools
from helpers.hostile_texts import HOSTILE, WORDS, hidden_in, without_styles
from mcp_server.server import EXACT_TEXTS, build_server
from steer_tools import tools
from steer_tools.by_hand.vectors import SteeringVector
from steer_tools.cli import app as command_line
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import SteeringError
from steer_tools.figures import new_figure, png, style
from steer_tools.figures.strips import Strip, strip_page, strip_picture
from steer_tools.figures.text_cards import Bar, Cards, text_cards
from steer_tools.foreign_text import in_results
from steer_tools.reports.markdown import literal
from steer_tools.session.session import Session
from steer_tools.tools.colours import HeatTable, coloured, token_text
from steer_tools.tools.compare_generations import show as comparison_shown
from steer_tools.tools.consoles import TextConsole, bar_on
from steer_tools.tools.rendering import Shown, bullets, facts, joined, line, saved, shown, stack, table, text_table
from steer_tools.tools.steering_status import show as status_shown

EVERY = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def on_a_terminal(rendered: Shown) -> str:
    """Return what a terminal with colours and links is sent, without the styles that rich may set."""
    out = io.StringIO()
    TextConsole(file=out, width=400, force_terminal=True, color_system="truecolor", legacy_windows=False).print(
        rendered
    )
    assert "\x1b]" not in out.getvalue()
    return without_styles(out.getvalue())


def assert_shown(text: str) -> None:
    assert not hidden_in(text)
    assert WORDS in text


@EVERY
def test_nothing_that_draws_for_a_terminal_lets_a_text_act(text: str) -> None:
    heat = HeatTable(text, [text], [text], [[1.0]])
    strips = [Strip((text, "b"), (1.0, 0.0), (True, True))]
    parts: list[Any] = [
        text,  # A mere string.
        line(text),
        joined(text, (text, "bold"), shown(text)),
        saved(text),
        table({text: "left"}, [[text], [shown(text)]]),
        facts({text: text}),
        bullets([text]),
        text_table(text, [(text, line(text))]),
        token_text(text.replace(" ", "")),
        *heat.shown(str, is_plain=False),
    ]

    for part in parts[:-2]:
        assert not hidden_in(on_a_terminal(part))
    for part in parts[:8]:
        assert WORDS in on_a_terminal(part)
    assert not hidden_in(
        on_a_terminal(stack(*parts, *coloured(strips, is_plain=False), *coloured(strips, is_plain=True)))
    )


@EVERY
def test_a_file_of_a_vector_acts_nowhere(text: str, llama_session: Session) -> None:
    if "\x00" in text or "\ud800" in text:
        text = text.replace("\ud800", "").replace("\x00", "")
    info = VectorInfo(method=text, model_name=text, pooling=text)
    vector = SteeringVector({1: [1.0] * llama_session.engine.info.hidden_size}, info=info)
    vector.save("v.safetensors")

    status = steer_tools.steering_status()

    assert status["saved"][0]["method"] == text
    assert_shown(on_a_terminal(status_shown(status)))  # type: ignore[arg-type]
    assert not hidden_in(status._repr_html_())  # type: ignore[attr-defined]
    assert 'evil.example"' not in status._repr_html_() and "<script" not in status._repr_html_()  # type: ignore[attr-defined]
    assert not hidden_in(status.summary())  # type: ignore[attr-defined]
    assert_shown(vector._repr_html_())
    assert not re.search(r"<(script|img|a)\b", vector._repr_html_())


@EVERY
def test_a_name_of_a_file_acts_nowhere(text: str, llama_session: Session) -> None:
    name = text.replace("/", "_").replace("\x00", "").replace("\ud800", "\udcff") + ".safetensors"
    llama_session.workspace.root.mkdir()
    (llama_session.workspace.root / name).write_bytes(b"no vector")

    status = tools.steering_status()
    answered = over_mcp("steering_status", {})

    assert status["saved"][0]["problem"] is not None
    assert_shown(status["saved"][0]["problem"])
    assert_shown(on_a_terminal(status_shown(status)))
    assert answered.model_dump_json().encode()
    assert_shown(answered.structured_content["saved"][0]["vector_path"])
    assert not hidden_in(answered.content[0].text)


@EVERY
def test_an_argument_acts_in_no_error(text: str, llama_session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SteeringError) as raised:
        tools.apply_steering_vector(text)
    assert not hidden_in(str(raised.value))
    typed = text.replace("\x00", "")
    for words in (
        ["convert", typed, "x.npy"],
        ["compare", "p", "--no-such", typed],
        [f"--{typed}"],
        ["check", f"--{typed}"],
    ):
        assert command_line.main([*words]) in (1, 2)
        told = capsys.readouterr()
        assert not hidden_in(without_styles(told.err + told.out))
        assert "Traceback" not in told.err
    assert command_line.main(["behaviors", "show", f"{typed}.json", "--json"]) == 1
    told = capsys.readouterr().err
    assert_shown(told)


@EVERY
def test_over_mcp_no_argument_acts_and_each_answer_can_be_encoded(text: str, llama_session: Session) -> None:
    sent = text.replace("\ud800", "")
    for tool, arguments in (
        ("apply_steering_vector", {"vector_path": sent}),
        ("steering_status", {sent: 1}),
        ("remove_steering_vector", {"steering_id": sent}),
        ("compare_generations", {"prompts": [sent], "layer": sent}),
    ):
        answer = over_mcp(tool, arguments)
        assert answer.is_error
        assert not hidden_in(answer.content[0].text)


@EVERY
def test_what_a_model_writes_is_exact_over_mcp_and_acts_on_no_screen(text: str) -> None:
    result = {"texts": [text], "warnings": [text], "steered": None}
    exact = in_results(result, EXACT_TEXTS)
    metrics = {
        "perplexity": 1.0,
        "distinct_2": 1.0,
        "repetition": 0.0,
        "mean_length": 1.0,
        "kl": None,
        "scores": {},
        "changed": 1.0,
    }
    compared: Any = {
        "prompts": [text],
        "baseline": {"texts": ["other words"], "metrics": metrics},
        "variants": [
            {
                "strength": 1.0,
                "residual_strength": 0.1,
                "badge": None,
                "texts": [text],
                "metrics": metrics,
                "steered": None,
            }
        ],
        "warnings": [text],
    }

    assert exact["texts"][0].replace("\\ud800", "\ud800") == text
    assert not hidden_in(exact["warnings"][0])
    for is_plain in (True, False):
        assert_shown(on_a_terminal(comparison_shown(compared, is_plain=is_plain)))


@EVERY
def test_no_text_acts_on_a_page_or_in_a_picture(text: str) -> None:
    strip = Strip.of((text, "b"), (1.0, 0.0), (True, True))
    panel = Cards(text, text, [("-1", text), (text, "b"), ("+1", text)], text, [Bar(text, 1.0, None)], [0.1])
    figure = new_figure(4, 3, text)
    style(figure.subplots(), text, text, text)

    for drawn in (strip_page([strip], title=text), text_cards([panel], title=text)):
        assert_shown(drawn)
        assert not re.search(r"<(script|img|a)\b", drawn)
    assert png(figure) and strip_picture([strip], title=text)
    assert_shown(literal(text))


def test_a_bar_says_nothing_hidden_and_reads_no_markup() -> None:
    out = io.StringIO()
    console = TextConsole(file=out, width=200, force_terminal=True, color_system="truecolor", legacy_windows=False)
    bar: Progress = bar_on(console)
    with bar:
        for text in HOSTILE.values():
            bar.add_task(text.replace("\n", " "), total=2)

    told = out.getvalue()
    assert "[/]" in told and "[red]" in told and "\\x1b]52" in told
    assert not {"\x07", "\x9b", "\u202e", "\x00"} & {*told}
    assert "\x1b]" not in told


def over_mcp(tool: str, arguments: dict[str, Any]) -> Any:
    async def connected() -> Any:
        async with Client(build_server()) as client:
            return await client.call_tool(tool, arguments)

    return anyio.run(connected)
