"""Two short lists of texts → does the contrast between them act on a model at all, by a permutation test.

To first order a vector made of the other texts changes a text's log-probability by the text's gradient times their
activations, so that one pass there and back for each text stands for steering it with every vector that any labelling
of the texts would make. It must not know behaviours' files, strengths, or what is done where the answer is yes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb, prod
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.engines.facets import Gradients, require
from steer_tools.errors import DirectionError, PromptError
from steer_tools.evaluation.behaviors.behavior import BEGINNING, Item, contrast_prompts, evaluation_prompt
from steer_tools.evaluation.intervals import Floats, numbered
from steer_tools.progress import Work
from steer_tools.prompts import ChatPrompt, ContrastPrompts, Prompt, TextPrompt

RELABELINGS = 999
# Texts of like length: blocks of 4 find less where lists differ in length, larger ones find what lengths do.
BLOCK = 8
# Where a text is read for a vector: all of it, and its end.
_OF_TEXTS: tuple[Pooling, ...] = ("mean", "last")
_OF_CHATS: tuple[Pooling, ...] = ("response", "last")
_DIFFERENTIATING, _READING = "differentiating texts", "reading texts"
# Bytes of derivatives, one of each token at each layer, that are held before they are summed up.
_MOST_HELD = 2**28
# Of the largest: what differs by less differs by rounding.
_ROUNDING = 1e-9

Indices: TypeAlias = NDArray[np.intp]
# Layer, pooling, and (texts, texts) the effect on the row's text of adding the column's activation.
Effects: TypeAlias = tuple[int, Pooling, Floats]


@dataclass(frozen=True)
class ListedText:
    """A text as it is scored, `completion` behind `prompt`, and as a vector is made of it, `whole`."""

    prompt: Prompt
    completion: str
    whole: Prompt


@dataclass(frozen=True)
class Lists:
    """Texts of two lists.

    Attributes:
        groups: Of the positive texts, then of the negative ones, where texts come in pairs with one prompt: a group
            changes sides as a whole. None for texts that have nothing to do with each other.
    """

    positive: tuple[ListedText, ...]
    negative: tuple[ListedText, ...]
    groups: tuple[str, ...] | None = None

    @property
    def texts(self) -> tuple[ListedText, ...]:
        """All of them, the positive ones first."""
        return (*self.positive, *self.negative)

    @property
    def signs(self) -> Floats:
        """(texts,) 1 for the positive ones and −1 for the negative ones."""
        return np.repeat([1.0, -1.0], [len(self.positive), len(self.negative)])


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """What moves texts, and what vectors are made of them.

    Attributes:
        layers: In the order of what follows.
        gradients: (layers, texts, width) float32, of a text's mean log-probability a token, in nats, with respect to
            what is added at the positions `generated`.
        activations: (layers, texts, width) float32 by pooling.
        tokens: (texts,) how many of a text are scored.
    """

    layers: tuple[int, ...]
    gradients: Tensor
    activations: Mapping[Pooling, Tensor]
    tokens: Indices

    def effects(self) -> Iterator[Effects]:
        """Yield what texts do to each other at each layer, for each pooling."""
        for index, layer in enumerate(self.layers):
            slopes = self.gradients[index].double()
            for pooling, activations in self.activations.items():
                yield layer, pooling, (slopes @ activations[index].double().T).numpy()


@dataclass(frozen=True, eq=False)
class Labeling:
    """Which side each text is on, and with which others it might have changed places.

    Attributes:
        signs: (texts,) 1 or −1.
        tokens: (texts,) their lengths.
        groups: As those of `Lists`.
        block: At most so many texts of like length change places with each other, where there are no groups.
        seed: Of the order of equal lengths, and of relabellings.
    """

    signs: Floats
    tokens: Indices
    groups: Sequence[str] | None = None
    block: int = BLOCK
    seed: int = 0

    @cached_property
    def blocks(self) -> list[Indices]:
        """The texts of each block, or of each group."""
        if self.groups is not None:
            number = numbered(self.groups, len(self.signs))
            return [np.flatnonzero(number == group) for group in range(number.max() + 1)]
        order = np.lexsort((np.random.default_rng(self.seed).random(len(self.tokens)), self.tokens))
        # Where one side has all the longer texts it ends here, and no block may lie across.
        sides = [int((self.signs > 0).sum()), int((self.signs < 0).sum())]
        parts = [part for part in np.split(order, sorted({*sides})) if len(part)]
        return [own for part in parts for own in np.array_split(part, -(-len(part) // self.block))]

    @property
    def mixed(self) -> int:
        """The number of blocks with texts of both sides."""
        return sum(len(set(self.signs[own].tolist())) > 1 for own in self.blocks)

    @property
    def longer(self) -> float:
        """The share of pairs of a positive and a negative text in which the positive one has more tokens."""
        positive, negative = self.tokens[self.signs > 0], self.tokens[self.signs < 0]
        differences = positive[:, None] - negative
        return float((differences > 0).mean() + (differences == 0).mean() / 2)

    @property
    def different(self) -> int:
        """The number of labellings that keep the blocks; those of opposite signs throughout count as one."""
        if self.groups is not None:
            return 2 ** (len(self.blocks) - 1)
        sides = [(len(own), int((self.signs[own] > 0).sum())) for own in self.blocks]
        # Only where each block is halved can all labels be turned round.
        return prod(comb(*side) for side in sides) // (2 if all(2 * side == size for size, side in sides) else 1)

    @property
    def apart(self) -> NDArray[np.bool_]:
        """(texts, texts) which ones make vectors for each other: different ones, and of different groups."""
        own = np.arange(len(self.signs)) if self.groups is None else numbered(self.groups, len(self.signs))
        return own[:, None] != own

    def relabeled(self) -> Floats:
        """Return (1 + RELABELINGS, texts) these signs, then those after texts of each block changed places by chance.

        Groups change sides as a whole.
        """
        random = np.random.default_rng((self.seed, 1))
        labels = np.tile(self.signs, (RELABELINGS, 1))
        for own in self.blocks:
            if self.groups is not None:
                labels[:, own] *= random.choice([-1.0, 1.0], (RELABELINGS, 1))
            else:
                labels[:, own] = random.permuted(labels[:, own], axis=1)
        return np.vstack([self.signs, labels])


@dataclass(frozen=True)
class ContrastTest:
    """Whether a contrast acts.

    Attributes:
        p: The share of labellings, the given one among them, whose largest z reaches that of the given one.
        z: How far the given labelling's effect is above the mean of all, in standard deviations, where that is largest.
        layer: Where it is.
        pooling: Of what the vector was made there.
        counts: Positive and negative texts.
        reached: How many of the RELABELINGS reached z at some layer.
        different: How many different labellings there are that keep the blocks, but for the sign of all.
        blocks: Within which texts changed places: of like length or, with `are_pairs`, of one prompt.
        mixed: How many of them hold texts of both sides.
        longer: The share of pairs of a positive and a negative text in which the positive one has more tokens.
    """

    p: float
    z: float
    layer: int
    pooling: Pooling
    counts: tuple[int, int]
    reached: int
    different: int
    blocks: int
    mixed: int
    longer: float
    are_pairs: bool

    @property
    def least_p(self) -> float:
        """About the least that p could have been; 1 where no text could have been on another side."""
        return max(1 / self.different, 1 / (1 + RELABELINGS))

    def in_words(self) -> str:
        """Say what it shows, and what it cannot show."""
        sides = (
            f"{self.mixed} of {self.blocks} blocks hold texts of both sides, and of a positive and a negative text the "
            f"positive one is the longer in {self.longer:.0%} of cases"
        )
        among, unlevelled = "texts of like length", ""
        if self.are_pairs:
            among, unlevelled = "texts of one prompt", ", which no such relabelling levels"
        if self.least_p == 1:
            return f"Whether the contrast acts cannot be told: relabelling {among} makes no other contrast ({sides})."
        return (
            f"{self.reached or 'None'} of {RELABELINGS} relabellings among {among} make vectors that move the texts "
            f"left out as far, each to its own side, as these lists do: p = {self.p:.3f}, and it could not be below "
            f"{self.least_p:.3f} (most clearly at layer {self.layer}, pooling={self.pooling!r}; "
            f"{sides}{unlevelled}). That is of log-probabilities of these texts at small strengths: what a steered "
            "model writes, which strength is right, and whether the lists differ in what was meant, it cannot show."
        )


def lists_of_prompts(contrast: ContrastPrompts) -> Lists:
    """Return two lists of whole texts, or of chats that end with an assistant's message; repeated ones count once.

    Raises:
        PromptError: One is token ids, or a chat without an answer.
    """
    return Lists(_once(map(_text_of, contrast.positive)), _once(map(_text_of, contrast.negative)))


def lists_of_items(items: Sequence[Item], as_chat: bool) -> Lists:
    """Return the completions of items; without prompts, and each in a group of its own, they are no pairs.

    Raises:
        PromptError: There is no item, or one has token ids for a prompt.
    """
    whole = contrast_prompts(items, as_chat)
    scored = [evaluation_prompt(item, as_chat) for item in items]
    positive = [
        ListedText(prompt, shown, read) for (prompt, shown, _), read in zip(scored, whole.positive, strict=True)
    ]
    negative = [
        ListedText(prompt, other, read) for (prompt, _, other), read in zip(scored, whole.negative, strict=True)
    ]
    groups = [item.group for item in items]
    if len({*groups}) == len(groups) and all(item.prompt is None for item in items):
        return Lists(_once(positive), _once(negative))
    return Lists(tuple(positive), tuple(negative), (*groups, *groups))


def contrast_acts(engine: Engine, lists: Lists, layers: Sequence[int], seed: int = 0) -> ContrastTest:
    """Test whether a vector of the contrast moves held-out texts at some layer, by one pass there and back a text.

    Raises:
        DirectionError: Gradients or activations are not finite.
        PromptError: A text cannot be read, or is too long.
        UnsupportedFeatureError: The engine has no gradients.
    """
    measured = first_order(engine, lists.texts, layers)
    return contrast_test(measured.effects(), Labeling(lists.signs, measured.tokens, lists.groups, seed=seed))


def first_order(engine: Engine, texts: Sequence[ListedText], layers: Sequence[int]) -> FirstOrder:
    """Measure what moves texts and what vectors are made of them, at layers counted from 0.

    Raises:
        SteeringError: As `contrast_acts` does.
    """
    engine = require(engine, Gradients, "The test of two lists")
    sites, whole = [Site(layer) for layer in layers], [text.whole for text in texts]
    poolings = _OF_CHATS if all(isinstance(prompt, ChatPrompt) for prompt in whole) else _OF_TEXTS
    work = Work({_DIFFERENTIATING: 3.0, _READING: 2.0})
    with work.stage(_DIFFERENTIATING):
        gradients, tokens = _slopes(engine, texts, sites)
    activations: dict[Pooling, Tensor] = {}
    with work.stage(_READING):
        for pooling in poolings:
            read = engine.read(whole, sites, pooling)
            activations[pooling] = torch.stack([read[site] for site in sites])
    if not all(bool(values.isfinite().all()) for values in (gradients, *activations.values())):
        raise DirectionError(
            f"What the texts do at the layers {[*layers]} is not finite in {engine.info.dtype}",
            fix="Load the model with dtype='float32', or leave these layers out.",
        )
    return FirstOrder(tuple(layers), gradients, activations, tokens)


def contrast_test(effects: Iterable[Effects], labeling: Labeling) -> ContrastTest:
    """Test a labelling against others, at every layer and pooling at once.

    The effect of labels y is Σ y_i M_ij y_j over texts i ≠ j of different groups: what vectors made of all other texts
    do to each. M is centred both ways, so that what all texts share counts nowhere. At each place the effects are
    standardised over all labellings, and the largest over the places counts (Westfall and Young 1993), so that the
    choice of the place is paid for.
    """
    labels, apart = labeling.relabeled(), labeling.apart
    places: list[tuple[int, Pooling]] = []
    standardised: list[Floats] = []
    for layer, pooling, moved in effects:
        centred = moved - moved.mean(axis=0) - moved.mean(axis=1, keepdims=True) + moved.mean()
        places.append((layer, pooling))
        standardised.append(_standardised(((labels @ (centred * apart)) * labels).sum(axis=1)))
    z = np.stack(standardised)
    largest, place = z.max(axis=0), int(z[:, 0].argmax())
    reached = int((largest[1:] >= largest[0] - _ROUNDING).sum())
    return ContrastTest(
        p=(1 + reached) / (1 + RELABELINGS),
        z=float(largest[0]),
        layer=places[place][0],
        pooling=places[place][1],
        counts=(int((labeling.signs > 0).sum()), int((labeling.signs < 0).sum())),
        reached=reached,
        different=labeling.different,
        blocks=len(labeling.blocks),
        mixed=labeling.mixed,
        longer=labeling.longer,
        are_pairs=labeling.groups is not None,
    )


def _text_of(prompt: Prompt) -> ListedText:
    match prompt:
        case TextPrompt(text):
            return ListedText(BEGINNING, text, prompt)
        case ChatPrompt((_, *_, ("assistant", answer))):
            return ListedText(ChatPrompt(prompt.messages[:-1]), answer, prompt)
        case _:
            raise PromptError(
                f"{prompt!s:.80} is no text that can be scored",
                valid="texts, or chats that end with an assistant's message after another one",
            )


def _once(texts: Iterable[ListedText]) -> tuple[ListedText, ...]:
    # A text that is there twice would be moved by a vector of itself, by whatever it is about.
    return tuple(dict.fromkeys(texts))


def _slopes(engine: Gradients, texts: Sequence[ListedText], sites: Sequence[Site]) -> tuple[Tensor, Indices]:
    """Return gradients (sites, texts, width) of mean log-probabilities, and (texts,) how many tokens are scored."""
    before = [len(engine.tokenize(text.prompt).tokens) for text in texts]
    given = [start + len(engine.tokenize(text.whole).tokens) for start, text in zip(before, texts, strict=True)]
    portions = _portions(given, _MOST_HELD // (4 * len(sites) * engine.info.hidden_size))
    names = [f"{_DIFFERENTIATING}, part {number} of {len(portions)}" for number in range(1, len(portions) + 1)]
    work = Work({name: sum(given[i] for i in own) for name, own in zip(names, portions, strict=True)})
    gradients = torch.empty(len(sites), len(texts), engine.info.hidden_size)
    tokens = np.empty(len(texts), dtype=np.intp)
    for name, portion in zip(names, portions, strict=True):
        with work.stage(name):
            rows = [Row(texts[index].prompt) for index in portion]
            found = engine.gradients(rows, [texts[index].completion for index in portion], sites)
        for index, own in zip(portion, found, strict=True):
            # The positions `generated` begin with the last token of the prompt.
            steered = [own.by_site[site][before[index] - 1 :] for site in sites]
            gradients[:, index] = torch.stack([slopes.mean(dim=0) for slopes in steered])
            tokens[index] = len(steered[0])
    return gradients, tokens


def _portions(tokens: Sequence[int], most: int) -> list[list[int]]:
    """Divide indices, those of like many tokens together, into parts of at most so many tokens or of one index."""
    portions, held = [list[int]()], 0
    for index in sorted(range(len(tokens)), key=tokens.__getitem__):
        if portions[-1] and held + tokens[index] > most:
            portions.append([])
            held = 0
        portions[-1].append(index)
        held += tokens[index]
    return portions


def _standardised(effects: Floats) -> Floats:
    """Return effects (labellings,) in standard deviations from their mean, or 0 where they differ by rounding only."""
    deviations = effects - effects.mean()
    spread = float(effects.std())
    return deviations / spread if spread > _ROUNDING * float(np.abs(effects).max()) else np.zeros_like(effects)
