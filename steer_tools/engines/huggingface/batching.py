"""Lists of token ids → padded batches. It must not know models."""

from collections.abc import Sequence

import torch
from torch import Tensor


def batches_by_length(lengths: Sequence[int], token_budget: int, *, equal_only: bool = False) -> list[list[int]]:
    """Group the indices of `lengths`, shortest first, so that each padded batch stays within `token_budget` tokens.

    Small batches of like length beat large ones: padding costs more than larger products save. A single sequence
    above the budget is a batch of its own; with `equal_only` a batch holds one length.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        batch = batches[-1] if batches else []
        fits = (len(batch) + 1) * lengths[index] <= token_budget
        if batch and fits and not (equal_only and lengths[batch[0]] != lengths[index]):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def pad(sequences: Sequence[Sequence[int]], pad_token: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return ids (rows, columns) int64 and a mask (rows, columns) bool, true at real tokens."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token)
    real = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, tokens in enumerate(sequences):
        columns = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, columns] = torch.tensor(tokens)
        real[row, columns] = True
    return ids, real
