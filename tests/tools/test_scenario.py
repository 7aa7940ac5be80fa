"""One scenario, create → apply → compare → status → check → remove, through each of the ways to use the tools."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

import steer_tools
from helpers.skill import preload
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from mcp_server.server import build_server
from steer_tools.session.session import Session

Call = Callable[..., Awaitable[Any]]
Way = Callable[[Session, Path, Callable[[Call], Awaitable[None]]], Awaitable[None]]


async def through_python(session: Session, folder: Path, scenario: Callable[[Call], Awaitable[None]]) -> None:
    session.attach(make_model("llama"), make_tokenizer())

    async def call(name: str, **arguments: Any) -> Any:
        return getattr(steer_tools, name)(**arguments)

    await scenario(call)


async def through_the_skill(session: Session, folder: Path, scenario: Callable[[Call], Awaitable[None]]) -> None:
    kernel = preload({"model": make_model("llama"), "tokenizer": make_tokenizer()})

    async def call(name: str, **arguments: Any) -> Any:
        return kernel[name](**arguments)

    await scenario(call)


def calling(client: Client) -> Call:
    async def call(name: str, **arguments: Any) -> Any:
        result = await client.call_tool(name, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    return call


async def through_mcp_in_memory(session: Session, folder: Path, scenario: Callable[[Call], Awaitable[None]]) -> None:
    session.attach(make_model("llama"), make_tokenizer())
    async with Client(build_server()) as client:
        await scenario(calling(client))


async def through_mcp_over_stdio(session: Session, folder: Path, scenario: Callable[[Call], Awaitable[None]]) -> None:
    make_model("llama").save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    command = ["-m", "mcp_server", "--model", str(folder / "model"), "--workspace", str(folder / "workspace")]
    async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
        await scenario(calling(client))


WAYS = [
    through_python,
    through_the_skill,
    through_mcp_in_memory,
    pytest.param(through_mcp_over_stdio, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_the_main_job(empty_session: Session, tmp_path: Path, way: Way, suffix: str) -> None:
    async def scenario(call: Call) -> None:
        before = await call("generate", prompts=PROMPTS, max_new_tokens=8)

        created = await call(
            "create_steering_vector",
            positive_prompts=POSITIVE,
            negative_prompts=NEGATIVE,
            layer=2,
            save_path=f"vectors/happy{suffix}",
        )
        assert created["success"]
        assert created["shape"] == [WIDTH]
        assert created["magnitude"] > 0
        assert Path(created["vector_path"]) == tmp_path / "workspace" / "vectors" / f"happy{suffix}"
        assert Path(created["vector_path"]).is_file()

        applied = await call("apply_steering_vector", vector_path=created["vector_path"], layer=2, strength=3.0)
        assert (applied["success"], applied["layer"], applied["strength"], applied["vector_shape"]) == (
            True,
            2,
            3.0,
            [WIDTH],
        )

        compared = await call("compare_generations", prompts=PROMPTS, max_new_tokens=8)
        assert compared["baseline"]["texts"] == before["texts"]
        assert compared["variants"][0]["texts"] != before["texts"]
        assert (await call("generate", prompts=PROMPTS, max_new_tokens=8))["texts"] == compared["variants"][0]["texts"]

        status = await call("steering_status")
        assert status["model"]["layer_count"] == LAYERS
        assert [entry["steering_id"] for entry in status["applied"]] == [applied["steering_id"]]
        assert [entry["vector_path"] for entry in status["saved"]] == [created["vector_path"]]
        assert status["in_force"]

        checked = await call("check_steering", prompts=PROMPTS)
        assert checked["passed"], checked

        removed = await call("remove_all_steering_vectors")
        assert removed == {"removed": 1, "active": 0}
        assert (await call("generate", prompts=PROMPTS, max_new_tokens=8)) == before

    anyio.run(way, empty_session, tmp_path, scenario)
