"""Works to time: each function gives ways to do the same thing, and a check that they did.

`floor` are the forward passes alone, by hand, of whoever knew from the start what is needed; `naive` is what one writes
first, with plain transformers and a hook. A way whose name begins with "ours" can be run by another checkout as well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_by_hand import (
    Stopped,
    adding,
    batches,
    copy_of,
    difference,
    greedy,
    left_padded,
    log_odds,
    outputs,
    read_one_by_one,
    right_padded,
)
from speed_models import Model, model_named
from speed_scripts import EXPERIMENT, SCORE_60, SCORE_ONE, Script, output
from torch import Tensor
from transformers import DynamicCache

from steer_tools import attach_model, create_steering_vector, load_vector
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.prompts import TextPrompt
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

Way = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """Something to do.

    Attributes:
        ways: To do it, by name; costs are divided by that of the first.
        check: Raises where two values are not the same, and says what was held against what.
        shares: Of ways that do a part of the work only: which one. Their cost is divided by it.
        wanted: The most that ways may cost, as a part of another's cost: (way, other way) → ratio; with "" for the
            other it is the cost itself.
        unit: Of the costs.
    """

    ways: Mapping[str, Way]
    check: Callable[[Mapping[str, Any]], str]
    shares: Mapping[str, float] = field(default_factory=dict)
    wanted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    unit: str = "s"


# Reading


def read_one_layer(model: Model) -> Work:
    """Read the mean difference of 128 + 128 short prompts at one layer in the middle."""
    return _short_prompts(model, [model.layers // 2 - 1], 0.26)


def read_all_layers(model: Model) -> Work:
    """Read the mean difference of 128 + 128 short prompts at all layers."""
    return _short_prompts(model, [*range(model.layers)], 0.48)


def _short_prompts(model: Model, layers: list[int], wanted: float) -> Work:
    texts = model.texts(256, 8, 24, seed=1)
    ids, bare = model.ids(texts), copy_of(model)

    def floor() -> Tensor:
        found = torch.zeros(len(texts), len(layers), model.width)
        with torch.inference_mode(), outputs(bare, layers, stop_after=layers[-1]) as seen:
            for batch in batches(ids, tokens=256):
                padded, mask = right_padded([ids[i] for i in batch])
                with suppress(Stopped):
                    bare.module.model(padded, attention_mask=mask, use_cache=False)
                for place, layer in enumerate(layers):
                    found[batch, place] = seen[layer][range(len(batch)), mask.sum(dim=1) - 1]
        return difference(found)

    return _reading(model, texts, layers, floor, wanted)


def read_shared_beginnings(model: Model) -> Work:
    """Read at all layers 128 pairs whose prompts share their first 194 of 203 tokens."""
    layers, beginnings = [*range(model.layers)], model.texts(128, 193, 193, seed=2)  # And BOS.
    sides = [model.texts(128, 9, 9, seed) for seed in (3, 4)]
    texts = [f"{beginning} {end}" for ends in sides for beginning, end in zip(beginnings, ends, strict=True)]
    ids, bare = model.ids(texts), copy_of(model)
    assert {len(own) for own in ids} == {203}

    def floor() -> Tensor:
        found = torch.zeros(len(texts), len(layers), model.width)
        with torch.inference_mode(), outputs(bare, layers) as seen:
            for i in range(128):
                both, cache = [i, 128 + i], DynamicCache()
                bare.module.model(torch.tensor([ids[i][:194]]), past_key_values=cache)
                cache.batch_repeat_interleave(2)
                bare.module.model(torch.tensor([ids[j][194:] for j in both]), past_key_values=cache)
                for place, layer in enumerate(layers):
                    found[both, place] = seen[layer][:, -1]
        return difference(found)

    return _reading(model, texts, layers, floor, 0.33)


def _reading(model: Model, texts: list[str], layers: list[int], floor: Way, wanted: float) -> Work:
    """Return a work of reading, whose naive way goes through every sixteenth pair."""
    half = len(texts) // 2
    some, bare = [texts[i] for start in (0, half) for i in range(start, start + half, 16)], copy_of(model)

    def check(values: Mapping[str, Any]) -> str:
        same_directions(values["naive"], created(model, some, layers))
        return same_directions(values["floor"], values["ours"])

    naive = partial(read_one_by_one, bare, some, layers)
    ways = {"naive": naive, "floor": floor, "ours": partial(created, model, texts, layers)}
    return Work(ways, check, shares={"naive": len(some) / len(texts)}, wanted={("ours", "naive"): wanted})


# Generating


def steered_generate(model: Model) -> Work:
    """Let transformers generate from one prompt, steered at all layers, beside the model without any hook."""
    new_tokens, times = (16, 1) if model.name == "S" else (48, 4)
    encoded = model.tokenizer(model.texts(1, 16, 16, seed=5), return_tensors="pt")
    deltas, bare = model.deltas(), copy_of(model)
    engine = attached(model)
    placed = {
        scope: tuple(
            Placement(Add(deltas[layer]), Site(layer), 1.0, Scope.parse(scope)) for layer in range(model.layers)
        )
        for scope in ("generated", "all", "prompt", "last_prompt")
    }

    def ours(plan: Plan) -> list[int]:
        engine.set_ambient(plan)
        try:
            return plain(model)
        finally:
            engine.set_ambient(())

    def plain(whom: Model) -> list[int]:
        for _ in range(times):
            written = whom.module.generate(**encoded, **greedy(new_tokens))
        return written[0, encoded["input_ids"].shape[1] :].tolist()

    def hooked(last_only: bool) -> list[int]:
        with adding(bare, {layer: deltas[layer][None] for layer in range(model.layers)}, last_only=last_only):
            return plain(bare)

    ways: dict[str, Way] = {
        "plain": partial(plain, bare),
        "a bare hook, generated": partial(hooked, last_only=True),
        "a bare hook, all": partial(hooked, last_only=False),
        "ours, nothing applied": partial(ours, ()),
    }
    ways |= {f"ours, {scope}": partial(ours, plan) for scope, plan in placed.items()}

    def check(values: Mapping[str, Any]) -> str:
        assert values["plain"] == values["ours, nothing applied"]
        for scope in ("generated", "all"):
            assert values[f"a bare hook, {scope}"] == values[f"ours, {scope}"] != values["plain"], scope
        return "tokens identical to the bare hook's, and without a plan to the bare model's"

    most = 1.02 if model.name == "S" else 1.06
    return Work(ways, check, wanted={(way, "plain"): most for way in ways if way.startswith("ours")})


def compare(model: Model) -> Work:
    """Compare 8 prompts under one and four variants, 16 new tokens each, beside one unsteered run of the 8."""
    prompts, new_tokens, layer = model.texts(8, 8, 24, seed=6), 16, 5
    encoded = left_padded(model, prompts)
    strengths, deltas, bare = (1.0, -1.0, 2.0, -2.0), model.deltas(), copy_of(model)
    engine = attached(model)

    def batch(variants: int) -> list[list[int]]:
        added = torch.cat(
            [torch.zeros(8, model.width), *(s * deltas[layer].expand(8, -1) for s in strengths[:variants])]
        )
        every = {name: own.repeat(1 + variants, 1) for name, own in encoded.items()}
        with adding(bare, {layer: added} if variants else {}, last_only=True):
            written = bare.module.generate(**every, **greedy(new_tokens))
        return written[:, encoded["input_ids"].shape[1] :].tolist()

    def plans(variants: int) -> list[Plan]:
        return [(Placement(Add(deltas[layer]), Site(layer), s),) for s in strengths[:variants]]

    def ours(variants: int) -> list[list[int]]:
        from steer_tools.session.comparison import compare as compared  # noqa: PLC0415 - it may lie elsewhere in other checkouts

        sides = compared(engine, parsed, plans(variants), Sampling(new_tokens), 0)
        return [list(generation.tokens) for side in sides for generation in side.generations]

    def without_metrics(variants: int) -> list[list[int]]:
        rows = [Row(prompt, plan) for plan in [(), *plans(variants)] for prompt in parsed]
        return [list(own.tokens) for own in engine.generate(rows, Sampling(new_tokens))]

    parsed = [TextPrompt(text) for text in prompts]
    ways: dict[str, Way] = {"one unsteered run": partial(batch, 0)}
    for variants in (1, 4):
        told = f"{variants} variant" + "s" * (variants > 1)
        ways |= {
            f"a bare batch, {told}": partial(batch, variants),
            f"ours, {told}": partial(ours, variants),
            f"ours, {told}, no metrics": partial(without_metrics, variants),
        }

    def check(values: Mapping[str, Any]) -> str:
        for told in ("1 variant", "4 variants"):
            assert values[f"a bare batch, {told}"] == values[f"ours, {told}"] == values[f"ours, {told}, no metrics"]
        assert values["one unsteered run"] == values["ours, 1 variant"][:8] != values["ours, 1 variant"][8:]
        return "tokens identical to the bare batch's"

    wanted = {"ours, 1 variant": 2.05, "ours, 4 variants": 3.8}
    wanted |= {"ours, 1 variant, no metrics": 1.55, "ours, 4 variants, no metrics": 3.15}
    return Work(ways, check, wanted={(way, "one unsteered run"): most for way, most in wanted.items()})


def generation_sweep(model: Model) -> Work:
    """Write 16 tokens for each of 240 rows: 8 prompts, 6 layers, 5 strengths."""
    prompts, deltas, bare = model.texts(8, 8, 24, seed=7), model.deltas(), copy_of(model)
    cells = [*product(range(0, model.layers, 2), (-2.0, -1.0, 0.5, 1.0, 2.0))]
    rows = [(i, layer, strength) for layer, strength in cells for i in range(8)]
    some = rows[::20]  # Every other prompt, and all layers.
    engine = attached(model)

    def naive() -> list[list[int]]:
        written = []
        for i, layer, strength in some:
            encoded = bare.tokenizer(prompts[i], return_tensors="pt")
            with adding(bare, {layer: strength * deltas[layer][None]}, last_only=True):
                whole = bare.module.generate(**encoded, **greedy(16))
            written.append(whole[0, encoded["input_ids"].shape[1] :].tolist())
        return written

    def ours() -> list[list[int]]:
        of = [
            Row(TextPrompt(prompts[i]), (Placement(Add(deltas[layer]), Site(layer), strength),))
            for i, layer, strength in rows
        ]
        return [list(own.tokens) for own in engine.generate(of, Sampling(16))]

    def check(values: Mapping[str, Any]) -> str:
        assert values["naive"] == values["ours"][::20]
        assert len({tuple(own) for own in values["ours"]}) > len(prompts)
        return "tokens identical"

    ways = {"naive": naive, "ours": ours}
    return Work(ways, check, shares={"naive": len(some) / len(rows)}, wanted={("ours", "naive"): 1 / 8})


# Scoring


def log_odds_grid(model: Model) -> Work:
    """Measure the log-odds of 40 items at 12 layers and 5 strengths."""
    asked, deltas, bare = items(model, 40), model.deltas(), copy_of(model)
    cells = [*product(range(model.layers), (-2.0, -1.0, 0.5, 1.0, 2.0))]
    some = [(place, place * 7 % len(asked)) for place in range(len(cells))]  # Each cell with one item.
    engine = attached(model)

    def ours() -> np.ndarray:
        plans = [(Placement(Add(deltas[layer]), Site(layer), strength),) for layer, strength in cells]
        return propensities(engine, asked, [(), *plans])[1:]

    def naive() -> np.ndarray:
        at = [(layer, strength * deltas[layer]) for layer, strength in cells]
        return np.array([log_odds(bare, *asked_of(asked[i]), *at[place]) for place, i in some])

    ways = {"naive": naive, "ours": ours}

    def check(values: Mapping[str, Any]) -> str:
        told = values["ours"][tuple(np.array(some).T)]
        assert told.std() > 0.01
        return same_numbers({"naive": values["naive"], "ours": told})

    share = len(some) / (len(cells) * len(asked))
    return Work(ways, check, shares={"naive": share}, wanted={("ours", "naive"): 1 / 12})


def null_of_controls(model: Model) -> Work:
    """Measure 99 controls at one cell, on 24 items."""
    asked, layer, bare = items(model, 24), 7, copy_of(model)
    controls = torch.nn.functional.normalize(torch.randn(99, model.width, generator=torch.Generator().manual_seed(8)))
    some = range(0, 99, 3)
    engine = attached(model)

    def ours() -> np.ndarray:
        plans = [(Placement(Add(own), Site(layer), 2.0),) for own in controls]
        return propensities(engine, asked, [(), *plans])

    def naive() -> np.ndarray:
        return np.array([log_odds(bare, *asked_of(asked[i % len(asked)]), layer, 2.0 * controls[i]) for i in some])

    def check(values: Mapping[str, Any]) -> str:
        told = np.array([values["ours"][1 + i, i % len(asked)] for i in some])
        assert told.std() > 0.01
        return same_numbers({"naive": values["naive"], "ours": told})

    share = len(some) / (99 * len(asked))
    return Work({"naive": naive, "ours": ours}, check, shares={"naive": share}, wanted={("ours", "before"): 0.4})


def memory_of_scoring(model: Model) -> Work:
    """Score one completion under 60 plans behind one prompt of 1,200 tokens: the most memory beyond the model's own."""
    folder = saved(model)
    text = model.texts(1, 1200, 1200, seed=9)[0]
    ids = model.ids([text])[0][:1200]

    ways = {
        "one plan, naive": Script(SCORE_ONE, (folder, json.dumps(ids))),
        "ours": Script(SCORE_60, (folder, json.dumps(ids))),
    }

    def check(values: Mapping[str, Any]) -> str:
        return same_numbers({way: np.array(own[:1]) for way, own in values.items()})

    return Work(ways, check, unit="GB", wanted={("ours", ""): 1.5})


