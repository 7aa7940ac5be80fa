"""What a condition is called in a tool, such as "harmful.safetensors and not fiction" → a condition on prompts.

A vector's file stands for the condition that a prompt's projection is above the threshold that was fitted when the
vector was made, read at the layer and the tokens that it was made at. It must not know hooks, or what is edited.
"""

import shlex
from dataclasses import dataclass

from steer_tools.core.conditions import Both, Condition, Either, Not, Reading, Threshold
from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, quoted
from steer_tools.limits import CONDITION_CHARACTERS, CONDITION_FILES, CONDITION_LEVELS
from steer_tools.session.session import Session
from steer_tools.session.vector_loading import VectorLike, load_for_model

_GRAMMAR = (
    "paths of vector files, each with @LAYER after it if the file has several layers, joined by 'and', 'or', 'not' and "
    "parentheses, such as 'harmful.safetensors@3 and not fiction.safetensors'"
)
# What reads a prompt that nobody has answered yet.
_PROMPT_POOLINGS: tuple[Pooling, ...] = ("last", "first", "mean")
# At 1.0 a threshold knows nothing.
_OFTEN = 0.3
_WORDS = ("and", "or", "not", "(", ")")
# No layer has more.
_MOST_DIGITS = 18


@dataclass(frozen=True)
class ParsedCondition:
    """A condition, and what the one who uses it should know."""

    condition: Condition
    warnings: tuple[str, ...]


def parse_condition(
    session: Session, text: str | SteeringVector, *, allow_other_model: bool = False
) -> ParsedCondition:
    """Read a condition; `not` binds before `and`, and that before `or`. A vector in memory is one by itself.

    Raises:
        ArgumentError: The text is not of this form, or a file has no threshold or reads what no prompt has.
        VectorFileError: A file cannot be read.
        ForeignVectorError: A vector was made on another kind of model, and that is not allowed.
    """
    parser = _Parser(session, text, allow_other_model=allow_other_model)
    if isinstance(text, SteeringVector):
        return ParsedCondition(parser.threshold(text, str(text), None), tuple(parser.warnings))
    return ParsedCondition(parser.whole(), tuple(dict.fromkeys(parser.warnings)))


class _Parser:
    def __init__(self, session: Session, text: object, *, allow_other_model: bool) -> None:
        self._session, self._text, self._allow_other_model = session, text, allow_other_model
        self.warnings: list[str] = []
        self._files = self._levels = 0
        if isinstance(text, SteeringVector):
            return
        if not isinstance(text, str) or not text.strip():
            raise self._malformed("it names no file")
        CONDITION_CHARACTERS.require(len(text), "condition has")
        lexer = shlex.shlex(text, posix=True, punctuation_chars="()")
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            # The lexer takes parentheses that touch for one word.
            self._tokens = [part for word in lexer for part in (word if {*word} <= {*"()"} else [word])]
        except ValueError as error:
            raise self._malformed(str(error)) from error

    def whole(self) -> Condition:
        condition = self._either()
        if self._tokens:
            raise self._malformed(f"{self._tokens[0]!r} follows a whole condition")
        return condition

    def _either(self) -> Condition:
        condition = self._both()
        while self._took("or"):
            condition = Either(condition, self._both())
        return condition

    def _both(self) -> Condition:
        condition = self._negated()
        while self._took("and"):
            condition = Both(condition, self._negated())
        return condition

    def _negated(self) -> Condition:
        self._levels += 1
        CONDITION_LEVELS.require(self._levels, "condition is nested in")
        condition = self._term()
        self._levels -= 1
        return condition

    def _term(self) -> Condition:
        if self._took("not"):
            return Not(self._negated())
        if self._took("("):
            condition = self._either()
            if not self._took(")"):
                raise self._malformed("a parenthesis is not closed")
            return condition
        if not self._tokens or self._tokens[0] in _WORDS:
            found = repr(self._tokens[0]) if self._tokens else "the end"
            raise self._malformed(f"a file should stand where {found} does")
        name = self._tokens.pop(0)
        path, at, number = name.rpartition("@")
        has_layer = bool(at) and len(number) < _MOST_DIGITS and number.removeprefix("-").isdecimal()
        self._files += 1
        CONDITION_FILES.require(self._files, "condition names")
        layer = self._session.engine.resolve_layer(int(number)) if has_layer else None
        return self.threshold(path if has_layer else name, name, layer)

    def _took(self, word: str) -> bool:
        if self._tokens and self._tokens[0] == word:
            del self._tokens[0]
            return True
        return False

    def threshold(self, vector_like: VectorLike, name: str, layer: int | None) -> Condition:
        loaded = load_for_model(self._session, vector_like, layer, allow_other_model=self._allow_other_model)
        vector = loaded.vector
        self.warnings.extend(f"Condition {name!r}: {warning}" for warning in loaded.warnings)
        if layer is None and len(vector.layers) == 1:
            layer = vector.layers[0]
        if layer is None or layer not in vector.layers:
            example = f"{name.rpartition('@')[0] or name}@{vector.layers[0]}"
            raise ArgumentError(
                f"The condition {name!r} does not say which of the layers {list(vector.layers)} of its file is read",
                valid=f"one of them, as in {example!r}",
            )
        threshold = vector.info.thresholds.get(layer)
        pooling: Pooling | None = next((known for known in _PROMPT_POOLINGS if known == vector.info.pooling), None)
        if threshold is None or pooling is None:
            lack = "no threshold" if threshold is None else f"pooling {vector.info.pooling!r}, which no prompt has"
            raise ArgumentError(
                f"The file of the condition {name!r} has {lack}",
                valid=f"vectors that create_steering_vector made with pooling {', '.join(map(repr, _PROMPT_POOLINGS))}",
                fix="Create it from prompts on which it should hold, and prompts on which it should not.",
            )
        self.warnings.extend(_doubts(name, vector.info, layer))
        reading = Reading(Site(layer, vector.component, vector.head), pooling)
        return Threshold(reading, vector.directions[layer], threshold)

    def _malformed(self, problem: str) -> ArgumentError:
        return ArgumentError(f"condition is {quoted(self._text)}, and {problem}", valid=_GRAMMAR)


def _doubts(name: str, info: VectorInfo, layer: int) -> list[str]:
    """Say where a threshold is known to err often, or not known to hold at all."""
    if layer not in info.misses or layer not in info.false_alarms:
        return [f"Condition {name!r}: it is not known how often its threshold errs on prompts that did not make it."]
    misses, false_alarms = info.misses[layer], info.false_alarms[layer]
    if misses + false_alarms < _OFTEN:
        return []
    return [
        f"Condition {name!r}: its threshold misses {misses:.0%} of held-out prompts of its kind and takes "
        f"{false_alarms:.0%} of others for it."
    ]
