"""What the test of two short lists finds: `python benchmarks/list_contrast.py NAME=MODEL [--parts PART ...]`.

`power` draws lists of the built-in behaviours' texts, real contrasts and shams, and counts p ≤ .05; `pairs` does so
with items that keep their prompts; `steering` holds first order against real steering; `dtypes` against float32; `tool`
asks `steering_experiment` of the same lists; `cost` is CPU time. Each writes its own section of `list_contrast.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported.

import numpy as np
import torch

from steer_tools import load_model, steering_experiment
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import GENERATED
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.experiments.list_contrast import (
    BLOCK,
    Effects,
    FirstOrder,
    Indices,
    Labeling,
    Lists,
    contrast_acts,
    contrast_test,
    first_order,
    lists_of_items,
    lists_of_prompts,
)
from steer_tools.prompts import ContrastPrompts, TextPrompt
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

RESULTS = Path(__file__).with_suffix(".md")
SIZES = (6, 8, 12, 16)
BLOCKS = (4, BLOCK)
LEVEL = 0.05
INTRODUCTION = """# Two short lists

What `steer_tools/experiments/list_contrast.py` finds in lists of the built-in behaviours' texts, by
`benchmarks/list_contrast.py`. No two texts of a draw are of one item. With "lengths 0.75" three in four texts of one
list are among the longer half of all that were drawn, and three in four of the other among the shorter half; "halves"
have half of each side in both lists. A sham should be found in 5 % of draws, with a standard error of 1.5 % in 200.
"""
# So many of a list's texts are among the longer half of what was drawn for both.
CONFOUNDED = (0.75, 0.9)


@dataclass(frozen=True)
class Draw:
    """Two lists: indices into a pool, the first half of them the positive list."""

    texts: Indices

    @property
    def signs(self) -> np.ndarray:
        """1 for the first half, −1 for the second."""
        return np.repeat([1.0, -1.0], len(self.texts) // 2)


class Pool:
    """All texts of a behaviour, item i's positive one at i and its negative one behind all positive ones."""

    def __init__(self, engine: Engine, name: str, layers: Sequence[int], *, keep_prompts: bool = False) -> None:
        is_chat = keep_prompts and engine.info.has_chat_template
        behavior = load_behavior(name, as_chat=is_chat)
        self.items = list({item.group: item for item in (*behavior.pairs, *behavior.items)}.values())
        self.lists = lists_of_items(self.items, is_chat) if keep_prompts else wholes(self.items)
        self.first_order: FirstOrder = first_order(engine, self.lists.texts, layers)
        self._effects = list(self.first_order.effects())

    def effects(self, texts: Indices) -> list[Effects]:
        """Return what some texts do to each other."""
        return [(layer, pooling, own[np.ix_(texts, texts)]) for layer, pooling, own in self._effects]

    def p(self, draw: Draw, seed: int, block: int = BLOCK, groups: Sequence[str] | None = None) -> float:
        """Return the p of two lists; with block 0 lengths are not looked at."""
        tokens = self.first_order.tokens[draw.texts] * (block > 0)
        return contrast_test(self.effects(draw.texts), Labeling(draw.signs, tokens, groups, block or BLOCK, seed)).p


def wholes(items: Sequence[Item]) -> Lists:
    """Return the items' sentences: the completions, behind their prompts where they go on with these."""
    are_sentences = all(text[0].isupper() for item in items for text in (item.positive, item.negative))

    def sentence(item: Item, completion: str) -> TextPrompt:
        before = "" if are_sentences or not isinstance(item.prompt, TextPrompt) else f"{item.prompt.text} "
        return TextPrompt(before + completion)

    positive, negative = zip(
        *((sentence(item, item.positive), sentence(item, item.negative)) for item in items), strict=True
    )
    return lists_of_prompts(ContrastPrompts(positive, negative))


