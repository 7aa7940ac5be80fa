"""The commands `behaviors list` and `behaviors show`: what is built in, and whether a file of pairs loads.

They must not know models.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from steer_tools.cli.help_texts import HelpfulCommand, HelpfulGroup
from steer_tools.cli.inputs import readable
from steer_tools.cli.terminal import show
from steer_tools.cli.workbench import AsJson
from steer_tools.data_files import SUFFIXES
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_json import behavior_document, record_of
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, load_behavior, read_behavior
from steer_tools.prompts import prompt_text
from steer_tools.tools.rendering import Shown, facts, line, shown, stack, table, warning_lines

Source = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help=f"A built-in behaviour, or a file of pairs or of a behaviour ({', '.join(SUFFIXES)})."
    ),
]
Examples = Annotated[int, typer.Option("--items", metavar="N", min=0, help="How many pairs and items to show.")]

app = typer.Typer(cls=HelpfulGroup, add_completion=False, pretty_exceptions_enable=False)


@app.command(name="list", cls=HelpfulCommand)
def list_behaviors(as_json: AsJson = False) -> None:
    """List the built-in behaviours."""
    behaviors = [load_behavior(name) for name in behavior_names()]
    show({"behaviors": [_summary(behavior) for behavior in behaviors]}, _table(behaviors), as_json=as_json)


@app.command(name="show", cls=HelpfulCommand)
def show_behavior(name: Source, items: Examples = 3, as_json: AsJson = False) -> None:
    """Show a built-in behaviour, or what is read from a file; --json gives all of it."""
    if Path(name).suffix or Path(name).name != name:
        with readable(name) as path, path.open("rb") as file:
            behavior = read_behavior(file, name)
    else:
        behavior = load_behavior(name)
    show(_document(behavior), _described(behavior, items), as_json=as_json)


def _summary(behavior: Behavior) -> dict[str, object]:
    return {
        "name": behavior.name,
        "poles": list(behavior.poles),
        "description": behavior.description,
        "counts": _counts(behavior),
    }


def _document(behavior: Behavior) -> dict[str, object]:
    return {
        **_summary(behavior),
        "instruction": behavior.instruction,
        "source": behavior.source,
        **({"notes": list(behavior.notes)} if behavior.notes else {}),
        **{part: [*map(record_of, items)] for part, items in _parts(behavior).items()},
        **{key: value for key, value in behavior_document(behavior).items() if key in ("questions", "words")},
    }


def _parts(behavior: Behavior) -> dict[str, Sequence[Item]]:
    return {"pairs": behavior.pairs, "items": behavior.items, "choices": behavior.choices}


def _counts(behavior: Behavior) -> dict[str, int]:
    return {part: len(items) for part, items in _parts(behavior).items()} | {"questions": len(behavior.questions)}


def _table(behaviors: Sequence[Behavior]) -> Shown:
    """Render one line a behaviour."""
    columns = {"behaviour": "whole", "poles": "fold", "what it is": "fold"}
    rows: list[list[Shown]] = []
    for behavior in behaviors:
        words = (behavior.name, " / ".join(behavior.poles), behavior.description)
        rows.append([*map(shown, words), *map(str, _counts(behavior).values())])
    return table(columns | dict.fromkeys(("pairs", "items", "choices", "questions"), "right"), rows)


def _described(behavior: Behavior, examples: int) -> Shown:
    """Render what is known of a behaviour, its counts, and the first pairs and items."""
    groups = len({item.group for item in behavior.items})
    counts = f"{len(behavior.pairs):,} pairs for vectors; held out {len(behavior.items):,} items in {groups:,} groups"
    known = facts(
        {
            "behaviour": behavior.name,
            "what it is": behavior.description,
            "asked for": behavior.instruction or "(nobody wrote how)",
            "source": behavior.source,
            "holds": f"{counts}, {len(behavior.choices):,} choices and {len(behavior.questions):,} questions",
        }
    )
    parts = (("pairs", behavior.pairs), ("items", behavior.items)) if examples else ()
    tables = [_examples(f"first {part}", items[:examples], behavior.poles) for part, items in parts]
    told = warning_lines(behavior.notes)
    return stack(known, *told, *(part for examples_table in tables for part in (line(""), examples_table)))


def _examples(title: str, items: Sequence[Item], poles: tuple[str, str]) -> Table:
    result = Table(box=box.ROUNDED, show_lines=True, expand=True, title=line(title), title_justify="left")
    for column in ("prompt", *poles):
        result.add_column(shown(column), ratio=1, overflow="fold")
    for item in items:
        prompt = line("(none)", "dim italic") if item.prompt is None else shown(prompt_text(item.prompt))
        result.add_row(prompt, shown(item.positive), shown(item.negative))
    return result
