"""Times other packages' reading and steering by their plain documented use; `make bench-peers` runs it in their venv.

Each runs in a process of its own, and takes turns there with the same naive ways as ours does in `speed.py`, so that
the ratios can be held against ours. It must not know `steer_tools`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported.

import numpy as np
import torch
from speed_by_hand import adding, copy_of, greedy, read_one_by_one
from speed_models import Model, model_named
from torch import Tensor

HERE = Path(__file__).parent
FIGURES = HERE / "speed_peers.json"
PAIRS = 16

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Peer:
    """What a package does; None where it does not do it.

    Attributes:
        read: The direction of each layer from pairs of texts.
        steered: Adds (layers, width) to what the blocks put out for all that is generated within.
        generate: Writes so many new tokens after a text where that is not the model's own `generate`.
        is_mean: Whether its direction is the mean difference.
    """

    read: Callable[[Pairs, list[int]], Mapping[int, Any]] | None = None
    steered: Callable[[Tensor], AbstractContextManager[Any]] | None = None
    generate: Callable[[str, int, Tensor], list[int]] | None = None
    is_mean: bool = True


def with_steering_vectors(model: Model) -> Peer:
    """Return what steering-vectors does."""
    from steering_vectors import SteeringVector, train_steering_vector  # noqa: PLC0415 - each has its own process

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Tensor]:
        return train_steering_vector(model.module, model.tokenizer, pairs, layers=layers).layer_activations

    def steered(deltas: Tensor) -> AbstractContextManager[None]:
        return SteeringVector(dict(enumerate(deltas))).apply(model.module)

    return Peer(read, steered)


def with_rotalabs(model: Model) -> Peer:
    """Return what rotalabs-steer does."""
    from rotalabs_steer import ActivationInjector  # noqa: PLC0415
    from rotalabs_steer.extraction.caa import extract_caa_vectors  # noqa: PLC0415

    def extract(pairs: Pairs, layers: list[int]) -> list[Any]:
        named = [{"positive": positive, "negative": negative} for positive, negative in pairs]
        return list(extract_caa_vectors(model.module, model.tokenizer, named, layers, show_progress=False))

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Tensor]:
        return {vector.layer_index: vector.vector for vector in extract(pairs, layers)}

    vectors = extract([(model.words[0], model.words[1])], [*range(model.layers)])

    def steered(deltas: Tensor) -> AbstractContextManager[Any]:
        for vector in vectors:
            vector.vector = deltas[vector.layer_index]
        return ActivationInjector(model.module, vectors, strength=1.0, injection_mode="all")

    return Peer(read, steered)


def with_repeng(model: Model) -> Peer:
    """Return what repeng does; it has no mean difference, so that its reading is that of its usual method."""
    from contextlib import contextmanager  # noqa: PLC0415

    from repeng import ControlModel, ControlVector, DatasetEntry  # noqa: PLC0415

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Any]:
        entries = [DatasetEntry(positive=positive, negative=negative) for positive, negative in pairs]
        return ControlVector.train(model.module, model.tokenizer, entries, hidden_layers=layers).directions

    @contextmanager
    def steered(deltas: Tensor) -> Any:
        controlled = ControlModel(model.module, [*range(model.layers)])
        controlled.set_control(ControlVector("llama", {i: delta.numpy() for i, delta in enumerate(deltas)}), 1.0)
        yield
        controlled.unwrap()

    return Peer(read, steered, is_mean=False)


def with_nnsight(model: Model) -> Peer:
    """Return what nnsight does, by the trace that its own guide writes."""
    from nnsight import TransformersModel  # noqa: PLC0415

    traced = TransformersModel(model.module, task="text-generation", tokenizer=model.tokenizer)

    def ends(text: str, layers: list[int]) -> Tensor:
        saved: list[Any] = []
        with traced.trace(text):
            for layer in layers:
                saved.append(traced.model.layers[layer].output[0, -1].save())
        return torch.stack([own.detach() for own in saved])

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Tensor]:
        differences = [ends(positive, layers) - ends(negative, layers) for positive, negative in pairs]
        return dict(zip(layers, torch.stack(differences).mean(dim=0), strict=True))

    def generate(text: str, new_tokens: int, deltas: Tensor) -> list[int]:
        options = greedy(new_tokens)
        with traced.generate(text, **options) as tracer:
            for _ in tracer.iter[:new_tokens]:
                for layer, delta in enumerate(deltas):
                    traced.model.layers[layer].output = traced.model.layers[layer].output + delta
            tokens = tracer.result.save()
        return tokens[0, -new_tokens:].tolist()

    return Peer(read, generate=generate)


def with_transformer_lens(model: Model) -> Peer:
    """Return what transformer-lens does, by its bridge to a model of transformers."""
    from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    folder = saved(model)
    bridge = TransformerBridge.boot_transformers(folder, tokenizer=AutoTokenizer.from_pretrained(folder))
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.layers)]

    def ends(text: str, layers: list[int]) -> Tensor:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, names_filter=[names[layer] for layer in layers])
        return torch.stack([cache[names[layer]][0, -1] for layer in layers])

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Tensor]:
        differences = [ends(positive, layers) - ends(negative, layers) for positive, negative in pairs]
        return dict(zip(layers, torch.stack(differences).mean(dim=0), strict=True))

    def generate(text: str, new_tokens: int, deltas: Tensor) -> list[int]:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        hooks = [(name, lambda hidden, hook, delta=delta: hidden + delta) for name, delta in zip(names, deltas)]  # noqa: B905
        with bridge.hooks(fwd_hooks=hooks):
            options = {"do_sample": False, "stop_at_eos": False, "verbose": False}
            return bridge.generate(ids, max_new_tokens=new_tokens, **options)[0, -new_tokens:].tolist()

    return Peer(read, generate=generate)


def with_dialz(model: Model) -> Peer:
    """Return what dialz does; it loads a model itself."""
    from contextlib import contextmanager  # noqa: PLC0415

    from dialz import Dataset, SteeringModel, SteeringVector  # noqa: PLC0415

    steering = SteeringModel(saved(model), layer_ids=[*range(model.layers)]).float()

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Any]:
        dataset = Dataset()
        for positive, negative in pairs:
            dataset.add_entry(positive, negative)
        options = {"method": "mean_diff", "hidden_layers": layers}
        return SteeringVector.train(steering, dataset, **options).directions

    @contextmanager
    def steered(deltas: Tensor) -> Any:
        vector = SteeringVector("llama", {i: delta.numpy() for i, delta in enumerate(deltas)})
        steering.set_control(vector, 1.0)
        yield
        steering.reset()

    def generate(text: str, new_tokens: int, deltas: Tensor) -> list[int]:
        encoded = model.tokenizer(text, return_tensors="pt")
        with steered(deltas), torch.inference_mode():
            return steering.generate(**encoded, **greedy(new_tokens))[0, -new_tokens:].tolist()

    return Peer(read, generate=generate)


def with_pyvene(model: Model) -> Peer:
    """Return what pyvene does, by functions at the blocks' outputs."""
    import pyvene  # noqa: PLC0415

    def read(pairs: Pairs, layers: list[int]) -> Mapping[int, Tensor]:
        places = [
            {"layer": i, "component": "block_output", "intervention_type": pyvene.CollectIntervention} for i in layers
        ]
        collecting = pyvene.IntervenableModel(places, model=model.module)

        def ends(text: str) -> Tensor:
            encoded = model.tokenizer(text, return_tensors="pt")
            place = encoded["input_ids"].shape[1] - 1
            (_, found), _ = collecting(encoded, unit_locations={"base": place})
            return torch.stack([own.detach().flatten() for own in found])

        differences = [ends(positive) - ends(negative) for positive, negative in pairs]
        return dict(zip(layers, torch.stack(differences).mean(dim=0), strict=True))

    return Peer(read)


