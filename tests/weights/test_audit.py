"""What was baked into a checkpoint is found in its weights alone, and what was not is not claimed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.checkpoints import MODELS, random_direction, rebuilt, shard, with_random_vectors
from helpers.family_models import build
from helpers.small_models import LAYERS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    audit_checkpoint,
    load_vector,
    remove_all_steering_vectors,
    save_edited_model,
    save_vector,
    undo_edited_model,
)
from steer_tools.errors import ArgumentError, BakingError, WorkspacePathError
from steer_tools.session.session import Session
from steer_tools.weights.matrix_changes import measure, removal
from steer_tools.workspace import Workspace

Attach = Callable[..., Session]


@pytest.fixture
def attach(empty_session: Session) -> Attach:
    """Save a model as `base` in the workspace, and attach it as it is loaded from there."""

    def attach_it(model: Any, dtype: torch.dtype = torch.float32) -> Session:
        folder = empty_session.workspace.root / "base"
        model.to(dtype).save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        empty_session.attach(loaded, make_tokenizer(), "tiny")
        return empty_session

    return attach_it


def saved(session: Session, directions: dict[int, Tensor], name: str = "known", component: Any = "residual") -> str:
    vector = SteeringVector.from_directions(directions, component=component)
    return str(save_vector(vector, name, workspace=session.workspace))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def logits(session: Session) -> Tensor:
    engine: Any = session.engine
    with torch.no_grad():
        return engine.architecture.model(torch.tensor([[1, 9, 33, 57]])).logits.double()


def copied(session: Session, change: Callable[[dict[str, Tensor]], None], name: str = "edited") -> str:
    """Copy the base with other tensors."""
    root = session.workspace.root
    shutil.copytree(root / "base", root / name)
    tensors = load_file(root / name / "model.safetensors")
    change(tensors)
    contiguous = {n: tensor.contiguous() for n, tensor in tensors.items()}
    save_file(contiguous, root / name / "model.safetensors", metadata={"format": "pt"})
    return name


# Additions

BIASED = ["llama", "llama with mlp_bias", "llama with attention_bias", "gpt2", "gpt2, tied"]


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("layers", [[2], [0, 3]])
def test_an_added_vector_is_recovered_at_its_layers(name: str, layers: list[int], attach: Attach) -> None:
    session = attach(MODELS[name]())
    component = "attention" if "attention" in name else "residual"
    known = {layer: random_direction(seed=layer) * 0.3 for layer in layers}
    path = saved(session, known, component=component)
    apply_steering_vector(path, strength=-2.0, positions="all")
    save_edited_model("edited")

    result = audit_checkpoint("edited", "base")

    assert (result["verdict"], result["differing"]) == ("addition", len(layers))
    assert [finding["layers"] for finding in result["findings"]] == [[layer] for layer in layers]
    for finding, layer in zip(result["findings"], layers, strict=True):
        assert (finding["kind"], finding["component"], finding["tensor_count"]) == ("addition", component, 1)
        assert finding["norm"] == pytest.approx(2 * float(known[layer].norm()), rel=1e-3)
        found = load_vector(finding["vector_path"])
        assert (found.component, found.layers, found.info.method) == (component, tuple(layers), "recovered")
        assert cosine(found.directions[layer], known[layer]) <= -0.9999
        assert [(own["vector_path"], own["layer"]) for own in finding["known"]] == [(path, layer)]
        assert finding["known"][0]["cosine"] <= -0.9999
    assert result["warnings"] == []


@pytest.mark.parametrize("name", ["llama with attention_bias", "gpt2, tied"])
def test_the_recovered_addition_makes_the_base_do_what_the_checkpoint_does(name: str, attach: Attach) -> None:
    session = attach(MODELS[name]())
    component = "attention" if "attention" in name else "residual"
    apply_steering_vector(saved(session, {1: random_direction()}, component=component), positions="all")
    steered = logits(session)
    save_edited_model("edited")
    remove_all_steering_vectors()
    plain = logits(session)

    path = audit_checkpoint("edited", "base")["findings"][0]["vector_path"]
    apply_steering_vector(path, positions="all")

    torch.testing.assert_close(logits(session), steered, atol=1e-4, rtol=1e-4)
    assert (plain - steered).abs().max() > 0.1


def test_what_a_family_multiplies_its_blocks_outputs_by_is_a_part_of_the_vector(attach: Attach) -> None:
    session = attach(rebuilt(build("granite"), residual_multiplier=0.5, mlp_bias=True))
    known = random_direction()
    apply_steering_vector(saved(session, {2: known}), positions="all")
    save_edited_model("edited")

    (finding,) = audit_checkpoint("edited", "base")["findings"]

    assert finding["norm"] == pytest.approx(float(known.norm()), rel=1e-3)


# Ablations


ABLATED = ("llama", "llama, tied", "gpt2", "gpt2, tied", "mixtral")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, dtype) for name in ABLATED for dtype in (torch.float32, torch.bfloat16)), ("gpt_oss", torch.float32)],
)
def test_an_ablated_direction_is_recovered_and_proved(name: str, dtype: torch.dtype, attach: Attach) -> None:
    session = attach(MODELS[name]() if name in MODELS else with_random_vectors(build(name)), dtype)
    known = random_direction()
    path = saved(session, {1: random_direction(seed=7), 2: known})
    edited = save_edited_model("edited", ablate=path, layer=2)

    result = audit_checkpoint("edited", "base")

    assert (result["verdict"], result["differing"]) == ("ablation", edited["changed_tensors"])
    assert result["stand_ins"] == ("tied" in name)
    (finding,) = result["findings"]
    assert (finding["kind"], finding["norm"], finding["tensor_count"]) == ("ablation", 1.0, edited["changed_tensors"])
    assert finding["layers"] == list(range(LAYERS))
    found = load_vector(finding["vector_path"])
    assert abs(cosine(found.directions[0], known)) >= (0.999999 if dtype == torch.float32 else 0.999)
    assert finding["explained"] >= (0.999999 if dtype == torch.float32 else 0.99)
    assert finding["left"] <= (1e-6 if dtype == torch.float32 else 0.02)
    (alike,) = finding["known"]
    assert (alike["vector_path"], alike["layer"]) == (path, 2)
    assert alike["cosine"] >= 0.999
    assert ["sign" in warning for warning in result["warnings"]] == [True]


def test_a_recovered_direction_ablates_the_base_to_the_same_weights(attach: Attach) -> None:
    session = attach(MODELS["llama, tied"]())
    save_edited_model("edited", ablate=saved(session, {2: random_direction()}))
    path = audit_checkpoint("edited", "base")["findings"][0]["vector_path"]

    save_edited_model("again", ablate=path, layer=0)

    root = session.workspace.root
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        torch.testing.assert_close(load_file(root / "again" / file), load_file(root / "edited" / file))


def test_a_part_of_a_direction_that_is_taken_out_is_told_with_what_is_left(attach: Attach) -> None:
    session = attach(make_model("llama"))
    along = torch.nn.functional.normalize(random_direction(), dim=0)

    def weaken(tensors: dict[str, Tensor]) -> None:
        for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"):
            tensors[name] -= 0.75 * torch.outer(along, along @ tensors[name])

    (finding,) = audit_checkpoint(copied(session, weaken), "base")["findings"]

    assert (finding["kind"], finding["layers"], finding["tensor_count"]) == ("ablation", [1], 2)
    assert finding["left"] == pytest.approx(0.25, abs=1e-3)
    assert abs(cosine(load_vector(finding["vector_path"]).directions[1], along)) >= 0.99999


def test_directions_of_their_own_at_two_layers_are_two_findings(attach: Attach) -> None:
    session = attach(make_model("llama"))
    along = {layer: torch.nn.functional.normalize(random_direction(seed=layer), dim=0) for layer in (1, 3)}

    def ablate(tensors: dict[str, Tensor]) -> None:
        for layer, unit in along.items():
            for part in ("mlp.down_proj", "self_attn.o_proj"):
                weight = tensors[f"model.layers.{layer}.{part}.weight"]
                weight -= torch.outer(unit, unit @ weight)

    findings = audit_checkpoint(copied(session, ablate), "base")["findings"]

    assert sorted(finding["layers"] for finding in findings) == [[1], [3]]
    assert len({finding["vector_path"] for finding in findings}) == 2
    for finding in findings:
        (layer,) = finding["layers"]
        assert abs(cosine(load_vector(finding["vector_path"]).directions[layer], along[layer])) >= 0.99999


def test_a_direction_that_only_the_embedding_lost_is_of_the_embedding(attach: Attach) -> None:
    session = attach(make_model("llama"))
    along = torch.nn.functional.normalize(random_direction(), dim=0)

    def ablate(tensors: dict[str, Tensor]) -> None:
        weight = tensors["model.embed_tokens.weight"]
        weight -= torch.outer(weight @ along, along)

    (finding,) = audit_checkpoint(copied(session, ablate), "base")["findings"]

    assert (finding["component"], finding["layers"], finding["tensor_count"]) == ("embedding", [0], 1)


@pytest.mark.parametrize("along", [0.0, 0.5, -0.5])
def test_an_addition_beside_an_ablation_is_recovered_by_itself(along: float, attach: Attach) -> None:
    session = attach(MODELS["gpt2"]())
    ablated = random_direction()
    save_edited_model("ablated", ablate=saved(session, {2: ablated}))
    added = along * ablated if along else random_direction(seed=5)
    session.attach(
        AutoModelForCausalLM.from_pretrained(session.workspace.root / "ablated").eval(), make_tokenizer(), "tiny"
    )
    apply_steering_vector(saved(session, {1: added}, "added"), positions="all")
    save_edited_model("both")

    result = audit_checkpoint("both", "base")

    assert result["verdict"] == "addition, ablation"
    addition, ablation = result["findings"]
    assert (addition["kind"], addition["layers"], ablation["kind"]) == ("addition", [1], "ablation")
    assert cosine(load_vector(addition["vector_path"]).directions[1], added) >= 0.9999
    assert addition["norm"] == pytest.approx(float(added.norm()), rel=1e-3)
    assert abs(cosine(load_vector(ablation["vector_path"]).directions[1], ablated)) >= 0.9999


# What is no vector


def noise(shape: Any, seed: int = 0) -> Tensor:
    return 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train_everything(tensors: dict[str, Tensor]) -> None:
    for i, (name, tensor) in enumerate(tensors.items()):
        tensors[name] = tensor + noise(tensor.shape, i)


def low_rank(rank: int) -> Callable[[dict[str, Tensor]], None]:
    def add(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(("c_proj.weight", "c_attn.weight")):
                tensors[name] = tensor + 10 * noise((tensor.shape[0], rank)) @ noise((rank, tensor.shape[1]), 1)

    return add


def train_one_norm_and_a_bias(tensors: dict[str, Tensor]) -> None:
    for name in ("transformer.h.1.ln_1.bias", "transformer.h.1.mlp.c_proj.bias"):
        tensors[name] = tensors[name] + noise(tensors[name].shape)


def add_to_every_embedding(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"] + noise(WIDTH)


def amplify(tensors: dict[str, Tensor]) -> None:
    along = torch.nn.functional.normalize(random_direction(), dim=0)
    for layer in range(LAYERS):
        weight = tensors[f"transformer.h.{layer}.mlp.c_proj.weight"]
        weight += torch.outer(weight @ along, along)


@pytest.mark.parametrize(
    "change",
    [train_everything, low_rank(4), low_rank(1), train_one_norm_and_a_bias, add_to_every_embedding, amplify],
)
def test_training_and_other_changes_are_not_taken_for_a_vector(
    change: Callable[[dict[str, Tensor]], None], attach: Attach
) -> None:
    session = attach(MODELS["gpt2"]())

    result = audit_checkpoint(copied(session, change), "base")

    assert (result["verdict"], result["findings"]) == ("other", [])
    assert result["differing"] > 0
    assert {tensor["kind"] for tensor in result["tensors"]} == {"other"}
    assert not (session.workspace.root / "audits").exists()


def test_the_share_of_the_first_direction_tells_a_low_rank_from_a_full_one(attach: Attach) -> None:
    session = attach(MODELS["gpt2"]())

    shares: list[float] = []
    for i, change in enumerate((low_rank(1), low_rank(4), train_everything)):
        result = audit_checkpoint(copied(session, change, f"edited {i}"), "base")
        shares.append(max(t["first_direction"] or 0 for t in result["tensors"] if "mlp.c_proj" in t["name"]))
        base = load_file(session.workspace.root / "base" / "model.safetensors")
        edited = load_file(session.workspace.root / f"edited {i}" / "model.safetensors")
        for tensor in result["tensors"]:
            difference = (edited[tensor["name"]] - base[tensor["name"]]).double()
            size = float(difference.norm() / base[tensor["name"]].double().norm())
            assert tensor["change"] == pytest.approx(size, rel=1e-3)
            if difference.ndim == 2:
                values = torch.linalg.svdvals(difference).square()
                exact = float(values[0] / values.sum())
                assert 0.7 * exact <= tensor["first_direction"] <= exact + 1e-3

    assert shares[0] >= 0.9999
    assert 0.25 < shares[1] < 0.9
    assert shares[2] < 0.2


def test_at_most_twenty_tensors_are_listed_the_most_changed_first(attach: Attach) -> None:
    session = attach(MODELS["gpt2"]())

    result = audit_checkpoint(copied(session, train_everything), "base")

    changes = [tensor["change"] for tensor in result["tensors"]]
    assert len(changes) == 20 < result["differing"]
    assert changes == sorted(changes, reverse=True)


def test_a_bias_that_differs_beside_other_weights_is_told_and_not_claimed(attach: Attach) -> None:
    session = attach(MODELS["gpt2"]())

    warnings = audit_checkpoint(copied(session, train_one_norm_and_a_bias), "base")["warnings"]

    assert ["1 biases of layers' outputs differ beside other weights" in warning for warning in warnings] == [True]


@pytest.mark.parametrize("part", ["attention.query_key_value", "mlp.dense_h_to_4h"])
def test_a_bias_of_what_reads_the_stream_is_no_addition(part: str, attach: Attach) -> None:
    session = attach(with_random_vectors(build("gpt_neox")))

    def change(tensors: dict[str, Tensor]) -> None:
        name = f"gpt_neox.layers.1.{part}.bias"
        tensors[name] = tensors[name] + 1

    assert audit_checkpoint(copied(session, change), "base")["verdict"] == "other"


def test_a_query_as_wide_as_the_stream_is_no_addition_and_the_output_beside_it_is_one(attach: Attach) -> None:
    session = attach(with_random_vectors(build("opt")))
    found: dict[str, str] = {}

    for part in ("q_proj", "v_proj", "out_proj"):

        def change(tensors: dict[str, Tensor], part: str = part) -> None:
            name = f"model.decoder.layers.1.self_attn.{part}.bias"
            assert tensors[name].shape == (WIDTH,)
            tensors[name] = tensors[name] + 1

        found[part] = audit_checkpoint(copied(session, change, part), "base")["verdict"]

    assert found == {"q_proj": "other", "v_proj": "other", "out_proj": "addition"}


def test_a_tensor_that_holds_nan_is_listed_without_figures(attach: Attach) -> None:
    session = attach(make_model("llama"))

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")

    result = audit_checkpoint(copied(session, spoil), "base")

    assert result["tensors"] == [
        {"name": "model.layers.1.mlp.up_proj.weight", "kind": "other", "change": None, "first_direction": None}
    ]


# Equal


def test_a_checkpoint_equals_itself_and_one_with_one_other_bit_does_not(attach: Attach) -> None:
    session = attach(make_model("llama"))

    def flip(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"].view(torch.int32)[-1, -1] ^= 1

    same = audit_checkpoint("base", "base")
    other = audit_checkpoint(copied(session, flip), "base")

    tensors = len(load_file(session.workspace.root / "base" / "model.safetensors"))
    assert (same["verdict"], same["equal"], same["differing"], same["tensors"]) == ("equal", tensors, 0, [])
    assert (other["verdict"], other["equal"], other["differing"]) == ("other", tensors - 1, 1)


@pytest.mark.parametrize("name", ["llama", "gpt2, tied"])
def test_an_undone_checkpoint_equals_its_base(name: str, attach: Attach) -> None:
    session = attach(MODELS[name]())
    save_edited_model("edited", ablate=saved(session, {2: random_direction()}))
    before = audit_checkpoint("edited", "base")["verdict"]

    undo_edited_model(session.workspace.root / "edited")

    assert (before, audit_checkpoint("edited", "base")["verdict"]) == ("ablation", "equal")


def test_biases_of_zero_that_the_base_lacks_are_equal_to_none(attach: Attach) -> None:
    session = attach(make_model("llama"))
    apply_steering_vector(saved(session, {2: random_direction()}), positions="all")
    save_edited_model("edited")

    result = audit_checkpoint("edited", "base")
    turned = audit_checkpoint("base", "edited")

    assert (result["differing"], result["stand_ins"], turned["stand_ins"]) == (1, 3 * LAYERS, 3 * LAYERS)
    assert result["tensors"][0]["change"] is None
    first, second = (load_vector(one["findings"][0]["vector_path"]) for one in (result, turned))
    torch.testing.assert_close(first.directions[2], -second.directions[2])


@pytest.mark.parametrize("sharded", ["edited", "base"])
def test_shards_and_a_single_file_are_compared_by_name(sharded: str, attach: Attach) -> None:
    session = attach(MODELS["mixtral"]())
    save_edited_model("edited", ablate=saved(session, {2: random_direction()}))
    whole = audit_checkpoint("edited", "base")
    shard(session.workspace.root / sharded)

    assert (session.workspace.root / sharded / "model.safetensors.index.json").is_file()
    assert audit_checkpoint("edited", "base") == whole


def test_a_checkpoint_saved_without_the_inner_models_prefix_is_matched(attach: Attach) -> None:
    session = attach(MODELS["gpt2, tied"]())

    def strip(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    def strip_and_change(tensors: dict[str, Tensor]) -> None:
        strip(tensors)
        tensors["h.1.mlp.c_proj.bias"] += 1

    assert audit_checkpoint(copied(session, strip), "base")["verdict"] == "equal"
    assert audit_checkpoint("base", "edited")["verdict"] == "equal"
    assert audit_checkpoint(copied(session, strip_and_change, "other"), "base")["verdict"] == "addition"


def test_rounding_to_a_coarser_dtype_is_no_difference_and_that_is_told(attach: Attach) -> None:
    session = attach(make_model("llama"))

    def halve(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.bfloat16()

    def halve_and_change(tensors: dict[str, Tensor]) -> None:
        halve(tensors)
        tensors["lm_head.weight"] *= 1.1

    result = audit_checkpoint(copied(session, halve), "base")

    assert result["verdict"] == "equal"
    assert ["after rounding" in warning for warning in result["warnings"]] == [True]
    assert audit_checkpoint(copied(session, halve_and_change, "other"), "base")["differing"] == 1


def test_a_tensor_that_one_lacks_is_named_and_the_verdict_is_not_equal(attach: Attach) -> None:
    session = attach(make_model("llama"))

    def lose(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.0.mlp.up_proj.weight"]

    folder = copied(session, lose)
    lost, found = audit_checkpoint(folder, "base"), audit_checkpoint("base", folder)

    assert (lost["verdict"], lost["only_in_base"]) == ("other", ["model.layers.0.mlp.up_proj.weight"])
    assert (found["verdict"], found["only_in_checkpoint"]) == ("other", ["model.layers.0.mlp.up_proj.weight"])
    assert ["1 tensors are in one of the checkpoints only" in warning for warning in lost["warnings"]] == [True]


# Refusals


def test_other_architectures_and_shapes_are_refused(attach: Attach) -> None:
    session = attach(make_model("llama"))
    root = session.workspace.root
    make_model("gpt2").save_pretrained(root / "gpt2")
    make_model("llama", layers=2).save_pretrained(root / "shallow")

    def widen(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = torch.cat([tensors["lm_head.weight"]] * 2)

    with pytest.raises(BakingError, match=r"'gpt2' with 4 layers of width 32, and .* of 'llama' with 4"):
        audit_checkpoint("gpt2", "base")
    with pytest.raises(BakingError, match="'llama' with 2 layers"):
        audit_checkpoint("shallow", "base")
    with pytest.raises(BakingError, match=r"'lm_head.weight' has the shape \[256, 32\], and in the base \[128, 32\]"):
        audit_checkpoint(copied(session, widen), "base")


def test_a_folder_without_a_whole_checkpoint_is_refused(attach: Attach) -> None:
    session = attach(make_model("llama"))
    root = session.workspace.root
    (root / "empty").mkdir()
    for name in ("no config", "odd config", "deep config", "no sizes", "lost shard"):
        shutil.copytree(root / "base", root / name)
    (root / "no config" / "config.json").unlink()
    (root / "odd config" / "config.json").write_text("[" * 50, encoding="utf-8")
    (root / "deep config" / "config.json").write_text("[" * 10_000, encoding="utf-8")
    (root / "no sizes" / "config.json").write_text("{}", encoding="utf-8")
    shard(root / "lost shard")
    (root / "lost shard" / "model-00002-of-00003.safetensors").unlink()

    for folder, words in {
        "empty": "holds no safetensors checkpoint",
        "nowhere": "holds no safetensors checkpoint",
        "no config": "holds no config.json",
        "odd config": "is no JSON",
        "deep config": "is nested in 101 levels",
        "no sizes": "does not say how many layers",
        "lost shard": "lacks model-00002-of-00003.safetensors",
    }.items():
        with pytest.raises(BakingError, match=words):
            audit_checkpoint(folder, "base")
        with pytest.raises(BakingError, match=words):
            audit_checkpoint("base", folder)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"w": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}},
        {"i": {"dtype": "I32", "shape": [4], "data_offsets": [8, 0]}},
        {"w": 5},
        [],
    ],
)
def test_a_forged_header_is_refused(header: Any, attach: Attach) -> None:
    session = attach(make_model("llama"))
    text = json.dumps(header).encode()
    shutil.copytree(session.workspace.root / "base", session.workspace.root / "forged")
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    (session.workspace.root / "forged" / "model.safetensors").write_bytes(content)

    with pytest.raises(BakingError, match="safetensors file"):
        audit_checkpoint("forged", "base")


def test_without_a_base_the_attached_models_own_folder_is_it(attach: Attach, empty_session: Session) -> None:
    session = attach(MODELS["gpt2"]())
    apply_steering_vector(saved(session, {2: random_direction()}), positions="all")
    save_edited_model("edited")

    result = audit_checkpoint("edited")

    assert (result["base"], result["verdict"]) == (str(session.workspace.root / "base"), "addition")
    session.attach(make_model("llama"), make_tokenizer(), "tiny")
    with pytest.raises(ArgumentError, match="was not loaded from a folder"):
        audit_checkpoint("edited")


def test_no_model_is_needed(attach: Attach) -> None:
    session = attach(MODELS["gpt2"]())
    save_edited_model("edited", ablate=saved(session, {2: random_direction()}))
    session.detach()

    assert audit_checkpoint("edited", "base")["verdict"] == "ablation"
    assert not session.is_attached


def test_a_confined_workspace_reads_no_checkpoint_outside(attach: Attach, tmp_path: Path) -> None:
    session = attach(make_model("llama"))
    root = session.workspace.root
    shutil.copytree(root / "base", tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "linked files").mkdir()
    for file in (tmp_path / "outside").iterdir():
        (root / "linked files" / file.name).symlink_to(file)
    assert audit_checkpoint("link", "linked files")["verdict"] == "equal"
    session.workspace = Workspace(root, is_confined=True)

    for folder in ("../outside", str(tmp_path / "outside"), "link", "linked files"):
        with pytest.raises(WorkspacePathError):
            audit_checkpoint(folder, "base")
        with pytest.raises(WorkspacePathError):
            audit_checkpoint("base", folder)
    assert audit_checkpoint("base", str(root / "base"))["verdict"] == "equal"


# Checkpoints of any tensors


Tensors = dict[str, Tensor]
DOWN, OUT, EMBED = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.o_proj", "model.embed_tokens.weight"


def tensors_of_two_layers() -> Tensors:
    shapes = {"embed_tokens.weight": (64, WIDTH), "norm.weight": (WIDTH,)}
    for layer in range(2):
        shapes |= {f"layers.{layer}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes[f"layers.{layer}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
        shapes |= {f"layers.{layer}.{name}.bias": (WIDTH,) for name in ("mlp.down_proj", "self_attn.o_proj")}
    tensors = {f"model.{name}": 10 * noise(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    return tensors | {"lm_head.weight": noise((64, WIDTH), 99)}


@pytest.fixture
def audited(empty_session: Session) -> Callable[..., Any]:
    """Write a base and a changed copy of it, each with its own config, and compare them."""
    root = empty_session.workspace.root

    def audited_it(
        change: Callable[[Tensors], object], base: Tensors | None = None, *, config: Any = None, base_config: Any = None
    ) -> Any:
        before = base or tensors_of_two_layers()
        after = {name: tensor.clone() for name, tensor in before.items()}
        change(after)
        for name, tensors, own in (("edited", after, config), ("base", before, base_config or config)):
            (root / name).mkdir(parents=True, exist_ok=True)
            sizes = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": WIDTH}
            (root / name / "config.json").write_text(json.dumps(sizes | (own or {})), encoding="utf-8")
            contiguous = {n: tensor.contiguous() for n, tensor in tensors.items()}
            save_file(contiguous, root / name / "model.safetensors", metadata={"format": "pt"})
        return audit_checkpoint("edited", "base")

    return audited_it


def unit(seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(random_direction(seed=seed), dim=0)


def take_out(weight: Tensor, along: Tensor, axis: int = 0, part: float = 1.0) -> None:
    weight -= (
        part
        * torch.tensordot(weight, along, ([axis], [0])).unsqueeze(axis)
        * along.view([-1 if own == axis else 1 for own in range(weight.ndim)])
    )


def test_zeros_of_another_sign_are_equal_and_other_values_are_not(audited: Callable[..., Any]) -> None:
    base = tensors_of_two_layers() | {f"{DOWN}.bias": torch.zeros(WIDTH)}

    same = audited(lambda tensors: tensors[f"{DOWN}.bias"].neg_(), base)
    other = audited(lambda tensors: tensors[f"{DOWN}.bias"].sub_(1), base)

    assert (same["verdict"], other["verdict"]) == ("equal", "addition")


@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_a_change_whose_square_is_no_number_is_listed_without_figures(
    value: float, audited: Callable[..., Any]
) -> None:
    base = tensors_of_two_layers() | {"scale": torch.tensor([value, 0], dtype=torch.float64)}

    result = audited(lambda tensors: tensors["scale"].mul_(2), base)

    assert [(own["name"], own["kind"], own["change"]) for own in result["tensors"]] == [("scale", "other", None)]


@pytest.mark.parametrize(
    ("name", "shape", "axis", "verdict"),
    [
        (f"{OUT}.weight", (WIDTH, WIDTH), 0, "ablation"),
        (f"{OUT}.weight", (WIDTH, WIDTH), 1, "other"),
        ("model.layers.0.self_attn.q_proj.weight", (WIDTH, WIDTH), 1, "other"),
        ("model.layers.0.self_attn.q_proj.weight", (WIDTH, WIDTH), 0, "other"),
        ("lm_head.weight", (64, WIDTH), 1, "other"),
        ("model.layers.0.mlp.gate.weight", (16, WIDTH), 1, "other"),
        ("model.layers.0.strange.weight", (WIDTH, 64), 0, "other"),
        ("model.visual.layers.0.mlp.fc2.weight", (WIDTH, 64), 0, "other"),
        ("model.dense.weight", (WIDTH, 64), 0, "other"),
        (EMBED, (64, WIDTH), 1, "ablation"),
        ("model.layers.0.mlp.experts.0.w2.weight", (WIDTH, 64), 0, "ablation"),
        ("model.layers.0.mlp.experts.down_proj", (4, 64, WIDTH), 2, "ablation"),
        ("model.layers.0.mlp.experts.down_proj", (4, WIDTH, WIDTH), 1, "ablation"),
        ("model.layers.0.mlp.experts.down_proj", (4, WIDTH, WIDTH), 2, "ablation"),
    ],
)
def test_only_what_writes_to_the_stream_can_lose_a_direction(
    name: str, shape: tuple[int, ...], axis: int, verdict: str, audited: Callable[..., Any]
) -> None:
    base = tensors_of_two_layers() | {name: noise(shape, 5)}

    assert audited(lambda tensors: take_out(tensors[name], unit(), axis), base)["verdict"] == verdict


def test_a_turned_writer_of_gpt2_loses_a_direction_along_its_outputs(audited: Callable[..., Any]) -> None:
    name = "transformer.h.0.attn.c_proj.weight"
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": WIDTH}

    found = {
        axis: audited(
            lambda tensors, axis=axis: take_out(tensors[name], unit(), axis),
            {name: noise((WIDTH, WIDTH))},
            config=config,
        )["verdict"]
        for axis in (0, 1)
    }

    assert found == {0: "other", 1: "ablation"}


@pytest.mark.parametrize("factor", [0.9, 0.99, 0.995])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mean", [1.0, 15.0])
def test_scaling_a_matrix_that_lies_mostly_along_one_direction_takes_none_away(
    factor: float, dtype: torch.dtype, mean: float, audited: Callable[..., Any]
) -> None:
    weight = noise((64, WIDTH)) + mean * noise(WIDTH, 1)

    result = audited(
        lambda tensors: tensors[EMBED].copy_((tensors[EMBED].float() * factor).to(dtype)),
        tensors_of_two_layers() | {EMBED: weight.to(dtype)},
    )

    assert (result["verdict"], result["differing"]) == ("other", 1)


def zero_row(tensors: Tensors) -> None:
    tensors[f"{DOWN}.weight"][3] = 0


def zero_loud_column(tensors: Tensors) -> None:
    tensors[f"{OUT}.weight"][:, 3] = 0


def zero_loud_token(tensors: Tensors) -> None:
    tensors[EMBED][3] = 0


def reflect(tensors: Tensors) -> None:
    take_out(tensors[f"{DOWN}.weight"], unit(), part=2.0)


def take_too_much(tensors: Tensors) -> None:
    take_out(tensors[f"{DOWN}.weight"], unit(), part=1.2)


@pytest.mark.parametrize("change", [zero_row, zero_loud_column, zero_loud_token, reflect, take_too_much])
def test_zeroed_channels_and_directions_turned_round_are_no_ablations(
    change: Callable[[Tensors], None], audited: Callable[..., Any]
) -> None:
    base = tensors_of_two_layers()
    base[f"{OUT}.weight"][:, 3] *= 100
    base[EMBED][3] *= 100

    result = audited(change, base)

    assert (result["verdict"], result["differing"]) == ("other", 1)


@pytest.mark.parametrize("cosine_between", [0.91, 0.97])
def test_two_directions_that_are_like_each_other_stay_two(cosine_between: float, audited: Callable[..., Any]) -> None:
    first, other = unit(0), unit(1)
    across = torch.nn.functional.normalize(other - (other @ first) * first, dim=0)
    along = [first, cosine_between * first + (1 - cosine_between**2) ** 0.5 * across]

    def ablate(tensors: Tensors) -> None:
        for layer, own in enumerate(along):
            for part in ("mlp.down_proj", "self_attn.o_proj"):
                take_out(tensors[f"model.layers.{layer}.{part}.weight"], own)

    findings = sorted(audited(ablate)["findings"], key=lambda finding: finding["layers"])

    assert [(finding["layers"], finding["tensor_count"]) for finding in findings] == [([0], 2), ([1], 2)]
    for finding, layer in zip(findings, (0, 1), strict=True):
        assert abs(cosine(load_vector(finding["vector_path"]).directions[layer], along[layer])) >= 0.99999


@pytest.mark.parametrize(
    ("module", "verdict"),
    [
        ("model.layers.0.attn.Wq", "other"),
        ("model.layers.0.temporal_block.linear_x", "other"),
        ("model.visual.layers.0.attn.dense", "other"),
        ("model.encoder.layers.0.fc2", "other"),
        ("model.layers.0.mlp.experts.1.down_proj", "other"),
        ("model.layers.0.self_attn.g_proj", "other"),
        ("model.layers.0.multi_head_attention.dense", "addition"),
        ("model.decoder.layers.0.fc2", "addition"),
    ],
)
def test_only_a_bias_that_is_known_to_write_is_an_addition(
    module: str, verdict: str, audited: Callable[..., Any]
) -> None:
    base = tensors_of_two_layers() | {f"{module}.weight": noise((WIDTH, WIDTH)), f"{module}.bias": noise(WIDTH, 2)}

    assert audited(lambda tensors: tensors[f"{module}.bias"].add_(1), base)["verdict"] == verdict


@pytest.mark.parametrize(
    ("module", "config", "verdict"),
    [
        (DOWN, {"mlp_bias": False}, "other"),
        (DOWN, {"text_config": {"num_hidden_layers": 2, "hidden_size": WIDTH}, "bias": False}, "other"),
        (DOWN, {"mlp_bias": True, "attention_bias": False}, "addition"),
        (DOWN, {}, "addition"),
        (OUT, {"attention_bias": False, "mlp_bias": True}, "other"),
        (OUT, {"attention_bias": True, "bias": False}, "addition"),
    ],
)
def test_a_bias_that_the_config_denies_is_no_addition(
    module: str, config: dict[str, Any], verdict: str, audited: Callable[..., Any]
) -> None:
    base = {name: tensor for name, tensor in tensors_of_two_layers().items() if not name.endswith("bias")}

    result = audited(lambda tensors: tensors.update({f"{module}.bias": torch.ones(WIDTH)}), base, config=config)

    assert result["verdict"] == verdict
    assert result["only_in_checkpoint"] == ([f"{module}.bias"] if verdict == "other" else [])
    assert any("transformers ignores them" in warning for warning in result["warnings"]) == (verdict == "other")


@pytest.mark.parametrize("value", ["x", None, True, [1], float("nan"), float("inf"), pytest.param(10**400, id="huge")])
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_multiplier_that_is_no_number_is_refused(value: object, is_inside: bool, audited: Callable[..., Any]) -> None:
    config = {"residual_multiplier": value}
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH}
    if is_inside:
        config = {"num_hidden_layers": None, "hidden_size": None, "text_config": sizes | config}

    with pytest.raises(BakingError, match="residual_multiplier"):
        audited(lambda tensors: tensors[f"{DOWN}.bias"].add_(1), config=config)


def test_the_multiplier_of_a_text_model_inside_another_is_a_part_of_the_vector(audited: Callable[..., Any]) -> None:
    inner = {"num_hidden_layers": 2, "hidden_size": WIDTH, "residual_multiplier": 0.25}

    (finding,) = audited(
        lambda tensors: tensors[f"{DOWN}.bias"].add_(1),
        config={"num_hidden_layers": None, "hidden_size": None, "text_config": inner},
    )["findings"]

    assert finding["norm"] == pytest.approx(0.25 * WIDTH**0.5, rel=1e-3)


@pytest.mark.parametrize("sizes", [{"hidden_size": 10**400}, {"num_hidden_layers": 10**9}])
def test_sizes_that_no_model_has_are_refused(sizes: dict[str, int], audited: Callable[..., Any]) -> None:
    with pytest.raises(BakingError, match="does not say how many layers"):
        audited(lambda tensors: tensors[f"{DOWN}.bias"].add_(1), config=sizes)


def test_a_number_of_thousands_of_digits_in_a_name_is_no_layer(audited: Callable[..., Any]) -> None:
    name = f"model.layers.{'9' * 5000}.mlp.down_proj"
    base = {f"{name}.weight": noise((WIDTH, 64)), f"{name}.bias": torch.zeros(WIDTH)}

    assert audited(lambda tensors: tensors[f"{name}.bias"].add_(1), base)["verdict"] == "other"


def test_parts_with_tensors_of_one_bare_name_do_not_hide_each_other(audited: Callable[..., Any]) -> None:
    inner = {"layers.0.mlp.down_proj.weight": noise((WIDTH, 64))}
    both = {f"{part}.{name}": tensor for part in ("model", "vision") for name, tensor in inner.items()}
    both["model.layers.0.mlp.down_proj.weight"] = both["model.layers.0.mlp.down_proj.weight"] + noise((WIDTH, 64), 1)

    def strip(tensors: Tensors) -> None:
        tensors.clear()
        tensors |= inner

    def wrap(tensors: Tensors) -> None:
        tensors.clear()
        tensors |= both

    result, turned = audited(strip, both), audited(wrap, inner)

    assert [own["name"] for own in result["tensors"]] == ["layers.0.mlp.down_proj.weight"]
    assert result["only_in_base"] == turned["only_in_checkpoint"] == ["vision.layers.0.mlp.down_proj.weight"]


def test_the_bias_of_a_norm_is_none_that_the_config_denies(audited: Callable[..., Any]) -> None:
    name = "model.layers.0.self_attn.q_norm"

    result = audited(
        lambda tensors: tensors.update({f"{name}.bias": torch.ones(WIDTH)}),
        tensors_of_two_layers() | {f"{name}.weight": torch.ones(WIDTH)},
        config={"attention_bias": False},
    )

    assert (result["only_in_checkpoint"], result["verdict"]) == ([], "other")


def test_a_folder_whose_model_lies_elsewhere_is_refused(audited: Callable[..., Any], empty_session: Session) -> None:
    for name in ("other.safetensors", 5):
        with pytest.raises(BakingError, match="transformers_weights"):
            audited(lambda tensors: None, config={"transformers_weights": name})
    assert audited(lambda tensors: None, config={"transformers_weights": "model.safetensors"})["verdict"] == "equal"

    (empty_session.workspace.root / "edited" / "adapter_config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(BakingError, match=r"adapter_config\.json"):
        audited(lambda tensors: None)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"rms_norm_eps": 1.0}, "rms_norm_eps"),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, "a, b, c, d, e and 1 more"),
        ({"text_config": {"hidden_act": "relu", "dtype": "float16"}}, "text_config.hidden_act"),
        ({"dtype": "float16", "_name_or_path": "x", "mlp_bias": True, "transformers_version": "9"}, None),
    ],
)
def test_configs_that_differ_are_told_where_all_tensors_are_equal(
    config: dict[str, Any], named: str | None, audited: Callable[..., Any]
) -> None:
    result = audited(lambda tensors: None, config=config, base_config={"dtype": "bfloat16"})

    assert result["verdict"] == "equal"
    expected = [f"Tensors are compared, and the configs differ in {named}."] if named else []
    assert result["warnings"] == expected


@pytest.mark.parametrize(("layers", "is_told"), [((0, 1), True), ((0,), False)])
def test_biases_that_differ_at_every_layer_may_be_a_training(
    layers: tuple[int, ...], is_told: bool, audited: Callable[..., Any]
) -> None:
    def train(tensors: Tensors) -> None:
        for layer in layers:
            for part in ("mlp.down_proj", "self_attn.o_proj"):
                tensors[f"model.layers.{layer}.{part}.bias"] += 0.1

    result = audited(train)

    assert (result["verdict"], len(result["findings"])) == ("addition", 2 * len(layers))
    assert [("BitFit" in warning) for warning in result["warnings"]] == [True] * is_told


# The maths


def slices_of(before: Tensor, after: Tensor, rows: int = 7) -> Callable[[], Any]:
    return lambda: zip(before.double().split(rows), after.double().split(rows), strict=True)


def test_a_change_is_measured_as_the_whole_matrices_say() -> None:
    before, along = noise((60, WIDTH)), torch.nn.functional.normalize(random_direction().double(), dim=0)
    after = before.double() - torch.outer(before.double() @ along, along)

    change = measure(slices_of(before, after))

    assert change is not None
    assert change.rows == 60
    assert change.squared == pytest.approx(float((after - before.double()).square().sum()))
    assert (change.before, change.after) == (
        pytest.approx(float(before.double().square().sum())),
        pytest.approx(float(after.square().sum())),
    )
    assert abs(float(change.direction @ along)) == pytest.approx(1)
    assert (change.share, change.law) == (pytest.approx(1), pytest.approx(1))
    lost = removal(slices_of(before, after), along)
    assert (lost.explained, lost.left) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert lost.remainder(1.0) == pytest.approx(0, abs=1e-12)


def test_a_change_of_rank_one_that_takes_nothing_away_breaks_the_law_of_an_ablation() -> None:
    before, along = noise((60, WIDTH)), torch.nn.functional.normalize(random_direction().double(), dim=0)
    elsewhere = before.double() + torch.outer(noise(60, 3).double(), along)
    more = before.double() + torch.outer(before.double() @ along, along)

    found = [measure(slices_of(before, after)) for after in (elsewhere, more)]

    assert [one is not None and one.share == pytest.approx(1) for one in found] == [True, True]
    assert [one is not None and one.law < 0.3 for one in found] == [True, True]
