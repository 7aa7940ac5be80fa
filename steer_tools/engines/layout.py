"""Where the tokens of one call of a model stand: a call's arguments → a batch geometry.

The engine knows the layout of its own batches; for calls that others make it is read from their arguments. It must
not know hooks or plans.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from steer_tools.errors import UnsupportedCallError
from steer_tools.positions import BatchGeometry


@dataclass(frozen=True)
class Layout:
    """What a run knows of its own batch before the model is called; tensors on the CPU.

    Attributes:
        real: (rows, columns) bool, false at padding; columns beyond are generated, hence real.
        prompt_lengths: (rows,) real prompt tokens.
        first: (rows,) position of the first prompt token that is neither padding nor BOS.
    """

    real: Tensor
    prompt_lengths: Tensor
    first: Tensor | None


@dataclass
class GenerateCall:
    """A `model.generate` under way: its prompt's columns and ids, and their mask once it is known."""

    prompt_columns: int | None
    mask: Tensor | None
    ids: Tensor | None
    first: Tensor | None = None


def geometry_of(
    arguments: Mapping[str, Any], known: Layout | GenerateCall | None, bos_token: int | None
) -> BatchGeometry:
    """Tell where the tokens of one pass of the decoder stand.

    `known` is the layout of the engine's own batch, or the `model.generate` that somebody else's pass belongs to; in a
    plain call it is None, and all real tokens are prompt.

    Raises:
        UnsupportedCallError: The arguments do not say which tokens are padding, or hold several sequences in a row.
    """
    ids: Tensor | None = arguments.get("input_ids")
    tokens = ids if ids is not None else cast(Tensor, arguments["inputs_embeds"])
    rows, width = tokens.shape[:2]
    past = _cached_length(arguments.get("past_key_values"))
    if arguments.get("cu_seq_lens_q") is not None:
        raise UnsupportedCallError(
            "The model was called with several sequences packed into one row", valid="one sequence a row, padded"
        )
    layout = known if isinstance(known, Layout) else _foreign_layout(arguments, known, past, bos_token)
    real = _extended(layout.real, past + width)[:, : past + width]
    copies, rest = divmod(rows, len(real))
    if rest:
        raise UnsupportedCallError(
            f"The steered model was called with {rows} rows inside a call for {len(real)}",
            valid="a multiple of the prompts, as beams and several return sequences make",
        )
    lengths, first = layout.prompt_lengths, layout.first
    if copies > 1:
        real, lengths = real.repeat_interleave(copies, 0), lengths.repeat_interleave(copies)
        first = None if first is None else first.repeat_interleave(copies)
    return BatchGeometry.from_columns(real, past, lengths, first)


def noted_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GenerateCall:
    """Note what the arguments of a `model.generate(*args, **kwargs)` say of its prompt."""
    given = (*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds")))
    inputs = next((value for value in given if isinstance(value, Tensor)), None)
    mask = kwargs.get("attention_mask")
    is_ids = inputs is not None and inputs.dim() == 2 and not inputs.is_floating_point()
    return GenerateCall(
        prompt_columns=None if inputs is None else inputs.shape[1],
        mask=mask.bool().cpu() if isinstance(mask, Tensor) and mask.dim() == 2 else None,
        ids=inputs if is_ids else None,
    )


def refuse_other_passes(args: tuple[Any, ...], kwargs: Mapping[str, Any], models_own: Any) -> None:
    """Refuse what runs the model on other tokens than the rows' own inside one `generate`.

    It may be named by an argument, by the generation config that is passed, or by the model's own.
    """
    configs = [kwargs.get("generation_config"), *args[1:2], models_own]
    for name in ("assistant_model", "prompt_lookup_num_tokens", "guidance_scale"):
        values = [kwargs[name]] if name in kwargs else [getattr(config, name, None) for config in configs]
        if any(value is not None and not (name == "guidance_scale" and value == 1) for value in values):
            raise UnsupportedCallError(
                f"model.generate was called with {name}, which is not supported for a steered model",
                valid="generate without it",
                fix="Leave it out, or remove the vectors.",
            )


def _foreign_layout(
    arguments: Mapping[str, Any], call: GenerateCall | None, past: int, bos_token: int | None
) -> Layout:
    """Read the layout of a call that somebody else makes: `model.generate(...)` or a plain `model(...)`."""
    ids: Tensor | None = arguments.get("input_ids")
    rows, width = (ids if ids is not None else cast(Tensor, arguments["inputs_embeds"])).shape[:2]
    columns = past + width
    if call is None:
        mask = _mask_of(arguments.get("attention_mask"), rows, past, columns)
        return Layout(mask, mask.sum(dim=1), _first(ids, mask, past, bos_token))
    if call.mask is None:
        # Padding is on the left, so columns that this pass does not show yet are real.
        seen = _mask_of(arguments.get("attention_mask"), rows, past, columns)
        call.mask = _extended(seen, call.prompt_columns or columns)[:, : call.prompt_columns]
    if call.first is None:
        # The ids of the whole prompt say it, also where this pass holds a chunk of them or embeddings.
        whole = call.ids is not None and call.ids.shape[1] == call.mask.shape[1]
        call.first = _first(call.ids if whole else ids, call.mask, 0 if whole else past, bos_token)
    return Layout(call.mask, call.mask.sum(dim=1), call.first)


def _first(ids: Tensor | None, real: Tensor, past: int, bos_token: int | None) -> Tensor | None:
    """Return the position of the first prompt token after BOS; 0 for rows that do not start with BOS."""
    if bos_token is None or past > 1:
        return torch.zeros(len(real), dtype=torch.long)  # With two tokens cached, the first is not in this pass.
    if ids is None or past > 0:
        return None
    start = real.long().argmax(dim=1)
    # Beams and return sequences repeat each row, in the ids or in the mask, as this pass happens to show them.
    row = torch.arange(len(real)) * len(ids) // len(real)
    return (ids.cpu()[row, start] == bos_token).long()


def _mask_of(attention_mask: Any, rows: int, past: int, columns: int) -> Tensor:
    if attention_mask is None:
        return torch.ones(rows, columns, dtype=torch.bool)
    if isinstance(attention_mask, Tensor) and attention_mask.shape == (rows, columns):
        return attention_mask.bool().cpu()
    shape = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
    raise UnsupportedCallError(
        f"The steered model was called with an attention mask of {shape} for {rows} rows and {columns} columns "
        f"({past} of them cached), which does not say which tokens are padding",
        valid="no mask, or one of shape (rows, all columns)",
        fix="Pass the 2-D attention_mask to model.generate, or use the generate tool.",
    )


def _extended(real: Tensor, columns: int) -> Tensor:
    """Return a mask of at least `columns` columns; those that are added are generated tokens, hence real."""
    missing = max(0, columns - real.shape[1])
    return torch.cat([real, torch.ones(len(real), missing, dtype=torch.bool)], dim=1)


def _cached_length(cache: Any) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    raise UnsupportedCallError(f"The cache {type(cache).__name__} does not say how many tokens it holds")
