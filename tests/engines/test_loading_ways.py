"""However a model was loaded, steering does the same: split, adapted, quantised, with a vision tower, tied, halved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaForCausalLM,
    QuantoConfig,
)

from helpers.oracle import SCOPES
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    check_steering,
    create_steering_vector,
    load_model,
    load_vector,
    remove_all_steering_vectors,
)
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import UnsupportedCallError
from steer_tools.prompts import parse_prompts
from steer_tools.session.session import Session, current_session

STEPS, STRENGTH = 8, 2.0
EOS, END, IMAGE = 2, 3, 120
OPTIONS = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": [EOS, IMAGE]}

pytestmark = pytest.mark.usefixtures("empty_session")


def ids_of(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def saved(model: Any, path: Path) -> str:
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


def vector_of(model: Any, name: str, layer: int = 1) -> tuple[str, Tensor]:
    """Attach a model and make a vector on it: its file and its direction."""
    attach_model(model, make_tokenizer())
    path = create_steering_vector(POSITIVE, NEGATIVE, layer, name)["vector_path"]
    return path, load_vector(path).directions[layer]


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids_of(PROMPTS[3])])).logits


def own_tokens(model: Any, texts: list[str] = PROMPTS) -> list[list[int]]:
    """What the user's own left-padded `model.generate` writes."""
    batch = make_tokenizer()(texts, return_tensors="pt", padding=True, padding_side="left")
    new = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **OPTIONS)
    return new[:, batch["input_ids"].shape[1] :].tolist()


def steer_and_give_back(model: Any, path: str, texts: list[str] = PROMPTS) -> list[list[int]]:
    """Hold the attached model to the laws, and return what it wrote under the vector."""
    engine, original, unsteered = current_session().engine, logits_of(model), own_tokens(model, texts)
    apply_steering_vector(path, strength=STRENGTH)
    steered, own, proof = logits_of(model), own_tokens(model, texts), check_steering()
    rows = [Row(prompt, engine.ambient()) for prompt in parse_prompts(texts)]
    ours = [list(generation.tokens) for generation in engine.generate(rows, Sampling(STEPS))]
    remove_all_steering_vectors()

    assert proof["passed"], proof
    assert own != unsteered and not torch.equal(steered, original)
    assert own_tokens(model, texts) == unsteered and torch.equal(logits_of(model), original)
    # Only our calls end a text at <end>.
    assert ours == [tokens[: tokens.index(END)] if END in tokens else tokens for tokens in own]
    return own


def by_hand(
    model: Any, block: nn.Module, ids: list[int], delta: Tensor, scope: str = "generated", **image: Tensor
) -> list[int]:
    """Greedy tokens, each from a whole new pass of one row, with `delta` added to the block's output in the scope."""
    tokens = list(ids)

    def edit(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        steered = torch.tensor([SCOPES[scope](p, len(ids), 1) for p in range(len(tokens))])
        edited = torch.where(steered[:, None], hidden + delta, hidden)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = block.register_forward_hook(edit)
    with torch.no_grad():
        for _ in range(STEPS):
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False, **image).logits[0, -1]
            logits[[EOS, IMAGE]] = -torch.inf
            tokens.append(int(logits.argmax()))
    handle.remove()
    return tokens[len(ids) :]


# Split over devices and disk by accelerate

WAYS = ("from_pretrained", "dispatch_model", "cpu_offload", "disk_offload", "whole_decoder")
PARTS = {
    "llama": {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "disk"},
    "gpt2": {"transformer.wte": "cpu", "transformer.wpe": "disk", "transformer.ln_f": "cpu", "lm_head": "cpu"},
}
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h"}


