"""Runs a freshly hooked model on a few tokens and refuses what does not behave as found.

It must not know prompts or tokenizers: any token ids will do.
"""

import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from steer_tools.architecture import Architecture
from steer_tools.engines.batching import pad
from steer_tools.engines.hooks import Run, SteeringHooks
from steer_tools.errors import UnsupportedModelError

_SHORT, _LONG = (3, 5, 7), (4, 6, 8, 9, 5)
# Rounding moves a padded row a little against the row alone; a mask that is ignored moves it by its own size.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class PaddingSupport:
    """Whether a padded row is computed like the row alone; where it is not, batches hold rows of one length."""

    left_is_exact: bool
    right_is_exact: bool


def probe(architecture: Architecture, hooks: SteeringHooks) -> PaddingSupport:
    """Check that each block fires once a pass with an output of the expected shape, and how padding behaves.

    Raises:
        UnsupportedModelError: A block does not; the text says what it did.
    """
    if "input_ids" not in inspect.signature(architecture.decoder.forward).parameters:
        raise UnsupportedModelError(
            f"The blocks are run by {type(architecture.decoder).__name__}, which is not called with input_ids",
            valid="models whose decoder is",
            fix="This kind of model cannot be steered yet.",
        )
    alone = _outputs(architecture, hooks, [_SHORT], left=False)
    for layer, outputs in enumerate(alone):
        expected = (1, len(_SHORT), architecture.hidden_size)
        shapes = [tuple(getattr(output, "shape", ())) for output in outputs]
        if shapes != [expected]:
            raise UnsupportedModelError(
                f"Decoder block {layer} ({type(architecture.blocks[layer]).__name__}) put out {shapes or 'nothing'} in "
                f"one pass over {len(_SHORT)} tokens",
                valid=f"once, with the shape {expected}",
                fix="This kind of model cannot be steered yet.",
            )
    _refuse_untold_cache(architecture)
    reference = alone[-1][0][0]
    left = _outputs(architecture, hooks, [_SHORT, _LONG], left=True)[-1][0][0, -len(_SHORT) :]
    right = _outputs(architecture, hooks, [_SHORT, _LONG], left=False)[-1][0][0, : len(_SHORT)]
    return PaddingSupport(_is_close(left, reference), _is_close(right, reference))


def _refuse_untold_cache(architecture: Architecture) -> None:
    """Refuse a model whose cached steps cannot be placed, since its cache does not say how many tokens it holds."""
    ids = torch.tensor([_SHORT], device=architecture.device)
    with torch.no_grad():
        cache: Any = getattr(cast(Any, architecture.model)(ids, use_cache=True), "past_key_values", None)
    held = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else None
    if held != len(_SHORT):
        raise UnsupportedModelError(
            f"After {len(_SHORT)} tokens the cache of {type(architecture.model).__name__} ({type(cache).__name__}) "
            f"says that it holds {held}, so the tokens of later steps cannot be placed",
            valid="models with a key-value cache that counts its tokens",
            fix="This kind of model cannot be steered yet.",
        )


def _outputs(
    architecture: Architecture, hooks: SteeringHooks, sequences: list[tuple[int, ...]], *, left: bool
) -> list[list[Tensor]]:
    """Return, for each block, its outputs in one pass."""
    outputs: list[list[Tensor]] = [[] for _ in architecture.blocks]
    captures = {layer: outputs[layer].append for layer in range(len(outputs))}
    ids, real = pad(sequences, 1, left=left)
    device = architecture.device
    arguments: dict[str, Any] = {"attention_mask": real.long().to(device), "use_cache": False}
    if "position_ids" in inspect.signature(architecture.model.forward).parameters:
        arguments["position_ids"] = (real.long().cumsum(dim=1) - 1).clamp(min=0).to(device)
    with torch.no_grad(), hooks.running(Run(captures=captures)):
        cast(Any, architecture.model)(ids.to(device), **arguments)
    return outputs


def _is_close(padded: Tensor, alone: Tensor) -> bool:
    # By the median over channels: in some models a few channels are hundreds of times the others.
    difference = (padded.float() - alone.float()).abs().median(dim=-1).values
    return bool((difference <= _TOLERANCE * alone.float().abs().median(dim=-1).values).all())
