"""A hooked model and one pass → the parts of each decoder block: what writes to the residual stream, and from where.

Nothing is told by name. A block's writers are the modules whose outputs add up to what it adds to the stream; attention
is the writer whose tokens see each other; heads are what is laid side by side before the output projection takes it.
It must not know prompts or plans.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import prod
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.module_hooks import passing_hooks

_TOKENS = 5
# As many modules write to the stream in one block at most: attention, a recurrent mixer beside it, and an MLP.
_MOST_WRITERS = 3
# Of what a block adds, in shares of the stream: where rounding leaves more, nothing is told.
_MOST_LEFT = 0.3
_RESHAPES = (Tensor.reshape, Tensor.view, Tensor.flatten, torch.reshape, torch.flatten)


@dataclass(frozen=True)
class Sublayer:
    """One part of a block that adds to the residual stream.

    Attributes:
        module: The whole part, such as the attention or the MLP.
        writer: The module inside or behind it whose output, times `scale`, is added to the stream.
        projection: The module that makes the part's output; in attention its input holds the heads side by side.
        scale: 1 in most models.
        input_width: The size of the last dimension of what the projection takes.
        heads: How many equal shares of that were laid side by side; None where none were.
    """

    module: nn.Module
    writer: nn.Module
    projection: nn.Module
    scale: float
    input_width: int
    heads: int | None


@dataclass(frozen=True)
class BlockParts:
    """The parts of one block; `mixers` are those whose tokens see each other, as attention and recurrent ones do.

    Both are empty where the block adds nothing that could be told, as where it normalises the sum.
    """

    mixers: tuple[Sublayer, ...] = ()
    mlps: tuple[Sublayer, ...] = ()


class _Merges(TorchFunctionMode):
    """Notes each call of this thread that lays shares of every token, such as heads, side by side: (count, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[int, int]] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _RESHAPES and args and (count := _merged(args[0].shape, output.shape)):
            self.noted.append((count, output.shape[-1]))
        return output