PEERS: dict[str, Callable[[Model], Peer]] = {
    "steering-vectors": with_steering_vectors,
    "repeng": with_repeng,
    "rotalabs-steer": with_rotalabs,
    "nnsight": with_nnsight,
    "transformer-lens": with_transformer_lens,
    "dialz": with_dialz,
    "pyvene": with_pyvene,
}
WORKS = {"read-one-layer": "S", "read-all-layers": "S", "steered-generate": "S", "steered-generate-T": "T"}


def main() -> None:
    """Time all peers, or do one work with one of them and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices="ST", help="another model than the work's own; T shows in seconds what runs")
    parser.add_argument("--work", nargs=2, metavar=("PEER", "WORK"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        torch.set_num_threads(1)
        peer, work = asked.work
        print(json.dumps(timed(PEERS[peer], work, model_named(asked.on or WORKS[work]), asked.rounds)))
        return
    kept: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for peer in asked.only:
        kept[peer] = {"version": version(peer), "works": {work: in_process(peer, work, asked) for work in WORKS}}
        for work, told in kept[peer]["works"].items():
            print(peer, kept[peer]["version"], work, told, flush=True)
        if not asked.on:
            FIGURES.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def in_process(peer: str, work: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Do a work in a process of its own, and return the ratios, or what it failed by."""
    older = Path(sys.prefix) / "older"  # The NumPy below 2 that repeng needs.
    environment = {**os.environ, **({"PYTHONPATH": str(older)} if peer == "repeng" else {})}
    options = ["--work", peer, work, "--rounds", str(asked.rounds), *(["--on", asked.on] if asked.on else [])]
    done = subprocess.run(
        [sys.executable, __file__, *options], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def timed(peer_of: Callable[[Model], Peer], work: str, model: Model, rounds: int) -> dict[str, Any]:
    """Return the quartiles of a peer's cost as a part of the naive way's, and what was held against what."""
    bare, peer = copy_of(model), peer_of(model)
    if work.startswith("read"):
        layers = [model.layers // 2 - 1] if work == "read-one-layer" else [*range(model.layers)]
        texts = model.texts(2 * PAIRS, 8, 24, seed=1)
        pairs = [*zip(texts[:PAIRS], texts[PAIRS:], strict=True)]
        if peer.read is None:
            return {"failed": "it does not read"}
        naive, theirs = partial(read_one_by_one, bare, texts, layers), partial(peer.read, pairs, layers)
        first, found = naive(), theirs()
        shared = [layer for layer in layers if layer in found]
        cosines = [
            float(torch.cosine_similarity(first[layers.index(i)], torch.as_tensor(found[i]).float().flatten(), dim=0))
            for i in shared
        ]
        said = f"cosine {min(cosines):.5f} to {max(cosines):.5f} at {len(shared)} of {len(layers)} layers"
        said += "" if peer.is_mean else ", of another method"
    else:
        (text,), new_tokens, deltas = model.texts(1, 16, 16, seed=5), 16 if model.name == "S" else 48, model.deltas()
        encoded = model.tokenizer(text, return_tensors="pt")

        def plain(whom: Model) -> list[int]:
            return whom.module.generate(**encoded, **greedy(new_tokens))[0, encoded["input_ids"].shape[1] :].tolist()

        def steered() -> list[int]:
            assert peer.steered is not None
            with peer.steered(deltas):
                return plain(model)

        if peer.generate is None and peer.steered is None:
            return {"failed": "not tried"}
        naive = partial(plain, bare)
        theirs = partial(peer.generate, text, new_tokens, deltas) if peer.generate else steered
        with adding(bare, {layer: delta[None] for layer, delta in enumerate(deltas)}, last_only=False):
            wanted = naive()
        found = theirs()
        equal = sum(own == other for own, other in zip(found, wanted, strict=True))
        said = f"{equal} of {new_tokens} tokens are the bare hook's"
    ratios = []
    for turn in range(rounds):
        cost = {way: spent(way) for way in ([naive, theirs] if turn % 2 else [theirs, naive])}
        ratios.append(cost[theirs] / cost[naive])
    return {"ratio": [float(np.quantile(ratios, share)) for share in (0.25, 0.5, 0.75)], "check": said}


def spent(way: Callable[[], Any]) -> float:
    """Return the CPU seconds of a way."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    way()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def saved(model: Model) -> str:
    """Return a folder with the model, for those who load it themselves."""
    folder = tempfile.mkdtemp()
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
