"""Hostile arguments as a table, and what each gets in Python, on the command line and over MCP.

`python -m helpers.hostile_arguments`, run in tests/, writes what they get to data/hostile_arguments.json, of which the
manual's page is made; a test holds each row to it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import torch
from mcp import Client, MCPError
from transformers.utils.logging import disable_progress_bar

import steer_tools
from helpers.hostile_values import OddNumber, OddText, Unwritten, holding_itself, nested
from helpers.small_models import NEGATIVE, POSITIVE, WIDTH, make_model, make_tokenizer
from mcp_server.server import build_server
from steer_tools.cli import main
from steer_tools.errors import SteeringError, quoted
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

TABLE = Path(__file__).parent.parent / "data" / "hostile_arguments.json"
ANSWERED = "answers"
# Written and marked so where a face has no way to say it.
UNSAYABLE = "cannot be said"


@dataclass(frozen=True)
class Row:
    """A call: `typed` is its command, None where it has none; over MCP it has the same arguments unless JSON has none.

    `arguments` may be what makes them, for those that are used up.
    """

    about: str
    tool: str
    arguments: dict[str, Any] | Callable[[], dict[str, Any]]
    typed: Sequence[str] | None = None
    is_json: bool = True

    def given(self) -> dict[str, Any]:
        """Return the arguments, made anew."""
        return self.arguments() if callable(self.arguments) else self.arguments


@dataclass(frozen=True)
class Got:
    """What a call got: the text, whether it was refused, seconds of the processor, and the session as it was then."""

    text: str
    is_refused: bool
    seconds: float
    status: Any = None


def _applied(about: str, typed: Sequence[str] | None = None, *, is_json: bool = True, **arguments: Any) -> Row:
    """A vector on the live model; on the command line it acts while a text is written."""
    words = typed and ["generate", "keke", "--max-new-tokens", "1", *([] if "--vector" in typed else ["--vector", "v"])]
    return Row(about, "apply_steering_vector", {"vector_path": "v"} | arguments, words and [*words, *typed], is_json)


def _read(about: str, path: Any, *, is_json: bool = True) -> Row:
    """A vector of a path, or of something else in its place."""
    typed = ["--vector", path] if type(path) is str and "\0" not in path and len(path) < 10**5 else None
    return _applied(about, typed, is_json=is_json, vector_path=path)


def _created(about: str, typed: Sequence[str] | None = None, *, is_json: bool = True, **arguments: Any) -> Row:
    sides = ["--positive", "keke baba", "--negative", "keke zuzu"]
    usual = [] if typed and "--layer" in typed else ["--layer", "1"]
    saved = [] if typed and "--save" in typed else ["--save", "made"]
    common = {"positive_prompts": POSITIVE, "negative_prompts": NEGATIVE, "layer": 1, "save_path": "made"}
    words = typed and ["create", *([] if "--positive" in typed else sides), *usual, *saved, *typed]
    return Row(about, "create_steering_vector", common | arguments, words, is_json)


def _written(about: str, typed: Sequence[str] | None = None, *, is_json: bool = True, **arguments: Any) -> Row:
    words = typed and ["generate", *([] if arguments.get("prompts") else ["keke"]), *typed]
    return Row(about, "generate", {"prompts": ["keke"], "max_new_tokens": 1} | arguments, words, is_json)


_LARGE = "1" + "0" * 400
_THREE, _NAN = torch.ones(3), torch.full((WIDTH,), math.nan)

HOSTILE: tuple[Row, ...] = (
    # Numbers.
    _applied("a strength that is not a number", ["--strength", "nan"], is_json=False, strength=math.nan),
    _applied("an infinite strength", ["--strength", "-inf"], is_json=False, strength=-math.inf),
    _applied("a strength of 401 digits", ["--strength", _LARGE], strength=int(_LARGE)),
    _applied("a text for a number", ["--strength", "one"], strength="one"),
    _applied("true for a number", None, strength=True),
    _applied("a complex number", None, strength=1j, is_json=False),
    _applied("a tensor of three numbers for one", None, strength=_THREE, is_json=False),
    _applied("a NumPy number that is not a number", None, strength=np.float32("nan"), is_json=False),
    _applied("a number that cannot be compared or written", None, layer=OddNumber(99), is_json=False),
    _applied("a text among layer weights", ["--layer-weight", "x"], layer_weights=["x"]),
    _applied("too many layer weights", ["--layer-weight", "1", "--layer-weight", "2"], layer_weights=[1.0, 2.0]),
    # Layers.
    _applied("a layer that the model lacks", ["--layer", "99"], layer=99),
    _applied("a layer far below 0", ["--layer", "-99"], layer=-99),
    _applied("a layer of 64 bits", ["--layer", str(2**63)], layer=2**63),
    _applied("half a layer", ["--layer", "1.5"], layer=1.5),
    _applied("true for a layer", None, layer=[True]),
    _applied("no layer", None, layer=[]),
    _applied("a list of a list of layers", None, layer=[1, [2]]),
    _applied("10**30 layers", None, layer=range(10**30), is_json=False),
    _applied("a mapping for layers", None, layer={"1": "x"}),
    # Words.
    _applied("an unknown word", ["--unit", "yards"], unit="yards"),
    _applied("a word of hidden letters", ["--intervention", "add\u202e"], intervention="add\u202e"),
    _applied("a slice that takes nothing", ["--positions", "5:3"], positions="5:3"),
    _applied("escape codes in positions", ["--positions", "\x1b[31m"], positions="\x1b[31m"),
    _applied("a text for true or false", None, allow_other_model="yes"),
    _applied("a word of 10 MB", None, unit="x" * 10**7),
    _applied("an unknown argument", ["--nothing", "1"], nothing=1),
    _applied("an argument with a name of 10 MB", None, **{"x" * 10**7: 1}),
    Row(
        "a behaviour with a name of 10 MB",
        "sweep_steering",
        {"vector_path": "v", "behavior_name": "x" * 10**7},
    ),
    Row("nothing that is needed", "combine_steering_vectors", {}, ["combine"]),
    # Conditions.
    _applied("a condition of a megabyte", None, condition="v " * 500_000),
    _applied("a condition of 500 parentheses", ["--condition", "(" * 500 + "v" + ")" * 500], condition="(" * 500 + "v"),
    _applied("a condition of 33 files", ["--condition", " and ".join("v" * 33)], condition=" and ".join("v" * 33)),
    _applied("a quotation mark without its other", ["--condition", "'v"], condition="'v"),
    # Paths.
    _read("a path out of the workspace", "../../etc/passwd"),
    _read("an absolute path", "/proc/nothing"),
    _read("the home of another user", "~root/v"),
    _read("a link to a device without an end", "device.safetensors"),
    _read("a link that leads out", "link.safetensors"),
    _read("a pipe that nobody writes to", "pipe.safetensors"),
    _read("a folder", "."),
    _read("an empty file", "empty.safetensors"),
    _read("no name", ""),
    _read("a NUL in a path", "a\0b"),
    _read("half a surrogate pair in a path", "\ud800"),
    _read("a path that shows itself backwards", "\u202estfig.v"),
    _read("a path that clears the screen", "\x1b[2J\x1b]0;owned\x07"),
    _read("a path of 1,200 folders", "d/" * 1_200 + "x"),
    _read("a path of 10 MB", "x" * 10**7),
    _created("a path out of the workspace to write to", None, save_path="../" * 40 + "dev/null/x"),
    _created("a folder that is a device", ["--save", "/dev/full/v"], save_path="/dev/full/v"),
    # Vectors in memory.
    _read("a mapping for a path", {"a": {}}),
    _read("a tensor of another width", {1: _THREE}, is_json=False),
    _read("a tensor that is not a number", {1: _NAN}, is_json=False),
    _read("a tensor of complex numbers", {1: torch.ones(WIDTH, dtype=torch.complex64)}, is_json=False),
    _read("a tensor of three dimensions", {1: torch.ones(1, 2, WIDTH)}, is_json=False),
    _read("a tensor without memory", {1: torch.ones(WIDTH, device="meta")}, is_json=False),
    _read("a NumPy array of objects", {1: np.array([None] * WIDTH)}, is_json=False),
    _read("a list that holds itself", holding_itself(), is_json=False),
    _read("a list of 100,000 levels", nested(list), is_json=False),
    _read("a class", object, is_json=False),
    _read("a text that cannot be compared", OddText("nothing"), is_json=False),
    _read("something that cannot be written", Unwritten(), is_json=False),
    # Prompts.
    _written("a prompt of 10 MB", None, prompts=["x" * 10**7]),
    _written("100,000 prompts", None, prompts=["keke"] * 100_000),
    _written("half a surrogate pair in a prompt", ["\ud800"], prompts=["\ud800"]),
    _written("a token below 0", None, prompts=[[-1]]),
    _written("a token of another vocabulary", None, prompts=[[10**9]]),
    _written("a message without a content", None, prompts=[[{"role": "user"}]]),
    _written("a message that holds a deep list", None, prompts=[[{"role": "user", "content": nested(list, 50)}]]),
    _written("20,000 numbers for prompts", None, prompts=[0.5] * 20_000),
    _written("a mapping for a list", None, prompts={"a": 1}),
    Row("numbers from a generator", "generate", lambda: {"prompts": (n / 2 for n in range(9))}, is_json=False),
    Row("prompts without an end", "generate", lambda: {"prompts": map(str, itertools.count())}, is_json=False),
    Row(
        "pairs without an end",
        "create_steering_vector",
        lambda: {"positive_prompts": itertools.repeat(("keke", "lili")), "layer": 1},
        is_json=False,
    ),
    # Counts.
    _written("no new tokens", ["--max-new-tokens", "0"], max_new_tokens=0),
    _written("10**9 new tokens", ["--max-new-tokens", str(10**9)], max_new_tokens=10**9),
    _written("a temperature below 0", ["--temperature", "-1"], temperature=-1.0),
    _written("a temperature that is not a number", ["--temperature", "nan"], is_json=False, temperature=math.nan),
    _written("a seed of 100 bits", ["--seed", str(2**100)], seed=2**100),
    # What does not go together.
    _created("equal prompts on both sides", ["--negative", "keke", "--positive", "keke"], negative_prompts=POSITIVE),
    _created("an empty side", None, positive_prompts=[]),
    _created("a head of what has none", ["--head", "0"], head=0),
    _created("an unknown method", ["--method", "magic"], method="magic"),
    _created("an option of another method", ["--option", "steps=1"], options={"steps": 1}),
    _created("options that are a list", None, options=[1]),
    _created(
        "10**9 steps",
        ["--method", "trained", "--option", f"steps={10**9}"],
        method="trained",
        options={"steps": 10**9},
    ),
    _created(
        "one option twice", ["--method", "lat", "--option", "seed=1", "--option", "seed=2"], options={"seed": [1, 2]}
    ),
    _created("a behaviour beside two lists", ["--behavior", "sentiment"], behavior="sentiment"),
    Row(
        "100,000 strengths",
        "compare_generations",
        {"prompts": ["keke"], "vector_path": "v", "strengths": [*range(1, 100_001)], "max_new_tokens": 1},
    ),
    Row(
        "markup in the name of what is applied",
        "update_steering_vector",
        {"steering_id": "[red]x[/red]<script>\x1b[31m", "strength": 1.0},
    ),
    Row(
        "a folder that is no model",
        "load_model",
        {"name_or_path": "/proc/self"},
        ["tokens", "keke", "--model", "/proc/self"],
    ),
)
HARMLESS: tuple[Row, ...] = (
    _written("a text", ["--max-new-tokens", "1"]),
    _applied("a vector", ["--strength", "0.5", "--layer", "1"], strength=0.5, layer=1),
    _created("two lists", ["--positive", "keke baba", "--negative", "keke zuzu"]),
    Row("a prompt", "show_tokens", {"prompts": ["keke"]}, ["tokens", "keke"]),
    Row("nothing", "steering_status", {}, ["status"]),
)


class Faces:
    """A tiny model in a workspace of its own, called by all three faces."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder / "a" / "b" / "workspace", folder / "model"
        make_model("llama").save_pretrained(self.model)
        make_tokenizer().save_pretrained(self.model)
        self.folder.mkdir(parents=True)
        (self.folder / "link.safetensors").symlink_to("/etc/passwd")
        (self.folder / "device.safetensors").symlink_to("/dev/zero")
        (self.folder / "empty.safetensors").touch()
        os.mkfifo(self.folder / "pipe.safetensors")
        current_session().workspace = Workspace(self.folder)
        steer_tools.load_model(str(self.model))
        steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "v")

    def in_python(self, row: Row) -> Got:
        """Call the function of the package."""
        begun = time.process_time()
        try:
            getattr(steer_tools, row.tool)(**row.given())
        except SteeringError as error:
            return self._got(f"{type(error).__name__}: {error}", begun)
        return self._got("", begun)

    def typed(self, row: Row) -> Got:
        """Run the command in this process."""
        if row.typed is None:
            return Got(UNSAYABLE, True, 0)
        command, *rest = row.typed
        needs_model = command not in ("combine", "status") and "--model" not in rest
        bench = ["--workspace", str(self.folder), *(["--model", str(self.model)] if needs_model else [])]
        out, err, begun = io.StringIO(), io.StringIO(), time.process_time()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([command, *bench, *rest])
        # Typer tells wrong usage in a box, below how the command is used.
        said = " ".join(re.sub("[╭╮╰╯─│]", " ", err.getvalue().rpartition("─ Error ─")[2]).split())
        return self._got(f"exit status {code}: {said}" if code else "", begun)

    def over_mcp(self, rows: Sequence[Row]) -> list[Got]:
        """Call them as a client does, one after the other, in a workspace that nothing leads out of."""

        async def called() -> list[Got]:
            async with Client(build_server()) as client:
                return [await self._asked(client, row) for row in rows]

        session = current_session()
        session.workspace = Workspace(self.folder, is_confined=True)
        try:
            return anyio.run(called)
        finally:
            session.workspace = Workspace(self.folder)

    async def _asked(self, client: Client, row: Row) -> Got:
        if not row.is_json:
            return Got(UNSAYABLE, True, 0)
        begun = time.process_time()
        try:
            result: Any = await client.call_tool(row.tool, row.given())
        except (MCPError, UnicodeError) as error:
            return self._got(f"{type(error).__name__}: {error}", begun)
        return self._got(result.content[0].text if result.is_error else "", begun)

    def _got(self, refusal: str, begun: float) -> Got:
        seconds = time.process_time() - begun
        return Got(self._lasting(refusal) or ANSWERED, bool(refusal), seconds, steer_tools.steering_status())

    def _lasting(self, text: str) -> str:
        """Return a text without what another run has otherwise."""
        for folder, name in (
            (self.folder, "WORKSPACE"),
            (self.model, "MODEL"),
            (self.folder.parent.parent, "ABOVE"),
            (Path("~root").expanduser() / "v", "HOME/v"),
        ):
            text = text.replace(str(folder), name)
        return re.sub(r"0x[0-9a-f]+", "0x...", text)


def asked_of_all(faces: Faces, rows: Sequence[Row]) -> list[tuple[Got, Got, Got]]:
    """Return what each row gets in Python, on the command line and over MCP."""
    typed = [faces.typed(row) for row in rows]  # First, for each command loads the model again.
    steer_tools.load_model(str(faces.model))
    steer_tools.apply_steering_vector("v", layer=1, strength=0.5)
    return list(zip([faces.in_python(row) for row in rows], typed, faces.over_mcp(rows), strict=True))


def table_of(rows: Sequence[Row], got: Sequence[tuple[Got, Got, Got]]) -> list[dict[str, str]]:
    """Return the table as it is kept."""
    return [
        {
            "about": row.about,
            "tool": row.tool,
            "typed": quoted(" ".join(row.typed), 100) if row.typed else "",
            "python": python.text,
            "command_line": typed.text,
            "mcp": mcp.text,
        }
        for row, (python, typed, mcp) in zip(rows, got, strict=True)
    ]


if __name__ == "__main__":
    os.environ["COLUMNS"] = "200"
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as made:
        found = table_of(HOSTILE, asked_of_all(Faces(Path(made)), HOSTILE))
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
