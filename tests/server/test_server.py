"""The tools over MCP: what a client sees, reads, cancels and is refused; the tools themselves are tested elsewhere."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import os
import queue
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import jsonschema
import pytest
import torch
from mcp import Client, StdioServerParameters, stdio_client
from mcp.server import MCPServer
from pydantic import Field
from typing_extensions import TypedDict

import mcp_server
from helpers.certificates import certified_file
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WORDS, make_model, make_tokenizer
from mcp_server.server import _Loading, _mcp_tool, _ModelJobs, build_server
from steer_tools import tools
from steer_tools.errors import SteeringError, UnsupportedModelError
from steer_tools.progress import report
from steer_tools.session.session import Session
from steer_tools.tools import TOOLS, Card, Tool
from steer_tools.workspace import Workspace

MODES = ("auto", "legacy")
NAMES = [tool.name for tool in TOOLS]
MOST_SCHEMA_TOKENS = 11_000
CONTEXT = 8_192
# No call of these tests takes half a minute by itself: what does is stuck.
STUCK_SECONDS = 60
LISTS = {
    "positive": [f"{PROMPTS[i % 4]} {word} baba" for i, word in enumerate(WORDS[:16])],
    "negative": [f"{PROMPTS[i % 4]} {word} zuzu" for i, word in enumerate(WORDS[:16])],
}
CREATE = {"positive_prompts": POSITIVE, "negative_prompts": NEGATIVE, "layer": 2, "save_path": "v.safetensors"}

_Answer = TypeVar("_Answer")


def over_mcp(use: Callable[[Client], Awaitable[_Answer]], server: Any = None, mode: str = "auto") -> _Answer:
    """Return what `use` returns for a client that is connected to a server in this process."""

    async def connected() -> _Answer:
        async with Client(server or build_server(), mode=mode) as client:
            with anyio.fail_after(STUCK_SECONDS):
                return await use(client)

    return anyio.run(connected)


def call(tool: str, arguments: dict[str, Any], server: Any = None, mode: str = "auto") -> Any:
    return over_mcp(lambda client: client.call_tool(tool, arguments), server, mode)


def text_of(result: Any) -> str:
    assert len(result.content) == 1
    return result.content[0].text


def make_endless_model() -> Any:
    """A tiny Llama with room for thousands of tokens, which never picks a special token and so never ends a text."""
    model = make_model("llama")
    model.config.max_position_embeddings = CONTEXT
    model.lm_head.weight.data[:4] = 0
    return model


def count_passes(model: Any) -> list[None]:
    """Return a list that grows with every forward pass of the model."""
    passes: list[None] = []
    model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(None))
    return passes


@pytest.fixture
def endless_model() -> Any:
    return make_endless_model()


@pytest.fixture
def endless_session(empty_session: Session, endless_model: Any, tokenizer: Any) -> Session:
    empty_session.attach(endless_model, tokenizer, "endless")
    return empty_session


@pytest.fixture
def confined_session(llama_session: Session) -> Session:
    """A session whose workspace is confined, beside a folder with a vector that no client may reach."""
    outside = llama_session.workspace.root.parent / "outside"
    tools.create_steering_vector(**{**CREATE, "save_path": str(outside / "secret.safetensors")})
    llama_session.workspace = Workspace(llama_session.workspace.root, is_confined=True)
    return llama_session


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "endless"
    make_endless_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    """What tools/list says, by name, as JSON."""
    found = over_mcp(lambda client: client.list_tools()).tools
    return {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found}


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a JSON schema that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects_in(part)


# What tools/list says


@pytest.mark.parametrize("mode", MODES)
def test_the_server_lists_exactly_the_tools(mode: str) -> None:
    found = over_mcp(lambda client: client.list_tools(), mode=mode)

    assert [tool.name for tool in found.tools] == NAMES


@pytest.mark.parametrize("tool", TOOLS, ids=NAMES)
def test_every_tool_says_what_it_is_and_all_four_hints(tool: Tool, listed: dict[str, Any]) -> None:
    said = listed[tool.name]

    assert said["title"] == tool.card.title
    assert said["description"].strip()
    assert said["annotations"] == {
        "readOnlyHint": tool.card.is_read_only,
        "destructiveHint": tool.card.is_destructive,
        "idempotentHint": tool.card.is_idempotent,
        "openWorldHint": tool.card.reaches_out,
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described_and_no_other_is_taken(name: str, listed: dict[str, Any]) -> None:
    schema = listed[name]["inputSchema"]

    assert all(parameter["description"].strip() for parameter in schema["properties"].values())
    assert "context" not in schema["properties"]
    # Only a chat template knows what it can be told.
    free = [part for named, part in schema["properties"].items() if named == "template_options"]
    closed = list(objects_in({**schema, "properties": {**schema["properties"], "template_options": {}}}))
    assert len(free) == (name == "load_model")
    assert [part["additionalProperties"] for part in closed] == [False] * len(closed)
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", NAMES)
def test_every_tool_says_the_shape_of_its_result(name: str, listed: dict[str, Any]) -> None:
    schema = listed[name]["outputSchema"]

    assert schema["type"] == "object"
    assert set(schema["required"]) == set(schema["properties"]) != set()
    jsonschema.Draft202012Validator.check_schema(schema)


def test_all_tools_together_cost_a_client_few_tokens(listed: dict[str, Any]) -> None:
    read_by_models = [{key: tool[key] for key in ("name", "description", "inputSchema")} for tool in listed.values()]

    estimated_tokens = len(json.dumps(read_by_models)) / 4

    assert estimated_tokens <= MOST_SCHEMA_TOKENS


# Results

# By the name of a parameter that a tool must be given.
REQUIRED: dict[str, Any] = {
    **CREATE,
    "behavior_name": "sentiment",
    "dataset": "sentiment",
    "prompts": PROMPTS[:2],
    "steering_id": "steer-1",
    "strength": 3,
    "vector_path": "v.safetensors",
}
EQUAL_CALLS: dict[str, dict[str, Any]] = {
    "create_steering_vector": {**CREATE, "layer": [1, 2], "save_path": "two", "normalize": True},
    "combine_steering_vectors": {"vector_paths": ["v.safetensors", "v"], "weights": [2, -1], "save_path": "both"},
    "apply_steering_vector": {"layer": 1, "strength": -0.5, "unit": "residual"},
    "compare_generations": {"vector_path": "v.safetensors", "strengths": [-2, 2]},
    "steering_experiment": {"behavior_name": "mine", **LISTS, "layers": [1], "strengths": [0.5], "controls": 19},
    "verify_steering_vector": {"vector_path": "proved/vector.safetensors"},
    "sweep_steering": {"behavior_name": "sentiment", "strengths": [0.5]},
    "find_best_layer": {"behavior_name": "mine", **LISTS, "layers": [1, 2], "strengths": [0.5]},
    "evaluate_steering_robustness": {"test_prompts": PROMPTS},
    "calibrate_strength": {"target_damage": 0.1},
    "compare_next_tokens": {"vector_path": "v.safetensors", "strengths": [-2, 2], "top": 3},
    "project_activations": {"prompts": PROMPTS[:2], **LISTS, "layers": [1, 2]},
    "save_activations": {"save_path": "read", "layers": [1, -1], "pooling": -1, "labels": ["one", "two"]},
    "ablate_component": {"layers": [1]},
    "patch_activations": {
        "source_prompt": "baba keke",
        "target_prompt": "baba lili",
        "positive": "baba",
        "negative": "zuzu",
        "layers": [1],
    },
    "analyze_steering_vector": {"texts": ["baba keke"]},
    "generate": {"prompts": [PROMPTS[0], [{"role": "user", "content": "keke"}], [1, 7, 9]], "temperature": 0.7},
    "check_steering": {"prompts": PROMPTS[:2], "max_new_tokens": 3},
    "show_tokens": {"prompts": [PROMPTS[0], [1, 7, 9]], "positions": "first"},
    "save_edited_model": {"save_folder": "baked", "ablate": "v.safetensors"},
    "audit_checkpoint": {"checkpoint": "MODEL_FOLDER", "base": "MODEL_FOLDER"},
    "load_model": {"name_or_path": "MODEL_FOLDER", "dtype": "bfloat16"},
}


# The older protocol wraps every tool alike; one reads, one writes a file, and one changes the model.
@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "auto") for name in NAMES]
    + [(name, "legacy") for name in ("generate", "create_steering_vector", "apply_steering_vector")],
)
def test_structured_content_is_the_python_result(
    name: str, mode: str, empty_session: Session, model_folder: Path, listed: dict[str, Any]
) -> None:
    own = EQUAL_CALLS.get(name, {})
    needed = {key: REQUIRED[key] for key in listed[name]["inputSchema"].get("required", ()) if key not in own}
    arguments = json.loads(json.dumps(needed | own).replace("MODEL_FOLDER", str(model_folder)))

    def start_again() -> None:
        empty_session.detach()
        # Cells that an earlier run has kept make later rows part of other batches, which round in another way.
        for cells in empty_session.workspace.root.rglob("*cells*.json"):
            cells.unlink()
        empty_session.attach(make_model("llama"), make_tokenizer(), "tiny")
        tools.create_steering_vector(**CREATE)
        if name == "verify_steering_vector":
            tools.steering_experiment("mine", **LISTS, layers=[1], strengths=[0.5], controls=9, save_folder="proved")
        tools.apply_steering_vector("v.safetensors")

    start_again()
    expected = getattr(tools, name)(**arguments)
    start_again()
    result = call(name, arguments, mode=mode)

    assert not result.is_error
    assert result.structured_content == expected
    assert json.loads(text_of(result)) == expected
    jsonschema.validate(result.structured_content, listed[name]["outputSchema"])


@pytest.mark.parametrize("mode", MODES)
def test_figures_that_are_not_finite_are_null_in_json(
    mode: str, endless_session: Session, endless_model: Any, listed: dict[str, Any]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    tools.create_steering_vector(**CREATE)
    tools.apply_steering_vector("v.safetensors")
    endless_model.lm_head.weight.data[9] = float("nan")
    asked = {"check_steering": {"max_new_tokens": 2}, "compare_generations": {"prompts": ["keke"], "max_new_tokens": 2}}

    results = {name: call(name, arguments, mode=mode) for name, arguments in asked.items()}

    assert None in [check["figure"] for check in results["check_steering"].structured_content["checks"]]
    assert results["compare_generations"].structured_content["baseline"]["metrics"]["perplexity"] is None
    for name, result in results.items():
        json.dumps(result.structured_content, allow_nan=False)
        json.loads(text_of(result), parse_constant=refuse)
        jsonschema.validate(result.structured_content, listed[name]["outputSchema"])


# Errors

STEERING_ERRORS = {
    "a layer that the model lacks": ("apply_steering_vector", {"vector_path": "v.safetensors", "layer": 99}),
    "a file that is not there": ("apply_steering_vector", {"vector_path": "w.safetensors"}),
    "an id that is not applied": ("remove_steering_vector", {"steering_id": "steer-9"}),
    "positions that mean nothing": ("apply_steering_vector", {"vector_path": "v.safetensors", "positions": "middle"}),
    "texts that do not fit": ("generate", {"prompts": ["keke"], "max_new_tokens": 5_000}),
    "equal sides": ("create_steering_vector", {**CREATE, "negative_prompts": POSITIVE}),
    "nothing to compare": ("compare_generations", {"prompts": ["keke"]}),
    "half an answer": ("patch_activations", {"source_prompt": "keke", "target_prompt": "lili", "positive": "baba"}),
    "nothing to check": ("check_steering", {}),
}


@pytest.mark.parametrize("case", STEERING_ERRORS)
def test_the_whole_text_of_a_steering_error_reaches_the_client(case: str, llama_session: Session) -> None:
    name, arguments = STEERING_ERRORS[case]
    tools.create_steering_vector(**CREATE)
    with pytest.raises(SteeringError) as raised:
        getattr(tools, name)(**arguments)

    result = call(name, arguments)

    assert result.is_error
    assert str(raised.value) in text_of(result)


WRONG_ARGUMENTS = {
    "misspelled": ("apply_steering_vector", {"vector_path": "v.safetensors", "strenght": 2}, "strenght"),
    "of another tool": ("generate", {"prompts": ["keke"], "strength": 2}, "strength"),
    "injected by the server": ("generate", {"prompts": ["keke"], "context": None}, "context"),
    "missing": ("apply_steering_vector", {"layer": 2}, "vector_path"),
    "one of several missing": ("evaluate_steering_robustness", {"vector_path": "v.safetensors"}, "dataset"),
    "no number": ("apply_steering_vector", {"vector_path": "v.safetensors", "strength": "strong"}, "strength"),
    "null": ("apply_steering_vector", {"vector_path": None, "strength": 1.0}, "vector_path"),
    "half a layer": ("apply_steering_vector", {"vector_path": "v.safetensors", "layer": 1.5}, "layer"),
    "no choice": ("apply_steering_vector", {"vector_path": "v.safetensors", "unit": "metre"}, "unit"),
    "no list": ("generate", {"prompts": "keke"}, "prompts"),
    "out of range": ("generate", {"prompts": ["keke"], "max_new_tokens": 0}, "max_new_tokens"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named_with_the_valid_ones_and_nothing_is_done(
    case: str, llama_session: Session, listed: dict[str, Any]
) -> None:
    name, arguments, wrong = WRONG_ARGUMENTS[case]
    tools.create_steering_vector(**{**CREATE, "save_path": "v.safetensors"})

    async def use(client: Client) -> tuple[Any, Any]:
        return await client.call_tool(name, arguments), await client.call_tool("steering_status", {})

    refused, status = over_mcp(use)

    assert refused.is_error
    problems, _, valid = text_of(refused).partition("Valid: ")
    assert f"{wrong}: " in problems
    assert valid.removesuffix(".").split(", ") == list(listed[name]["inputSchema"]["properties"])
    # The server goes on, and no default has taken the place of what was wrong.
    assert status.structured_content["applied"] == []
    assert status.structured_content["saved_total"] == 1


def test_several_wrong_arguments_are_named_at_once(llama_session: Session) -> None:
    result = call("apply_steering_vector", {"strength": "strong", "layers": 2})

    assert all(f"{name}: " in text_of(result) for name in ("vector_path", "strength", "layers"))


def test_a_call_repaired_from_the_error_text_alone_works(llama_session: Session) -> None:
    tools.create_steering_vector(**CREATE)

    async def use(client: Client) -> list[Any]:
        # A misspelled argument becomes the valid one that is spelled most like it.
        arguments: dict[str, Any] = {"vector_path": "v.safetensors", "layr": 99}
        first = text_of(await client.call_tool("apply_steering_vector", arguments))
        named, valid = re.search(r"(\w+): .* Valid: (.*)\.$", first).groups()
        (meant,) = difflib.get_close_matches(named, valid.split(", "), n=1)
        arguments[meant] = arguments.pop(named)
        # A layer that the model lacks becomes the last one that it has.
        second = text_of(await client.call_tool("apply_steering_vector", arguments))
        arguments[meant] = int(re.search(r"Valid: \d+ to (\d+)", second).group(1))
        applied = await client.call_tool("apply_steering_vector", arguments)
        # An unknown id becomes the one that is applied.
        third = text_of(await client.call_tool("remove_steering_vector", {"steering_id": "happy"}))
        steering_id = re.search(r"Valid: '([^']+)'", third).group(1)
        return [applied, await client.call_tool("remove_steering_vector", {"steering_id": steering_id})]

    applied, removed = over_mcp(use)

    assert applied.structured_content["layer"] == LAYERS - 1
    assert removed.structured_content == {"removed": 1, "active": 0}


def test_an_unknown_tool_is_refused_by_name_and_the_server_goes_on(llama_session: Session) -> None:
    async def use(client: Client) -> tuple[Any, Any]:
        return await client.call_tool("steer_harder", {}), await client.call_tool("steering_status", {})

    refused, status = over_mcp(use)

    assert refused.is_error
    assert "steer_harder" in text_of(refused)
    assert not status.is_error


# Tools of our own, run by the same machinery


class Done(TypedDict):
    """What the tools below return."""

    steps: int


def serve(*functions: Callable[..., Any]) -> MCPServer[Any]:
    loading = _Loading(None)
    loading.start()
    jobs = _ModelJobs(loading)
    return MCPServer(
        "own", tools=[_mcp_tool(Tool(f, Card(f.__name__, "core", is_read_only=True)), jobs) for f in functions]
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_text_of_an_unexpected_crash_stays_on_the_server(mode: str) -> None:
    def crash() -> Done:
        """Fail in a way that nobody foresaw."""
        raise RuntimeError("/home/alice/token is hunter2")

    def work() -> Done:
        """Do something."""
        return {"steps": 1}

    async def use(client: Client) -> tuple[Any, Any]:
        return await client.call_tool("crash", {}), await client.call_tool("work", {})

    crashed, worked = over_mcp(use, serve(crash, work), mode)

    assert crashed.is_error
    assert "crash" in text_of(crashed)
    assert "hunter2" not in crashed.model_dump_json()
    assert worked.structured_content == {"steps": 1}


@pytest.mark.parametrize("mode", MODES)
def test_progress_grows_from_phase_to_phase(mode: str) -> None:
    arrived: queue.Queue[None] = queue.Queue()

    def work() -> Done:
        """Work in three phases, the last two of one name, and go on when the client has heard of each step."""
        for total, message in ((3, "reading"), (2, "writing"), (4, "writing")):
            for done in range(1, total + 1):
                report(done, total, message)
                arrived.get(timeout=STUCK_SECONDS / 6)
        return {"steps": 9}

    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))
        arrived.put(None)

    over_mcp(lambda client: client.call_tool("work", {}, progress_callback=hear), serve(work), mode)

    assert [progress for progress, _, _ in heard] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [total for _, total, _ in heard] == [3, 3, 3, 5, 5, 9, 9, 9, 9]
    assert [message for _, _, message in heard] == ["reading"] * 3 + ["writing"] * 6


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_asks_for_no_progress_gets_its_result(mode: str) -> None:
    def work() -> Done:
        """Report to nobody."""
        report(1, 1, "working")
        return {"steps": 1}

    assert call("work", {}, serve(work), mode).structured_content == {"steps": 1}


@pytest.mark.parametrize("mode", MODES)
def test_calls_at_once_run_one_after_another_off_the_event_loop(mode: str) -> None:
    running: list[int] = []
    threads: list[threading.Thread] = []
    overlaps: list[int] = []

    def enter(steps: int) -> Done:
        running.append(steps)
        threads.append(threading.current_thread())
        # As long as another call would need to come in.
        time.sleep(0.02)
        overlaps.append(len(running))
        running.remove(steps)
        return {"steps": steps}

    def first(steps: Annotated[int, Field(description="Returned.")]) -> Done:
        """Work for a moment."""
        return enter(steps)

    def second(steps: Annotated[int, Field(description="Returned.")]) -> Done:
        """Work for a moment as well."""
        return enter(steps)

    answers: dict[int, int] = {}

    async def use(client: Client) -> None:
        async def ask(name: str, steps: int) -> None:
            answers[steps] = (await client.call_tool(name, {"steps": steps})).structured_content["steps"]

        async with anyio.create_task_group() as group:
            for steps in range(6):
                group.start_soon(ask, ("first", "second")[steps % 2], steps)

    over_mcp(use, serve(first, second), mode)

    assert answers == {steps: steps for steps in range(6)}
    assert overlaps == [1] * 6
    assert threading.main_thread() not in threads


# Progress, cancellation and turns with a real model


@pytest.mark.parametrize("mode", MODES)
def test_a_long_generation_reports_its_steps(mode: str, endless_session: Session, endless_model: Any) -> None:
    passes = count_passes(endless_model)
    heard: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total))
        assert message == "generating tokens"

    async def use(client: Client) -> Any:
        arguments = {"prompts": ["keke"], "max_new_tokens": 200}
        return await client.call_tool("generate", arguments, progress_callback=hear)

    result = over_mcp(use, mode=mode)

    assert result.structured_content["ended"] == [False]
    assert len(passes) == 200
    assert len(heard) >= 2
    assert all(before[0] < after[0] for before, after in itertools.pairwise(heard))
    assert all(0 < progress <= total == 200 for progress, total in heard)


@pytest.mark.parametrize("mode", MODES)
def test_a_cancelled_comparison_stops_soon_and_leaves_everything_as_it_was(
    mode: str, endless_session: Session, endless_model: Any
) -> None:
    short, wanted = {"prompts": PROMPTS, "max_new_tokens": 8}, 5_000
    tools.create_steering_vector(**CREATE)
    unsteered = tools.generate(**short)["texts"]
    applied = tools.apply_steering_vector("v.safetensors", strength=2)
    steered = tools.generate(**short)["texts"]
    assert steered != unsteered
    live = endless_model(torch.tensor([[1, 7, 9]])).logits
    passes = count_passes(endless_model)

    async def use(client: Client) -> tuple[list[int], Any, Any, Any]:
        with anyio.CancelScope() as scope:

            async def cancel(*_: object) -> None:
                scope.cancel()

            await client.call_tool(
                "compare_generations",
                {"prompts": PROMPTS, "vector_path": "v.safetensors", "strengths": [-1, 1], "max_new_tokens": wanted},
                progress_callback=cancel,
            )
        assert scope.cancelled_caught
        status = await client.call_tool("steering_status", {})
        counts = [len(passes)]
        compared = await client.call_tool("compare_generations", short)
        counts.append(len(passes))
        return counts, status, compared, await client.call_tool("check_steering", {"max_new_tokens": 2})

    (stopped_after, after_next), status, compared, checked = over_mcp(use, mode=mode)

    assert 0 < stopped_after < wanted / 4
    # 8 steps, 3 to try whether caches can be shared, and for each of 4 prompts its cache and a batch that shares it:
    # nothing of the cancelled call went on beside them.
    assert after_next - stopped_after <= 19
    assert status.structured_content["in_force"]
    assert [entry["steering_id"] for entry in status.structured_content["applied"]] == [applied["steering_id"]]
    assert compared.structured_content["baseline"]["texts"] == unsteered
    assert compared.structured_content["variants"][0]["texts"] == steered
    assert checked.structured_content["passed"]
    assert torch.equal(endless_model(torch.tensor([[1, 7, 9]])).logits, live)


@pytest.mark.parametrize("mode", MODES)
def test_a_call_cancelled_while_it_waits_for_its_turn_never_starts(
    mode: str, endless_session: Session, endless_model: Any
) -> None:
    tools.create_steering_vector(**CREATE)

    async def use(client: Client) -> Any:
        async with anyio.create_task_group() as group:
            is_running = anyio.Event()

            async def hold() -> None:
                async def note(*_: object) -> None:
                    is_running.set()

                arguments = {"prompts": ["keke"], "max_new_tokens": 150}
                await client.call_tool("generate", arguments, progress_callback=note)

            group.start_soon(hold)
            await is_running.wait()
            with anyio.move_on_after(0.05):
                await client.call_tool("apply_steering_vector", {"vector_path": "v.safetensors"})
        return await client.call_tool("steering_status", {})

    status = over_mcp(use, mode=mode)

    assert status.structured_content["applied"] == []


@pytest.mark.parametrize("mode", MODES)
def test_the_server_answers_while_the_model_works(mode: str, endless_session: Session) -> None:
    async def use(client: Client) -> tuple[list[str], bool]:
        is_running, has_ended = anyio.Event(), False
        async with anyio.create_task_group() as group:

            async def generate() -> None:
                async def note(*_: object) -> None:
                    is_running.set()

                nonlocal has_ended
                arguments = {"prompts": ["keke"], "max_new_tokens": 5_000}
                await client.call_tool("generate", arguments, progress_callback=note)
                has_ended = True

            group.start_soon(generate)
            await is_running.wait()
            names = [tool.name for tool in (await client.list_tools()).tools]
            ended_first = has_ended
            group.cancel_scope.cancel()
        return names, ended_first

    names, ended_first = over_mcp(use, mode=mode)

    assert names == NAMES
    assert not ended_first


class WatchedLock:
    """A reentrant lock that counts how often a thread found it taken by another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.taken = self.waits = 0

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waits += 1
            self._lock.acquire()
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("mode", MODES)
def test_tools_called_at_once_never_meet_at_the_model(
    mode: str, endless_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WatchedLock()
    monkeypatch.setattr(endless_session, "lock", lock)
    texts: list[list[str]] = []

    async def use(client: Client) -> None:
        async def ask(tool: str, arguments: dict[str, Any]) -> None:
            result = await client.call_tool(tool, arguments)
            if tool == "generate":
                texts.append(result.structured_content["texts"])

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, "generate", {"prompts": PROMPTS, "max_new_tokens": 40})
                group.start_soon(ask, "steering_status", {})

    over_mcp(use, mode=mode)

    assert len(texts) == 3
    assert texts[0] == texts[1] == texts[2]
    assert lock.taken >= 6
    assert lock.waits == 0