def drawn(pool: Pool, count: int, number: int) -> dict[str, Draw]:
    """Return draw `number` of each kind, with lists of `count` texts, no two of one item."""
    random = np.random.default_rng((count, number))
    items = len(pool.items)
    order = random.permutation(items)
    a, b, half = order[:count], order[count : 2 * count], count // 2
    side = items * (number % 2)
    by_length = np.argsort(pool.first_order.tokens, kind="stable").argsort()

    def longest_first(texts: Indices) -> Indices:
        return texts[np.argsort(-by_length[texts])]

    def divided(texts: Indices, share: float) -> tuple[Indices, Indices]:
        """Return two lists of which each has a share of one half, and the rest of the other half."""
        middle, most = len(texts) // 2, round(share * len(texts) / 2)
        first, second = random.permutation(texts[:middle]), random.permutation(texts[middle:])
        return np.r_[first[:most], second[most:]], np.r_[second[:most], first[most:]]

    own = side + order
    longer, _ = divided(longest_first(order[: 2 * count]), CONFOUNDED[0])
    _, shorter = divided(longest_first(items + order[2 * count : 4 * count]), CONFOUNDED[0])
    ends = longest_first(own[: 3 * count])
    return {
        "contrast": Draw(np.r_[a, items + b]),
        f"contrast, lengths {CONFOUNDED[0]}": Draw(np.r_[longer, shorter]),
        "sham: halves": Draw(np.r_[a[:half], items + a[half:], b[:half], items + b[half:]]),
        "sham: one side": Draw(own[: 2 * count]),
        **{
            f"sham: one side, lengths {share}": Draw(np.r_[divided(longest_first(own[: 2 * count]), share)])
            for share in CONFOUNDED
        },
        "sham: longest, shortest": Draw(np.r_[ends[:count], ends[-count:]]),
    }


def power(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], draws: int) -> Iterator[str]:
    """Yield a table's lines: the share of draws with p ≤ .05, for blocks of each size."""
    kinds: list[str] | None = None
    for name in behaviors:
        pool = Pool(engine, name, layers)
        for count in SIZES:
            found: dict[str, list[list[float]]] = {}
            for number in range(draws):
                for kind, draw in drawn(pool, count, number).items():
                    found.setdefault(kind, []).append([pool.p(draw, number, block) for block in (*BLOCKS, 0)])
            if kinds is None:
                kinds = list(found)
                yield from header("behaviour", "texts a side", *kinds)
            shares = [(np.array(found[kind]) <= LEVEL).mean(axis=0) for kind in kinds]
            yield row(name, str(count), *(" / ".join(f"{share:.3f}" for share in own) for own in shares))


def pairs(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], draws: int) -> Iterator[str]:
    """Yield a table's lines: the same for items with their prompts, by pairs that change sides and by blocks."""
    yield from header("behaviour", "pairs", "pairs change sides: contrast", "sham", "blocks: contrast", "sham")
    for name in behaviors:
        pool = Pool(engine, name, layers, keep_prompts=True)
        for count in SIZES:
            found: list[list[float]] = []
            for number in range(draws):
                random = np.random.default_rng((count, number))
                items = random.permutation(len(pool.items))[:count]
                turned = len(pool.items) * random.integers(0, 2, count)
                real = Draw(np.r_[items, items + len(pool.items)])
                sham = Draw(np.r_[items + turned, items + len(pool.items) - turned])
                groups = [str(item) for item in (*items, *items)]
                found.append([pool.p(own, number, groups=by) for by in (groups, None) for own in (real, sham)])
            yield row(name, str(count), *(f"{share:.3f}" for share in (np.array(found) <= LEVEL).mean(axis=0)))


