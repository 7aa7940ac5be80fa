"""Checkpoints that are broken, lack something or are meant for another machine are refused; the whole is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.small_models import FAMILIES, make_model, make_tokenizer
from steer_tools.engines.huggingface.loading import load_pretrained
from steer_tools.errors import UnsupportedModelError

WEIGHTS = "model.safetensors"
Break = Callable[[Path], None]


def checkpoint(folder: Path, family: str = "llama") -> Path:
    make_model(family).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def rewrite_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def with_config(**entries: Any) -> Break:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **entries}))

    return edit


def with_file(name: str, content: bytes | None) -> Break:
    def write(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return write


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


BROKEN: dict[str, tuple[Break, str]] = {
    "more layers than tensors": (with_config(num_hidden_layers=6), "lacks 18 tensors .*model.layers.4"),
    "no head": (
        lambda f: rewrite_weights(f, lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}),
        "lm_head",
    ),
    "a tensor of another shape": (
        lambda f: rewrite_weights(f, lambda t: {**t, "model.norm.weight": torch.ones(3)}),
        "cannot be loaded",
    ),
    "no heads": (with_config(num_attention_heads=0), "cannot be loaded.*zero"),
    "a width that is a word": (with_config(hidden_size="x"), "cannot be loaded.*hidden_size"),
    "a width below zero": (with_config(hidden_size=-4), "cannot be loaded.*-4"),
    "no vocabulary": (with_config(vocab_size=None), "cannot be loaded.*vocab_size"),
    "an epsilon that is a word": (with_config(rms_norm_eps="x"), "cannot be loaded.*rms_norm_eps"),
    "keys that do not fit the width": (with_config(num_key_value_heads=3), "cannot be loaded"),
    "unknown positions": (with_config(rope_parameters={"rope_type": "nope"}), "KeyError: 'nope'"),
    "an unknown activation": (with_config(hidden_act="nope"), "KeyError: 'nope'"),
    "unknown kinds of layers": (with_config(layer_types=["nope"] * 4), "cannot be loaded.*layer_types"),
    "an unknown architecture": (with_config(model_type="nope"), "cannot be loaded.*nope"),
    "an unknown dtype": (with_config(dtype="nope"), "cannot be loaded.*nope"),
    "an unknown attention": (with_config(attn_implementation="nope"), "attention 'nope'.*Valid: eager"),
    "a kernel of the hub": (
        with_config(_attn_implementation="kernels-community/flash-attn"),
        "attention 'kernels-community/flash-attn', which the hub would be asked for",
    ),
    "a kernel that stands for a package": (
        with_config(_attn_implementation="flash_attention_2"),
        "attention 'flash_attention_2', which the hub would be asked for.*attn_implementation out of its config",
    ),
    "a quantisation without its package": (
        with_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "cannot be loaded.*optimum",
    ),
    "a config that is cut": (with_file("config.json", b"{"), "cannot be loaded.*config"),
    "a config that is a list": (with_file("config.json", b"[]"), "cannot be loaded.*model_type"),
    "no config": (with_file("config.json", None), "cannot be loaded"),
    "weights that are cut": (cut, "cannot be loaded.*header"),
    "a pointer of Git LFS": (
        with_file(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"),
        "model.safetensors is a pointer of Git LFS: run `git lfs pull`",
    ),
    "pickled weights": (pickled, "cannot be loaded.*safetensors"),
    "an empty tokenizer": (with_file("tokenizer.json", b"{}"), "cannot be loaded"),
    "a tokenizer that is cut": (with_file("tokenizer.json", b"{"), "cannot be loaded"),
    "no tokenizer": (with_file("tokenizer.json", None), "cannot be loaded.*tokenizer"),
}


@pytest.mark.parametrize(("damage", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_refused(damage: Break, words: str, tmp_path: Path) -> None:
    damage(checkpoint(tmp_path))

    with pytest.raises(UnsupportedModelError, match=f"(?s){words}"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_loads_and_one_without_a_layers_tensors_does_not(family: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, family)
    whole, _, _ = load_pretrained(str(tmp_path))
    expected = make_model(family).state_dict()
    assert all(torch.equal(own, expected[name]) for name, own in whole.state_dict().items())

    rewrite_weights(tmp_path, lambda tensors: {name: own for name, own in tensors.items() if ".1." not in name})

    with pytest.raises(UnsupportedModelError, match=r"lacks \d+ tensors of a .*\.1\.") as caught:
        load_pretrained(str(tmp_path))
    assert "random numbers" in str(caught.value)


def test_a_kernel_for_a_part_of_a_model_is_refused_and_what_torch_has_is_not(tmp_path: Path) -> None:
    with_config(_attn_implementation="eager")(checkpoint(tmp_path))
    assert load_pretrained(str(tmp_path)).model.config._attn_implementation == "eager"

    config = {"model_type": "gemma3", "attn_implementation": {"text_config": "some/kernel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(UnsupportedModelError, match="attention 'some/kernel'"):
        load_pretrained(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot be loaded.*CUDA"):
        load_pretrained(str(checkpoint(tmp_path)), device_map="cuda")


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "\ud800", ".", None, 3, ["x"]])
def test_what_is_no_models_name_is_refused(name: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_pretrained(name)
