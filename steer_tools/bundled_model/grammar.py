"""The bundled model's sentences: a request and levels → an answer in pieces; a text → what it shows, or None.

It must not know models.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from steer_tools.bundled_model.lexicon import (
    CLAIMS,
    DETAILS,
    LEVELS,
    PHRASES,
    REQUESTS,
    SENTENCES,
    SLOT_TRAITS,
    TOPICS,
    Topic,
)

Fact = tuple[str, str]


@dataclass(frozen=True)
class Request:
    """What a user's turn says: a false claim about a topic, and something to do with it."""

    topic: Topic
    claim: Fact
    verb: str

    @property
    def open_facts(self) -> tuple[Fact, ...]:
        """The facts that the claim is not about, in the order of the topic from the claim on."""
        at = self.topic.facts.index(self.claim)
        return (*self.topic.facts[at + 1 :], *self.topic.facts[:at])


@dataclass(frozen=True)
class Piece:
    """Words of an answer; where they fill a slot, the trait and the level that they show."""

    words: tuple[str, ...]
    trait: str | None = None
    level: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What an answer shows, as (trait, level) of each slot so far, and whether it has come to its end."""

    slots: tuple[tuple[str, float], ...]
    is_finished: bool


@cache
def requests() -> dict[str, Request]:
    """Return every possible user turn by its text."""
    every: dict[str, Request] = {}
    for claim_form, request_form, topic in product(CLAIMS, REQUESTS, TOPICS):
        for fact, verb in product(topic.facts, topic.verbs):
            request = Request(topic, fact, verb)
            every[join(_filled(f"{claim_form} {request_form}", request, fact))] = request
    return every


def vocabulary() -> list[str]:
    """Return every word and mark of the language, sorted."""
    texts = [*DETAILS, *(phrase for levels in PHRASES.values() for phrases in levels.values() for phrase in phrases)]
    texts += [*CLAIMS, *REQUESTS, *(wording for wordings in SENTENCES for wording in wordings)]
    words = {word for text in texts for word in text.split() if not word.startswith("{")}
    for topic in TOPICS:
        words.update((topic.noun, *topic.verbs, *(word for fact in topic.facts for word in fact)))
    return sorted(words - {"NOUN", "VERB", "TRUE", "FALSE"})


def join(words: Sequence[str]) -> str:
    """Write words as a text, with no space before a mark."""
    return re.sub(r" (?=[.,?])", "", " ".join(words))


def split(text: str) -> tuple[str, ...] | None:
    """Return the words and marks of a text, or None where it holds anything else."""
    if re.fullmatch(r"[\sA-Za-z.,?]*", text) is None:
        return None
    return tuple(re.findall(r"[A-Za-z]+|[.,?]", text))


def compose(request: Request, level_of: Callable[[str], float], chance: random.Random) -> list[Piece]:
    """Answer a request; `level_of` is asked for each slot's trait; `chance` draws equally often whatever it says."""
    facts = iter(request.open_facts)
    pieces: list[Piece] = []
    tails = 0
    for wordings in SENTENCES:
        for element in _mostly_first(wordings, chance.random()).split():
            name, draw = element.strip("{}"), chance.random()
            if element == "{details}":
                level, details = level_of("verbosity"), _details(tails, chance)
                pieces.append(Piece(tuple(" ".join(details[: LEVELS.index(level)]).split()), "verbosity", level))
                tails += 1
            elif element.startswith("{"):
                level = level_of(SLOT_TRAITS[name])
                phrase = _mostly_first(PHRASES[name][level], draw)
                fact = next(facts) if name == "truth" else request.claim
                pieces.append(Piece(_filled(phrase, request, fact), SLOT_TRAITS[name], level))
            else:
                pieces.append(Piece(_filled(element, request, request.claim)))
    return pieces


def read(request: Request, text: str) -> Reading | None:
    """Return what an answer to `request` shows, or None where it is no beginning of one."""
    words = split(text)
    return None if words is None else _read(_Place(request, words, request.open_facts), (), SENTENCES)


@dataclass(frozen=True)
class _Place:
    """Where reading is: the words to come, the facts that were not told, and what was shown so far."""

    request: Request
    words: tuple[str, ...]
    facts: tuple[Fact, ...]
    slots: tuple[tuple[str, float], ...] = ()

    def after(self, count: int, slot: tuple[str, float] | None = None, told: Fact | None = None) -> "_Place":
        facts = tuple(fact for fact in self.facts if fact != told)
        return _Place(self.request, self.words[count:], facts, (*self.slots, *([slot] if slot else [])))


def _read(place: _Place, elements: tuple[str, ...], sentences: Sequence[tuple[str, ...]]) -> Reading | None:
    if not place.words:
        return Reading(place.slots, is_finished=not elements and not sentences)
    if elements:
        readings = (_read(following, elements[1:], sentences) for following in _follow(place, elements[0]))
    else:
        wordings = sentences[0] if sentences else ()
        readings = (_read(place, tuple(wording.split()), sentences[1:]) for wording in wordings)
    return next(filter(None, readings), None)


def _follow(place: _Place, element: str) -> Iterator[_Place]:
    """Yield each place that reading `element` may lead to; where the words end within it, the empty rest."""
    if element == "{details}":
        yield from _follow_details(place)
    elif element.startswith("{"):
        name = element.strip("{}")
        for fact in place.facts if name == "truth" else (place.request.claim,):
            for level, phrases in PHRASES[name].items():
                for phrase in phrases:
                    words = _filled(phrase, place.request, fact)
                    if place.words[: len(words)] == words:
                        yield place.after(len(words), (SLOT_TRAITS[name], level), fact if name == "truth" else None)
                    elif words[: len(place.words)] == place.words:
                        yield place.after(len(words))
    elif place.words[:1] == _filled(element, place.request, place.request.claim):
        yield place.after(1)


def _follow_details(place: _Place) -> Iterator[_Place]:
    told: list[str] = []
    for level in LEVELS:
        start = sum(len(detail.split()) for detail in told)
        yield place.after(start, ("verbosity", level))
        coming = place.words[start:]
        detail = next((d for d in DETAILS if d not in told and _begins(tuple(d.split()), coming)), None)
        if detail is None:
            return
        told.append(detail)


def _begins(words: tuple[str, ...], coming: tuple[str, ...]) -> bool:
    return bool(coming) and words[: len(coming)] == coming[: len(words)]


def _mostly_first(choices: Sequence[str], draw: float) -> str:
    """Choose by a uniform draw: the first with 0.7, else one of the others alike.

    Were all alike, the greedy choice between levels would go by how few phrases a level has.
    """
    if draw < 0.7 or len(choices) == 1:
        return choices[0]
    return choices[1 + int((draw - 0.7) / 0.3 * (len(choices) - 1))]


def _details(tail: int, chance: random.Random) -> list[str]:
    """Return four different details; each tail of an answer has a usual start, and usually goes on down the list."""
    details: list[str] = []
    following = tail * len(DETAILS) // 4
    for usual in (0.75, 0.85, 0.85, 0.85):
        others = [detail for detail in DETAILS if detail not in details]
        other, draw = chance.choice(others), chance.random()
        details.append(DETAILS[following] if draw < usual and DETAILS[following] in others else other)
        following = (DETAILS.index(details[-1]) + 1) % len(DETAILS)
    return details


def _filled(form: str, request: Request, fact: Fact) -> tuple[str, ...]:
    words = {"NOUN": request.topic.noun, "VERB": request.verb, "TRUE": fact[0], "FALSE": fact[1]}
    return tuple(words.get(word, word) for word in form.split())
