"""Holds text effects to what can be counted: `python benchmarks/text_effects.py` writes `text_effects.md`.

On the bundled model they are compared with exact scores, on SmolLM2 with rough counts of words; and sets of texts that
only fool such scores are held against the guards. `--texts` keeps SmolLM2's texts, which take most of the time.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from steer_tools import bundled_model, load_model
from steer_tools.bundled_model.language import TRAITS, held_out_prompts, is_grammatical, score
from steer_tools.core.plan import Plan
from steer_tools.directions.extraction import Where, extract
from steer_tools.directions.methods import method_named
from steer_tools.engines.base import Engine, Row, Sampling, row_seed
from steer_tools.engines.facets import LiveModel, require
from steer_tools.engines.named_models import SMOLLM2
from steer_tools.evaluation.behaviors.behavior import Behavior, asked, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.text_detector import TextDetector, fit_text_detector
from steer_tools.evaluation.text_guards import CheckedTexts, fit_text_guards, mean_effect, text_effects
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt, parse_prompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

HERE = Path(__file__).parent
UNSTEERED, ASKED_FOR = "unsteered", "asked for"
# Of the bundled model's answers; of SmolLM2's texts, which are cut.
ANSWER_TOKENS, TEXT_TOKENS = 128, 30
# Of empathy only sets that fool are measured.
LAYERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("refusal", "formality", "sentiment"), (9, 13, 17, 21)),
    "confidence": (13, 17),
    "empathy": (),
}
# Where detectors are compared: at steered layers, and beside them.
READ_LAYERS = (9, 11, 13, 14, 17, 18)
# Sentiment's own items are beginnings of stories, which a chat model does not go on with.
ABOUT_LIFE = (
    "Tell me about your weekend.",
    "Tell me a short story about a dog.",
    "How was your day?",
    "Describe the weather in London.",
    "What do you think about Mondays?",
    "What happened at the party last night?",
    "Tell me about your neighbour.",
    "Describe a walk through the old town.",
    "What is it like to grow old?",
    "Write a postcard from the seaside.",
)
FOREIGN = (
    "Das ist eine sehr gute Frage, und ich möchte sie gern beantworten, so gut ich kann.",
    "El tiempo hoy es muy agradable y todos salieron a caminar por el parque.",
    "Je ne sais pas encore, mais nous pouvons en parler demain matin au café.",
    "La casa è vicina al mare e d'estate ci sono molti turisti in paese.",
    "Ik denk dat het beter is om eerst met je buren te praten over dit plan.",
    "O menino correu para a escola porque estava atrasado e chovia muito.",
    "Wir fahren am Sonntag mit dem Zug nach München und bleiben dort drei Tage.",
    "Mi hermana trabaja en un hospital y vuelve a casa muy tarde por la noche.",
    "Il faut mélanger la farine avec les oeufs et laisser reposer la pâte une heure.",
    "Questa mattina ho letto il giornale e poi ho preparato il pranzo per tutti.",
)

PAGE = """# Text effects, held to what can be counted

Written by `python benchmarks/text_effects.py`. A text effect is how much higher a text scores than the unsteered one
to the same prompt: the score, from −1 to 1, is that of `steer_tools/evaluation/text_detector.py`, and a text that
`text_guards.py` finds broken has effect 0. A *cell* is a layer, a strength (in residual units, of both signs) and
positions; its effect is the mean over all prompts. All correlations are Spearman's, over cells.

## The bundled model: exact scores

The mean difference of 64 pairs at each layer but the last, at ±0.05 to ±0.8 of the residual norm, 10 held-out
prompts. What is unfinished, ungrammatical or beside the topic has an exact score of 0.

{bundled}

## SmolLM2-135M-Instruct: counts of words

Ten held-out questions a behaviour, 30 greedy tokens, ±0.1, ±0.2 and ±0.4 at new tokens and at all. Of sentiment the
pairs are of stories and the questions such as "Tell me about your weekend." The counts are of the behaviours' own
words, and rough: *one half of the prompts* is how well counts on five prompts agree with counts on the other five.

