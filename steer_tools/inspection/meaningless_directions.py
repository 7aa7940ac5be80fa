"""A site → directions that mean nothing, spread as a model's own activations are there.

Activations fill a few dimensions of their space, and rows of the output matrix lie along the same ones, so that what is
like them is like some token more often than what is spread evenly. It must not know vectors, or what is measured.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, text_behind_first

# One in twenty passes by chance.
_SHARE = 20


def meaningless_directions(engine: Engine, site: Site, count: int, seed: int) -> Mapping[str, Tensor]:
    """Return (count, width) directions by how they are spread: evenly, and as what the neutral prompts have.

    That is as their tokens, as the means over each, and as their last tokens. Vectors are made of any of these.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {"even": torch.randn(count, engine.width(site), generator=generator)}
    prompts = engine.neutral_prompts
    kept = text_behind_first(engine, prompts, engine.sinks(prompts))
    traces = [trace[site][own] for trace, own in zip(engine.trace(prompts, [site]), kept, strict=True) if own.any()]
    if traces:
        means, last = (torch.stack(rows) for rows in ([own.mean(dim=0) for own in traces], [own[-1] for own in traces]))
        for name, rows in (("tokens", torch.cat(traces)), ("means", means), ("last tokens", last)):
            apart = rows - rows.mean(dim=0)
            if apart.norm() > 0:
                found[name] = torch.randn(count, len(rows), generator=generator) @ apart
    return found


def chance_level(found: Sequence[Tensor]) -> float:
    """Return what at most one in twenty reaches, of (count,) values for each way in which directions are spread.

    A value that is drawn like them is above theirs with just that probability where count + 1 is a multiple of twenty.
    """
    return max(float(own.sort(descending=True).values[(len(own) + 1) // _SHARE - 1]) for own in found)
