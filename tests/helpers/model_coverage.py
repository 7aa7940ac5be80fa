"""Tries the whole job on the tiny model of each type that transformers loads as a causal language model.

Run as a script it writes the table of what works, what is refused and why, and what cannot be made tiny.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from helpers import family_models
from helpers.places import ROOT
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    check_steering,
    create_steering_vector,
    load_vector,
    remove_all_steering_vectors,
    steering,
)
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import UnsupportedFeatureError, UnsupportedModelError
from steer_tools.prompts import parse_prompts
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Workspace

TABLE = ROOT / "benchmarks" / "models.md"
WORKS, REFUSED, NOT_MADE = "works", "refused", "not instantiable"
STEPS = 6


@dataclass(frozen=True)
class Outcome:
    """How one model type fared: `detail` is what is special, or why not."""

    model_type: str
    status: str
    detail: str

    def __str__(self) -> str:
        class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.model_type]
        return f"| {self.model_type} | `{class_name}` | {self.status} | {self.detail} |"


def try_model(model_type: str, session: Session) -> Outcome:
    """Build, attach, read, apply at every layer, generate, check, remove; raise where a law does not hold."""
    try:
        model: Any = family_models.build(model_type)
    except Exception as error:  # noqa: BLE001  # Whatever it raises is what the table says.
        return Outcome(model_type, NOT_MADE, _one_line(f"{type(error).__name__}: {error}"))
    recorded = [_recorded(model, text) for text in PROMPTS]  # Transformers puts hooks of its own on for this, to stay.
    hooks = _hooks_on(model)
    try:
        attach_model(model, make_tokenizer(), model_type)
    except UnsupportedModelError as error:
        assert _hooks_on(model) == hooks
        return Outcome(model_type, REFUSED, _one_line(str(error).partition(" Valid:")[0]))
    engine: Any = session.engine
    _require_right_reading(model, engine, recorded)
    _require_parts_that_add_up(engine)
    _require_an_effect_at_every_layer(model, engine)
    _require_a_shared_prompt_that_changes_no_score(engine)
    peculiarities = _peculiarities(engine)
    session.detach()
    assert _hooks_on(model) == hooks
    return Outcome(model_type, WORKS, _one_line(peculiarities))


def _require_right_reading(model: Any, engine: HuggingFaceEngine, recorded: list[tuple[Tensor, ...]]) -> None:
    """Hold what is read in a padded batch against a hook by hand, and against what the model records by itself."""
    layers = engine.info.steerable_layers
    traces = engine.trace(parse_prompts(PROMPTS), [Site(layer) for layer in layers])
    for text, trace, states in zip(PROMPTS, traces, recorded, strict=True):
        ids = torch.tensor([make_tokenizer()(text)["input_ids"]])
        outputs = _outputs_by_hand(engine.architecture.blocks, model, ids)
        for layer in layers:
            assert _gap(trace[Site(layer)], outputs[layer]) < 1e-4, f"block {layer} is read wrong"
        if len(states) == engine.info.layers + 1:
            # State 0 is the embedding, except in Mamba and RWKV, which do not record it.
            offsets = [
                all(_gap(trace[Site(layer)], states[layer + offset][0]) < 1e-4 for layer in layers[:-1])
                for offset in (1, 0)
            ]
            assert sum(offsets) == 1, "the model records other states"


def _require_parts_that_add_up(engine: HuggingFaceEngine) -> None:
    """Read attention and MLP, where they can be told, in a padded batch: they add up to what each block adds."""
    prompts = parse_prompts(PROMPTS)
    layers = engine.info.steerable_layers
    for before, layer in pairwise(layers):
        parts = {"attention": engine.parts[layer].mixers, "mlp": engine.parts[layer].mlps}
        told: dict[Site, float] = {}
        for component, found in parts.items():
            with suppress(UnsupportedFeatureError):
                engine.width(Site(layer, component))
                told[Site(layer, component)] = found[0].scale
        if before + 1 != layer or not told or len(told) != sum(map(len, parts.values())):
            continue  # Something else writes to the stream, too.
        for trace in engine.trace(prompts, [*told, Site(before), Site(layer)]):
            total = trace[Site(before)] + sum(scale * trace[site] for site, scale in told.items())
            assert _gap(total, trace[Site(layer)]) < 1e-3, f"the parts of block {layer} do not add up"
            assert _gap(trace[Site(before)], trace[Site(layer)]) > 1e-3, f"block {layer} adds nothing"


def _require_an_effect_at_every_layer(model: Any, engine: HuggingFaceEngine) -> None:
    """Steer at each layer alone and at all together, against edits by hand, then prove and remove."""
    path = create_steering_vector(POSITIVE, NEGATIVE, "all", "v")["vector_path"]
    directions = load_vector(path).directions
    ids = torch.tensor([make_tokenizer()(PROMPTS[1])["input_ids"]])
    original, prompt = _logits(model, ids), parse_prompts(PROMPTS[1:2])[0]
    for layer in engine.info.steerable_layers:
        delta = directions[layer] / directions[layer].norm() * current_session().typical_norm(Site(layer)) * 0.4
        with steering(path, layer, 0.4, unit="residual", positions="generated"):
            live = _logits(model, ids)
            (row,) = engine.distributions([Row(prompt, engine.ambient())])
        with _added_by_hand(engine.architecture.blocks[layer], delta):
            expected = _logits(model, ids)
        assert _gap(live[0, -1], expected[0, -1]) < 1e-4
        assert _gap(row, expected[0, -1].log_softmax(dim=-1)) < 1e-4
        assert _gap(live[0, -1], original[0, -1]) > 1e-3, f"layer {layer} is not steered"
    assert torch.equal(_logits(model, ids), original)

    apply_steering_vector(path, unit="residual", strength=0.5)
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "eos_token_id": 2}
    own = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
    (ours,) = engine.generate([Row(prompt, engine.ambient())], Sampling(STEPS))
    proof = check_steering(PROMPTS[:3], max_new_tokens=STEPS)
    remove_all_steering_vectors()
    assert proof["passed"], proof
    assert list(ours.tokens) == own[: len(ours.tokens)]
    assert torch.equal(_logits(model, ids), original)


def _require_a_shared_prompt_that_changes_no_score(engine: HuggingFaceEngine) -> None:
    """Score completions of one prompt together, under plans that spare the prompt and plans that edit it, and alone."""
    site = Site(engine.info.steerable_layers[0])
    (prompt,) = parse_prompts([PROMPTS[3]])
    direction = torch.randn(engine.info.hidden_size, generator=torch.Generator().manual_seed(0))
    placed = [
        Placement(Add(direction), site, current_session().typical_norm(site) / 8, Scope.parse(positions))
        for positions in ("generated", "all", "first", "last_prompt")
    ]
    plans: list[Plan] = [(), *((placement,) for placement in placed), tuple(placed[:2])]
    rows = [Row(prompt, plan) for plan in plans for _ in range(2)]
    completions: list[Completion] = [(9, 4, 6), (5, 8)] * len(plans)

    together = engine.score(rows, completions)
    alone = [engine.score([row], [completion])[0] for row, completion in zip(rows, completions, strict=True)]
    divergences = engine.divergences(rows[::2], completions[::2])

    for shared, single in zip(together, alone, strict=True):
        assert _gap(shared, single) < 1e-3, "a shared prompt changes scores"
    assert float((together[0] - together[2]).abs().max()) > 1e-3
    assert float(divergences[0].abs().max()) < 1e-5
    assert all(float(divergence.max()) > 0 for divergence in divergences[1:])


def _recorded(model: Any, text: str) -> tuple[Tensor, ...]:
    """Return the hidden states that the model gives out by itself, if it does."""
    ids = torch.tensor([make_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        return getattr(model(ids, use_cache=False, output_hidden_states=True), "hidden_states", None) or ()


@contextmanager
def _added_by_hand(block: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add `delta` to what a block puts out for the last token."""

    def edit(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple | list) else output).clone()
        hidden[:, -1] += delta
        return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden

    handle = block.register_forward_hook(edit)
    try:
        yield
    finally:
        handle.remove()


