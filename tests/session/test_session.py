"""The one global: attaching, finding, giving back, and what two threads may do at once."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    combine_steering_vectors,
    compare_generations,
    create_steering_vector,
    detach_model,
    generate,
    load_model,
    remove_steering_vector,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError, NoModelError, UnsupportedModelError
from steer_tools.session.session import Session


def create(name: str = "v", layer: int = 2) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, layer, name)["vector_path"]


def test_attaching_the_same_model_again_keeps_what_is_applied(llama_session: Session) -> None:
    apply_steering_vector(create())
    model = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test

    attach_model(model, make_tokenizer())

    assert len(steering_status()["applied"]) == 1


def test_a_copy_of_what_is_applied_is_in_force_as_the_original_is(llama_session: Session) -> None:
    apply_steering_vector(create())
    llama_session.engine.set_ambient(pickle.loads(pickle.dumps(llama_session.registry.plan())))

    assert steering_status()["in_force"]
    llama_session.engine.set_ambient(())
    assert not steering_status()["in_force"]


def test_attaching_the_same_model_with_another_tokenizer_keeps_what_is_applied(llama_session: Session) -> None:
    model: Any = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test
    apply_steering_vector(create(), 2, 5.0)
    steered = generate(PROMPTS, max_new_tokens=6)

    attach_model(model, make_tokenizer(bos=False))
    without_bos = generate(PROMPTS, max_new_tokens=6)
    attach_model(model, make_tokenizer())

    assert without_bos["texts"] != steered["texts"]
    assert generate(PROMPTS, max_new_tokens=6) == steered
    assert steering_status()["in_force"]
    detach_model()
    assert "generate" not in vars(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_attaching_another_model_gives_the_first_one_back(empty_session: Session) -> None:
    first, second, tokenizer = make_model("llama"), make_model("gpt2"), make_tokenizer()
    ids = torch.tensor([[1, 8, 9]])
    with torch.no_grad():
        logits = first(ids).logits
    attach_model(first, tokenizer)
    apply_steering_vector(create(), 2, 9.0, positions="all")
    with torch.no_grad():
        assert not torch.equal(first(ids).logits, logits)

    attach_model(second, tokenizer)

    with torch.no_grad():
        assert torch.equal(first(ids).logits, logits)
    assert not first.model._forward_pre_hooks
    assert steering_status()["applied"] == []
    detach_model()
    assert "generate" not in vars(second)


def test_a_model_that_is_refused_leaves_the_attached_one(llama_session: Session) -> None:
    before = steering_status()
    training = make_model("gpt2").train()

    with pytest.raises(UnsupportedModelError, match=r"eval\(\)"):
        attach_model(training, make_tokenizer())

    assert steering_status() == before
    assert not any(module._forward_hooks for module in training.modules())


def test_a_change_that_the_engine_refuses_leaves_registry_and_model_alike(llama_session: Session) -> None:
    model: Any = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test
    path = create()
    apply_steering_vector(path)
    before = llama_session.registry.entries()

    model.train()
    with pytest.raises(UnsupportedModelError, match=r"eval\(\)"):
        apply_steering_vector(path, strength=7.0)
    model.eval()

    assert llama_session.registry.entries() == before
    assert steering_status()["in_force"]


def test_taking_off_is_possible_whatever_state_the_model_is_in(llama_session: Session) -> None:
    model: Any = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test
    path = create()
    first, second = (apply_steering_vector(path)["steering_id"] for _ in range(2))

    model.train()
    remove_steering_vector(first)
    with pytest.raises(UnsupportedModelError):
        update_steering_vector(second, 2.0)
    model.eval()

    assert [entry["steering_id"] for entry in steering_status()["applied"]] == [second]
    assert steering_status()["in_force"]


def test_residual_norms_are_measured_anew_for_another_model(empty_session: Session) -> None:
    attach_model(make_model("llama"), make_tokenizer())
    first = empty_session.typical_norm(Site(2))

    attach_model(make_model("llama", seed=1), make_tokenizer())

    assert empty_session.typical_norm(Site(2)) != first


def test_a_notebooks_model_and_tokenizer_are_found_in_the_main_namespace(
    empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = sys.modules["__main__"]
    with pytest.raises(NoModelError, match="attach_model"):
        steering_status()

    monkeypatch.setattr(main, "model", make_model("llama"), raising=False)
    monkeypatch.setattr(main, "tokenizer", make_tokenizer(), raising=False)
    assert steering_status()["model"]["family"] == "llama"
    apply_steering_vector(create())
    assert len(steering_status()["applied"]) == 1

    # The notebook loads another model under the same name.
    monkeypatch.setattr(main, "model", make_model("gpt2"))
    assert steering_status()["model"]["family"] == "gpt2"
    assert steering_status()["applied"] == []


def test_an_attached_model_goes_before_the_main_namespace(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "model", make_model("gpt2"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "tokenizer", make_tokenizer(), raising=False)

    assert steering_status()["model"]["family"] == "llama"


def test_a_saved_model_is_loaded_with_its_tokenizer(empty_session: Session, family: str, tmp_path: Path) -> None:
    make_model(family).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)

    empty_session.default_dtype = "bfloat16"
    assert load_model(str(tmp_path))["model"]["dtype"] == "bfloat16"
    apply_steering_vector(create())
    loaded = load_model(str(tmp_path), dtype="float32")
    assert (loaded["dropped"], loaded["model"]["dtype"]) == (1, "float32")
    texts = generate(PROMPTS, max_new_tokens=5)["texts"]
    attach_model(make_model(family), make_tokenizer())

    assert loaded["model"]["family"] == family
    assert generate(PROMPTS, max_new_tokens=5)["texts"] == texts


def test_loading_is_refused_by_name(empty_session: Session, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_model(str(tmp_path / "missing"))
    with pytest.raises(ArgumentError, match="'huggingface'"):
        load_model("x", engine="tensorrt")  # type: ignore[arg-type]  # refused on purpose
    with pytest.raises(ArgumentError, match="float32"):
        load_model("x", dtype="float9")  # type: ignore[arg-type]  # refused on purpose
    empty_session.allowed_models = ("only-this",)  # As a server does.
    with pytest.raises(ArgumentError, match="only-this"):
        load_model(str(tmp_path))


def test_two_applies_from_two_threads_both_take_effect(llama_session: Session) -> None:
    paths = [create(f"v{i}", layer=i % 4) for i in range(8)]
    barrier = threading.Barrier(8)

    def apply(path: str) -> str:
        barrier.wait()
        return apply_steering_vector(path)["steering_id"]

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(apply, paths))

    status = steering_status()
    assert sorted(ids) == sorted(entry["steering_id"] for entry in status["applied"])
    assert len(set(ids)) == 8
    assert sorted(entry["vector_path"] for entry in status["applied"]) == sorted(paths)
    assert status["in_force"]
    assert len(llama_session.engine.ambient()) == 8


def test_a_comparison_in_one_thread_never_sees_anothers_rows(llama_session: Session) -> None:
    paths = [create("one", 1), create("two", 2)]
    model: Any = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test
    ids = torch.tensor([[1, 8, 9, 30]])

    def compare(path: str) -> Any:
        return compare_generations(PROMPTS, path, strengths=[-4.0, 4.0], max_new_tokens=8)

    def users_own_text(_: str) -> Any:
        return model.generate(ids, max_new_tokens=8, do_sample=False).tolist()

    def in_turn(work: Callable[[str], Any], path: str) -> Any:
        return work(path)

    jobs: list[tuple[Callable[[str], Any], str]] = [(compare, paths[0]), (users_own_text, ""), (compare, paths[1])] * 4
    apply_steering_vector(paths[0], 1, 3.0)
    alone = [work(path) for work, path in jobs[:3]]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda job: in_turn(*job), jobs))

    assert together == alone * 4
    assert alone[0]["variants"] != alone[2]["variants"]


def test_the_file_of_an_applied_vector_that_is_written_anew_is_told_of(llama_session: Session) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v")
    apply_steering_vector("v")
    before = llama_session.registry.plan()

    same = create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["warnings"]
    assert not any("holds something else" in warning for warning in same)
    assert [entry["file_changed"] for entry in steering_status()["applied"]] == [False]
    other = create_steering_vector(NEGATIVE, POSITIVE, 2, "v")["warnings"]
    assert any("steer-1 was applied from" in warning for warning in other)
    assert [entry["file_changed"] for entry in steering_status()["applied"]] == [True]
    assert llama_session.registry.plan() == before

    apply_steering_vector("v")
    assert [entry["file_changed"] for entry in steering_status()["applied"]] == [True, False]
    combined = combine_steering_vectors(["v", "v"], "v")["warnings"]
    assert sum("holds something else" in warning for warning in combined) == 2
    (llama_session.workspace.root / "v.safetensors").unlink()
    assert [entry["file_changed"] for entry in steering_status()["applied"]] == [True, True]


def test_steering_a_model_that_the_main_namespace_brings_ends_with_its_block(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = create()
    detach_model()
    monkeypatch.setattr(sys.modules["__main__"], "model", make_model("llama"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "tokenizer", make_tokenizer(), raising=False)

    with steering(path, strength=0.1):
        assert len(llama_session.registry) == 1
    assert len(llama_session.registry) == 0
    assert llama_session.engine.ambient() == ()


def test_a_changed_file_that_cannot_be_read_does_not_break_the_status(llama_session: Session) -> None:
    path = Path(create())
    apply_steering_vector("v")
    path.unlink()
    path.mkdir()

    assert [entry["file_changed"] for entry in steering_status()["applied"]] == [True]