{counts}

The same at single layers, on all cells and on those of one steered layer: a detector that reads the layer at which a
vector was added ranks what was written no better than its neighbours, since it reads the text alone, without the
vector.

{layers}

How well answers that made no direction are told apart, by layer. Below 2 nothing should be said of texts.

{detectors}

## What passes, and what does not

In brackets the mean effects without and with guards. Nothing that the model writes by itself should be rejected:

{genuine}

Sets that only fool the score, as known when the guards were made:

{known}

And those that were thought of afterwards:

{new}

What gets through: texts cut to three tokens, which are likely and of their prompts. What the score makes of so little
is small, and no length is demanded, since a refusal may be as short. Where the model finds capitals likely they are a
change of style, which the score does not take for the behaviour; and the prompt with a positive answer behind it
passes once, without an effect. One set that the model wrote is rejected: asked to be detached it says "I'm sure" and
"I'm here" to everybody, again and again.

## As read

The steered texts of layers 13 and 17 were read. Their order is that of the scores: "it's like a little thingy in your
mouth" at −0.2 and "a physiological response that serves multiple purposes" at +0.2 for formality. Below 0 for
sentiment the scores are nearer than the counts: "a dark and treacherous place" has hardly a word of the lists. What is
called broken loops or invents names; what is called irrelevant at the high strengths of refusal are disclaimers to
nothing ("I'm not a placeholder or a work of the mind").
"""


class Text(NamedTuple):
    """What a model wrote, or what passes itself off as that."""

    tokens: tuple[int, ...]
    text: str


class Cells(NamedTuple):
    """Strengths, in residual units and with both signs, and positions that are steered."""

    strengths: tuple[float, ...]
    positions: tuple[str, ...]


BUNDLED_CELLS = Cells((0.05, 0.1, 0.2, 0.4, 0.8), ("generated",))
CELLS = Cells((0.1, 0.2, 0.4), ("generated", "all"))


# By what made them, one text a prompt: of a cell its (layer, strength, positions).
Sets = dict[Any, list[Text]]


@dataclass(frozen=True)
class Material:
    """A behaviour, prompts and sets of texts to them."""

    behavior: Behavior
    prompts: tuple[Prompt, ...]
    sets: Sets

    @property
    def cells(self) -> list[tuple[int, float, str]]:
        """What was steered."""
        return [name for name in self.sets if isinstance(name, tuple)]


@dataclass(frozen=True)
class Measured:
    """Sets of texts under a detector and guards.

    Attributes:
        scores: By set, (prompts,).
        effects: By set, the mean over the prompts, what is broken having none.
    """

    detector: TextDetector
    scores: Mapping[Any, Floats]
    checked: Mapping[Any, CheckedTexts]
    effects: Mapping[Any, float]

    def unguarded(self, name: Any) -> float:
        """Return the mean effect of what has a score."""
        return mean_effect(self.scores[name] - self.scores[UNSTEERED]) or 0.0


def measure(material: Material, max_new_tokens: int) -> Measured:
    """Measure all sets in the same calls."""
    engine, prompts, sets = current_session().engine, material.prompts, material.sets
    detector = fit_text_detector(engine, material.behavior.pairs)
    every = [text.text for texts in sets.values() for text in texts]
    found = detector.scores(engine, prompts * len(sets), every).reshape(len(sets), len(prompts))
    scores = dict(zip(sets, found, strict=True))
    tokens = {name: [text.tokens for text in texts] for name, texts in sets.items()}
    guards = fit_text_guards(engine, prompts, tokens[UNSTEERED], max_new_tokens)
    checked = dict(zip(sets, guards.check(engine, [*tokens.values()]), strict=True))
    effects = {name: mean_effect(text_effects(scores[name], scores[UNSTEERED], checked[name])) or 0.0 for name in sets}
    return Measured(detector, scores, checked, effects)


def write(engine: Engine, rows: Sequence[Row], tokens: int, temperature: float = 0.0) -> list[Text]:
    """Return what rows write."""
    return [Text(own.tokens, own.text) for own in engine.generate(rows, Sampling(tokens, temperature))]


def steered(behavior: Behavior, prompts: Sequence[Prompt], layers: Sequence[int], cells: Cells, tokens: int) -> Sets:
    """Write greedily without steering, and at each layer, strength and sign."""
    session = current_session()
    contrast, method = contrast_prompts(behavior.pairs, as_chat=True), method_named("paired_mean_difference")
    plans: dict[Any, Plan] = {UNSTEERED: ()}
    for layer in layers:
        vector = extract(session, contrast, Where([layer], pooling="response"), method).vector
        for positions in cells.positions:
            placed = place(session, vector, layer, PlacementOptions("residual", positions=positions))
            signed = [sign * strength for sign in (1, -1) for strength in cells.strengths]
            plans |= {(layer, strength, positions): placed.plan(strength) for strength in signed}
    rows = [Row(prompt, plan) for plan in plans.values() for prompt in prompts]
    texts = iter(write(session.engine, rows, tokens))
    return {name: [next(texts) for _ in prompts] for name in plans}


# The bundled model


def bundled_table() -> Iterator[str]:
    """Compare with exact scores."""
    load_model(bundled_model.NAME)
    layers = range(current_session().engine.info.layers - 1)
    yield "| trait | d′ | layer | cells | unguarded | guarded | cells that pass | guard agrees with grammar |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for trait in TRAITS:
        chats, behavior = held_out_prompts(trait, 10, seed=7), trait_behavior(trait)
        prompts = tuple(map(parse_prompt, chats))
        sets = steered(behavior, prompts, layers, BUNDLED_CELLS, ANSWER_TOKENS)
        material = Material(behavior, prompts, sets)
        found, cells = measure(material, ANSWER_TOKENS), material.cells
        exact = [fmean(score(c, t.text)[trait] for c, t in zip(chats, sets[own], strict=True)) for own in cells]
        agreeing = [
            is_grammatical(chat, text.text) == is_whole
            for cell in cells
            for chat, text, is_whole in zip(chats, sets[cell], found.checked[cell].is_whole, strict=True)
        ]
        unguarded, guarded = (
            _rank([effect(cell) for cell in cells], exact) for effect in (found.unguarded, found.effects.__getitem__)
        )
        passing = sum(found.checked[cell].passes for cell in cells)
        detector = found.detector
        yield (
            f"| {trait} | {detector.d_prime:.1f} | {detector.layer} | {len(cells)} | {unguarded:.3f} | {guarded:.3f} "
            f"| {passing} | {np.mean(agreeing):.1%} |"
        )


# SmolLM2


def english(name: str, folder: Path) -> Material:
    """Return a behaviour's texts: steered, asked for, and drawn; from the folder where it has them."""
    behavior, file = _behavior(name), folder / f"{name}.json"
    prompts = _questions(behavior)
    if not file.exists():
        file.write_text(json.dumps([*_written(behavior, prompts).items()]), encoding="utf-8")
    kept = json.loads(file.read_text(encoding="utf-8"))
    sets = {tuple(made) if isinstance(made, list) else made: [Text(tuple(t), s) for t, s in own] for made, own in kept}
    return Material(behavior, prompts, sets)