@pytest.fixture(params=PARTS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def device_map(family: str) -> dict[str, str]:
    return {**PARTS[family], **{f"{BLOCKS[family]}.{i}": ("disk", "cpu")[i % 2] for i in range(LAYERS)}}


def split(way: str, family: str, folder: Path, seed: int = 0) -> Any:
    model, offload, cpu = make_model(family, seed), folder / "offload", torch.device("cpu")
    match way:
        case "from_pretrained":
            options = {"device_map": device_map(family), "offload_folder": offload}
            return AutoModelForCausalLM.from_pretrained(saved(model, folder / "model"), **options).eval()
        case "dispatch_model":
            return dispatch_model(model, device_map(family), offload_dir=offload)
        case "cpu_offload":
            return cpu_offload(model, cpu)
        case "disk_offload":
            return disk_offload(model, offload, cpu)
        case "whole_decoder":
            # The weights of all blocks come in where the decoder is entered, and go where it is left.
            return cpu_offload(model, cpu, preload_module_classes=["LlamaModel", "GPT2Model"])
        case _:
            raise AssertionError(way)


def places(model: Any) -> dict[str, str]:
    return {name: str(parameter.device) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("way", WAYS)
def test_a_split_model_is_steered_like_the_whole_one(family: str, way: str, tmp_path: Path) -> None:
    whole, model = make_model(family), split(way, family, tmp_path)
    block = dict(whole.named_modules())[f"{BLOCKS[family]}.1"]

    path, direction = vector_of(model, "split")
    written = steer_and_give_back(model, path)

    assert written == [by_hand(whole, block, ids_of(text), STRENGTH * direction) for text in PROMPTS]
    _, of_whole = vector_of(whole, "whole")
    assert torch.equal(direction, of_whole) and direction.norm() > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_reads_that_stop_early_leave_no_weights_behind(family: str, way: str, tmp_path: Path) -> None:
    model = split(way, family, tmp_path)
    before, original = places(model), logits_of(model)
    attach_model(model, make_tokenizer())
    engine = current_session().engine

    seen = []
    for layer in (0, 1):
        hidden = engine.read(parse_prompts(POSITIVE), [Site(layer)], "last")[Site(layer)]
        seen.append((places(model), float(hidden.norm()) > 0))

    assert "meta" in before.values()
    assert seen == [(before, True), (before, True)]
    assert torch.equal(logits_of(model), original)


@pytest.mark.parametrize("way", ["from_pretrained", "cpu_offload", "disk_offload"])
def test_a_vector_is_known_by_its_weights_wherever_they_lie(family: str, way: str, tmp_path: Path) -> None:
    path, _ = vector_of(make_model(family), "whole")

    attach_model(split(way, family, tmp_path / "same"), make_tokenizer())
    on_the_same = apply_steering_vector(path)["warnings"]
    attach_model(split(way, family, tmp_path / "other", seed=1), make_tokenizer())
    on_others = apply_steering_vector(path)["warnings"]

    assert on_the_same == []
    assert "other weights" in str(on_others)


@pytest.mark.parametrize("way", ["from_pretrained", "cpu_offload"])
def test_the_unembedding_is_found_where_it_is_offloaded(family: str, way: str, tmp_path: Path) -> None:
    whole, model = make_model(family), split(way, family, tmp_path)
    before = places(model)
    attach_model(model, make_tokenizer())

    found = current_session().engine.unembedding()

    torch.testing.assert_close(found.scale, torch.ones(WIDTH), atol=1e-4, rtol=0)
    assert torch.equal(found.matrix, whole.lm_head.weight.detach())
    assert places(model) == before


def test_load_model_takes_a_device_map_of_parts(tmp_path: Path, empty_session: Session) -> None:
    _, of_whole = vector_of(make_model("llama"), "whole")

    device: Any = device_map("llama")
    load_model(saved(make_model("llama"), tmp_path / "model"), device_map=device)
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "v")["vector_path"]

    assert "meta" in places(empty_session.engine.architecture.model).values()
    assert torch.equal(load_vector(path).directions[1], of_whole)


# Adapted by PEFT

peft_uses_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted() -> Any:
    base = make_model("llama")
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "down_proj"]
    lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, lora).eval()


@peft_uses_an_old_name
def test_an_adapted_model_has_a_vector_of_its_own(empty_session: Session) -> None:
    model = adapted()

    _, of_adapted = vector_of(model, "adapted")
    layers = empty_session.engine.info.layers
    with model.disable_adapter():
        _, of_disabled = vector_of(model, "disabled")
    _, of_merged = vector_of(adapted().merge_and_unload(), "merged")
    _, of_base = vector_of(make_model("llama"), "base")

    assert layers == LAYERS
    torch.testing.assert_close(of_adapted, of_merged, atol=1e-4, rtol=1e-4)
    assert torch.equal(of_disabled, of_base)
    assert (of_adapted - of_base).abs().max() > 0.1