def steering(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], labellings: int) -> Iterator[str]:
    """Yield a table's lines: r of first order with real steering by vectors of the other texts, of typical norms."""
    session, count = current_session(), 8
    columns = ("r over texts and labellings", "r over labellings", "z first order", "z real")
    yield from header("behaviour", "layer", "typical norms", *columns)
    for name in behaviors:
        pool = Pool(engine, name, layers)
        draw = drawn(pool, count, 0)["contrast"]
        texts = [pool.lists.texts[index] for index in draw.texts]
        labels = Labeling(draw.signs, pool.first_order.tokens[draw.texts]).relabeled()[:labellings]
        for place in range(len(layers)):
            site = Site(layers[place])
            slopes = pool.first_order.gradients[place, draw.texts].double()
            read = pool.first_order.activations["mean"][place, draw.texts].double()
            signs = torch.from_numpy(labels)
            # (labellings, texts, width) of all others; a text's own sign does not count.
            vectors = (signs @ (read - read.mean(dim=0)))[:, None] - signs[:, :, None] * (read - read.mean(dim=0))
            vectors = vectors / vectors.norm(dim=2, keepdim=True) * session.typical_norm(site)
            expected = (vectors * slopes).sum(dim=2).numpy()
            for strength in (0.1, 0.2):
                rows, completions = list[Row](), list[str]()
                for way in (1.0, -1.0):
                    for own in vectors.float():
                        for text, vector in zip(texts, own, strict=True):
                            plan: Plan = (Placement(Add(vector), site, way * strength, GENERATED),)
                            rows.append(Row(text.prompt, plan))
                            completions.append(text.completion)
                scores = np.array([float(score.mean()) for score in engine.score(rows, completions)])
                up, down = scores.reshape(2, len(labels), len(texts))
                real = (up - down) / 2
                sums = [(values * labels).sum(axis=1) for values in (expected, real)]
                zs = [(own[0] - own[1:].mean()) / own[1:].std() for own in sums]
                figures = [np.corrcoef(expected.ravel(), real.ravel())[0, 1], np.corrcoef(*sums)[0, 1], *zs]
                yield row(name, str(layers[place]), str(strength), *(f"{figure:.3f}" for figure in figures))


def dtypes(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], draws: int, path: str) -> Iterator[str]:
    """Yield a table's lines: first order in the model's own dtype against the same weights in float32."""
    pools = {name: Pool(engine, name, layers) for name in behaviors}
    own_dtype = engine.info.dtype
    load_model(path, dtype="float32")
    columns = ("cosine of gradients, median", "least", "r of z", "verdicts that differ", "draws")
    yield from header("behaviour", "dtype", *columns)
    for name in behaviors:
        precise = Pool(current_session().engine, name, layers)
        cosines = torch.cosine_similarity(pools[name].first_order.gradients, precise.first_order.gradients, dim=2)
        ps: list[list[float]] = []
        zs: list[list[float]] = []
        for number in range(draws):
            for kind in ("contrast", "sham: halves"):
                draw = drawn(precise, 8, number)[kind]
                labeling = Labeling(draw.signs, precise.first_order.tokens[draw.texts], seed=number)
                tests = [contrast_test(pool.effects(draw.texts), labeling) for pool in (pools[name], precise)]
                ps.append([test.p for test in tests])
                zs.append([test.z for test in tests])
        differing = (np.array(ps) <= LEVEL).sum(axis=1) == 1
        figures = [cosines.median(), cosines.min(), np.corrcoef(np.array(zs).T)[0, 1], differing.mean()]
        yield row(name, own_dtype, *(f"{float(figure):.4f}" for figure in figures), str(len(ps)))


