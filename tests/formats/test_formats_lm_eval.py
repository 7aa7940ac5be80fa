"""lm-eval's `steered` model reads what we write and does with it what we do; what only it can do is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.family_models import build
from helpers.small_models import make_tokenizer
from steer_tools import SteeringVector, load_vector, save_vector, steering
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import SteeringError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats import read_vector, write_vector
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

WIDTH, LAYER = 32, 2
ROW = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def steered(**changes: Any) -> dict[str, Any]:
    return {"action": "add", "steering_coefficient": 2.5, "steering_vector": ROW, "bias": None} | changes


def saved(contents: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def logits_in_lm_eval(model: nn.Module, path: Path, ids: torch.Tensor) -> torch.Tensor:
    """What the harness computes: a hook on each module of `base_model` that a hookpoint names, at every token."""
    config = torch.load(path, weights_only=True)
    modules = dict(model.base_model.named_modules())
    handles = [
        modules[hookpoint].register_forward_hook(
            lambda module, args, output, told=told: (
                output + told["steering_coefficient"] * told["steering_vector"]
                if isinstance(output, torch.Tensor)
                else (output[0] + told["steering_coefficient"] * told["steering_vector"], *output[1:])
            )
        )
        for hookpoint, told in config.items()
    ]
    with torch.no_grad():
        logits = model(ids).logits
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gemma3_text", "gpt_neox", "gpt2", "gptj", "bloom", "opt", "mpt", "falcon", "phi"]
)
def test_the_harness_computes_with_our_file_what_we_compute(
    family: str, empty_session: Session, workspace: Workspace
) -> None:
    model = build(family)
    empty_session.attach(model, make_tokenizer())
    ids = torch.tensor([[5, 17, 40, 9], [8, 8, 33, 21]])
    vector = SteeringVector.from_directions({LAYER: ROW / 4}, info=VectorInfo(model_family=family))

    path = write_vector(vector, "v.pt", format_name="lm-eval", workspace=workspace).path

    with torch.no_grad(), steering(vector, positions="all"):
        ours = model(ids).logits
    theirs, plain = logits_in_lm_eval(model, path, ids), model(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-3)


def test_what_the_harness_reads_is_read_with_its_coefficient(workspace: Workspace) -> None:
    workspace.write("v.pt", saved({"layers.3": steered()}))

    loaded = read_vector("v.pt", workspace=workspace)

    assert loaded.format.name == "lm-eval"
    assert loaded.vector.layers == (3,)
    assert torch.equal(loaded.vector.directions[3], 2.5 * ROW)


@pytest.mark.parametrize("layer", [0, 11])
def test_what_is_written_is_read_again(layer: int, workspace: Workspace) -> None:
    vector = SteeringVector.from_directions({layer: ROW})

    save_vector(vector, "v", format_name="lm-eval", workspace=workspace)

    assert torch.equal(load_vector("v.pt", workspace=workspace).directions[layer], ROW)


@pytest.mark.parametrize(
    ("contents", "error", "told"),
    [
        ({"layers.1": steered(), "layers.2": steered()}, UnsupportedFeatureError, "2 hookpoints"),
        ({"layers.1.mlp": steered()}, UnsupportedFeatureError, "layers.1.mlp"),
        ({"embed_tokens": steered()}, UnsupportedFeatureError, "embed_tokens"),
        ({"layers.1": steered(action="clamp")}, UnsupportedFeatureError, "affine"),
        ({"layers.1": steered(steering_vector=None)}, VectorFileError, "lacks its tensor"),
        ({"layers.1": steered(steering_coefficient="2")}, VectorFileError, "lacks its tensor or its number"),
        ({"layers.1": steered(steering_coefficient=float("inf"))}, SteeringError, "finite"),
        ({"layers.1": steered(steering_vector=torch.ones(2, 3))}, SteeringError, "dimension|shape|1-D|width"),
        ([steered(hookpoint="layers.1")], UnsupportedFeatureError, "0 hookpoints"),
    ],
)
def test_what_is_no_one_vector_at_a_block_is_refused(
    contents: Any, error: type[SteeringError], told: str, workspace: Workspace
) -> None:
    workspace.write("v.pt", saved(contents))

    with pytest.raises(error, match=told):
        load_vector("v.pt", workspace=workspace)
