"""Four clients over stdio and four threads in one process, with mixed calls: `python benchmarks/soak.py`, an hour.

Every stdio client has a server of its own; the threads share one session and get into each other's way. Written down
are each process's memory (its slope after a sixth of the time), each call's latencies, and what went otherwise than it
should: a call that should be refused and was not, one that should not and was, an exception that is none of ours, and a
status that does not agree with what the client has applied. Result: `soak.md`.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import psutil
from mcp import Client, StdioServerParameters, stdio_client

from steer_tools import tools
from steer_tools.bundled_model.language import contrast_pairs, held_out_prompts
from steer_tools.errors import SteeringError
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

HERE = Path(__file__).parent
CLIENTS = THREADS = 4
TRAITS = ("sentiment", "formality")
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("apply_steering_vector", {"vector_path": "missing.safetensors"}),
    ("apply_steering_vector", {"vector_path": "../../etc/passwd"}),
    ("generate", {"prompts": []}),
    ("update_steering_vector", {"steering_id": "steer-999999", "strength": 1.0}),
    ("create_steering_vector", {"positive_prompts": ["a"], "negative_prompts": ["b"], "layer": 99}),
]


@dataclass
class Tally:
    """What one client saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


def script(seed: int, vector: str) -> Iterator[tuple[str, dict[str, Any], bool | None]]:
    """Yield without end (tool, arguments, whether it should be refused; None: it may be), first what makes a vector."""
    choose = random.Random(seed)
    pairs = contrast_pairs(TRAITS[seed % 2], 24, seed)
    prompts = held_out_prompts(TRAITS[seed % 2], 16, seed)
    chats = [[*chat, {"role": "assistant", "content": reply}] for chat, reply, _ in pairs]
    others = [[*chat, {"role": "assistant", "content": reply}] for chat, _, reply in pairs]
    make = {"positive_prompts": chats, "negative_prompts": others, "layer": 3, "save_path": vector}
    yield "create_steering_vector", make, False
    while True:
        some = choose.sample(prompts, choose.randint(1, 4))
        calls: list[tuple[int, str, dict[str, Any]]] = [
            (20, "generate", {"prompts": some, "max_new_tokens": choose.randint(4, 24)}),
            (10, "compare_generations", {"prompts": some, "vector_path": vector, "strengths": [-1, 1]}),
            (10, "compare_next_tokens", {"prompts": some[:1], "vector_path": vector}),
            (15, "apply_steering_vector", {"vector_path": vector, "strength": choose.choice([-1.0, 0.5, 1.0])}),
            (10, "remove_all_steering_vectors", {}),
            (10, "steering_status", {}),
            (8, "show_tokens", {"prompts": some}),
            (3, "create_steering_vector", make),
            (3, "check_steering", {"prompts": some[:1]}),
            (2, "analyze_steering_vector", {"vector_path": vector, "layer": 3}),
            (1, "sweep_steering", {"vector_path": vector, "behavior_name": TRAITS[seed % 2], "layers": [3]}),
        ]
        if choose.random() < 0.1:
            yield *choose.choice(REFUSED), True
        else:
            _, tool, arguments = choose.choices(calls, [weight for weight, _, _ in calls])[0]
            # Where nothing is applied there is nothing to check.
            yield tool, arguments, None if tool == "check_steering" else False


async def talk(seed: int, root: Path, until: float, pause: float, tally: Tally) -> None:
    """Be one client over stdio until the time comes."""
    arguments = ["-m", "mcp_server", "--workspace", str(root / f"client-{seed}")]
    choose, applied = random.Random(-seed), 0
    with (root / f"client-{seed}.log").open("w", encoding="utf-8") as errors:
        async with Client(
            stdio_client(
                StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ)), errlog=errors
            )
        ) as client:
            for tool, given, should_be_refused in script(seed, "v.safetensors"):
                if time.monotonic() > until:
                    return
                began = time.perf_counter()
                answer = await client.call_tool(tool, given)
                tally.seconds[tool].append(time.perf_counter() - began)
                tally.refused += bool(answer.is_error)
                if should_be_refused in (True, False) and bool(answer.is_error) != should_be_refused:
                    verb = "was" if answer.is_error else "was not"
                    tally.wrong[f"{tool} {verb} refused: {str(answer.content)[:200]}"] += 1
                elif not answer.is_error:
                    applied = (
                        applied + (tool == "apply_steering_vector") if tool != "remove_all_steering_vectors" else 0
                    )
                    if tool == "steering_status" and len(answer.structured_content["applied"]) != applied:
                        tally.wrong["the status does not agree with what is applied"] += 1
                await anyio.sleep(choose.uniform(0.5, 1.5) * pause)


