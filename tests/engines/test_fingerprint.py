"""The fingerprint of weights: what any runtime reads off the checkpoint, and what older files are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.family_models import build
from helpers.small_models import NEGATIVE, POSITIVE, make_model, make_tokenizer
from steer_tools import apply_steering_vector, create_steering_vector
from steer_tools.engines.fingerprint import contents_of_checkpoint, fingerprint_of
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.session.session import Session


def of_engine(model: Any, **options: Any) -> str:
    engine = HuggingFaceEngine(model, make_tokenizer(), **options)
    engine.detach()
    return engine.info.fingerprint


def of_folder(folder: Path) -> str:
    return fingerprint_of(contents_of_checkpoint(folder))


def formerly(model: Any) -> str:
    """The fingerprint that files of the first versions hold, said again."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().flatten()[:16].float().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_a_model_in_memory_has_the_fingerprint_of_the_checkpoint_that_it_is_saved_as(
    family: str, tmp_path: Path
) -> None:
    model = make_model(family)
    model.save_pretrained(tmp_path)

    assert of_engine(model) == of_folder(tmp_path)
    assert of_engine(make_model(family, seed=1)) != of_folder(tmp_path)


def test_experts_that_are_one_parameter_in_memory_are_known_as_they_lie_on_disk(tmp_path: Path) -> None:
    model = build("mixtral")
    model.save_pretrained(tmp_path)

    assert len(load_file(tmp_path / "model.safetensors")) > len(list(model.parameters()))
    assert of_engine(model) == of_folder(tmp_path)


def test_shards_names_tying_and_copies_of_a_tied_tensor_do_not_change_it(tmp_path: Path) -> None:
    model = make_model("gpt2")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    renamed = {f"inner.{name}": tensor for name, tensor in tensors.items()}
    (tmp_path / "other").mkdir()
    save_file({**renamed, "copy": tensors["transformer.wte.weight"].clone()}, tmp_path / "other" / "model.safetensors")

    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert {of_folder(tmp_path / name) for name in ("one", "many", "other")} == {of_engine(model)}


def test_loaded_in_another_dtype_it_is_still_that_checkpoint(empty_session: Session, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)

    info = empty_session.load(str(tmp_path), dtype="bfloat16")

    assert info.dtype == "bfloat16" and info.fingerprint == of_folder(tmp_path)


@pytest.mark.parametrize("change", [lambda weight: weight[0, 0].add_(1e-3), lambda weight: weight[-1, -1].mul_(1.01)])
def test_weights_that_were_changed_after_loading_are_others(change: Any, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert of_engine(model) == of_folder(tmp_path)

    with torch.no_grad():
        change(model.model.layers[1].mlp.up_proj.weight)

    assert of_engine(model) != of_folder(tmp_path)


def test_tensors_that_no_model_reads_do_not_make_the_loaded_weights_others(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "unused": torch.arange(5.0)}, tmp_path / "model.safetensors", {"format": "pt"})

    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)

    assert of_engine(model) == of_folder(tmp_path)


def test_a_vector_with_the_former_fingerprint_is_of_these_weights(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "v")["vector_path"]
    tensors = load_file(path)
    former = formerly(make_model("llama"))
    assert former != llama_session.engine.info.fingerprint
    with Path(path).open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little")).decode()
    assert llama_session.engine.info.fingerprint in header

    def with_fingerprint(fingerprint: str) -> list[str]:
        changed = header.replace(llama_session.engine.info.fingerprint, fingerprint).encode()
        whole = Path(path).read_bytes()
        data = whole[8 + int.from_bytes(whole[:8], "little") :]
        Path(path).write_bytes(len(changed).to_bytes(8, "little") + changed + data)
        warnings = apply_steering_vector(path)["warnings"]
        Path(path).write_bytes(whole)
        return warnings

    assert with_fingerprint(former) == []
    assert "other weights" in with_fingerprint("0" * 16)[0]
    assert tensors