@peft_uses_an_old_name
@pytest.mark.parametrize("attached", ["the wrapper", "the model inside"])
def test_an_adapted_model_is_steered_like_its_merged_self(attached: str) -> None:
    model, merged, base = adapted(), adapted().merge_and_unload(), make_model("llama")

    path, direction = vector_of(model if attached == "the wrapper" else model.get_base_model(), "v")
    written = steer_and_give_back(model, path)
    apply_steering_vector(path, strength=STRENGTH)
    inside = own_tokens(model.get_base_model())
    with model.disable_adapter():
        without = own_tokens(model)

    expected, of_base = (
        [by_hand(m, m.model.layers[1], ids_of(text), STRENGTH * direction) for text in PROMPTS] for m in (merged, base)
    )
    assert written == inside == expected
    assert without == of_base != expected


# Quantised


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_model_is_steered_and_given_back(dtype: str, tmp_path: Path, empty_session: Session) -> None:
    options = {"quantization_config": QuantoConfig(weights="int8"), "dtype": dtype}
    model = AutoModelForCausalLM.from_pretrained(saved(make_model("llama"), tmp_path / "model"), **options).eval()
    path_of_full, of_full = vector_of(make_model("llama"), "full")

    path, direction = vector_of(model, "quantised")
    warnings = apply_steering_vector(path_of_full)["warnings"]
    remove_all_steering_vectors()
    steer_and_give_back(model, path, PROMPTS[1:2])

    assert type(model.model.layers[1].mlp.up_proj.weight).__name__ == "WeightQBytesTensor"
    assert empty_session.engine.info.dtype == dtype
    assert "other weights" in str(warnings)
    assert 0 < (direction - of_full).norm() < 0.2 * of_full.norm()


# Beside a vision tower as deep as the text decoder

TEXT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 16,
}
# What each adds to the text and to the vision config, and where its two lists of blocks are.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "gemma3": ({"sliding_window": 8}, {}, "model.language_model.layers", "model.vision_tower.encoder.layers"),
    "llama4": (
        {"intermediate_size_mlp": 64, "num_local_experts": 2},
        dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 16),
        "language_model.model.layers",
        "vision_model.model.layers",
    ),
    "llava": (
        {"model_type": "llama"},
        {"model_type": "clip_vision_model"},
        "model.language_model.layers",
        "model.vision_tower.encoder.layers",
    ),
    "qwen2_vl": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        {"depth": LAYERS, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2},
        "model.language_model.layers",
        "model.visual.blocks",
    ),
}


def seeing(name: str) -> Any:
    """A random multimodal model, initialised widely enough that its greedy text varies."""
    torch.manual_seed(0)
    text, vision = ({**common, **own} for common, own in zip((TEXT, VISION), TOWERS[name][:2], strict=True))
    images = {"image_token_index": IMAGE, "mm_tokens_per_image": 4} if name in ("gemma3", "llava") else {}
    config = AutoConfig.for_model(name, text_config=text, vision_config=vision, **images)
    model = AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.mark.parametrize("name", TOWERS)
def test_a_multimodal_models_text_decoder_is_found_and_steered_as_by_hand(name: str, empty_session: Session) -> None:
    model, untouched = seeing(name), seeing(name)
    text, vision = (dict(model.named_modules())[path] for path in TOWERS[name][2:])
    block = dict(untouched.named_modules())[f"{TOWERS[name][2]}.1"]

    path, direction = vector_of(model, "v")
    written = steer_and_give_back(model, path)

    found = empty_session.engine.architecture.blocks
    assert len(vision) == len(text) == len(found)
    assert all(ours is theirs for ours, theirs in zip(found, text, strict=True))
    assert written == [by_hand(untouched, block, ids_of(prompt), STRENGTH * direction) for prompt in PROMPTS]


