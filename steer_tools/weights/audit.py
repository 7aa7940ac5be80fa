"""Two checkpoints → which tensors differ, and what was baked into one of them: additions, ablations, or neither.

No model is loaded. That a vector was added or a direction projected out is claimed on evidence in the numbers; which
tensors write to the residual stream, and where they lie, is told by their names. Vectors that were found are saved.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steer_tools.core.site import Component
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.engines.huggingface.checkpoint import Sizes
from steer_tools.formats import write_vector
from steer_tools.inspection.vector_meaning import nearest, nearest_anywhere
from steer_tools.progress import report
from steer_tools.session.vector_loading import saved_vectors
from steer_tools.weights.checkpoint_layout import differing_keys, layer_of, multiplier_of, stream_axes
from steer_tools.weights.matrix_changes import Change, Removal, common_direction, measure, removal, rounding
from steer_tools.weights.tensor_pairs import Checkpoint, Pair, pair_up
from steer_tools.workspace import Workspace

Kind: TypeAlias = Literal["addition", "ablation", "other"]
_KINDS: tuple[Kind, ...] = ("addition", "ablation", "other")


@dataclass(frozen=True)
class Difference:
    """A tensor that is not the base's.

    Attributes:
        name: In the checkpoint.
        kind: What explains it.
        change: |W' − W| / |W|; None where W is zero or the tensor holds no numbers to compare.
        share: Of |W' − W|² along its first singular direction; None in a vector, which has one.
    """

    name: str
    kind: Kind
    change: float | None
    share: float | None


@dataclass(frozen=True, eq=False)
class Finding:
    """A vector that was baked into weights.

    Attributes:
        kind: "addition" or "ablation".
        layers: The one where it was added, or all where the direction was projected out.
        component: Where it acts there.
        direction: (width,) float64: what was added, or the unit direction, whose sign is arbitrary.
        tensors: Those that hold it.
        explained: Which share of their squared change an ablation makes; None for an addition, which is all of it.
        left: |ûᵀW'| / |ûᵀW| over an ablation's tensors: 0 where none of them has the direction any more.
    """

    kind: Kind
    layers: tuple[int, ...]
    component: Component
    direction: Tensor
    tensors: tuple[str, ...]
    explained: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        equal: How many tensors are.
        differences: All others, the largest first.
        findings: Additions by layer, then ablations.
        only_in_checkpoint: Tensors that stand beside nothing, as in `only_in_base`.
        stand_ins: How many compared tensors one of the checkpoints lacks.
        unclaimed: How many biases differ that would be additions, did not other weights differ, too.
        ignored: How many biases are in a checkpoint only whose config says that its model has none.
        config_keys: Entries of the configs that differ, and may change what is computed.
        are_rounded: Whether some were rounded, since the checkpoints have different dtypes.
    """

    equal: int
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]
    only_in_checkpoint: tuple[str, ...]
    only_in_base: tuple[str, ...]
    stand_ins: int
    unclaimed: int
    ignored: int
    config_keys: tuple[str, ...]
    are_rounded: bool

    @property
    def verdict(self) -> str:
        """The kinds that there are; "equal" where nothing differs and nothing is missing."""
        kinds = {difference.kind for difference in self.differences}
        if not kinds and (self.only_in_base or self.only_in_checkpoint):
            return "other"
        return ", ".join(kind for kind in _KINDS if kind in kinds) or "equal"


# What part of a change may be something else, beside twice what rounding may have made, and the most of both.
_UNEXPLAINED, _MOST_UNEXPLAINED = 0.02, 0.5
# A change of n rows obeys an ablation's law by chance with a squared cosine of 1/n.
_FEWEST_ROWS = 16
_SAME_DIRECTION = 0.9
# Of what a matrix has in its other directions: scaling the whole of it takes as much of these.
_MOST_ELSEWHERE = 0.5
# A direction that is taken out and more is turned round.
_MOST_PART = 1.1
# A change of one row, or along one element, is a token, a neuron or a channel that was set to 0.
_MOST_PEAK = 0.99