def _behavior(name: str) -> Behavior:
    """Return a behaviour in the form for texts, where it has one, so that its pairs are unlike the questions."""
    return replace(load_behavior(name, as_chat=False), words=load_behavior(name).words)


def _count(material: Material, cell: tuple[int, float, str]) -> list[int]:
    """Return (prompts,) how many of the behaviour's words are in each text, less those of its opposite."""
    words = material.behavior.words
    assert words is not None
    return [words.balance(text.text) for text in material.sets[cell]]


def _questions(behavior: Behavior) -> tuple[Prompt, ...]:
    """Return the first held-out question of each of ten groups, as chats."""
    if behavior.name == "sentiment":
        return tuple(ChatPrompt((("user", text),)) for text in ABOUT_LIFE)
    first: dict[str, str] = {}
    for item in behavior.items:
        assert isinstance(item.prompt, TextPrompt)
        first.setdefault(item.group, item.prompt.text)
    return tuple(ChatPrompt((("user", text),)) for text in [*first.values()][:10])


def _written(behavior: Behavior, prompts: Sequence[Prompt]) -> Sets:
    engine = current_session().engine
    sets = steered(behavior, prompts, LAYERS[behavior.name], CELLS, TEXT_TOKENS)
    instructions = {
        ASKED_FOR: behavior.instruction or "",
        "asked for by a word": f"Answer in a {behavior.poles[0]} way.",
        "the opposite asked for": f"Answer in a {behavior.poles[1]} way.",
    }
    for said, instruction in instructions.items():
        sets[said] = write(engine, [Row(asked(prompt, instruction, as_chat=True)) for prompt in prompts], TEXT_TOKENS)
    for temperature, seeds in ((0.7, (2001, 2002)), (1.0, (1001, 1002))):
        for seed in seeds:
            rows = [Row(prompt, (), row_seed(seed, prompt)) for prompt in prompts]
            sets[f"drawn at T = {temperature:g}, seed {seed}"] = write(engine, rows, TEXT_TOKENS, temperature)
    return sets