# Loading in the background


_LISTED_IN_A_NEW_PROCESS = """
import sys, threading, anyio
from mcp import Client
from mcp_server.server import build_server

loads, loaded = [], threading.Event()

def load():
    loads.append(len(loads))
    loaded.set()

async def connect():
    async with Client(build_server(load)) as client:
        before = list(loads)
        listed = (await client.list_tools()).tools
        await anyio.to_thread.run_sync(loaded.wait)
        heavy = {"torch", "transformers", "numpy", "steer_tools.session.session"}
        return len(listed), before, loads, sorted(heavy & sys.modules.keys())

print(anyio.run(connect))
"""


def test_the_tools_are_listed_without_torch_and_only_then_is_the_model_loaded() -> None:
    command = [sys.executable, "-c", _LISTED_IN_A_NEW_PROCESS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STUCK_SECONDS * 4)

    assert ended.stdout == f"({len(TOOLS)}, [], [0], [])\n", ended.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_client_connects_before_the_model_is_loaded_and_calls_wait_for_it(
    mode: str, empty_session: Session, tokenizer: Any
) -> None:
    may_load = threading.Event()

    def load() -> None:
        assert may_load.wait(STUCK_SECONDS)
        empty_session.attach(make_model("llama"), tokenizer, "late")

    async def use(client: Client) -> tuple[int, Any]:
        listed = len((await client.list_tools()).tools)
        async with anyio.create_task_group() as group:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await client.call_tool("steering_status", {}))

            group.start_soon(ask)
            await anyio.sleep(0.05)
            assert not answers
            may_load.set()
        return listed, answers[0]

    listed, status = over_mcp(use, build_server(load), mode)

    assert listed == len(TOOLS)
    assert status.structured_content["model"]["name"] == "late"


