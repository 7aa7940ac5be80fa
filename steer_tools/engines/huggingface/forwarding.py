"""Padded ids → logits, by one plain call of a model. It must not know plans or hooks."""

from typing import Any, cast

from torch import Tensor

from steer_tools.engines.huggingface.architecture import Architecture


def forward(
    architecture: Architecture, ids: Tensor, real: Tensor, *, first_column: int = 0, cache: Any = None
) -> tuple[Tensor, Any]:
    """Return the logits (rows, columns, vocabulary) of columns `first_column` onward, and the cache that it leaves.

    `ids` is (rows, columns), and `real` is false at padding; after a cache it also covers the cached columns, which are
    in front. The logits of earlier columns are not computed where the model can leave them out.

    `cache` is True for a new one, an earlier one to go on with, or None for none.
    """
    model = cast(Any, architecture.model)
    options: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None and cache is not True:
        options["past_key_values"] = cache
    keeps = first_column > 0 and getattr(model, "_supports_logits_to_keep", lambda: False)()
    if keeps:
        options["logits_to_keep"] = ids.shape[1] - first_column
    device = architecture.device
    output = model(ids.to(device), attention_mask=real.long().to(device), **options)
    logits = output.logits if keeps else output.logits[:, first_column:]
    return logits, getattr(output, "past_key_values", None)
