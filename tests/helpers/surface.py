"""Everything that users call by name: commands with their options, tools with their schemas, read from the objects.

`python -m helpers.surface`, run in tests/, prints it as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

import anyio
import typer
from mcp import Client

from mcp_server.__main__ import main as serve
from mcp_server.server import build_server
from steer_tools.cli.app import app


def surface() -> dict[str, Any]:
    """Return every fact of the commands and their parameters, the server's options, and the tools and their schemas.

    Each is a leaf by its path, such as "tools/generate/title".
    """
    whole = {
        "commands": dict(_commands(typer.main.get_command(app), ())),
        "server_options": _server_options(),
        "tools": anyio.run(_tools),
    }
    return _flattened(whole, "")


def _flattened(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves.update(_flattened(inner, f"{path}/{key}" if path else key))
    return leaves


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(inner, (*path, name))
    yield (
        " ".join(path),
        {
            "help": command.help,
            "parameters": {parameter.opts[0]: _parameter(parameter) for parameter in command.params},
        },
    )


def _parameter(parameter: Any) -> dict[str, Any]:
    kind = parameter.type_descriptor.annotation
    return {
        "names": [*parameter.opts, *parameter.secondary_opts],
        "type": str(getattr(kind, "__name__", kind) if not get_args(kind) else kind),
        "min": parameter.min,
        "default": parameter.default,
        "required": parameter.required,
        "is_several": parameter.multiple or parameter.nargs != 1,
        "is_flag": getattr(parameter, "is_flag", False),
    }


def _server_options() -> dict[str, str]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        serve(["--help"])
    options = told.getvalue().split("options:")[1]
    return {line.split()[0]: " ".join(line.split("  ")[0].split()) for line in re.findall(r"--.*", options)}


async def _tools() -> dict[str, Any]:
    async with Client(build_server()) as client:
        listed = await client.list_tools()
    return {
        tool.name: {
            key: value
            for key, value in tool.model_dump(mode="json", exclude_none=True).items()
            if key not in {"name", "meta", "icons", "_meta"}
        }
        for tool in listed.tools
    }


if __name__ == "__main__":
    json.dump(surface(), sys.stdout, indent=0, ensure_ascii=False, sort_keys=True)