@pytest.mark.parametrize("mode", MODES)
def test_why_the_model_could_not_be_loaded_is_the_answer_to_every_call(mode: str, empty_session: Session) -> None:
    def load() -> None:
        raise UnsupportedModelError("The disk is on fire", valid="a disk that is not", fix="Call the fire brigade")

    async def use(client: Client) -> list[Any]:
        return [await client.call_tool(name, {}) for name in ("steering_status", "check_steering", "steering_status")]

    results = over_mcp(use, build_server(load), mode)

    assert all(result.is_error for result in results)
    assert all(
        "The disk is on fire. Valid: a disk that is not. Call the fire brigade." in text_of(result)
        for result in results
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_model_is_loaded_once_for_all_clients_of_a_server(
    mode: str, empty_session: Session, tokenizer: Any
) -> None:
    loads: list[None] = []

    def load() -> None:
        loads.append(None)
        empty_session.attach(make_model("llama"), tokenizer, "once")

    server = build_server(load)

    async def connect_twice() -> list[Any]:
        results: list[Any] = []
        for _ in range(2):
            async with Client(server, mode=mode) as client:
                results.append(await client.call_tool("steering_status", {}))
        return results

    results = anyio.run(connect_twice)

    assert [result.is_error for result in results] == [False, False]
    assert len(loads) == 1


# Paths and models that a client may not reach


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    assert before
    yield
    assert content() == before


FORBIDDEN = {
    "a relative path out": "../outside/secret.safetensors",
    "a path out and in again": "../workspace/v.safetensors",
    "a path that turns round inside": "vectors/../v.safetensors",
    "an absolute path outside": "{outside}/secret.safetensors",
    "a neighbour whose name begins like the workspace's": "{workspace}-2/secret.safetensors",
    "a linked folder": "linked/secret.safetensors",
    "an absolute path through a linked folder": "{workspace}/linked/secret.safetensors",
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_no_path_outside_the_workspace_is_read_or_written(case: str, confined_session: Session) -> None:
    root = confined_session.workspace.root
    outside = root.parent / "outside"
    (root / "linked").symlink_to(outside, target_is_directory=True)
    path = FORBIDDEN[case].format(outside=outside, workspace=root)

    async def use(client: Client) -> list[Any]:
        return [
            await client.call_tool("apply_steering_vector", {"vector_path": path}),
            await client.call_tool("compare_generations", {"prompts": ["keke"], "vector_path": path}),
            await client.call_tool("create_steering_vector", {**CREATE, "save_path": path}),
        ]

    with unchanged(outside):
        results = over_mcp(use)

    for result in results:
        assert result.is_error
        assert re.search(r"lies outside the workspace|is a link or no folder", text_of(result))
        assert str(root) in text_of(result)
    assert not list(root.rglob("*.safetensors"))
    assert len(confined_session.registry) == 0


def test_a_link_to_a_file_outside_is_neither_read_nor_written_through(confined_session: Session) -> None:
    root = confined_session.workspace.root
    outside = root.parent / "outside"
    link = root / "link.safetensors"
    link.symlink_to(outside / "secret.safetensors")

    async def use(client: Client) -> tuple[Any, Any, Any]:
        return (
            await client.call_tool("apply_steering_vector", {"vector_path": "link.safetensors"}),
            await client.call_tool("steering_status", {}),
            await client.call_tool("create_steering_vector", {**CREATE, "layer": 1, "save_path": "link.safetensors"}),
        )

    with unchanged(outside):
        refused, status, _ = over_mcp(use)

    assert refused.is_error
    assert "is a link" in text_of(refused)
    assert status.structured_content["saved"] == []


def test_an_absolute_path_inside_the_workspace_is_taken(confined_session: Session) -> None:
    inside = str(confined_session.workspace.root / "vectors" / "v.safetensors")

    async def use(client: Client) -> tuple[Any, Any]:
        return (
            await client.call_tool("create_steering_vector", {**CREATE, "save_path": inside}),
            await client.call_tool("apply_steering_vector", {"vector_path": inside}),
        )

    created, applied = over_mcp(use)

    assert created.structured_content["vector_path"] == inside
    assert applied.structured_content["active"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_only_allowed_models_are_loaded_and_the_refusal_names_them(
    mode: str, llama_session: Session, model_folder: Path
) -> None:
    allowed, other = str(model_folder), str(model_folder.parent / "endless" / ".." / "endless")
    llama_session.allowed_models = (allowed, "some/model")

    async def use(client: Client) -> list[Any]:
        return [
            await client.call_tool("load_model", {"name_or_path": other}),
            await client.call_tool("steering_status", {}),
            await client.call_tool("load_model", {"name_or_path": allowed}),
            await client.call_tool("steering_status", {}),
        ]

    refused, before, loaded, after = over_mcp(use, mode=mode)

    assert refused.is_error
    assert repr(other) in text_of(refused)
    assert all(repr(name) in text_of(refused) for name in (allowed, "some/model"))
    assert before.structured_content["model"]["name"] == "tiny"
    assert not loaded.is_error
    assert after.structured_content["model"]["name"] == allowed


# Over stdio

LOUD_SITE = """
    import sys

    class Loud:
        '''Prints whenever one of these modules is about to be imported.'''

        def find_spec(self, name, path=None, target=None):
            if name in {"torch", "transformers.models.llama.modeling_llama"}:
                print("LOUD", name)
                __import__("os").write(1, b"RAW\\n")

    sys.meta_path.insert(0, Loud())
"""


def environment(*folders: Path) -> dict[str, str]:
    """Return the variables of a server that has this package and `folders` on its path, and no network."""
    path = [*folders, Path(mcp_server.__file__).parents[1]]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1"}


def request(request_id: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


INITIALIZE = request(
    0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "by hand", "version": "0"}
)
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@dataclass(frozen=True)
class Conversation:
    """What a server wrote until it ended."""

    lines: list[str]
    errors: str
    exit_code: int

    def answers(self) -> dict[int, dict[str, Any]]:
        return {message["id"]: message for message in map(json.loads, self.lines) if "id" in message}


def converse(
    arguments: list[str], requests: list[dict[str, Any]], until: str, errors: Path, env: dict[str, str]
) -> Conversation:
    """Send `requests`, and close stdin when a line with `until` has come."""
    with errors.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=env,
        )
    guard = threading.Timer(STUCK_SECONDS, process.kill)
    guard.start()
    try:
        process.stdin.write("".join(json.dumps(message) + "\n" for message in requests))
        process.stdin.flush()
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if until in line:
                break
        rest, _ = process.communicate()
    finally:
        guard.cancel()
    return Conversation([*lines, *rest.splitlines()], errors.read_text(encoding="utf-8"), process.returncode)


@pytest.fixture(scope="module")
def cut_conversation(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """A conversation with a server whose imports print, cut in the middle of a generation of many minutes."""
    folder = tmp_path_factory.mktemp("stdio")
    (folder / "sitecustomize.py").write_text(textwrap.dedent(LOUD_SITE), encoding="utf-8")
    # Ten batches of 8,000 steps.
    endless = {"prompts": ["keke"] * 80, "max_new_tokens": 8_000}
    return converse(
        ["--model", str(model_folder), "--workspace", str(folder / "workspace of clients")],
        [
            INITIALIZE,
            INITIALIZED,
            request(1, "tools/call", name="steering_status", arguments={}),
            request(2, "tools/call", name="load_model", arguments={"name_or_path": "some/model"}),
            request(3, "tools/call", name="apply_steering_vector", arguments={"vector_path": "/etc/passwd"}),
            request(4, "tools/call", name="generate", arguments=endless, _meta={"progressToken": 7}),
        ],
        "notifications/progress",
        folder / "stderr",
        environment(folder),
    )


def test_every_line_on_stdout_is_a_message_though_imports_and_loading_print(cut_conversation: Conversation) -> None:
    # The printing did take place, while importing and while loading.
    assert "LOUD torch\n" in cut_conversation.errors
    assert "LOUD transformers.models.llama.modeling_llama\n" in cut_conversation.errors
    assert [json.loads(line)["jsonrpc"] for line in cut_conversation.lines] == ["2.0"] * len(cut_conversation.lines)


def test_a_client_that_writes_json_by_hand_is_served(cut_conversation: Conversation, model_folder: Path) -> None:
    results = {key: answer["result"] for key, answer in cut_conversation.answers().items() if "result" in answer}

    assert results[0]["serverInfo"]["name"] == "steer-tools"
    assert results[1]["structuredContent"]["model"]["name"] == str(model_folder)
    assert any(json.loads(line).get("params", {}).get("progressToken") == 7 for line in cut_conversation.lines)


def test_the_command_line_says_which_models_and_paths_may_be_reached(
    cut_conversation: Conversation, model_folder: Path
) -> None:
    status, refused_model, refused_path = (cut_conversation.answers()[key]["result"] for key in (1, 2, 3))

    workspace = status["structuredContent"]["workspace"]
    assert Path(workspace).name == "workspace of clients"
    assert refused_model["isError"]
    assert repr(str(model_folder)) in refused_model["content"][0]["text"]
    assert refused_path["isError"]
    assert workspace in refused_path["content"][0]["text"]


def test_the_process_ends_when_stdin_closes_also_in_the_middle_of_a_generation(cut_conversation: Conversation) -> None:
    assert cut_conversation.exit_code == 0
    assert "result" not in cut_conversation.answers().get(4, {})
    assert "Traceback" not in cut_conversation.errors


@pytest.mark.parametrize("mode", ["auto", pytest.param("legacy", marks=pytest.mark.slow)])
def test_clients_of_both_eras_connect_over_stdio_and_the_first_call_says_that_there_is_no_such_model(
    mode: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing")
    arguments = ["-m", "mcp_server", "--model", missing, "--workspace", str(tmp_path / "workspace")]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environment())

    async def use() -> tuple[list[str], Any, Any]:
        with (tmp_path / "stderr").open("w", encoding="utf-8") as errors:
            async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
                names = [tool.name for tool in (await client.list_tools()).tools]
                misspelled = await client.call_tool("generate", {"prompt": "keke"})
                return names, misspelled, await client.call_tool("steering_status", {})

    names, misspelled, status = anyio.run(use)

    assert names == NAMES
    assert "prompt: " in text_of(misspelled)
    assert status.is_error
    assert f"The model {missing!r} cannot be loaded" in text_of(status)


def test_an_option_that_it_does_not_have_is_a_usage_error_on_stderr() -> None:
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=False, env=environment())

    ended = run([sys.executable, "-m", "mcp_server", "--modle", "bundled"], timeout=STUCK_SECONDS)

    assert ended.returncode == 2
    assert "usage:" in ended.stderr
    assert "--modle" in ended.stderr.splitlines()[-1]
    assert ended.stdout == ""


# Only verified vectors


def test_where_only_verified_vectors_are_applied_a_client_is_told_how_and_sees_the_badge(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_TOOLS_REQUIRE_VERIFIED", "1")
    tools.create_steering_vector(**CREATE)
    proved = certified_file(llama_session)

    async def use(client: Client) -> list[Any]:
        asked = [
            ("apply_steering_vector", {"vector_path": "v.safetensors"}),
            ("apply_steering_vector", {"vector_path": proved, "strength": 0.5}),
            ("apply_steering_vector", {"vector_path": proved}),
            ("update_steering_vector", {"steering_id": "steer-1", "strength": 0.5}),
            ("steering_status", {}),
        ]
        return [await client.call_tool(name, arguments) for name, arguments in asked]

    bare, stronger, applied, updated, status = over_mcp(use)

    assert [own.is_error for own in (bare, stronger, applied, updated)] == [True, True, False, True]
    assert "it has no certificate" in text_of(bare)
    assert all("steering_experiment" in text_of(own) for own in (bare, stronger, updated))
    (entry,) = status.structured_content["applied"]
    assert entry["badge"] == "verified: works, +0.62 (0.48 to 0.75), 0 of 19 controls"


@pytest.mark.slow
def test_a_server_can_be_started_so_that_it_applies_only_verified_vectors(model_folder: Path, tmp_path: Path) -> None:
    arguments = ["-m", "mcp_server", "--model", str(model_folder), "--workspace", str(tmp_path), "--require-verified"]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environment())

    async def use() -> Any:
        with (tmp_path / "stderr").open("w", encoding="utf-8") as errors:
            async with Client(stdio_client(parameters, errlog=errors)) as client:
                await client.call_tool("create_steering_vector", CREATE)
                return await client.call_tool("apply_steering_vector", {"vector_path": "v.safetensors"})

    refused = anyio.run(use)

    assert refused.is_error
    assert "--require-verified" in text_of(refused)


# What once slipped through


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("apply_steering_vector", {"strength": 1.7e308}),
        ("apply_steering_vector", {"strength": 1e39}),
        ("compare_generations", {"prompts": ["keke"], "strengths": [1.7e308]}),
    ],
)
def test_a_strength_that_overflows_is_refused_and_nothing_is_applied(
    name: str, arguments: dict[str, Any], llama_session: Session
) -> None:
    path = tools.create_steering_vector(**CREATE)["vector_path"]

    result = call(name, {"vector_path": path, **arguments})

    assert result.is_error
    assert "strength" in text_of(result)
    assert len(llama_session.registry) == 0