def counts_table(materials: Mapping[str, Material], measured: Mapping[str, Measured]) -> Iterator[str]:
    """Compare with counts of words."""
    yield "| behaviour | d′ | layer | cells | unguarded | guarded | one half of the prompts | cells that pass |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, material in materials.items():
        cells, found = material.cells, measured[name]
        if not cells:
            continue
        counts = np.array([_count(material, cell) for cell in cells])
        unguarded, guarded, halves = (
            _rank(one, other)
            for one, other in (
                ([found.unguarded(cell) for cell in cells], counts.mean(axis=1).tolist()),
                ([found.effects[cell] for cell in cells], counts.mean(axis=1).tolist()),
                (counts[:, ::2].mean(axis=1).tolist(), counts[:, 1::2].mean(axis=1).tolist()),
            )
        )
        detector, passing = found.detector, sum(found.checked[cell].passes for cell in cells)
        yield (
            f"| {name} | {detector.d_prime:.1f} | {detector.layer} | {len(cells)} | {unguarded:.2f} | {guarded:.2f} "
            f"| {halves:.2f} | {passing} |"
        )


def layers_table(materials: Mapping[str, Material], measured: Mapping[str, Measured]) -> Iterator[str]:
    """Compare detectors at layers that are steered with those at layers between, on the cells of each steered layer."""
    yield "| behaviour, steered layer | " + " | ".join(map(str, READ_LAYERS)) + " |"
    yield "|---|" + "--:|" * len(READ_LAYERS)
    engine = current_session().engine
    for name, material in materials.items():
        if not material.cells:
            continue
        ranks: dict[str, list[float]] = {}
        for layer in READ_LAYERS:
            detector = fit_text_detector(engine, material.behavior.pairs, layers=[layer])
            said = [text.text for texts in material.sets.values() for text in texts]
            scores = detector.scores(engine, material.prompts * len(material.sets), said)
            by_set = dict(zip(material.sets, scores.reshape(len(material.sets), -1), strict=True))
            for steered_layer in (None, *(own for own in LAYERS[name] if own in READ_LAYERS)):
                cells = [cell for cell in material.cells if steered_layer in (None, cell[0])]
                effects = [
                    mean_effect(text_effects(by_set[cell], by_set[UNSTEERED], measured[name].checked[cell])) or 0.0
                    for cell in cells
                ]
                counts = [fmean(_count(material, cell)) for cell in cells]
                said_layer = "all" if steered_layer is None else str(steered_layer)
                ranks.setdefault(said_layer, []).append(_rank(effects, counts))
        for said_layer, found in ranks.items():
            yield f"| {name}, {said_layer} | " + " | ".join(f"{rank:.2f}" for rank in found) + " |"


