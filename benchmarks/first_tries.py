"""Runs 80 first tries on SmolLM2 and writes down which work: `python benchmarks/first_tries.py` makes `first_tries.md`.

Four readers who knew the field and the names of the public functions, but neither signatures nor documentation, wrote
20 each (`first_tries.json`): as somebody who comes from steering-vectors and CAA's scripts (caa), from repeng and
llama.cpp (rep), from TransformerLens and nnsight (mech), or who lives in notebooks (nb). They were written before what
they ask for was built.

A try works when it runs to its end; what ran and yet did not do what its writer expected stands in `MISSED`, by reading
what it printed (`--print`). `BEFORE` are those that worked when they were collected.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import torch

import steer_tools
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

HERE = Path(__file__).parent
BEFORE = ("mech-03", "nb-04", "rep-05")
# Ran, and did something else than was expected.
MISSED = {
    "mech-20": "ran, but the hook acts from the last prompt token on, and weights act everywhere: positions='all'",
    "nb-14": "ran, but the table is not that of the tokens: to_dataframe() is",
}
TOPICS = ["a job", "the weather", "a late train", "a birthday", "the rent", "a lost key", "a new phone", "the garden"]
TOPICS += ["a dentist", "the holiday", "a school", "a recipe", "the news", "a film", "a shoe", "the neighbour"]
SAMPLES: dict[str, Any] = {
    "prompts": [
        "Write a note to my landlord.",
        "How do I ask for a day off?",
        "Tell me about the sea.",
        "What should I cook tonight?",
    ],
    "positives": [f"I should be most grateful if you would kindly advise me regarding {own}, sir." for own in TOPICS],
    "negatives": [f"yo dude lemme know whats up with {topic} lol ok" for topic in TOPICS],
}


def namespace(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return what a try may use, in an empty folder with a vector that was made before."""
    os.chdir(tempfile.mkdtemp())
    names: dict[str, Any] = {"model": model, "tokenizer": tokenizer, **{name: [*own] for name, own in SAMPLES.items()}}
    exec("from steer_tools import *\nimport torch, numpy as np, pandas as pd\nfrom pathlib import Path", names)
    names["detach_model"]()
    current_session().workspace = Workspace("workspace")
    names["attach_model"](model, tokenizer)
    names["create_steering_vector"](names["positives"], names["negatives"], 15, "formal")
    return names


def run(code: str, names: dict[str, Any]) -> str:
    """Run a try as a notebook's cell is run, and return what it printed; what it raises is passed on."""
    *before, last = ast.parse(code).body
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(ast.Module([*before], []), "try", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "try", "eval"), names)
            print("" if value is None else repr(value))
        else:
            exec(compile(ast.Module([last], []), "try", "exec"), names)
    return told.getvalue()


def main() -> int:
    """Run the tries that are named, or all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="only these, and nothing is written")
    parser.add_argument("--print", action="store_true", help="show what each printed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    steer_tools.load_model("smollm2", dtype="float32")
    model, tokenizer = steer_tools.loaded_model()
    found: dict[str, str] = {}
    tries = json.loads((HERE / "first_tries.json").read_text(encoding="utf-8"))
    for one in tries:
        if options.ids and one["id"] not in options.ids:
            continue
        try:
            told = run(one["code"], namespace(model, tokenizer))
            found[one["id"]] = MISSED.get(one["id"], "")
        except Exception as error:  # noqa: BLE001  # Whatever a try runs into is what is written down.
            told, found[one["id"]] = "", f"{type(error).__name__}: {error}".replace(f"{Path.cwd()}/", "")
        print(one["id"], found[one["id"]] or "works", flush=True)
        if options.print:
            print(told)
    if not options.ids:
        (HERE / "first_tries.md").write_text(table(tries, found), encoding="utf-8")
    return 0


def table(tries: list[dict[str, str]], found: dict[str, str]) -> str:
    """Return the page."""
    works = sum(not problem for problem in found.values())
    lines = [
        "# First tries",
        "",
        f"Of 80 first tries on SmolLM2, {len(BEFORE)} worked when they were collected, and {works} work now. How they",
        "were collected and judged is said in `benchmarks/first_tries.py`; their code is `first_tries.json` beside it.",
        "",
        "Results are plain dicts, ready for JSON. That costs 11 of the tries: eight give a result to",
        "`pandas.DataFrame` (which takes a dict's entries for columns before it asks anything else;",
        "`result.to_dataframe()` is the table), one to `torch.tensor`, one asks a result's `items()` for vectors,",
        "and one a tensor for its `vector`.",
        "",
        "| try | wish | before | now |",
        "|---|---|---|---|",
    ]
    for one in tries:
        now = found[one["id"]].replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
        before = "works" if one["id"] in BEFORE else "fails"
        lines.append(f"| {one['id']} | {one['wish'].replace('|', chr(92) + '|')} | {before} | {now[:300] or 'works'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