@pytest.mark.parametrize(
    ("argument", "value"), [("layer", True), ("strength", True), ("allow_other_model", 1), ("strength", "2")]
)
def test_a_value_of_another_json_type_is_refused(argument: str, value: Any, llama_session: Session) -> None:
    path = tools.create_steering_vector(**CREATE)["vector_path"]

    result = call("apply_steering_vector", {"vector_path": path, argument: value})

    assert result.is_error
    assert f"{argument}: " in text_of(result)


def test_an_item_of_the_wrong_type_is_named_by_its_place(llama_session: Session) -> None:
    assert "prompts[1]" in text_of(call("generate", {"prompts": ["keke", {"text": "keke"}]}))


def test_a_tool_without_arguments_says_that_it_takes_none(llama_session: Session) -> None:
    assert "Valid: none" in text_of(call("steering_status", {"verbose": True}))


def test_half_a_surrogate_pair_is_explained(llama_session: Session) -> None:
    assert "prompts[0]" in text_of(call("generate", {"prompts": ["keke \ud800"], "max_new_tokens": 1}))


@pytest.mark.parametrize(
    ("name", "key"), [("apply_steering_vector", "vector_path"), ("create_steering_vector", "save_path")]
)
def test_a_file_name_that_is_too_long_is_explained(name: str, key: str, llama_session: Session) -> None:
    arguments = {**(CREATE if name.startswith("create") else {}), key: "x" * 300}

    assert "x" * 300 in text_of(call(name, arguments))