def work(pipe: Connection, root: str, seconds: float, pause: float) -> None:
    """Be a process whose threads share one session, and send what they saw."""
    current_session().workspace = Workspace(root)
    tools.load_model("bundled")
    until, tallies = time.monotonic() + seconds, [Tally() for _ in range(THREADS)]

    def run(seed: int, tally: Tally) -> None:
        choose = random.Random(-seed)
        for tool, given, should_be_refused in script(seed, f"v{seed}.safetensors"):
            if time.monotonic() > until:
                return
            began, refused = time.perf_counter(), False
            try:
                getattr(tools, tool)(**given)
            except SteeringError as error:
                refused = True
                if should_be_refused is False:
                    tally.wrong[f"{tool} was refused: {str(error)[:160]}"] += 1
            except Exception as error:  # noqa: BLE001  # What is looked for: it is written down.
                tally.wrong[f"{tool} raised {type(error).__name__}: {str(error)[:160]}"] += 1
                refused = True
            tally.seconds[tool].append(time.perf_counter() - began)
            tally.refused += refused
            if should_be_refused and not refused:
                tally.wrong[f"{tool} was not refused"] += 1
            time.sleep(choose.uniform(0.5, 1.5) * pause)

    threads = [threading.Thread(target=run, args=(10 + at, tally)) for at, tally in enumerate(tallies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send([(dict(tally.seconds), tally.refused, tally.wrong) for tally in tallies])


async def watch(until: float, memory: dict[str, list[tuple[float, float]]]) -> None:
    """Note each process's memory in MB while it runs."""
    began = time.monotonic()
    while time.monotonic() < until:
        for child in psutil.Process().children():
            words = child.cmdline()
            name = "in process" if "mcp_server" not in words else f"server of {Path(words[-1]).name}"
            if "resource_tracker" not in " ".join(words):
                memory[name].append((time.monotonic() - began, child.memory_info().rss / 1e6))
        await anyio.sleep(10)


async def soak(minutes: float, pause: float, root: Path) -> tuple[list[Tally], dict[str, list[tuple[float, float]]]]:
    """Run them all."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs, str(root / "threads"), 60 * minutes, pause))
    worker.start()
    until = time.monotonic() + 60 * minutes
    tallies, memory = [Tally() for _ in range(CLIENTS)], defaultdict[str, list[tuple[float, float]]](list)
    async with anyio.create_task_group() as group:
        group.start_soon(watch, until, memory)
        for at, tally in enumerate(tallies):
            group.start_soon(talk, at, root, until, pause, tally)
    for seconds, refused, wrong in await anyio.to_thread.run_sync(ours.recv):
        tallies.append(Tally(defaultdict(list, seconds), refused, wrong))
    worker.join()
    return tallies, memory


def page(minutes: float, pause: float, tallies: list[Tally], memory: dict[str, list[tuple[float, float]]]) -> str:
    """Return what was seen."""
    lines = [
        f"{minutes:g} minutes, {CLIENTS} clients over stdio, {THREADS} threads in one process, {pause:g} s between."
    ]
    calls, refused = sum(len(s) for t in tallies for s in t.seconds.values()), sum(t.refused for t in tallies)
    wrong = sum((tally.wrong for tally in tallies), Counter[str]())
    lines += ["", f"{calls:,} calls, {refused:,} of them refused, {sum(wrong.values())} otherwise than they should."]
    lines += [f"- {count}: {what}" for what, count in wrong.most_common()]
    lines += [
        "",
        "| process | MB after a sixth of the time | at the end | MB an hour since | ± |",
        "|---|---|---|---|---|",
    ]
    for name, points in sorted(memory.items()):
        late = np.array([point for point in points if point[0] > 10 * minutes])
        (slope, _), covariance = np.polyfit(late[:, 0] / 3600, late[:, 1], 1, cov=True)
        first, last = late[0, 1], late[-1, 1]
        lines.append(f"| {name} | {first:.0f} | {last:.0f} | {slope:+.1f} | {1.96 * covariance[0, 0] ** 0.5:.1f} |")
    for title, part in (("over stdio", tallies[:CLIENTS]), ("in process", tallies[CLIENTS:])):
        lines += ["", f"| {title} | calls | median s | 95 % | most |", "|---|---|---|---|---|"]
        for tool in sorted({tool for tally in part for tool in tally.seconds}):
            seconds = np.array([second for tally in part for second in tally.seconds[tool]])
            middle, most = np.quantile(seconds, [0.5, 0.95])
            lines.append(f"| {tool} | {len(seconds)} | {middle:.2f} | {most:.2f} | {seconds.max():.2f} |")
    return "\n".join(["# Soak", "", *lines, ""])


def main() -> None:
    """Run it and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=1, help="seconds between a client's calls, on average")
    parser.add_argument("--output", type=Path, default=HERE / "soak.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        tallies, memory = anyio.run(soak, given.minutes, given.pause, Path(root))
    text = page(given.minutes, given.pause, tallies, memory)
    given.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
