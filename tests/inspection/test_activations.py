"""Raw activations as people read them: by prompts, by their own calls of the model, and from a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small_models import PROMPTS, WORDS
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    create_steering_vector,
    generate,
    load_activations,
    load_vector,
    read_activations,
    recording,
    save_activations,
    save_vector,
    steering,
    steering_status,
)
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import (
    ArgumentError,
    LayerError,
    PromptError,
    SteeringError,
    UnsupportedCallError,
    UnsupportedFeatureError,
    VectorFileError,
)
from steer_tools.inspection.activations import LayerActivations
from steer_tools.prompts import TextPrompt
from steer_tools.session.session import Session

SITES: list[dict[str, Any]] = [
    {"component": "residual"},
    {"component": "attention"},
    {"component": "mlp"},
    {"component": "attention", "head": 2},
    {"component": "embedding"},
]
LAYER = 12
TEXTS = ["The train leaves at noon.", "Dear Sir, I am writing to inquire about your services.", "yo whats up"]


@contextmanager
def hooked(model: Any, layer: int, component: str, head: int | None = None) -> Iterator[list[Tensor]]:
    """Collect by hand what is at a site of a Llama in every pass."""
    seen: list[Tensor] = []
    block = model.model.layers[layer]

    def on_output(module: Any, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    def on_input(module: Any, args: Any, kwargs: Any) -> None:
        width = block.self_attn.head_dim
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append((hidden if head is None else hidden[..., head * width : (head + 1) * width]).detach().clone())

    match component:
        case "residual":
            handle = block.register_forward_hook(on_output)
        case "embedding":
            handle = model.model.layers[0].register_forward_pre_hook(on_input, with_kwargs=True)
        case "mlp":
            handle = block.mlp.register_forward_hook(on_output)
        case _ if head is None:
            handle = block.self_attn.register_forward_hook(on_output)
        case _:
            handle = block.self_attn.o_proj.register_forward_pre_hook(on_input, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def layer_of(site: dict[str, Any]) -> int:
    return 0 if site["component"] == "embedding" else LAYER


def hooks_on(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def random_vector(session: Session, layer: int = 1, width: int = 32) -> SteeringVector:
    generator = torch.Generator().manual_seed(3)
    return SteeringVector.from_directions({layer: torch.randn(width, generator=generator)})


@pytest.fixture
def model(llama_session: Session) -> Any:
    engine: Any = llama_session.engine
    return engine.module


@pytest.fixture
def ids(llama_session: Session) -> Tensor:
    return torch.tensor([llama_session.engine.tokenize(TextPrompt(PROMPTS[3])).tokens])


# Against hooks made by hand, on a real model in both dtypes.


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES, ids=str)
def test_reading_is_what_a_hook_by_hand_sees(smollm2_session: Session, site: dict[str, Any]) -> None:
    engine: Any = smollm2_session.engine
    model, tokenizer, layer = engine.module, engine.tokenizer, layer_of(site)
    together = read_activations(TEXTS, layer, **site)

    assert together.dtype == torch.float32
    for row, text in enumerate(TEXTS):
        last, every = (read_activations(text, layer, **site, pooling=pooling) for pooling in ("last", "all"))
        with hooked(model, layer, **site) as seen, torch.no_grad():
            model(**tokenizer(text, return_tensors="pt"))
        by_hand = seen[0].float()
        torch.testing.assert_close(every, by_hand)
        torch.testing.assert_close(last, by_hand[:, -1])
        assert not torch.allclose(last, by_hand[:, -2], rtol=0.1)
        # Beside others it is padded, which a model in bfloat16 does not do without rounding.
        rounding = 1e-4 if model.dtype == torch.float32 else 0.1
        assert float((together[row] - last[0]).norm() / last.norm()) < rounding


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_recorded_generation_is_what_a_hook_by_hand_sees(smollm2_session: Session, site: dict[str, Any]) -> None:
    engine: Any = smollm2_session.engine
    model, tokenizer, layer = engine.module, engine.tokenizer, layer_of(site)
    given, before = tokenizer(TEXTS[1], return_tensors="pt"), hooks_on(model)

    # In this order, since the parts of a block are found by passes when they are first asked for.
    with recording(model, layers=layer, **site) as activations, hooked(model, layer, **site) as seen:
        text = model.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)

    assert len(seen) == 5
    assert torch.equal(activations[layer], torch.cat(seen, dim=1))
    assert activations[layer].shape[:2] == (1, text.shape[1] - 1)
    assert activations[layer].dtype == model.dtype
    assert hooks_on(model) == before


# What read_activations gives.


def test_one_layer_is_a_tensor_and_several_are_a_mapping(llama_session: Session) -> None:
    one = read_activations(PROMPTS, 1)
    several, every = read_activations(PROMPTS, layers=[-1, 1]), read_activations(PROMPTS)

    assert one.shape == (4, 32)
    assert isinstance(several, LayerActivations)
    assert list(several) == [3, 1]
    assert list(every) == list(read_activations(PROMPTS, range(4))) == [0, 1, 2, 3]
    assert torch.equal(several[1], one)
    assert torch.equal(several[-1], several[3])
    assert not torch.equal(several[3], one)
    assert (-1 in several, 2 in several, several.get(2)) == (True, False, None)
    with pytest.raises(LayerError, match=r"layer is 2, which was not read\. Valid: one of \[3, 1\]"):
        several[2]
    with pytest.raises(TypeError):
        several[1] = one  # type: ignore[index]  # It is frozen.


def test_all_tokens_are_a_tensor_a_prompt_with_ids_and_texts(llama_session: Session) -> None:
    found = read_activations(PROMPTS, [1], pooling="all")
    alone = read_activations(PROMPTS[1], 1, pooling="all")
    chat = read_activations([{"role": "user", "content": "keke"}], 1, pooling="all")

    assert isinstance(found[1], list)
    assert found.tokens is not None
    for prompt, own, tokens in zip(PROMPTS, found[1], found.tokens, strict=True):
        assert own.shape == (len(prompt.split()) + 1, 32)
        assert tokens.texts == ("<s>", *(word if word in WORDS else "<unk>" for word in prompt.split()))
        assert len(tokens.ids) == len(tokens.texts)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, found[1][1][None])
    assert isinstance(chat, Tensor)
    assert chat.shape[0] == 1
    assert read_activations([1, 8, 14], 1).shape == (1, 32)


def test_an_index_is_one_of_a_prompts_own_tokens(llama_session: Session) -> None:
    every = read_activations(PROMPTS, 1, pooling="all")

    for index in (-1, -2, 0, 1):
        found = read_activations(PROMPTS, 1, pooling=index)
        torch.testing.assert_close(found, torch.stack([own[index] for own in every]))
    assert torch.equal(read_activations(PROMPTS, 1, pooling=-1), read_activations(PROMPTS, 1))
    with pytest.raises(PromptError, match="pooling=-3 would read"):
        read_activations(PROMPTS, 1, pooling=-3)


def test_reading_is_unsteered_whatever_is_applied(llama_session: Session, model: Any, ids: Tensor) -> None:
    before = read_activations(PROMPTS, 2)
    vector = random_vector(llama_session)

    with steering(vector, 1, 0.1, positions="all"):
        assert torch.equal(read_activations(PROMPTS, 2), before)
        with recording(layers=2) as applied, torch.no_grad():
            model(ids)

    with recording(layers=2) as plain, torch.no_grad():
        model(ids)
    assert not torch.allclose(applied[2], plain[2])


def test_a_mean_difference_by_hand_is_the_vector(llama_session: Session) -> None:
    positive, negative = [f"baba {p}" for p in PROMPTS], [f"zuzu {p}" for p in PROMPTS]
    path = create_steering_vector(positive, negative, 2, "v")["vector_path"]

    by_hand = read_activations(positive, 2).mean(0) - read_activations(negative, 2).mean(0)

    torch.testing.assert_close(by_hand, load_vector(path).directions[2])


def test_sinks_are_told_of(llama_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["steer_tools.inspection.activations"]
    monkeypatch.setattr(module, "sink_warnings", lambda pooling, read: ["a sink was read"])

    with pytest.warns(UserWarning, match="a sink was read") as told:
        read_activations(PROMPTS, 1)

    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"layers": 4}, LayerError, "has 4 decoder blocks"),
        ({"layers": []}, LayerError, "layers is an empty list"),
        ({"layers": True}, LayerError, "layer is True"),
        ({"pooling": "middle"}, ArgumentError, "'last', 'first', 'mean', 'response', 'all'"),
        ({"pooling": True}, ArgumentError, "pooling is True"),
        ({"component": "atn"}, ArgumentError, "'residual', 'attention', 'mlp'"),
        ({"head": 1}, ArgumentError, "heads of 'attention'"),
        ({"component": "attention", "head": 9}, ArgumentError, "head is 9"),
        ({"component": "embedding", "layers": 2}, LayerError, "no layer 2"),
        ({"labels": [1, 0]}, ArgumentError, "2 labels and 4 prompts"),
        ({"prompts": []}, PromptError, "prompts is empty"),
        ({"pooling": "response"}, PromptError, "no token"),
    ],
)
def test_what_cannot_be_read_is_refused(
    llama_session: Session, arguments: dict[str, Any], error: type[SteeringError], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_activations(**{"prompts": PROMPTS, **arguments})


# Files


@pytest.mark.parametrize("pooling", ["last", -1, "all"])
def test_a_file_gives_back_what_was_saved(llama_session: Session, pooling: Any) -> None:
    saved = read_activations(PROMPTS, [2, 0], component="mlp", pooling=pooling, labels=["a", 1, True, 0])

    path = saved.save("acts/mine")
    found = load_activations("acts/mine")

    assert path == str(llama_session.workspace.root / "acts/mine.safetensors")
    assert list(found) == [0, 2]
    for layer in (0, 2):
        pairs = zip(found[layer], saved[layer], strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    for name in ("component", "head", "pooling", "labels", "tokens", "prompts", "shape", "model_fingerprint"):
        assert getattr(found, name) == getattr(saved, name)
    assert (found.labels, found.prompts) == (("a", 1, True, 0), tuple(PROMPTS))
    assert found.model_fingerprint == llama_session.engine.info.fingerprint


def test_a_lone_prompt_keeps_its_shape_in_a_file(llama_session: Session) -> None:
    saved = read_activations(PROMPTS[1], [1], pooling="all")
    saved.save("one")

    assert torch.equal(load_activations("one")[1], saved[1])


def test_a_file_of_activations_is_no_vector_and_a_vector_is_none(llama_session: Session) -> None:
    read_activations(PROMPTS[:1], [1]).save("acts")
    save_vector(random_vector(llama_session), "v", workspace=llama_session.workspace)
    (llama_session.workspace.root / "text.safetensors").write_text("no")

    with pytest.raises(VectorFileError, match=r"activations of prompts.*load_activations reads it"):
        apply_steering_vector("acts.safetensors", 1)
    problems = {Path(own["vector_path"]).stem: own["problem"] for own in steering_status()["saved"]}
    assert problems["v"] is None
    assert "load_activations reads it" in str(problems["acts"])
    for name in ("v", "text", "missing"):
        with pytest.raises(VectorFileError):
            load_activations(name)


@pytest.mark.parametrize(("pooling", "rows"), [(-2, 4), ("mean", 4), ("all", 17)])
def test_the_tool_saves_what_is_read(llama_session: Session, pooling: Any, rows: int) -> None:
    found = save_activations(PROMPTS, "acts", [1, -1], "attention", 2, pooling, ["a", "b", "a", "b"])

    loaded = load_activations(found["path"])
    again = read_activations(PROMPTS, [1, -1], component="attention", head=2, pooling=pooling)
    assert found == {
        "path": str(llama_session.workspace.root / "acts.safetensors"),
        "layers": [1, 3],
        "component": "attention",
        "pooling": pooling,
        "shape": [rows, 8],
        "warnings": [],
    }
    assert loaded.labels == ("a", "b", "a", "b")
    for layer in (1, 3):
        assert all(torch.equal(*pair) for pair in zip(loaded[layer], again[layer], strict=True))


# Recording


def test_a_call_is_recorded_as_it_is_edited(llama_session: Session, model: Any, ids: Tensor) -> None:
    vector, before = random_vector(llama_session), hooks_on(model)

    with (
        steering(vector, 1, 0.1, positions="all"),
        hooked(model, 2, "residual") as above,
        recording(layers=[1, -2, 0]) as activations,
        torch.no_grad(),
    ):
        logits = model(ids).logits
        assert activations[1].shape == (1, ids.shape[1], 32)
    with recording(layers=[1, 0]) as unsteered, torch.no_grad():
        model(ids)

    assert list(activations) == [1, 2, 0]
    assert torch.equal(activations[2], above[0])
    added = activations[1] - unsteered[1]
    torch.testing.assert_close(added[0], 0.1 * vector.directions[1].expand_as(added[0]), atol=1e-5, rtol=1e-4)
    assert torch.equal(activations[0], unsteered[0])
    assert hooks_on(model) == before
    assert not torch.equal(logits, model(ids).logits)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_steps_of_a_generation_are_joined(llama_session: Session, model: Any, ids: Tensor, use_cache: bool) -> None:
    batch = ids.expand(2, -1)

    with recording(model, [1]) as activations:
        text = model.generate(batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=use_cache)

    with recording(layers=1) as whole, torch.no_grad():
        model(text[:, :-1])
    assert activations[1].shape == (2, ids.shape[1] + 3, 32)
    torch.testing.assert_close(activations[1], whole[1], atol=1e-4, rtol=1e-4)


def test_a_loop_with_a_cache_is_one_call_and_other_calls_are_calls(
    llama_session: Session, model: Any, ids: Tensor
) -> None:
    with recording(layers=[1]) as looped, torch.no_grad():
        first = model(ids[:, :3], use_cache=True)
        model(ids[:, 3:], past_key_values=first.past_key_values)
    with recording(layers=[1]) as apart, torch.no_grad():
        model(ids)
        model(ids[:, :2])
        model.generate(ids, max_new_tokens=2)
        model.generate(ids, max_new_tokens=2)

    torch.testing.assert_close(looped[1], apart.calls[0][1], atol=1e-5, rtol=1e-4)
    assert [call[-3].shape[1] for call in apart.calls] == [ids.shape[1], 2, ids.shape[1] + 1, ids.shape[1] + 1]
    with pytest.raises(ArgumentError, match=r"4 calls.*calls\[0\]\[1\] to calls\[3\]\[1\]"):
        apart[1]


def test_only_own_calls_are_recorded(llama_session: Session, model: Any, ids: Tensor) -> None:
    with recording(layers=[0, 1]) as activations:
        read_activations(PROMPTS, 1)
        generate(PROMPTS[:1], max_new_tokens=2)

    assert activations.calls == ()
    with pytest.raises(ArgumentError, match="Nothing was recorded"):
        activations[1]
    with pytest.raises(LayerError, match="was not read"):
        activations[2]


def test_nothing_stays_on_the_model_after_an_error(llama_session: Session, model: Any, ids: Tensor) -> None:
    before = hooks_on(model)

    with pytest.raises(ZeroDivisionError), recording(layers=[1]), torch.no_grad():
        assert hooks_on(model) > before
        model(ids)
        raise ZeroDivisionError

    assert hooks_on(model) == before
    model.generate(ids, max_new_tokens=2, num_beams=2, do_sample=True)  # It is refused while somebody looks.
    with pytest.raises(UnsupportedCallError), recording():
        model.generate(ids, max_new_tokens=2, num_beams=2, do_sample=True)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (lambda model: recording(torch.nn.Linear(1, 1), layers=[1]), ArgumentError, "Linear given to recording is not"),
        (lambda model: recording(layers=[7]), LayerError, "4 decoder blocks"),
        (lambda model: recording(component="atn"), ArgumentError, "'attention'"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    llama_session: Session, model: Any, given: Callable[[Any], Any], error: type[SteeringError], says: str
) -> None:
    with pytest.raises(error, match=says), given(model):
        pass


def test_an_engine_that_nobody_else_calls_refuses(empty_session: Session) -> None:
    empty_session.attach_engine(FakeEngine())

    assert read_activations("keke lili", 1).shape[0] == 1
    with pytest.raises(UnsupportedFeatureError, match="recording needs watched calls"), recording():
        pass