def audit(checkpoint: Checkpoint, base: Checkpoint) -> Audit:
    """Compare two checkpoints tensor by tensor, and say what was done to the first.

    Raises:
        BakingError: They are of different architectures, or a config is odd.
    """
    pairing, scale = pair_up(checkpoint, base), multiplier_of(checkpoint.config)
    multiplier_of(base.config)
    changed: list[_Changed] = []
    for done, pair in enumerate(pairing.pairs):
        report(done, len(pairing.pairs), "comparing tensors")
        if not pair.is_equal():
            changed.append(_measured(pair, base.sizes))
    ablations = _ablations(changed)
    held = {name for ablation in ablations for name in ablation.tensors}
    rest = [one for one in changed if one.pair.name not in held]
    biases = [one for one in rest if _is_written(one, checkpoint, base)]
    # Biases that differ beside other weights are a part of a training, and no vector.
    additions = _additions(biases, ablations, scale) if len(biases) == len(rest) else []
    findings = (*additions, *ablations)
    kinds: dict[str, Kind] = {name: finding.kind for finding in findings for name in finding.tensors}
    differences = [one.described(kinds.get(one.pair.name, "other")) for one in changed]
    return Audit(
        equal=len(pairing.pairs) - len(changed),
        differences=tuple(sorted(differences, key=lambda difference: -(difference.change or float("inf")))),
        findings=findings,
        only_in_checkpoint=pairing.only_in_checkpoint,
        only_in_base=pairing.only_in_base,
        stand_ins=pairing.stand_ins,
        unclaimed=0 if additions else len(biases),
        ignored=len(pairing.ignored),
        config_keys=differing_keys(checkpoint.config, base.config),
        are_rounded=any(len(set(pair.dtypes or ())) > 1 for pair in pairing.pairs),
    )


@dataclass(frozen=True, eq=False)
class Recovered:
    """A finding with its vector's file and norm; `alike` are other saved vectors, with the layer and cosine of each."""

    finding: Finding
    path: str
    norm: float
    alike: tuple[tuple[str, int, float], ...]


# Saved vectors that are told beside a finding.
_MOST_ALIKE = 10


def save_findings(found: Audit, base: Checkpoint, workspace: Workspace, folder: str) -> tuple[Recovered, ...]:
    """Save the vectors that were found, additions at one component in one file, and compare them with saved ones."""
    vectors = _vectors(found.findings, base)
    paths = {name: str(workspace.resolve(f"{folder}/{name}.safetensors")) for name in vectors}
    others = {path: own for path, own in saved_vectors(workspace).items() if path not in paths.values()}
    recovered: list[Recovered] = []
    for name, (vector, findings) in vectors.items():
        write_vector(vector, paths[name], workspace=workspace)
        for finding in findings:
            layer = finding.layers[0]
            # An ablation has neither a sign nor a layer of its own.
            compare = nearest_anywhere if finding.kind == "ablation" else nearest
            alike = compare(vector, layer, others, _MOST_ALIKE)
            recovered.append(Recovered(finding, paths[name], vector.magnitude(layer), alike))
    return tuple(recovered)


@dataclass(frozen=True, eq=False)
class _Changed:
    """A pair that differs, with `axis` along the residual stream, if it writes to it, and its change, if measured."""

    pair: Pair
    axis: int | None
    change: Change | None

    @property
    def measured(self) -> Change:
        assert self.change is not None
        return self.change

    @property
    def weight(self) -> float:
        return self.measured.squared * self.measured.share

    @property
    def allowance(self) -> float:
        """Which share of the change may be something else than an edit: what rounding makes, and a little."""
        return _UNEXPLAINED + 2 * rounding(self.measured, self.pair.coarsest)

    @property
    def is_projected(self) -> bool:
        """Whether it obeys an ablation's law by itself."""
        return (
            self.axis is not None
            and self.change is not None
            and self.change.rows >= _FEWEST_ROWS
            and 1 - self.change.law <= min(_MOST_UNEXPLAINED, self.allowance)
            and 1 - self.change.law <= _MOST_ELSEWHERE * (1 - self.change.dominance)
            and self.change.part <= _MOST_PART
            and self.change.peak <= _MOST_PEAK
        )

    def removal(self, along: Tensor) -> Removal:
        assert self.axis is not None
        return removal(partial(self.pair.rows, self.axis), along)

    def described(self, kind: Kind) -> Difference:
        change = self.change
        size = (change.squared / change.before) ** 0.5 if change and change.before else None
        return Difference(self.pair.name, kind, size, change.share if change and len(self.pair.shape) > 1 else None)


def _measured(pair: Pair, sizes: Sizes) -> _Changed:
    if pair.dtypes is None:
        return _Changed(pair, None, None)
    axes = stream_axes(pair.name, pair.shape, sizes.width, sizes.family)
    measured = [(axis, measure(partial(pair.rows, axis))) for axis in axes or (len(pair.shape) - 1,)]
    axis, change = max(measured, key=lambda own: own[1].law if own[1] else 0.0)
    return _Changed(pair, axis if axes else None, change)