def _outputs_by_hand(blocks: tuple[nn.Module, ...], model: Any, ids: Tensor) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda m, a, o: seen.update({layer: (o[0] if isinstance(o, tuple | list) else o)[0]})

    handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
    _logits(model, ids)
    for handle in handles:
        handle.remove()
    return seen


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def _gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the typical size."""
    return float((found - expected).abs().max() / expected.abs().mean().clamp(min=1e-3))


def _hooks_on(model: nn.Module) -> dict[str, Any]:
    return {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks), "generate" in vars(m))
        for name, m in model.named_modules()
    }


def _peculiarities(engine: HuggingFaceEngine) -> str:
    behaviour = engine.behaviour
    company = {"equal": "generates rows of equal length together", "alone": "generates one row at a time"}
    notes = [company[behaviour.company]] if behaviour.company != "padded" else []
    if not behaviour.right_is_exact:
        notes.append("reads rows of equal length together")
    if behaviour.idle_layers:
        notes.append(f"layer {', '.join(map(str, behaviour.idle_layers))} of {engine.info.layers} does not run on text")
    untold = [i for i in engine.info.steerable_layers if not (engine.parts[i].mixers or engine.parts[i].mlps)]
    if untold:
        where = "" if untold == engine.info.steerable_layers else f" in layer {', '.join(map(str, untold))}"
        notes.append(f"its attention and MLP are not found{where}")
    return "; ".join(notes)


def _one_line(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
    return text if len(text) <= 240 else f"{text[:240].rsplit(' ', 1)[0]} ..."


def read_table() -> dict[str, Outcome]:
    """Return what the table in the documents says."""
    rows = [line.strip("| \n").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines()]
    types = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return {row[0]: Outcome(row[0], row[2], row[3] if len(row) > 3 else "") for row in rows if row[0] in types}


def write_table(outcomes: list[Outcome]) -> str:
    """Return the document: the shares, then one line a model type."""
    counts = [sum(outcome.status == status for outcome in outcomes) for status in (WORKS, REFUSED, NOT_MADE)]
    classes = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[outcome.model_type] for outcome in outcomes}
    shares = [f"{count} ({count / len(outcomes):.0%})" for count in counts]
    lines = (str(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.model_type))
    return DOCUMENT.format(
        version=transformers.__version__,
        types=len(outcomes),
        classes=len(classes),
        shares=shares,
        lines="\n".join(lines),
    )


DOCUMENT = """# Which models can be steered

Of the {types} model types ({classes} classes) that transformers {version} loads by `AutoModelForCausalLM`,
**{shares[0]} work**, {shares[1]} are refused with a reason, and {shares[2]} cannot be made tiny.

Each is built as a tiny random model on a CPU (`tests/helpers/family_models.py`) and goes through the whole job
(`tests/helpers/model_coverage.py`): attached; read in a padded batch, and held against hooks by hand and against the
hidden states that the model records itself; steered at every layer, and held against edits by hand; generated from by
us and by the model's own `generate`; proved by `check_steering`; given back with bit-equal logits. CI runs them all and
holds this table to what it finds; `PYTHONPATH=tests python -m helpers.model_coverage` writes it anew.

A refusal comes when the model is attached. Where attention and MLP are not found, because a block does more than add
what they put out, the residual stream is steered all the same. Models with code of their own go through the same probe.

| model type | class | outcome | what is special, or why not |
|---|---|---|---|
{lines}
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        current_session().workspace = Workspace(Path(folder))
        outcomes = [try_model(model_type, current_session()) for model_type in family_models.model_types()]
    TABLE.write_text(write_table(outcomes), encoding="utf-8")