@dataclass
class _Call:
    """What one module inside a block was given and gave, and how many merges the pass had seen when it was entered."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    merged: int

    @property
    def given(self) -> Tensor:
        """The first tensor that it was given."""
        return next(value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor))


@dataclass
class _Watched:
    """One block's pass: the stream that came in and went out, and the calls inside it in the order of their ends.

    `merges` are those of the whole pass; `entered` tells how many of them came before a part was called last.
    """

    merges: list[tuple[int, int]]
    before: Tensor | None = None
    after: Tensor | None = None
    calls: list[_Call] = field(default_factory=list)
    entered: dict[str, int] = field(default_factory=dict)


def find_parts(architecture: Architecture) -> tuple[BlockParts, ...]:
    """Find the parts of every block by one pass; the model must not be steered meanwhile in this thread."""
    return tuple(_parts_of(block, seen) for block, seen in zip(architecture.blocks, _watch(architecture), strict=True))


def _watch(architecture: Architecture) -> list[_Watched]:
    """Record one uncached pass over a few tokens."""
    merges = _Merges()
    watched = [_Watched(merges.noted) for _ in architecture.blocks]
    width = architecture.hidden_size

    def enter_block(seen: _Watched, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.before = next((t for t in (*args, *kwargs.values()) if _is_stream(t, width)), None)

    def leave_block(seen: _Watched, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.after = hidden_of(output)

    def enter_part(seen: _Watched, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.entered[name] = len(merges.noted)

    def leave_part(
        seen: _Watched, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if _is_norm(module):
            # A norm of groups splits and merges what lay side by side before.
            del merges.noted[seen.entered[name] :]
        stream = hidden_of(output)
        if _is_stream(stream, width):
            rows = stream.clone().view(_TOKENS, width)
            seen.calls.append(_Call(name, module, args, kwargs, rows, seen.entered[name]))

    with passing_hooks() as hooks:
        for seen, block in zip(watched, architecture.blocks, strict=True):
            hooks.before(block, in_this_thread(enter_block, seen), with_kwargs=True)
            hooks.behind(block, in_this_thread(leave_block, seen))
            for name, module in block.named_modules():
                if name and not isinstance(module, nn.ModuleList):
                    hooks.before(module, in_this_thread(enter_part, seen, name))
                    hooks.behind(module, in_this_thread(leave_part, seen, name), with_kwargs=True)
        with merges:
            run_over_text(architecture)
    return watched


def run_over_text(architecture: Architecture) -> None:
    """Run one uncached pass over a few tokens of text."""
    with torch.no_grad():
        ids = torch.tensor([architecture.text_tokens(_TOKENS)], device=architecture.device)
        cast(Any, architecture.model)(ids, use_cache=False)


def in_this_thread(note: Callable[..., None], *first: Any) -> Callable[..., None]:
    """Return a hook that leaves the passes of other threads alone, such as a user's own generation.

    `note` is given `first` before what the hook is.
    """
    thread = get_ident()

    def hook(*given: Any) -> None:
        if get_ident() == thread:
            note(*first, *given)

    return hook


def hidden_of(output: Any) -> Any:
    """Return the stream in what a block puts out: the tensor itself, or the first of a plain tuple or list."""
    return output[0] if type(output) in (tuple, list) and output else output


def _parts_of(block: nn.Module, seen: _Watched) -> BlockParts:
    if seen.before is None or seen.after is None:
        return BlockParts()
    # The first call that gives an output is the module that makes it; those around it hand it on.
    makers: list[_Call] = []
    for call in seen.calls:
        if not any(torch.equal(call.output, maker.output) for maker in makers):
            makers.append(call)
    # What goes into a part may be all but the stream itself, where a norm comes right behind another: no norm writes
    # what others can.
    found = _writers(seen, [call for call in makers if not _is_norm(call.module)]) or _writers(seen, makers)
    names = [writer.name for writer, _ in found]
    sublayers = [_sublayer(block, seen, writer, names, scale) for writer, scale in found]
    mixers = tuple(sublayer for sublayer in sublayers if _mixes_tokens(seen, sublayer))
    return BlockParts(mixers, tuple(sublayer for sublayer in sublayers if sublayer not in mixers))


def _writers(seen: _Watched, makers: Sequence[_Call]) -> list[tuple[_Call, float]]:
    """Return the fewest calls whose outputs add up, each times its scale, to what the block adds to the stream."""
    assert seen.before is not None and seen.after is not None
    addends = find_addends(seen.before, seen.after, [call.output for call in makers])
    return [(makers[index], scale) for index, scale in addends]


def find_addends(before: Tensor, after: Tensor, outputs: Sequence[Tensor]) -> list[tuple[int, float]]:
    """Return the numbers of the fewest outputs that add up, each times its scale, to after − before; of as many
    elements each, the last dimension being the stream's.

    Element by element, since the stream of a special token may be a hundred times longer than that of a text's: no
    global norm tells what rounding leaves of the others.
    """
    if not outputs:
        return []
    start, end = (stream.double().view(-1, stream.shape[-1]) for stream in (before, after))
    floor = 1e-3 * (start.abs() + end.abs()).mean(dim=-1, keepdim=True)
    added, stream = (end - start).flatten(), (start.abs() + end.abs() + floor).flatten()
    columns = torch.stack([output.double().flatten().to(added.device) for output in outputs])
    weighted, wanted = columns / stream, added / stream
    gram, against = weighted @ weighted.T, weighted @ wanted
    # In float64 the fit of the scales itself is less exact than the sum.
    step = 2 * max(torch.finfo(after.dtype).eps, torch.finfo(torch.float32).eps)
    for count, is_plain in product(range(1, _MOST_WRITERS + 1), (True, False)):
        for chosen in map(list, combinations(range(len(outputs)), count)):
            # Most models add what their parts give as it is: a fit of the scales is looked for where none does.
            scales = torch.ones(count, dtype=torch.float64, device=added.device)
            if not is_plain:
                scales = torch.linalg.lstsq(gram[chosen][:, chosen], against[chosen, None]).solution.squeeze(1)
            rest = (added - scales @ columns[chosen]).abs()
            # Every sum and product on the way is rounded once.
            is_rounding = bool((rest <= step * (stream + scales.abs() @ columns[chosen].abs())).all())
            is_told = float((rest / stream).norm()) <= _MOST_LEFT * float(wanted.norm())
            if is_rounding and is_told and bool((scales.abs() > 1e-3).all()):
                return list(zip(chosen, scales.tolist(), strict=True))
    return []


def _sublayer(block: nn.Module, seen: _Watched, writer: _Call, writers: Sequence[str], scale: float) -> Sublayer:
    """Return the outermost part of the block that holds this writer, or feeds it, and no other."""
    projection = writer
    if _is_norm(writer.module):
        # Some models normalise what a part gives before it is added.
        fed = writer.given.view_as(writer.output)
        projection = next((call for call in seen.calls if torch.equal(call.output, fed)), writer)
    others, name = [f"{other}." for other in writers if other != writer.name], projection.name
    while (parent := name.rpartition(".")[0]) and not any(other.startswith(f"{parent}.") for other in others):
        name = parent
    module, width = block.get_submodule(name), projection.given.shape[-1]
    entered = next(call for call in seen.calls if call.module is module).merged
    heads = [count for count, merged in seen.merges[entered : projection.merged] if merged == width]
    return Sublayer(module, writer.module, projection.module, round(scale, 4), width, heads[-1] if heads else None)


def _merged(before: Sequence[int], after: Sequence[int]) -> int:
    """Return how many shares of each token a reshape laid side by side, 0 where it did something else.

    Before, they are (tokens, count, size), with or without rows, or (tokens · count, size).
    """
    if len(before) < 2 or not after or not 0 < prod(before) == _TOKENS * after[-1] or after[-1] % before[-1]:
        return 0
    count = after[-1] // before[-1]
    if count == 1 and len(before) < 4:
        return 0  # Rows were taken off or put on.
    return count if len(before) == 2 or before[-2] == count else 0


def _is_norm(module: nn.Module) -> bool:
    return [parameter.dim() for parameter in module.parameters()] in ([1], [1, 1])


def _mixes_tokens(seen: _Watched, sublayer: Sublayer) -> bool:
    """Whether the part's output for the last token changes with what it is given for those before."""
    call = next(call for call in seen.calls if call.module is sublayer.module)

    def changed(value: Any) -> Any:
        if not _is_stream(value, call.output.shape[-1]):
            return value
        rows = value.clone().view_as(call.output)
        rows[:-1] = rows[:-1].flip(-1) + 1
        return rows.view_as(value)

    with torch.no_grad():
        output = call.module(*map(changed, call.args), **{name: changed(v) for name, v in call.kwargs.items()})
    moved = (hidden_of(output).view_as(call.output)[-1] - call.output[-1]).float().norm()
    return bool(moved > 1e-4 * call.output[-1].float().norm())


def _is_stream(value: Any, width: int) -> bool:
    """Whether a value has one vector of the stream's width for each token, in one row or without rows."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    return shape in ((1, _TOKENS, width), (_TOKENS, width))