def _ablations(changed: Sequence[_Changed]) -> list[Finding]:
    """Return the directions that matrices lost, with the small tensors that lost them, too."""
    rest = sorted((one for one in changed if one.is_projected), key=lambda one: one.weight, reverse=True)
    small = [one for one in changed if one.axis is not None and one.change and one.change.rows < _FEWEST_ROWS]
    found: list[Finding] = []
    while rest:
        along, losses = _group(rest)
        rest = [one for one in rest if one.pair.name not in losses]
        left = sum(losses.values(), Removal()).left
        for one in (one for one in small if not any(one.pair.name in own.tensors for own in found)):
            lost = one.removal(along)
            most = one.allowance if _weight_of(one.pair.name) in losses else min(_MOST_UNEXPLAINED, one.allowance)
            if lost.remainder(1 - left) <= most * lost.squared:
                losses[one.pair.name] = lost
        total = sum(losses.values(), Removal())
        at = tuple(sorted({layer for name in losses if (layer := layer_of(name)) is not None}))
        component: Component = "residual" if at else "embedding"
        found.append(Finding("ablation", at or (0,), component, along, tuple(losses), total.explained, total.left))
    return found


def _group(rest: Sequence[_Changed]) -> tuple[Tensor, dict[str, Removal]]:
    """Return the direction of the first one, and what it and all others that lost the same direction lost."""
    first = rest[0].measured.direction
    alike = [one for one in rest if abs(float(first @ one.measured.direction)) >= _SAME_DIRECTION]
    along, losses = _shared(alike)
    if len(losses) < len(alike):
        # Between two directions that are like each other lies one that none of the tensors lost.
        along, losses = _shared([one for one in alike if one is rest[0] or one.pair.name in _losses([one], first)])
    if rest[0].pair.name not in losses:
        along, losses = first, {rest[0].pair.name: rest[0].removal(first)}
    return along, losses


def _shared(alike: Sequence[_Changed]) -> tuple[Tensor, dict[str, Removal]]:
    along = common_direction([one.measured.direction for one in alike], [one.weight for one in alike])
    return along, _losses(alike, along)


def _losses(alike: Sequence[_Changed], along: Tensor) -> dict[str, Removal]:
    """Return what the tensors lost along a direction, for those whose change it explains."""
    losses = ((one, one.removal(along)) for one in alike)
    return {one.pair.name: loss for one, loss in losses if 1 - loss.explained <= min(_MOST_UNEXPLAINED, one.allowance)}


def _additions(biases: Sequence[_Changed], ablations: Sequence[Finding], scale: float) -> list[Finding]:
    """Return what was added at each site, beside what ablations took from the same biases."""
    found: dict[tuple[int, Component], tuple[Tensor, list[str]]] = {}
    for one in biases:
        ((before, after),) = one.pair.rows(0)
        added = (after - before)[0]
        for own in ablations:
            if own.left is not None and _weight_of(one.pair.name) in own.tensors:
                added = added + (1 - own.left) * (before[0] @ own.direction) * own.direction
        component: Component = "attention" if re.search("attn|attention", one.pair.name) else "residual"
        site = (layer_of(one.pair.name) or 0, component)
        before_it, names = found.get(site, (torch.zeros_like(added), []))
        found[site] = before_it + scale * added, [*names, one.pair.name]
    return [
        Finding("addition", (layer,), component, direction, tuple(names))
        for (layer, component), (direction, names) in sorted(found.items(), key=lambda item: item[0])
    ]


def _is_written(one: _Changed, checkpoint: Checkpoint, base: Checkpoint) -> bool:
    """Return whether it is the bias of a linear layer in a block that writes to the residual stream."""
    beside = checkpoint.tensors.get(_weight_of(one.pair.name)) or base.tensors.get(_weight_of(one.pair.name))
    return (
        one.pair.name.endswith(".bias")
        and one.axis is not None
        and one.pair.shape == (checkpoint.sizes.width,)
        and one.change is not None
        and beside is not None
        and len(beside.shape) > 1
        and layer_of(one.pair.name) is not None
        and "expert" not in one.pair.name
    )


def _weight_of(bias: str) -> str:
    return f"{bias.removesuffix('bias')}weight"


def _vectors(findings: Sequence[Finding], base: Checkpoint) -> dict[str, tuple[SteeringVector, list[Finding]]]:
    """Return the vectors by the names of their files: additions at all layers of a component, then each ablation."""
    model, sizes = str(base.folder), base.sizes
    info = VectorInfo(method="recovered", model_name=model, model_family=sizes.family, model_layers=sizes.layers)
    files: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.kind == "addition":
            files["addition" if finding.component == "residual" else f"addition_{finding.component}"].append(finding)
        else:
            before = sum(name.startswith("ablation") for name in files)
            files[f"ablation_{before + 1}" if before else "ablation"].append(finding)
    vectors: dict[str, tuple[SteeringVector, list[Finding]]] = {}
    for name, own in files.items():
        directions = {layer: finding.direction for finding in own for layer in finding.layers}
        known = info.model_copy(update={"is_unit": own[0].kind == "ablation"})
        vectors[name] = SteeringVector.from_directions(directions, component=own[0].component, info=known), own
    return vectors
