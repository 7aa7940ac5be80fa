"""Every intervention inside the engine, held to the same edit said again in plain formulas by hooks of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.oracle import SCOPES, Chooses, blocks_of, outputs_by_hand
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, VectorInfo, orthogonalized
from steer_tools.engines.base import Generation, Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import Prompt, parse_prompts

STEPS = 6
GREEDY = Sampling(STEPS)
UNCACHED = Sampling(STEPS, use_cache=False)
LAYER, OTHER_LAYER = 1, LAYERS - 1
# Past the whole, so that each kind changes the text of each model.
STRENGTH = 1.5
HandEdit = Callable[[Tensor], Tensor]


def ids_of(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


def tokens_of(generations: list[Generation]) -> list[tuple[int, ...]]:
    return [generation.tokens for generation in generations]


def vector_of(model: Any) -> SteeringVector:
    """A contrast of the model's own activations, with all facts; the eraser is any w with w·û = 1."""
    positive, negative = (
        torch.stack([torch.stack([output[-1] for output in outputs_by_hand(model, ids_of(t))]) for t in texts]).mean(0)
        for texts in (POSITIVE, NEGATIVE)
    )
    layers = (LAYER, OTHER_LAYER)
    directions = {n: positive[n] - negative[n] for n in layers}
    units = {n: direction / direction.norm() for n, direction in directions.items()}
    slant = torch.randn(len(positive[0]), generator=torch.Generator().manual_seed(5)) / 4
    return SteeringVector.from_directions(
        directions,
        means={n: (positive[n] + negative[n]) / 2 for n in layers},
        erasers={n: units[n] + slant - (slant @ units[n]) * units[n] for n in layers},
        info=VectorInfo(
            positive_projections={n: float(positive[n] @ units[n]) for n in layers},
            negative_projections={n: float(negative[n] @ units[n]) for n in layers},
        ),
    )


def by_hand(kind: str, vector: SteeringVector, layer: int, strength: float) -> HandEdit:
    """The edit of one token (width,), as a textbook has it, in float64."""
    d, m, w = (t[layer].double() for t in (vector.directions, vector.means, vector.erasers))
    u, s, eye = d / d.norm(), strength, torch.eye(len(d), dtype=torch.float64)
    v = m - (m @ u) * u
    v = v / v.norm()
    low, high = vector.info.negative_projections[layer], vector.info.positive_projections[layer]
    onto, turn = torch.outer(u, u), s * math.pi / 2
    plane, quarter = onto + torch.outer(v, v), torch.outer(u, v) - torch.outer(v, u)
    formulas: dict[str, HandEdit] = {
        "add": lambda h: h + s * d,
        "add_keeping_norm": lambda h: (h + s * d) / (h + s * d).norm() * h.norm(),
        "project_out": lambda h: (eye - s * onto) @ h,
        "affine": lambda h: (eye - s * onto) @ h + s * low * u,
        "clamp": lambda h: (eye - s * onto) @ h + s * high * u,
        "rotate": lambda h: (eye + (math.cos(turn) - 1) * plane + math.sin(turn) * quarter) @ h,
        "replace": lambda h: (1 - s) * h + s * d,
        "zero": lambda h: (1 - s) * h,
        "mean": lambda h: (1 - s) * h + s * m,
        "erase": lambda h: (eye - s * torch.outer(u, w)) @ h + s * (w @ m) * u,
    }
    return lambda hidden: formulas[kind](hidden.double()).float()


def greedy_by_hand(model: Any, text: str, edits: dict[int, HandEdit], chooses: Chooses) -> tuple[int, ...]:
    """Greedy tokens until a stop, each from a whole new pass of one row with hand-made hooks."""
    ids = ids_of(text)
    length = len(ids)

    def hook_for(edit: HandEdit) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            rows = [edit(h) if chooses(p, length, 1) else h for p, h in enumerate(hidden[0])]
            edited = torch.stack(rows)[None]
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    handles = [blocks_of(model)[layer].register_forward_hook(hook_for(edit)) for layer, edit in edits.items()]
    with torch.no_grad():
        for _ in range(STEPS):
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in (2, 3):
                break
            ids.append(token)
    for handle in handles:
        handle.remove()
    return tuple(ids[length:])


def place(
    vector: SteeringVector, kind: str, strength: float = STRENGTH, positions: str = "generated", layer: int = LAYER
) -> Placement:
    intervention = INTERVENTIONS[kind].from_vector(vector, layer, None)
    return Placement(intervention, Site(layer), strength, Scope.parse(positions))


