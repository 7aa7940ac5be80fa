"""Times works beside naive ways and the passes alone: `python benchmarks/speed.py [--only NAME] [--rounds N]`.

The ways of a work take turns in one process, and what is written down is CPU time (user and system) at one thread: the
median over the rounds of a way's cost and of its cost as a part of the first way's, with the quartiles. Before, each
way runs once, and all must have done the same. `--against CHECKOUT` lets another version of this project take part
as "before", in a process of its own; `--write` keeps the figures, in `speed.json`, `speed.md` and `speed.svg`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported.

import numpy as np
import torch
import transformers
from speed_scripts import Measured, Script
from speed_works import WORKS, Way, work_named

HERE = Path(__file__).parent
FIGURES, PEERS = HERE / "speed.json", HERE / "speed_peers.json"


def main() -> int:
    """Time what is asked for, print it, and tell by the exit status whether all is as wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=WORKS, default=list(WORKS), metavar="NAME", help=", ".join(WORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--on", choices="SMT", help="another model than the work's own; T shows in seconds that it runs"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--serve", choices=WORKS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.serve:
        return serve(work_named(asked.serve, asked.on).ways)
    kept: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    missed = 0
    for name in asked.only:
        told = timed(name, asked)
        missed += sum(not way["is_met"] for way in told["ways"].values() if "wanted" in way)
        print("\n".join(lines_of(name, told)), flush=True)
        if asked.write and not asked.on:
            kept[name] = {**kept.get(name, {}), **told}
            FIGURES.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            write_down(kept)
    return int(missed > 0)


def timed(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a work, by way: quartiles of its cost, and of its cost as a part of the first way's."""
    work = work_named(name, asked.on)
    ways, other, again = dict(work.ways), None, [way for way in work.ways if way.startswith("ours")]
    for way in again if asked.against is not None else []:
        if isinstance(script := work.ways[way], Script):
            ways[_before(way)] = script.at(asked.against)
        else:
            other = other or Other(asked.against, name, asked.on)
            ways[_before(way)] = other.way(way)
    values = {way: measured(run).value for way, run in ways.items()}
    said = work.check({way: value for way, value in values.items() if way in work.ways})
    if asked.against is not None:
        said += "; " + ", ".join(compared(way, values[way], values[_before(way)]) for way in again)
    costs: dict[str, list[float]] = {way: [] for way in ways}
    order = list(ways)
    for turn in range(asked.rounds):
        first = turn % len(order)
        for way in order[first:] + order[:first]:
            costs[way].append(measured(ways[way]).cost / work.shares.get(way, 1.0))
    if other is not None:
        other.close()
    base = np.array(costs[order[0]])
    wanted = {} if asked.on else work.wanted
    told = {way: _told(work.shares.get(way, 1.0), wanted, way, base, costs) for way in costs}
    return {
        "what": WORKS[name][0].__doc__,
        "model": asked.on or WORKS[name][1],
        "unit": work.unit,
        "rounds": asked.rounds,
        "check": said,
        "ways": told,
        "on": f"{datetime.date.today()}, {machine()}",
    }


def _told(
    share: float, wanted: Mapping[tuple[str, str], float], way: str, base: np.ndarray, costs: Mapping[str, list[float]]
) -> dict[str, Any]:
    own = np.array(costs[way])
    told: dict[str, Any] = {"cost": quartiles(own), "ratio": quartiles(own / base), "share": share}
    for (of, to), most in wanted.items():
        if of == way and to in costs:
            told |= {"to": to, "ratio": quartiles(own / np.array(costs[to]))}
        if of == way and (to in costs or not to):
            told |= {"wanted": most, "is_met": told["ratio" if to else "cost"][1] <= most}
    return told


def measured(way: Way) -> Measured:
    """Run a way and return what it cost, its finished child processes included."""
    before = _cpu()
    value = way()
    return value if isinstance(value, Measured) else Measured(value, _cpu() - before)


def _cpu() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def quartiles(values: np.ndarray) -> list[float]:
    """Return the first quartile, the median and the third."""
    return [float(np.quantile(values, share)) for share in (0.25, 0.5, 0.75)]


# Another checkout


class Other:
    """Another checkout's ways of a work, in one process that runs them when it is asked to."""

    def __init__(self, checkout: Path, name: str, model: str | None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, *(["--on", model] if model else [])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def way(self, name: str) -> Way:
        """Return what asks the process to run a way."""

        def run() -> Measured:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
            return Measured(**json.loads(self._process.stdout.readline()))

        return run

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compared(way: str, ours: Any, before: Any) -> str:
    """Hold what this version and another gave to each other."""
    if before == plain(ours):
        return f"{way} as before"
    first, second = np.array(plain(ours)), np.array(plain(before))
    if first.dtype.kind != "f":
        return f"{way} otherwise than before: {ours}, {before}"
    most = float(np.abs(first - second).max())
    assert most < 1e-4 * max(1.0, float(np.abs(second).max())), (way, most)
    return f"{way} within {most:.0e} of before"


def serve(ways: Mapping[str, Way]) -> int:
    """Run the ways whose names come in, and tell what each gave and cost."""
    for line in sys.stdin:
        told = measured(ways[line.strip()])
        print(json.dumps({"value": plain(told.value), "cost": told.cost}), flush=True)
    return 0


def plain(value: Any) -> Any:
    """Return what JSON can hold."""
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value


def _before(way: str) -> str:
    return way.replace("ours", "before", 1)


# Writing down


def lines_of(name: str, told: Mapping[str, Any]) -> list[str]:
    """Return a work's part of the table."""
    lines = [
        f"### {name}",
        "",
        f"{told['what']} Model {told['model']}, {told['rounds']} rounds; {told['check']}.",
        "",
        f"| way | {told['unit']} | quartiles | part of | ratio | quartiles | wanted |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(told["ways"]))
    for way, own in told["ways"].items():
        low, middle, high = own["cost"]
        least, ratio, most = own["ratio"]
        wanted = f"≤ {own['wanted']:.3g}{'' if own['is_met'] else ': missed'}" if "wanted" in own else ""
        share = "" if own["share"] == 1 else f" ({own['share']:.1%} run)"
        lines.append(
            f"| {way}{share} | {middle:.3g} | {low:.3g} to {high:.3g} | {own.get('to', first)} | {ratio:.3f} "
            f"| {least:.3f} to {most:.3f} | {wanted} |"
        )
    return [*lines, "", f"{told['on']}.", ""]


def write_down(kept: Mapping[str, Any]) -> None:
    """Write the table and the picture of all figures that are kept."""
    from speed_picture import draw  # noqa: PLC0415 - one check draws nothing

    head = [
        "# Speed",
        "",
        "CPU time at one thread, beside naive ways and the passes alone; `make bench` measures it anew, and",
        "`python benchmarks/speed.py --only NAME` one part (`benchmarks/speed_works.py` says what each way is).",
        "",
        "![Each way's cost as a part of the naive way's](speed.svg)",
        "",
    ]
    parts = [line for name in WORKS if name in kept for line in lines_of(name, kept[name])]
    (HERE / "speed.md").write_text("\n".join([*head, *parts, *lines_of_peers(kept)]), encoding="utf-8")
    draw({name: kept[name] for name in WORKS if name in kept}, HERE / "speed.svg")


def lines_of_peers(kept: Mapping[str, Any]) -> list[str]:
    """Return how other packages' costs compare with the same naive ways, which took turns with each of them."""
    if not PEERS.exists():
        return []
    lines = [
        "### Other packages",
        "",
        "Each by its plain documented use, in a process of its own beside the same naive way (`make bench-peers`);",
        "told is its cost as a part of that way's, or why it did not run.",
        "",
        "| package | work | ratio | quartiles | ours | |",
        "|---|---|---|---|---|---|",
    ]
    for peer, own in json.loads(PEERS.read_text(encoding="utf-8")).items():
        for work, told in own["works"].items():
            least, ratio, most = (f"{part:.3f}" for part in told.get("ratio", [np.nan] * 3))
            ways = kept.get(work, {"ways": {}})["ways"]
            ours = [f"{ways[way]['ratio'][1]:.3f}" for way in ("ours", "ours, all") if way in ways]
            said = told.get("check") or f"failed: {told['failed']}".replace("|", "/")
            lines.append(
                f"| {peer} {own['version']} | {work} | {ratio} | {least} to {most} | {''.join(ours)} | {said} |"
            )
    return [*lines, ""]


def machine() -> str:
    """Return what was measured on, without its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models: Sequence[str] = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    return (
        f"{cpu}, torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
