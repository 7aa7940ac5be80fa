"""A vector at some layers, prompts, strengths → the cell whose texts show most of a behaviour, or least.

What was measured is kept in a JSON file of the workspace, so that a choice that was cut off goes on where it was. It
must not know what judges the cell.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from steer_tools.experiments.cell_files import CellFile
from steer_tools.experiments.exploration import Key, Lane, Outcome, chosen, next_cells
from steer_tools.experiments.text_meter import TextMeter, Written
from steer_tools.progress import Work
from steer_tools.prompts import Prompt
from steer_tools.session.placement import Placed

Direction: TypeAlias = Literal["more", "less"]
SIGNS: Mapping[Direction, int] = {"more": 1, "less": -1}
# Cells whose texts are written together, and kept when they are; about so many of all are written.
_AT_A_TIME, EXPECTED_SHARE = 16, 0.5
_CHOOSING = "choosing by texts"
# Where a vector was placed: at a layer, for some tokens.
Place: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class TextCell:
    """What was written at a cell; `strength` has its sign.

    Attributes:
        effects: Of each prompt, how much more of the behaviour its text shows; 0 where it is broken.
        failures: Why the texts do not pass; empty where they do.
    """

    layer: int
    positions: str
    strength: float
    effects: tuple[float, ...]
    failures: tuple[str, ...]
    whole: float
    variety: float | None
    relevance: float | None
    texts: tuple[str, ...]

    @property
    def effect(self) -> float:
        """The mean effect."""
        return sum(self.effects) / len(self.effects)

    @property
    def place(self) -> Place:
        """Its layer and positions."""
        return self.layer, self.positions


@dataclass(frozen=True)
class TextChoice:
    """The cells whose texts were written, and the one that was chosen by them.

    Attributes:
        cell: Where no cell does enough, the one that does most of those that pass, or else the gentlest.
        does_enough: Whether it passes, and its texts show more of what was wanted.
    """

    direction: Direction
    prompts: tuple[Prompt, ...]
    unsteered: tuple[str, ...]
    cells: tuple[TextCell, ...]
    cell: TextCell
    does_enough: bool


def choose_by_texts(
    meter: TextMeter,
    placed_at: Mapping[Place, Placed],
    strengths: Sequence[float],
    direction: Direction,
    file: CellFile,
) -> TextChoice:
    """Write texts at the cells that may be chosen, and choose the gentlest that shows enough."""
    lanes = [Lane(*place, SIGNS[direction]) for place in placed_at]
    cells = {_key(cell): cell for cell in file.load(TypeAdapter(TextCell).validate_python)}
    expected = EXPECTED_SHARE * len(lanes) * len(strengths)
    work = Work({_CHOOSING: 1.0})
    while following := next_cells(lanes, strengths, _outcomes(cells.values(), direction)):
        for start in range(0, len(following), _AT_A_TIME):
            some = following[start : start + _AT_A_TIME]
            plans = [placed_at[lane.layer, lane.positions].plan(lane.sign * strength) for lane, strength in some]
            done = [own / max(expected, len(cells) + len(some)) for own in (len(cells), len(cells) + len(some))]
            with work.part(_CHOOSING, *done):
                measured = meter.measure(plans)
            cells |= {key: _cell_of(key, own) for key, own in zip(some, measured, strict=True)}
            file.save([*cells.values()])
    best = chosen(_outcomes(cells.values(), direction))
    cell = min(cells.values(), key=partial(_shortfall, direction)) if best is None else cells[best]
    return TextChoice(
        direction, meter.prompts, meter.unsteered.texts, tuple(cells.values()), cell, does_enough=best is not None
    )


def _shortfall(direction: Direction, cell: TextCell) -> tuple[bool, float]:
    """Order cells that do not do enough: those that pass by their effects, and those that do not by their strengths."""
    return bool(cell.failures), abs(cell.strength) if cell.failures else -SIGNS[direction] * cell.effect


def _outcomes(cells: Iterable[TextCell], direction: Direction) -> dict[Key, Outcome]:
    sign = SIGNS[direction]
    return {_key(cell): Outcome(sign * cell.effect, not cell.failures) for cell in cells}


def _key(cell: TextCell) -> Key:
    return Lane(cell.layer, cell.positions, 1 if cell.strength > 0 else -1), abs(cell.strength)


def _cell_of(key: Key, written: Written) -> TextCell:
    lane, strength = key
    checked = written.checked
    return TextCell(
        lane.layer,
        lane.positions,
        lane.sign * strength,
        tuple(written.effects.tolist()),
        checked.failures,
        float(checked.is_whole.mean()),
        checked.variety,
        checked.relevance,
        written.texts,
    )