def rows(plan: Plan) -> list[Row]:
    return [Row(prompt, plan) for prompt in prompts()]


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_cached_uncached_alone_and_padded_give_the_tokens_of_the_hand_made_edit(
    engine: Any, family: str, kind: str
) -> None:
    model = make_model(family)
    vector = vector_of(model)
    unsteered = tokens_of(engine.generate(rows(()), GREEDY))

    for positions in ("generated", "all", "first,generated"):
        plan = tuple(place(vector, kind, STRENGTH, positions, layer) for layer in vector.layers)
        edits = {layer: by_hand(kind, vector, layer, STRENGTH) for layer in vector.layers}
        expected = [greedy_by_hand(model, text, edits, SCOPES[positions]) for text in PROMPTS]
        assert tokens_of(engine.generate(rows(plan), GREEDY)) == expected
        assert tokens_of(engine.generate(rows(plan), UNCACHED)) == expected
        assert [tokens_of(engine.generate([row], GREEDY))[0] for row in rows(plan)] == expected
        assert unsteered != expected


def test_a_batch_in_which_every_row_has_another_kind_equals_each_row_alone(engine: Any, model: Any) -> None:
    vector = vector_of(model)
    plans: list[Plan] = [(), *((place(vector, kind),) for kind in INTERVENTIONS)]
    plans += [(place(vector, kind, 0.5, "all"), place(vector, "add", layer=OTHER_LAYER)) for kind in INTERVENTIONS]
    mixed = [Row(prompts()[i % len(PROMPTS)], plan) for i, plan in enumerate(plans)]

    together = engine.generate(mixed, GREEDY)
    alone = [engine.generate([row], GREEDY)[0] for row in mixed]

    assert tokens_of(together) == tokens_of(alone)
    for row, other in zip(together, alone, strict=True):
        torch.testing.assert_close(row.log_probs, other.log_probs, atol=2e-4, rtol=0)
    assert tokens_of(together) != tokens_of(engine.generate([Row(row.prompt) for row in mixed], GREEDY))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_block_output_is_the_float32_edit_rounded_once_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    engine = HuggingFaceEngine(make_model(family, dtype=dtype), make_tokenizer())
    vector = vector_of(make_model(family))

    for kind in INTERVENTIONS:
        placement = place(vector, kind, 0.7, "all")
        engine.set_ambient((placement,))
        edits = engine.observe(prompts()[1], 4).edits

        assert [edit.before.shape[0] for edit in edits] == [len(ids_of(PROMPTS[1])), 1, 1, 1]
        for edit in edits:
            by_itself = placement.intervention.edit(edit.before.float(), torch.tensor(0.7))
            assert edit.after.dtype == dtype
            assert torch.equal(edit.after, by_itself.to(dtype)), kind
            assert not torch.equal(edit.after, edit.before), kind


def test_strength_zero_leaves_the_logits_bit_equal_and_another_strength_does_not(engine: Any, model: Any) -> None:
    vector = vector_of(model)

    def logits(plan: Plan) -> Tensor:
        engine.set_ambient(plan)
        with torch.no_grad():
            return model(torch.tensor([ids_of(PROMPTS[3])])).logits

    original = logits(())
    for kind in INTERVENTIONS:
        assert torch.equal(logits((place(vector, kind, 0.0, "all"),)), original), kind
        assert not torch.equal(logits((place(vector, kind, 0.1, "all"),)), original), kind


def test_edits_at_one_site_act_in_their_order_among_additions(engine: Any, model: Any) -> None:
    vector = vector_of(model)
    shift = SteeringVector.from_directions({LAYER: torch.linspace(-2, 3, vector.width)})
    one, two = place(shift, "add", 1.0, "all"), place(vector, "add", 0.5, "all")
    added, also_added = shift.directions[LAYER], 0.5 * vector.directions[LAYER]

    def seen(*plan: Placement) -> tuple[Tensor, Tensor]:
        engine.set_ambient(plan)
        observed = engine.observe(prompts()[1], 1).edits[0]
        return observed.before, observed.after

    for kind in set(INTERVENTIONS) - {"add"}:
        placed = place(vector, kind, 0.7, "all")

        def edited(hidden: Tensor, placed: Placement = placed) -> Tensor:
            return placed.intervention.edit(hidden, torch.tensor(placed.strength))

        before, last = seen(one, two, placed)
        _, between = seen(one, placed, two)
        _, first = seen(placed, one, two)

        assert torch.equal(last, edited(before + (added + also_added))), kind
        assert torch.equal(between, edited(before + added) + also_added), kind
        assert torch.equal(first, edited(before) + (added + also_added)), kind
        assert not torch.allclose(first, last, atol=1e-3), kind


def test_two_removals_at_one_site_are_both_done_where_they_are_orthogonal(engine: Any, model: Any) -> None:
    one = SteeringVector.from_directions({LAYER: vector_of(model).directions[LAYER]})
    other = orthogonalized(SteeringVector.from_directions({LAYER: torch.linspace(-2, 3, one.width)}), [one])
    engine.set_ambient((place(one, "project_out", 1.0, "all"), place(other, "project_out", 1.0, "all")))

    observed = engine.observe(prompts()[1], 1).edits[0]

    for removed in (one, other):
        unit = removed.directions[LAYER] / removed.magnitude(LAYER)
        assert (observed.after @ unit).abs().max() < 1e-4
        assert (observed.before @ unit).abs().max() > 0.1
