"""A certificate holds for the vector that it was sealed with, and for no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.certificates import CELL, certificate, with_certificate
from steer_tools.core.vectors import SteeringVector, VectorInfo, combine, orthogonalized, proof_of
from steer_tools.formats import FORMATS, read_vector, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.formats.conversion import convert_vector
from steer_tools.workspace import Workspace

KEEPING = [own for own in FORMATS if "certificate" in own.keeps]


def plain(seed: int = 0, layers: tuple[int, ...] = (1, 2)) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    info = VectorInfo(model_fingerprint="abc", model_name="m", template_options={"enable_thinking": False})
    return SteeringVector({layer: torch.randn(8, generator=generator) for layer in layers}, info=info)


def with_info(vector: SteeringVector, **changed: Any) -> SteeringVector:
    return replace(vector, info=vector.info.model_copy(update=changed))


def test_a_vector_bears_out_its_own_certificate() -> None:
    proof = proof_of(with_certificate(plain()))

    assert proof is not None
    assert proof.altered is None
    assert (proof.cell, proof.fingerprint) == (CELL, "abc")
    assert proof_of(plain()) is None


def test_whatever_is_changed_of_what_was_proved_is_told() -> None:
    vector = with_certificate(plain())
    proved = vector.info.certificate
    assert proved is not None
    assert proved.texts is not None
    nudged = {**vector.directions, 2: vector[2] * (1 + 1e-6)}
    better = proved.model_copy(update={"texts": proved.texts.model_copy(update={"effect": 0.63})})
    changed = {
        "its direction at layer 2": [replace(vector, directions=nudged), replace(vector, directions={2: -vector[2]})],
        "the cell": [with_info(vector, chosen=None), replace(vector, directions={1: vector[1]})],
        "its cell, its model or its figures": [
            with_info(vector, chosen=CELL.model_copy(update={"strength": 0.5})),
            with_info(vector, chosen=CELL.model_copy(update={"positions": "generated"})),
            with_info(vector, model_fingerprint="abd"),
            with_info(vector, template_options={}),
            with_info(vector, certificate=better),
            with_info(vector, certificate=proved.model_copy(update={"verdict": "cannot tell"})),
            with_info(vector, certificate=proved.model_copy(update={"data": "9"})),
            replace(vector, component="mlp"),
        ],
    }

    for told, vectors in changed.items():
        for own in vectors:
            proof = proof_of(own)
            assert proof is not None
            assert told in (proof.altered or "")


def test_algebra_drops_the_certificate_with_the_cell() -> None:
    proved, other = with_certificate(plain()), plain(1)

    made = [
        2.0 * proved,
        -proved,
        proved / 2,
        proved + other,
        proved + proved,
        proved.normalized(),
        combine([proved], [1.0]),
        orthogonalized(proved, [other]),
    ]

    assert proof_of(proved) is not None
    assert [proof_of(own) for own in made] == [None] * len(made)
    assert [own.info.chosen for own in made] == [None] * len(made)


@pytest.mark.parametrize("kept", KEEPING, ids=lambda own: own.name)
def test_formats_with_our_description_keep_the_certificate(kept: Any, tmp_path: Path) -> None:
    vector = with_certificate(plain(layers=(2,)))

    written = write_vector(vector, f"v{kept.suffix}", format_name=kept.name, workspace=Workspace(tmp_path))
    proof = proof_of(read_vector(written.path).vector)

    assert proof is not None
    assert proof.altered is None
    assert written.lost == ()


@pytest.mark.parametrize("losing", [own for own in FORMATS if own not in KEEPING], ids=lambda own: own.name)
def test_other_formats_lose_it_and_say_so(losing: Any, tmp_path: Path) -> None:
    vector = with_certificate(plain(layers=(2,)))

    written = write_vector(vector, f"v{losing.suffix}", format_name=losing.name, workspace=Workspace(tmp_path))

    assert "certificate" in written.lost
    assert proof_of(read_vector(written.path, Unsaid(2)).vector) is None


def test_the_layer_of_the_cell_alone_keeps_its_certificate_and_others_have_none(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    write_vector(with_certificate(plain()), "both", workspace=folder)

    of_cell = convert_vector("both", "two.npy", Unsaid(2), workspace=folder).written
    of_other = convert_vector("both", "one.npy", Unsaid(1), workspace=folder).written

    proof = proof_of(of_cell)
    assert proof is not None
    assert proof.altered is None
    assert proof_of(of_other) is None


def test_a_certificate_of_another_form_is_no_certificate(tmp_path: Path) -> None:
    proved = certificate().model_dump()

    with pytest.raises(ValueError, match="verdict"):
        VectorInfo.model_validate({"certificate": {**proved, "verdict": "works, and do as I say"}})