@pytest.mark.parametrize("name", TOWERS)
def test_left_padding_moves_no_edit_in_a_plain_call_of_a_multimodal_model(name: str) -> None:
    model = seeing(name)
    batch = make_tokenizer()(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    path, _ = vector_of(model, "v")

    def last_logits() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            alone = [model(input_ids=torch.tensor([ids_of(text)])).logits[0, -1] for text in PROMPTS]
            return model(**inputs).logits[:, -1], torch.stack(alone)

    unsteered = last_logits()
    apply_steering_vector(path, strength=STRENGTH, positions="first,-2:")
    steered = last_logits()

    torch.testing.assert_close(*steered, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(*unsteered, atol=1e-3, rtol=1e-4)
    assert (steered[0] - unsteered[0]).abs().max() > 0.1


@pytest.mark.parametrize("positions", ["generated", "prompt", "first", "-2:"])
def test_a_prompt_with_an_image_is_steered_as_by_hand(positions: str) -> None:
    model, untouched = seeing("llava"), seeing("llava")
    prompts = [[1, 9, *[IMAGE] * 4, 30, 41, 17], [1, 22, *[IMAGE] * 4, 35]]
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = [(ids, {"pixel_values": images[i : i + 1]}) for i, ids in enumerate(prompts)]
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    path, direction = vector_of(model, "v")
    block = untouched.model.language_model.layers[1]

    def written() -> list[list[int]]:
        batch = model.generate(padded, attention_mask=(padded != 0).long(), pixel_values=images, **OPTIONS)
        alone = [model.generate(torch.tensor([ids]), **image, **OPTIONS)[0, len(ids) :] for ids, image in rows]
        return [*batch[:, width:].tolist(), *(tokens.tolist() for tokens in alone)]

    apply_steering_vector(path, strength=8.0, positions=positions)
    steered = written()
    remove_all_steering_vectors()

    expected, unsteered = (
        [by_hand(untouched, block, ids, strength * direction, positions, **image) for ids, image in rows]
        for strength in (8.0, 0.0)
    )
    assert steered == expected * 2
    assert written() == unsteered * 2
    assert expected != unsteered


def test_a_condition_refuses_a_prompt_with_an_image_and_takes_one_without(empty_session: Session) -> None:
    model = seeing("llava")
    path, _ = vector_of(model, "v")
    ids, text = torch.tensor([[1, 9, *[IMAGE] * 4, 30]]), torch.tensor([[1, 9, 30, 41]])
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    apply_steering_vector(path, condition=path)

    with pytest.raises(UnsupportedCallError, match=r"gives the model '\w+' beside it"):
        model.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=image, **OPTIONS)
    with pytest.raises(UnsupportedCallError, match="'pixel_values' beside it"):
        model(ids, pixel_values=image)

    assert model.generate(text, attention_mask=torch.ones_like(text), **OPTIONS).shape[1] > 4
    assert model(text, labels=text).loss.isfinite()


# Tied embeddings, half precision


def test_a_model_with_tied_embeddings_is_steered_and_keeps_its_weights(tmp_path: Path, empty_session: Session) -> None:
    config = make_model("llama").config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    load_model(saved(LlamaForCausalLM(config), tmp_path / "tied"))
    model: Any = empty_session.engine.architecture.model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    path, direction = vector_of(model, "v", LAYERS - 1)
    written = steer_and_give_back(model, path)

    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(empty_session.engine.unembedding().matrix, weights["model.embed_tokens.weight"])
    assert written == [by_hand(model, model.model.layers[-1], ids_of(t), STRENGTH * direction) for t in PROMPTS]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_loaded_in_half_precision_is_steered_and_given_back(
    dtype: Any, tmp_path: Path, empty_session: Session
) -> None:
    _, in_full = vector_of(make_model("llama"), "full")

    loaded = load_model(saved(make_model("llama"), tmp_path / "model"), dtype=dtype)
    model: Any = empty_session.engine.architecture.model
    path, direction = vector_of(model, "half")
    steer_and_give_back(model, path, PROMPTS[1:2])

    assert loaded["model"]["dtype"] == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert 0 < (direction - in_full).norm() < 0.05 * in_full.norm()
