"""Runs a freshly hooked model on a few tokens and refuses what does not behave as found.

It must not know prompts or tokenizers: any token ids of text will do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import forward, pad
from steer_tools.engines.huggingface.hooks import Run, SteeringHooks, compile_plans
from steer_tools.engines.huggingface.pass_geometry import Layout
from steer_tools.errors import UnsupportedCallError, UnsupportedModelError

# Rounding moves a padded row a little against the row alone, in half precision by some hundredths where there are many
# layers; a mask that is ignored moves it by its own size.
_TOLERANCE, _TOLERANCE_IN_HALF = 0.05, 0.15
# Rows of one batch and one length differ by less than this where their tokens are the same.
_ROUNDING = 1e-3
# An edit as large as the stream itself moves the logits by more than this share of their spread.
_LEAST_EFFECT = 1e-3

Company: TypeAlias = Literal["padded", "equal", "alone"]
COMPANIES: tuple[Company, ...] = ("padded", "equal", "alone")
Follow: TypeAlias = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]], Callable[[Tensor], Run]], Tensor]


@dataclass(frozen=True)
class _Texts:
    """A prompt, what it is made to go on with, both as one, and the prompt with another end."""

    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    whole: tuple[int, ...]
    other_end: tuple[int, ...]

    @classmethod
    def of(cls, architecture: Architecture) -> "_Texts":
        a, b, c, d, e, f, g = architecture.text_tokens(7)
        return cls((a, b, c), (d, e, f), (a, b, c, d, e), (a, b, c, f, g))


@dataclass(frozen=True)
class Behaviour:
    """What holds for a model.

    Attributes:
        company: Which rows generate together what each would alone: rows that are padded on the left to one length,
            rows of equal length, or none.
        right_is_exact: A row that is padded on the right is read as it would be alone.
        idle_layers: Blocks that do not run on text alone, as those that look at an image.
    """

    company: Company
    right_is_exact: bool
    idle_layers: tuple[int, ...]


def probe(architecture: Architecture, hooks: SteeringHooks, follow: Follow) -> Behaviour:
    """Check that each block runs once a pass, that its output is what the logits come from, and what padding does.

    `follow(prompts, forced, run_of)` makes a left-padded batch of prompts generate the tokens `forced`, with a cache,
    and returns the logits (rows, tokens, vocabulary) before each; `run_of` makes the run, given what is no padding.

    Raises:
        UnsupportedModelError: Something does not hold; the text says what was found.
    """
    texts = _Texts.of(architecture)
    length = len(texts.prompt)
    (alone, _) = _pass(architecture, hooks, [texts.prompt])
    idle = _idle_layers(architecture, alone, length)
    together, _ = _pass(architecture, hooks, [texts.prompt, texts.whole, texts.other_end])
    last = next(layer for layer in reversed(range(len(alone))) if layer not in idle)
    padded, whole, other = together[last][0][:, :length]
    eps = torch.finfo(architecture.dtype).eps
    is_close = partial(_is_close, tolerance=_TOLERANCE if eps < _ROUNDING / 8 else _TOLERANCE_IN_HALF)
    if not _is_close(whole, other, tolerance=max(_ROUNDING, 8 * eps)):
        raise UnsupportedModelError(
            f"In {type(architecture.model).__name__} a token changes the activations of those before it",
            valid="causal models, whose tokens see only what is before them",
            fix="Where the config has is_decoder, load the model with is_decoder=True.",
        )
    plans = [_edit(layer, alone[layer][0]) for layer in range(len(alone)) if layer not in idle]
    uncached = _steered_logits(architecture, hooks, plans, texts)
    middle = len(plans) // 2
    expected = _centered(uncached[[0, middle + 1], length - 1 :])

    def cached(company: Company) -> Tensor:
        """Return the logits of the unsteered and the steered prompt, generated in that company."""
        rows: list[tuple[Sequence[int], Plan]] = [(texts.prompt, ()), (texts.prompt, plans[middle])]
        if company == "alone":
            return torch.cat([_generated(follow, [row], texts.forced) for row in rows])
        together = [*rows, (texts.whole, ())] if company == "padded" else rows
        return _generated(follow, together, texts.forced)[:2]

    for company in COMPANIES:
        try:
            steps = _centered(cached(company))
        except UnsupportedCallError:
            if company == COMPANIES[-1]:
                raise
            continue  # Some models mix up their rows so much that they have another shape.
        if is_close(steps[0], expected[0]):
            break
    else:
        raise UnsupportedModelError(
            f"{type(architecture.model).__name__} generates with other logits than a plain call gives on the "
            "same tokens, though nothing is steered",
            valid="models whose generate, with a cache, equals one pass over the whole text",
            fix="Where the config has is_decoder, load the model with is_decoder=True; else the model is at fault.",
        )
    if not is_close(steps[1], expected[1]):
        raise UnsupportedModelError(
            f"In {type(architecture.model).__name__} an edit does not reach the tokens that are generated with a cache "
            "as it reaches those without one",
            fix="This kind of model cannot be steered yet.",
        )
    return Behaviour(company, is_close(padded, alone[last][0][0]), idle)


def _generated(follow: Follow, rows: Sequence[tuple[Sequence[int], Plan]], forced: Sequence[int]) -> Tensor:
    """Return the logits (rows, tokens, vocabulary) before each forced token of a left-padded batch."""
    prompts, plans = zip(*rows, strict=True)
    edits = compile_plans(plans)
    return follow(prompts, [forced] * len(rows), lambda real: Run(edits, Layout(real, real.sum(dim=1))))


def _idle_layers(architecture: Architecture, outputs: Sequence[Sequence[object]], length: int) -> tuple[int, ...]:
    """Return the blocks that did not run, after refusing those that ran otherwise than once with the usual shape."""
    expected = (1, length, architecture.hidden_size)
    shapes = [[tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in block] for block in outputs]
    for layer, found in enumerate(shapes):
        if found not in ([expected], []) or not any(shapes):
            raise UnsupportedModelError(
                f"Decoder block {layer} ({type(architecture.blocks[layer]).__name__}) put out {found or 'nothing'} in "
                f"one pass over {length} tokens",
                valid=f"once, with the shape {expected}",
                fix="This kind of model cannot be steered yet.",
            )
    return tuple(layer for layer, found in enumerate(shapes) if not found)


def _edit(layer: int, hidden: Tensor) -> Plan:
    """Return an addition to the generated positions, as long as the stream and the same at every run."""
    direction = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(layer))
    length = hidden.float().norm(dim=-1).median().cpu()
    return (Placement(Add(direction / direction.norm() * length), Site(layer), 1.0),)


def _steered_logits(architecture: Architecture, hooks: SteeringHooks, plans: Sequence[Plan], texts: _Texts) -> Tensor:
    """Return the logits over the whole text, first unsteered and then under each plan, which must move them."""
    rows: list[Plan] = [(), *plans]
    layout = Layout(
        torch.ones(len(rows), len(texts.whole), dtype=torch.bool), torch.full((len(rows),), len(texts.prompt))
    )
    _, logits = _pass(architecture, hooks, [texts.whole] * len(rows), Run(compile_plans(rows), layout))
    unsteered, *steered = logits[:, -1]
    for plan, moved in zip(plans, steered, strict=True):
        if not float((moved - unsteered).abs().max()) > _LEAST_EFFECT * float(unsteered.std()):
            layer = plan[0].site.layer
            raise UnsupportedModelError(
                f"What decoder block {layer} ({type(architecture.blocks[layer]).__name__}) puts out does not reach the "
                f"logits of {type(architecture.model).__name__}",
                valid="blocks whose output is the stream that the next block and the unembedding take",
                fix="This kind of model cannot be steered yet.",
            )
    return logits


def _pass(
    architecture: Architecture, hooks: SteeringHooks, sequences: Sequence[Sequence[int]], run: Run | None = None
) -> tuple[list[list[Tensor]], Tensor]:
    """Return, for each block, its outputs in one uncached pass padded on the right, and the float32 logits."""
    outputs: list[list[Tensor]] = [[] for _ in architecture.blocks]
    captures = {Site(layer): outputs[layer].append for layer in range(len(outputs))}
    with torch.no_grad(), hooks.running(run or Run(captures=captures)):
        logits, _ = forward(architecture, *pad(sequences, 1, left=False))
    return outputs, logits.float().cpu()


def _centered(logits: Tensor) -> Tensor:
    """Return logits without what all of a token have in common, which says nothing of the next one."""
    return logits - logits.median(dim=-1, keepdim=True).values


def _is_close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    # By the median over channels: in some models a few channels are hundreds of times the others.
    difference = (found.float() - expected.float()).abs().median(dim=-1).values
    return bool((difference <= tolerance * expected.float().abs().median(dim=-1).values).all())