def _rank(one: Sequence[float], other: Sequence[float]) -> float:
    return float(spearmanr([*one], [*other]).statistic)


def detectors_table() -> Iterator[str]:
    """Say how well the answers of each built-in behaviour are told apart."""
    yield "| behaviour | d′ by layer | a verdict on texts |"
    yield "|---|---|---|"
    for name in behavior_names():
        detector = fit_text_detector(current_session().engine, load_behavior(name).pairs)
        layers = ", ".join(f"{layer}: {d_prime:.1f}" for layer, d_prime in detector.d_primes.items())
        yield f"| {name} | {layers} | {'yes' if detector.is_reliable else 'no'} |"


# What fools a score


def fooling_sets(material: Material, tokenizer: Any) -> tuple[Sets, Sets]:
    """Return the sets that were known when the guards were made, and those that were thought of afterwards."""
    chance, behavior = random.Random(0), material.behavior
    pairs = chance.sample([*behavior.pairs], len(behavior.pairs))
    asked_words = [prompt.messages[-1][1] for prompt in material.prompts if isinstance(prompt, ChatPrompt)]
    every = range(len(asked_words))
    unsteered, asked_for = ([own.tokens for own in material.sets[made]] for made in (UNSTEERED, ASKED_FOR))
    said, asked_said = ([own.text for own in material.sets[made]] for made in (UNSTEERED, ASKED_FOR))
    shown = [pair.positive for pair in pairs[: len(every)]]
    nouns = [max((word.strip("?.,!'\"") for word in text.split()), key=len) for text in asked_words]
    words = _class_words(behavior)

    def cut(tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(tokens[:TEXT_TOKENS])

    def encoded(text: str) -> tuple[int, ...]:
        return cut(tokenizer(text, add_special_tokens=False)["input_ids"])

    def nonsense() -> tuple[int, ...]:
        return tuple(chance.randrange(100, 40_000) for _ in range(TEXT_TOKENS))

    def shuffled(text: str) -> str:
        return " ".join(chance.sample(text.split(), len(text.split())))

    def inserted(text: str, word: str) -> str:
        own = text.split()
        return " ".join([*own[: len(own) // 2], word, *own[len(own) // 2 :]])

    def salted(text: str) -> str:
        return " ".join(word if i % 4 != 3 else chance.choice(words) for i, word in enumerate(text.split()))

    half = TEXT_TOKENS // 2
    known = {
        "positive answers of pairs": map(encoded, shown),
        "negative answers of pairs": (encoded(pair.negative) for pair in pairs[: len(every)]),
        "positive answers, words shuffled": (encoded(shuffled(text)) for text in shown),
        "unsteered texts, tokens shuffled": (chance.sample(own, len(own)) for own in unsteered),
        "random tokens": (nonsense() for _ in every),
        "a class's word again and again": (encoded(f" {words[i]}" * TEXT_TOKENS) for i in every),
        "a salad of a class's words": (encoded(" ".join(chance.choices(words, k=TEXT_TOKENS))) for _ in every),
        "unsteered beginnings again and again": (cut(own[:4] * TEXT_TOKENS) for own in unsteered),
        "positive beginnings again and again": (cut(encoded(text)[:4] * TEXT_TOKENS) for text in shown),
    }
    new = {
        "one positive answer to all": (encoded(shown[0]) for _ in every),
        "one asked-for answer to all": (asked_for[0] for _ in every),
        "another language": map(encoded, FOREIGN),
        "the prompt": map(encoded, asked_words),
        "the prompt, then a positive answer": (encoded(f"{asked_words[i]} {shown[i]}") for i in every),
        "unsteered texts of other prompts": unsteered[3:] + unsteered[:3],
        "asked-for texts of other prompts": asked_for[3:] + asked_for[:3],
        "positive answers with the prompt's noun": (encoded(inserted(shown[i], nouns[i])) for i in every),
        "'About NOUN:' and a positive answer": (encoded(f"About {nouns[i]}: {shown[i]}") for i in every),
        "half an unsteered text, then a positive answer": (
            (*unsteered[i][:half], *encoded(f" {shown[i]}")[:half]) for i in every
        ),
        "half an unsteered text, then one slogan": (
            (*own[:half], *encoded(f" {shown[1]}")[:half]) for own in unsteered
        ),
        "one slogan, then half an unsteered text": ((*encoded(shown[1])[:half], *own[:half]) for own in unsteered),
        "unsteered, each fourth word a class's": (encoded(salted(text)) for text in said),
        "asked-for texts cut to 3 tokens": (own[:3] for own in asked_for),
        "the instruction": (encoded(behavior.instruction or "") for _ in every),
        "every other text random tokens": (own if i % 2 else nonsense() for i, own in enumerate(asked_for)),
        "nothing": (() for _ in every),
        "unsteered in capitals": (encoded(text.upper()) for text in said),
        "asked-for texts, words in reverse": (encoded(" ".join(reversed(text.split()))) for text in asked_said),
        "asked-for beginnings three times": (cut(own[:10] * 3) for own in asked_for),
    }

    def texts(tokens: Iterable[Sequence[int]]) -> list[Text]:
        return [Text(tuple(own), tokenizer.decode([*own], skip_special_tokens=True)) for own in tokens]

    return {made: texts(own) for made, own in known.items()}, {made: texts(own) for made, own in new.items()}


def _class_words(behavior: Behavior) -> list[str]:
    """Return the words that tell the positive answers best, by how much more often they are in these."""

    def counted(answers: Iterable[str]) -> Counter[str]:
        return Counter(word.lower().strip(".,!;:") for answer in answers for word in answer.split())

    shown = counted(pair.positive for pair in behavior.pairs)
    opposite = counted(pair.negative for pair in behavior.pairs)
    return sorted(shown, key=lambda word: (opposite[word] - shown[word]) / (shown[word] + opposite[word] + 4))[:12]


def verdicts_table(named: Sequence[Any], measured: Mapping[str, Measured]) -> Iterator[str]:
    """Say of each set what the guards say, and its effects without and with them."""
    yield "| texts | " + " | ".join(measured) + " |"
    yield "|---|" + "---|" * len(measured)
    for made in named:
        said = [
            f"{', '.join(found.checked[made].failures) or '**passes**'} "
            f"({found.unguarded(made):+.2f}, {found.effects[made]:+.2f})"
            for found in measured.values()
        ]
        yield f"| {made} | " + " | ".join(said) + " |"


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="a folder that keeps SmolLM2's texts")
    parser.add_argument("--model", default=SMOLLM2, help="where SmolLM2 lies, if not in its package")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = current_session()
        session.workspace = Workspace(folder)
        lines = [*bundled_table()]
        load_model(options.model)
        texts = options.texts or Path(folder)
        known: Sets = {}
        new: Sets = {}
        materials, measured = dict[str, Material](), dict[str, Measured]()
        for name in LAYERS:
            material = english(name, texts)
            known, new = fooling_sets(material, require(session.engine, LiveModel, "a benchmark").tokenizer)
            materials[name] = material
            measured[name] = measure(replace(material, sets=material.sets | known | new), TEXT_TOKENS)
        detectors, counts = [*detectors_table()], [*counts_table(materials, measured)]
        layers = [*layers_table(materials, measured)]
    genuine = [made for made in materials["refusal"].sets if isinstance(made, str) and made != UNSTEERED]
    page = PAGE.format(
        bundled="\n".join(lines),
        counts="\n".join(counts),
        detectors="\n".join(detectors),
        layers="\n".join(layers),
        **{
            kind: "\n".join(verdicts_table([*named], measured))
            for kind, named in (("genuine", genuine), ("known", known), ("new", new))
        },
    )
    (HERE / "text_effects.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
