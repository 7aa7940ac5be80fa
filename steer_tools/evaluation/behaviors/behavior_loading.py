"""A name, a file of items or two lists of prompts → a behaviour with a held-out part. It must not know paths.

Everything that is drawn is drawn with a seed, so that one input always gives the same behaviour.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import PurePath
from random import Random
from typing import BinaryIO, TypeVar

from steer_tools.errors import ArgumentError, PromptError, quoted
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_json import parse_behavior
from steer_tools.evaluation.behaviors.instructions import require_no_instructions
from steer_tools.evaluation.behaviors.item_files import file_of_items, read_any
from steer_tools.evaluation.behaviors.item_records import item_of_prompts, item_of_strangers, located
from steer_tools.prompts import Prompt, PromptLike, TextPrompt, parse_prompts


def behavior_names() -> list[str]:
    """Return the names of the built-in behaviours, sorted."""
    return sorted(_files())


def load_behavior(name: str, *, as_chat: bool = True) -> Behavior:
    """Return a built-in behaviour; unless `as_chat`, in the form for models that answer nobody, where it has one.

    Raises:
        ArgumentError: There is none of that name.
        PromptError: Its file is malformed.
    """
    found = _files()
    if name not in found:
        near = get_close_matches(str(name)[:100], found, n=1, cutoff=0.5)
        raise ArgumentError(
            f"There is no built-in behaviour {quoted(name)}",
            valid=", ".join(sorted(found)),
            fix=f"Did you mean {near[0]!r}?" if near else "Choose one of these, or give a file of pairs.",
        )
    file = found[name] if as_chat else {**found, **_files("texts")}[name]
    return parse_behavior(BytesIO(file.read_bytes()), file.name)


def _files(*within: str) -> dict[str, Traversable]:
    folder = files("steer_tools.evaluation.behaviors").joinpath("data", *within)
    return {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}


MOST_ITEMS = 2_000
FEWEST_GROUPS = 8
_Value = TypeVar("_Value")


def read_behavior(file: BinaryIO, name: str, seed: int = 0) -> Behavior:
    """Return the behaviour in a file, or what a file of items says of one.

    Half of the groups of such items are for vectors and the other half is held out, chosen with `seed`. Of more than
    MOST_ITEMS items so many are drawn with `seed`, each as likely as any, while the file is read.

    Raises:
        PromptError: The file is malformed, its name says no form, or it has fewer than FEWEST_GROUPS groups.
        VectorFileError: It is a pointer of Git LFS.
    """
    items = file_of_items(file, name)
    found = read_any(items)
    if isinstance(found, Behavior):
        return found
    return replace(_divided(PurePath(name).stem, found, name, seed), notes=items.notes)


def behavior_of_lists(
    name: str, positive: Sequence[PromptLike], negative: Sequence[PromptLike], seed: int = 0
) -> Behavior:
    """Return a behaviour of two lists of prompts: texts, or chats whose last messages are the completions.

    Lists of one length are pairs, entry by entry: what two texts begin with alike becomes their prompt, and two chats
    have the positive one's. Where fewer than FEWEST_GROUPS beginnings are different ("I really love tea", "I really
    hate tea"), all texts stay whole and each pair is a group of its own; and where chats have fewer questions of a
    user, each chat is one. `notes` say so.

    Lists of two lengths are samples of two populations, and no text belongs to one of the other list. They are shuffled
    with `seed` and matched until the shorter one ends, repeated prompts once, and each text stays whole. The mean
    difference over such pairs estimates that of the populations, whichever texts were matched; a single pair's says
    nothing, and a chat's negative answer stands after a question that it does not answer.

    Raises:
        PromptError: A list is empty, a prompt is of another kind, both lists hold the same prompt, or there are fewer
            than FEWEST_GROUPS groups.
    """
    shown, opposite = parse_prompts(positive, "positive"), parse_prompts(negative, "negative")
    random = Random(seed)
    how, item_of = "paired in their order", item_of_prompts
    if len(shown) != len(opposite):
        how, item_of = f"matched at random with seed {seed}", item_of_strangers
        shown, opposite = (_shuffled(side, random) for side in (shown, opposite))
        if shared := {*shown} & {*opposite}:
            raise PromptError(
                f"{min(map(str, shared)):.80} is a positive and a negative prompt",
                valid="prompts that are on one side only",
            )
    pairs, notes = [*zip(shown, opposite, strict=False)], tuple[str, ...]()
    items = _items_of(name, pairs, item_of)
    beginnings = {item.group if item.prompt is None else item.prompt for item in items}
    few = min(len(beginnings), len({item.group for item in items}))
    if few < FEWEST_GROUPS and all(isinstance(side, TextPrompt) for pair in pairs for side in pair):
        items = _items_of(name, pairs, item_of_strangers)
        if len({item.group for item in items}) > few:
            notes = (
                f"The {len(pairs)} pairs have only {few} different beginnings, so the texts stay whole and each pair "
                "counts as independent of the others.",
            )
    elif few < FEWEST_GROUPS <= len(beginnings):
        items = [replace(item, group=str(item.prompt)) for item in items]
        notes = (
            f"The {len(pairs)} pairs have only {few} different questions of a user, so each different chat counts as "
            "independent of the others.",
        )
    source = f"{len(positive):,} positive and {len(negative):,} negative prompts, {how}"
    return replace(_divided(name, items, source, seed), notes=notes)


def behavior_of_items(name: str, items: Sequence[Item], seed: int = 0) -> Behavior:
    """Return a behaviour of items in a list, as `read_behavior` does of those in a file.

    Raises:
        PromptError: There are fewer than FEWEST_GROUPS groups.
    """
    return _divided(name, items, f"{len(items):,} records", seed)


def _items_of(
    name: str, pairs: Sequence[tuple[Prompt, Prompt]], item_of: Callable[[Prompt, Prompt], Item]
) -> list[Item]:
    items: list[Item] = []
    for index, pair in enumerate(pairs):
        with located(f"{name}, pair {index}"):
            items.append(item_of(*pair))
    return items


def _drawn(items: Iterable[Item], seed: int) -> tuple[list[Item], int]:
    """Draw at most MOST_ITEMS items in one pass, each as likely as any (algorithm R, Vitter 1985), and count all."""
    random, kept, total = Random(seed), list[tuple[int, Item]](), 0
    for index, item in enumerate(items):
        total += 1
        if index < MOST_ITEMS:
            kept.append((index, item))
        elif (place := random.randrange(total)) < MOST_ITEMS:
            kept[place] = index, item
    return [item for _, item in sorted(kept, key=lambda numbered: numbered[0])], total


def _divided(name: str, found: Iterable[Item], source: str, seed: int) -> Behavior:
    """Return a behaviour that has half of the groups, rounded down, for its pairs and the others held out."""
    drawn, total = _drawn(found, seed)
    items = _with_wordings_together(drawn)
    groups = list(dict.fromkeys(item.group for item in items))
    if len(groups) < FEWEST_GROUPS:
        # More of them would be refused, too.
        require_no_instructions(name, items)
        raise PromptError(
            f"{name} has {len(items)} items in {len(groups)} groups; equal prompts are one",
            valid=f"at least {FEWEST_GROUPS} groups, half of them to make a vector and half to judge it",
            fix="Add items with other prompts.",
        )
    for_pairs = set(_shuffled(groups, Random(seed))[: len(groups) // 2])
    kept = f"; {len(items):,} of {total:,} items drawn" if len(items) < total else ""
    return Behavior(
        name=name,
        description=f"The positive completions of {name} rather than the negative ones.",
        poles=("positive", "negative"),
        instruction=None,
        source=f"{source}{kept}; halved by group with seed {seed}",
        pairs=tuple(item for item in items if item.group in for_pairs),
        items=tuple(item for item in items if item.group not in for_pairs),
    )


def _with_wordings_together(items: Iterable[Item]) -> list[Item]:
    """Give the items one group whose groups are one sentence, but for spaces, capitals and the mark at its end."""
    spellings: dict[str, str] = {}
    return [replace(item, group=spellings.setdefault(_spelling(item.group), item.group)) for item in items]


def _spelling(group: str) -> str:
    words = group.split()
    # A single word is a name that somebody gave.
    return " ".join(words).casefold().rstrip(".?!… ") if len(words) > 1 else group


def _shuffled(values: Iterable[_Value], random: Random) -> list[_Value]:
    """Return the different ones of `values` in a random order."""
    order = list(dict.fromkeys(values))
    random.shuffle(order)
    return order
