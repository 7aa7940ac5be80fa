"""Models in GGUF files: SmolLM2 through every door, and what is no whole model refused by name."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import anyio
import gguf
import pytest
import torch
from mcp import Client, StdioServerParameters, stdio_client
from safetensors.torch import load_file, save_file

from helpers.small_models import make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    check_steering,
    compare_generations,
    create_steering_vector,
    load_model,
    load_vector,
    save_vector,
)
from steer_tools.cli import main
from steer_tools.engines import named_models
from steer_tools.engines.fingerprint import contents_of_checkpoint
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.huggingface.loading import load_pretrained
from steer_tools.engines.named_models import SMOLLM2_INSTALLS, find_smollm2
from steer_tools.errors import UnsupportedModelError
from steer_tools.session.session import Session

LAYER = 13
FORMAL = ["I would be most grateful for your assistance.", "We regret to inform you of the delay.", "Kindly respond."]
CASUAL = ["hey can u help me out", "yeah sorry its gonna be late", "hit me up"]


@pytest.fixture
def smollm2_folder(smollm2: Any, tmp_path: Path) -> Path:
    """A folder as people have them for llama.cpp: one GGUF file and nothing else."""
    folder = tmp_path / "for llama.cpp"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(find_smollm2())
    return folder


@pytest.mark.slow
def test_a_folder_with_a_gguf_file_is_steered_and_its_control_vector_comes_back(
    smollm2_folder: Path, smollm2: Any, empty_session: Session
) -> None:
    loaded = load_model(str(smollm2_folder), dtype="bfloat16")
    assert (loaded["model"]["layer_count"], loaded["model"]["dtype"], loaded["warnings"]) == (30, "bfloat16", [])
    ours: Any = empty_session.engine
    whole = smollm2(torch.float32)[0].state_dict()
    assert all(torch.equal(own, whole[name].bfloat16()) for name, own in ours.module.state_dict().items())

    created = create_steering_vector(FORMAL, CASUAL, LAYER, "formality", pooling="mean")
    vector = load_vector(created["vector_path"])
    assert vector.info.model_fingerprint == empty_session.engine.info.fingerprint
    with pytest.warns(UserWarning, match="formality.gguf does not keep"):
        exported = save_vector(vector, "formality.gguf", workspace=empty_session.workspace)
    returned = load_vector(exported)
    assert returned.layers == (LAYER,)
    assert torch.equal(returned.directions[LAYER], vector.directions[LAYER])
    # llama.cpp's own reader finds what it wants of a control vector.
    reader = gguf.GGUFReader(exported)
    assert [tensor.name for tensor in reader.tensors] == [f"direction.{LAYER}"]

    compared = compare_generations(["Dear"], str(exported), strengths=[-0.4, 0.4], unit="residual", max_new_tokens=12)
    texts = [compared["baseline"]["texts"][0], *(variant["texts"][0] for variant in compared["variants"])]
    assert len(set(texts)) == 3
    apply_steering_vector(created["vector_path"], strength=0.2, unit="residual")
    checked = check_steering()
    assert checked["passed"], checked
    # To a vector, the same file in another dtype is the same model.
    copy, tokenizer = deepcopy(smollm2(torch.float32))
    copied = HuggingFaceEngine(copy, tokenizer, "smollm2", loaded_from=str(find_smollm2()))
    assert copied.info.fingerprint == vector.info.model_fingerprint


@pytest.mark.slow
def test_the_command_line_takes_a_gguf_file(
    smollm2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(smollm2_folder / "model.gguf"), "--workspace", str(tmp_path), "--json"]

    assert main(["generate", "The capital of France is", "--max-new-tokens", "4", *where]) == 0

    assert "Paris" in json.loads(capsys.readouterr().out)["texts"][0]


@pytest.mark.slow
def test_the_server_takes_a_gguf_file(smollm2_folder: Path, tmp_path: Path) -> None:
    arguments = ["-m", "mcp_server", "--model", str(smollm2_folder / "model.gguf"), "--workspace", str(tmp_path)]

    async def ask() -> tuple[Any, Any]:
        server = stdio_client(StdioServerParameters(command=sys.executable, args=arguments))
        async with Client(server) as client:
            with anyio.fail_after(300):
                status = await client.call_tool("steering_status", {})
                prompt = {"prompts": ["The capital of France is"], "max_new_tokens": 4}
                return status, await client.call_tool("generate", prompt)

    status, generated = anyio.run(ask)

    assert status.structured_content["model"]["layer_count"] == 30
    assert "Paris" in generated.structured_content["texts"][0]


def write_gguf(file: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_tensor("token_embd.weight", torch.ones(4, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


BROKEN: dict[str, tuple[dict[str, bytes | str], str, str]] = {
    "one of several parts": (
        {"m-00001-of-00002.gguf": b"", "m-00002-of-00002.gguf": b""},
        "m-00001-of-00002.gguf",
        "holds a part of a model.*llama-gguf-split --merge m-00001-of-00002.gguf",
    ),
    "a folder of parts": ({"m-00001-of-00002.gguf": b"", "m-00002-of-00002.gguf": b""}, "", "holds a part of a model"),
    "a folder of two models": ({"a.gguf": b"", "b.gguf": b""}, "", "holds 2 .gguf files. Valid: one of a.gguf, b.gguf"),
    "an unknown architecture": ({"m.gguf": "nope"}, "m.gguf", "architecture nope is not supported"),
    "a control vector": ({"m.gguf": "controlvector"}, "m.gguf", "architecture controlvector is not supported"),
    "an empty file": ({"m.gguf": b""}, "m.gguf", "cannot be loaded"),
    "some other file": ({"m.gguf": b"PK\x03\x04" + b"x" * 2000}, "m.gguf", "cannot be loaded.*magic"),
    "no file": ({}, "m.gguf", "cannot be loaded"),
    "a pointer of Git LFS": (
        {"m.gguf": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"},
        "m.gguf",
        "m.gguf is a pointer of Git LFS: run `git lfs pull`",
    ),
    "its header alone": ({"m.gguf": b"GGUF" + bytes([3, 0, 0, 0]) + b"\1" * 16}, "m.gguf", "cannot be loaded"),
}


@pytest.mark.parametrize(("files", "name", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_gguf_model_is_refused_by_name(
    files: dict[str, bytes | str], name: str, words: str, tmp_path: Path
) -> None:
    for own, content in files.items():
        if isinstance(content, str):
            write_gguf(tmp_path / own, content)
        else:
            (tmp_path / own).write_bytes(content)

    with pytest.raises(UnsupportedModelError, match=f"(?s){words}"):
        load_pretrained(str(tmp_path / name))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_its_packages_a_gguf_file_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "m.gguf", "llama")
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda: package != "gguf")
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda: package != "accelerate")

    with pytest.raises(UnsupportedModelError, match=r'pip install "steer-tools\[gguf\]"'):
        load_pretrained(str(tmp_path / "m.gguf"))


def test_a_packed_file_that_changed_anywhere_is_another_model(tmp_path: Path) -> None:
    one, same, other = (tmp_path / f"{name}.gguf" for name in ("one", "same", "other"))
    content = bytes(range(256)) * 64
    one.write_bytes(content)
    same.write_bytes(content)
    other.write_bytes(content[:-1] + b"\0")

    assert contents_of_checkpoint(one) == contents_of_checkpoint(same) != contents_of_checkpoint(other)


def test_smollm2_says_how_to_install_it_and_refuses_another_file(
    empty_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_models, "_SMOLLM2_PACKAGE", "no_such_package_here")
    with pytest.raises(UnsupportedModelError) as missing:
        load_model("smollm2")
    assert SMOLLM2_INSTALLS in str(missing.value)
    assert "\n" not in str(missing.value)

    package = tmp_path / "forged_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(named_models, "_SMOLLM2_PACKAGE", "forged_smollm2")
    with pytest.raises(UnsupportedModelError, match="is not the published one"):
        load_model("smollm2")


def test_tensors_without_a_place_are_told(empty_session: Session, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert load_model(str(tmp_path))["warnings"] == []
    weights = tmp_path / "model.safetensors"
    save_file({**load_file(weights), "model.extra.weight": torch.ones(3)}, weights, metadata={"format": "pt"})

    (warning,) = load_model(str(tmp_path))["warnings"]

    assert "1 tensors" in warning and "model.extra.weight" in warning