# Experiments


def default_experiment(model: Model) -> Work:
    """Find out by `steering_experiment`, all its arguments as they are, whether sentiment can be steered."""
    folder = saved(model)
    return _experiment(folder, 0.4)


def default_experiment_bundled(model: Model) -> Work:
    """Find out by `steering_experiment` whether the bundled model's sentiment can be steered."""
    del model
    return _experiment("bundled", 0.6)


def _experiment(name: str, wanted: float) -> Work:
    script = Script(EXPERIMENT, (name, "sentiment"))
    told = "{}, layer {}, strength {}".format
    return Work({"ours": script}, lambda values: told(*values["ours"]), wanted={("ours", "before"): wanted})


# Starting


def first_create(model: Model) -> Work:
    """Start the command line and let it create a vector of the bundled model."""
    del model
    folder = tempfile.mkdtemp()
    lists = ["--behavior", "sentiment", "--layer", "3", "--save", "first.safetensors", "--workspace", folder]

    def ours() -> str:
        return output("-m", "steer_tools.cli", "create", *lists)

    ways = {
        "import AutoModelForCausalLM": lambda: output("-c", "from transformers import AutoModelForCausalLM"),
        "ours": ours,
        "ours, --help": lambda: output("-m", "steer_tools.cli", "create", "--help"),
    }

    def check(values: Mapping[str, Any]) -> str:
        assert "first.safetensors" in values["ours"]
        assert (Path(folder) / "first.safetensors").is_file()
        return "the file is there"

    return Work(ways, check, wanted={("ours", "import AutoModelForCausalLM"): 1.6})