def test_a_damaged_checkpoint_is_explained_and_another_model_can_be_loaded(
    empty_session: Session, tmp_path: Path
) -> None:
    for name in ("damaged", "whole"):
        make_model("llama").save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"abc")

    async def use(client: Client) -> list[Any]:
        return [
            await client.call_tool("steering_status", {}),
            await client.call_tool("load_model", {"name_or_path": str(tmp_path / "whole")}),
            await client.call_tool("steering_status", {}),
        ]

    server = build_server(lambda: empty_session.load(str(tmp_path / "damaged"), "huggingface", "auto", None))
    first, loaded, second = over_mcp(use, server)

    assert "cannot be loaded" in text_of(first)
    assert not loaded.is_error
    assert second.structured_content["model"]["name"] == str(tmp_path / "whole")


def test_a_call_that_waits_for_the_model_can_be_cancelled(empty_session: Session) -> None:
    may_load = threading.Event()

    async def use(client: Client) -> bool:
        with anyio.move_on_after(0.1):
            await client.call_tool("steering_status", {})
        # Were it not cancelled, the call would end only after the model is there.
        return may_load.is_set()

    timer = threading.Timer(20, may_load.set)
    timer.start()
    had_to_wait = over_mcp(use, build_server(lambda: may_load.wait(60)))
    timer.cancel()
    may_load.set()

    assert not had_to_wait