def tool(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], draws: int) -> Iterator[str]:
    """Yield a table's lines: verdicts of `steering_experiment` beside p, on the same lists."""
    yield from header("behaviour", "lists", "texts a side", "p ≤ .05", "verdicts of the tool", "CPU s: test", "tool")
    for name in behaviors:
        pool = Pool(engine, name, layers)
        texts = [text.completion for text in pool.lists.texts]
        for count in (8, 16):
            for kind in ("contrast", "sham: halves"):
                verdicts: list[str] = []
                detected, seconds = 0, np.zeros(2)
                for number in range(draws):
                    draw = drawn(pool, count, number)[kind]
                    sides = [[texts[index] for index in side] for side in np.split(draw.texts, 2)]
                    started = time.process_time()
                    own = ContrastPrompts.parse(*sides)
                    detected += contrast_acts(engine, lists_of_prompts(own), layers, number).p <= LEVEL
                    tested = time.process_time()
                    made = steering_experiment(f"{kind} {count} {number}", *sides, layers=list(layers), seed=number)
                    seconds += tested - started, time.process_time() - tested
                    verdicts.append(made["verdict"])
                counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
                times = (f"{own / draws:.1f}" for own in seconds)
                yield row(name, kind, str(count), f"{detected} of {draws}", counted, *times)


def cost(engine: Engine, layers: Sequence[int], behaviors: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield a table's lines: CPU seconds of the whole test of 16 + 16 texts."""
    yield from header("behaviour", "tokens", "layers", "CPU s, median", "of which relabelling")
    for name in behaviors:
        pool = Pool(engine, name, layers)
        times: list[list[float]] = []
        draw = drawn(pool, 16, 0)["contrast"]
        sides = [tuple(pool.lists.texts[index] for index in side) for side in np.split(draw.texts, 2)]
        for _ in range(rounds):
            started = time.process_time()
            contrast_acts(engine, Lists(*sides), layers)
            tested = time.process_time()
            pool.p(draw, 0)
            times.append([tested - started, time.process_time() - tested])
        tokens = int(pool.first_order.tokens[draw.texts].sum())
        yield row(name, str(tokens), str(len(layers)), *(f"{own:.2f}" for own in np.median(times, axis=0)))


def header(*names: str) -> Iterator[str]:
    """Yield the first two lines of a table."""
    yield row(*names)
    yield row(*("---" for _ in names))


def row(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def write(heading: str, note: str, lines: Sequence[str]) -> None:
    """Put a section into the results in place of the one with the same heading."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else INTRODUCTION
    kept = re.sub(rf"\n## {re.escape(heading)}\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL).rstrip()
    section = "\n".join([f"## {heading}", "", note, "", *lines])
    RESULTS.write_text(f"{kept}\n\n{section}\n", encoding="utf-8")


NOTES = {
    "power": "Share of {draws} draws with p ≤ .05, in blocks of 4 / in blocks of 8 / with lengths ignored.",
    "pairs": "Share of {draws} draws with p ≤ .05, of items that keep their prompts.",
    "steering": "{draws} labellings of 8 + 8 texts; each is steered by the vector of the 15 others (mean over tokens).",
    "dtypes": "The same draws in both dtypes, 8 texts a side.",
    "tool": "The same {draws} draws to both; the tool with its default strengths and controls.",
    "cost": "Medians of {draws} rounds.",
}


def main() -> None:
    """Measure the parts that were asked for, and write their sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="NAME=MODEL")
    parser.add_argument("--parts", nargs="+", default=["power"], choices=NOTES)
    parser.add_argument("--behaviors", nargs="+", default=["sentiment", "formality"])
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--draws", type=int, default=200)
    asked = parser.parse_args()
    name, path = asked.model.split("=", 1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        session = current_session()
        session.workspace = Workspace(folder)
        for part in asked.parts:
            load_model(path, dtype=asked.dtype)
            engine = session.engine
            layers = asked.layers or engine.info.steerable_layers
            arguments = (engine, layers, asked.behaviors, asked.draws)
            lines = [*(dtypes(*arguments, path) if part == "dtypes" else MEASURES[part](*arguments))]
            print("\n".join(lines), flush=True)
            note = f"{NOTES[part].format(draws=asked.draws)} Layers {', '.join(map(str, layers))}."
            write(f"{name} ({engine.info.dtype}): {part}", note, lines)


MEASURES = {"power": power, "pairs": pairs, "steering": steering, "tool": tool, "cost": cost}


if __name__ == "__main__":
    main()
