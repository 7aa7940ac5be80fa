"""What the owner of a model and its tokenizer changes in place, at a glance, so that an engine notices it.

Of each weight it is looked where it lies, how often torch saw it written and at a few of its numbers: some
milliseconds, where reading all would take seconds. It must not know hooks or plans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from steer_tools.engines.huggingface.weights_identity import stored_tensors

# The step from one sampled number of a weight to the next, as a share of all; so crooked that they fall into many rows
# and columns. In-place changes of `.data` show only there: torch counts those of the parameter itself.
_STEP = 0.0618034
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class _Weight(NamedTuple):
    """Where a tensor lies, how often it was written, and how it is held."""

    address: int
    version: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size


class _Tokens(NamedTuple):
    """What of a tokenizer is changed in place."""

    known: int
    template: str
    special: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model and its tokenizer at one moment.

    Attributes:
        modules: Every module, in order.
        switches: What modules have of plain values, such as the active adapters of PEFT's layers and their scaling.
        weights: All that a checkpoint would hold.
        samples: A few numbers of each weight, float32 on the CPU, with the indices of those weights, by how they are
            held.
    """

    modules: tuple[nn.Module, ...]
    switches: tuple[object, ...]
    weights: tuple[_Weight, ...]
    samples: Mapping[tuple[torch.device, torch.dtype], tuple[list[int], list[int], Tensor]]
    tokens: _Tokens

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any) -> "ModelState":
        """Look at a model that lies still."""
        modules = tuple(model.modules())
        tensors = [stored for module in modules for tensor in _kept_by(module) for stored in stored_tensors(tensor)]
        return cls(
            modules,
            tuple(switch for module in modules for switch in _switches_of(module)),
            tuple(map(_weight_of, tensors)),
            _samples_of(tensors),
            _tokens_of(tokenizer),
        )

    def changes_since(self, before: "ModelState") -> tuple[str, ...]:
        """Return what is other than it was, in words."""
        told: list[str] = []
        is_rebuilt = self.modules != before.modules
        if is_rebuilt:
            told.append("modules of it were put in, taken out or replaced")
        elif self.switches != before.switches:
            told.append("a setting of its modules is another, such as which adapter is active")
        held, formerly = self._first(), before._first()
        if held.dtype != formerly.dtype:
            told.append(f"it is {_plain(held.dtype)} and was {_plain(formerly.dtype)}")
        if held.device != formerly.device:
            told.append(f"it is on {held.device} and was on {formerly.device}")
        if not told and not (self.weights == before.weights and self._has_samples_of(before)):
            told.append("its weights were changed")
        if self.tokens.known != before.tokens.known:
            told.append(f"the tokenizer has {self.tokens.known} tokens and had {before.tokens.known}")
        if self.tokens.template != before.tokens.template:
            told.append("the tokenizer's chat template is another")
        if self.tokens.special != before.tokens.special:
            told.append("the tokenizer's special tokens are others")
        return tuple(told)

    def has_weights_of(self, before: "ModelState") -> bool:
        """Return whether the weights are the same, at most held in another dtype or on another device."""
        if self.switches != before.switches or [w.shape for w in self.weights] != [w.shape for w in before.weights]:
            return False
        if self.weights == before.weights:
            return self._has_samples_of(before)
        if all((a.dtype, a.device) == (b.dtype, b.device) for a, b in zip(self.weights, before.weights, strict=True)):
            return False
        own, others = self._by_weight(), before._by_weight()
        return own.keys() == others.keys() and all(
            torch.equal(others[index].to(self.weights[index].dtype).float(), values) for index, values in own.items()
        )

    def _first(self) -> _Weight:
        return next(weight for weight in self.weights if weight.dtype.is_floating_point)

    def _has_samples_of(self, before: "ModelState") -> bool:
        """Whether the sampled numbers are the same bits; NaN may be among them."""
        return self.samples.keys() == before.samples.keys() and all(
            torch.equal(values.view(torch.int32), before.samples[held][-1].view(torch.int32))
            for held, (*_, values) in self.samples.items()
        )

    def _by_weight(self) -> dict[int, Tensor]:
        """Return the sampled numbers of each weight by its index."""
        return {
            index: part
            for indices, counts, values in self.samples.values()
            for index, part in zip(indices, values.split(counts), strict=True)
        }


def _kept_by(module: nn.Module) -> Iterator[Tensor]:
    """Yield what a checkpoint would hold of a module itself."""
    own = vars(module)  # By torch's own dictionaries: named_parameters would take longer than all else.
    volatile = own["_non_persistent_buffers_set"]
    yield from (parameter for parameter in own["_parameters"].values() if parameter is not None)
    yield from (buffer for name, buffer in own["_buffers"].items() if buffer is not None and name not in volatile)


def _switches_of(module: nn.Module) -> Iterator[object]:
    """Yield the plain values of a module; whole numbers, which may count calls, only where they are named in a table.

    What torch's own modules have is fixed when they are made.
    """
    if type(module).__module__.startswith("torch.nn."):
        return
    for name, value in vars(module).items():
        if name in _OF_EVERY_MODULE:
            continue
        match value:
            case bool() | float() | str():
                yield name, value
            case list():
                yield name, *(item for item in cast(list[object], value) if isinstance(item, str))
            case dict():
                items = cast(dict[object, object], value).items()
                yield name, *(item for item in items if type(item[1]) in (int, float))
            case _:
                pass


def _weight_of(tensor: Tensor) -> _Weight:
    version = 0 if tensor.is_inference() else tensor._version  # Such tensors are not counted.
    return _Weight(tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape)


def _samples_of(
    tensors: list[Tensor],
) -> dict[tuple[torch.device, torch.dtype], tuple[list[int], list[int], Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    for index, tensor in enumerate(tensors):
        # An offloaded weight holds nothing here, and one that is not laid out in a row would have to be copied.
        if not tensor.is_meta and tensor.is_contiguous() and tensor.numel() and not tensor.is_complex():
            flat = tensor.detach().view(-1)
            if tensor.dtype.itemsize == 1:
                flat = flat.view(torch.uint8)  # Some of these dtypes cannot be computed with.
            groups.setdefault((tensor.device, tensor.dtype), []).append((index, flat[:: int(len(flat) * _STEP) or 1]))
    # One way to the CPU for all that lie together.
    return {
        held: ([i for i, _ in own], [len(part) for _, part in own], torch.cat([part for _, part in own]).float().cpu())
        for held, own in groups.items()
    }


def _tokens_of(tokenizer: Any) -> _Tokens:
    template = tokenizer.chat_template
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return _Tokens(len(tokenizer), template if isinstance(template, str) else repr(template), special)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