WORKS: dict[str, tuple[Callable[[Model], Work], str]] = {
    "read-one-layer": (read_one_layer, "S"),
    "read-all-layers": (read_all_layers, "S"),
    "read-all-layers-M": (read_all_layers, "M"),
    "read-shared-beginnings": (read_shared_beginnings, "S"),
    "steered-generate": (steered_generate, "S"),
    "steered-generate-T": (steered_generate, "T"),
    "compare": (compare, "S"),
    "generation-sweep": (generation_sweep, "S"),
    "log-odds-grid": (log_odds_grid, "S"),
    "null-of-controls": (null_of_controls, "S"),
    "memory-of-scoring": (memory_of_scoring, "M"),
    "default-experiment": (default_experiment_bundled, "T"),
    "default-experiment-M": (default_experiment, "M"),
    "first-create": (first_create, "S"),
}


def work_named(name: str, model: str | None = None) -> Work:
    """Return a work, its model made and its inputs ready."""
    make, usual = WORKS[name]
    return make(model_named(model or usual))


# Ours


def attached(model: Model) -> Any:
    """Let the tools steer a model, and return their engine."""
    attach_model(model.module, model.tokenizer, model.name)
    return current_session().engine


def created(model: Model, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """Create a vector as everybody does, its file included, and return its directions, (layers, width)."""
    attached(model)
    session, half = current_session(), len(texts) // 2
    if not isinstance(session.workspace, Workspace) or session.workspace.root != _FOLDER:
        session.workspace = Workspace(_FOLDER)
    made = create_steering_vector([*texts[:half]], [*texts[half:]], layer=[*layers], save_path="read.safetensors")
    directions = load_vector(made["vector_path"]).directions
    return torch.stack([directions[layer] for layer in layers])


_FOLDER = Path(tempfile.mkdtemp()).resolve()


def items(model: Model, count: int) -> list[Question]:
    """Return items with prompts of 16 to 31 tokens and completions of 4 to 6."""
    prompts = model.texts(count, 15, 30, seed=10)
    sides = [model.texts(count, 4, 6, seed=seed) for seed in (11, 12)]
    texts = zip(prompts, *sides, strict=True)
    return [Question(TextPrompt(text), f" {yes}", f" {no}", str(i)) for i, (text, yes, no) in enumerate(texts)]


def asked_of(item: Question) -> tuple[str, tuple[str, str]]:
    """Return an item as plain text."""
    assert isinstance(item.prompt, TextPrompt)
    return item.prompt.text, (item.positive, item.negative)


def saved(model: Model) -> str:
    """Return a folder with the model, for other processes."""
    folder = tempfile.mkdtemp()
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


# Checks


def same_directions(first: Tensor, second: Tensor) -> str:
    """Hold each layer's direction (layers, width) to another way's."""
    cosine = float(torch.cosine_similarity(first, second, dim=1).min())
    longer = float((second.norm(dim=1) / first.norm(dim=1) - 1).abs().max())
    assert cosine > 0.99999 and longer < 1e-4, (cosine, longer)
    return f"cosine at least {cosine:.6f}, lengths within {longer:.0e}"


def same_numbers(values: Mapping[str, np.ndarray]) -> str:
    """Hold scores to the first way's."""
    first, *others = values.values()
    most = max(float(np.abs(first - other).max()) for other in others)
    assert most < 1e-4, most
    return f"scores within {most:.0e}"
