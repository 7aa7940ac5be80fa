"""The user's own `model.generate(...)` and `model(...)` while a vector is applied, in the ways people call them.

The oracle adds the vector by hand, one row at a time, in one pass without cache, padding or any code of the package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    StaticCache,
)
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

from helpers import family_models
from helpers.small_models import FAMILIES, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, UnsupportedCallError

Call = Callable[..., Any]
LAYER, STEPS, IMAGE = 1, 4, 127
DELTA = 2.0 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
OPTIONS: dict[str, Any] = {"max_new_tokens": STEPS, "do_sample": False}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
PROMPTS = [[1, 20, 30, 40, 50, 60], [1, 70, 80]]
IDS = torch.tensor([PROMPTS[0], [0, 0, 0, *PROMPTS[1]]])
MASK = (IDS != 0).long()
ONE = IDS[:1]
# position, prompt length -> steered?
SCOPES: dict[str, Callable[[int, int], bool]] = {
    "generated": lambda p, n: p >= n - 1,
    "prompt": lambda p, n: p < n,
    "first": lambda p, n: p == 1,
    "-2:": lambda p, n: n - 2 <= p < n,
}


def tiny_llava() -> Any:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=16, patch_size=8
    )
    text = make_model("llama").config
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config).eval()


def tiny(family: str) -> Any:
    makers = {"llava": tiny_llava, **dict.fromkeys(FAMILIES, lambda: make_model(family))}
    model: Any = makers.get(family, lambda: family_models.build(family))()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@cache
def model_by_hand(family: str) -> Any:
    return tiny(family)


@cache
def engine_of(family: str) -> HuggingFaceEngine:
    return HuggingFaceEngine(tiny(family), make_tokenizer())


def plan(positions: str) -> tuple[Placement, ...]:
    return (Placement(Add(DELTA), Site(LAYER), 1.0, Scope.parse(positions)),)


@contextlib.contextmanager
def applied(family: str, positions: str) -> Iterator[Any]:
    """The model of this family with DELTA applied."""
    engine = engine_of(family)
    engine.set_ambient(plan(positions))
    try:
        with torch.no_grad():
            yield engine.architecture.model
    finally:
        engine.set_ambient(())


def by_hand(family: str, ids: Sequence[int], steered: Sequence[bool], **inputs: Tensor) -> Tensor:
    """The logits (tokens, vocabulary) of one row, with DELTA added where `steered`."""
    model = model_by_hand(family)
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 4}
    (blocks,) = [m for name, m in lists.items() if name.endswith((".layers", ".h")) and "vision" not in name]

    def edit(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        edited = hidden + torch.tensor(steered)[None, :, None] * DELTA
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = blocks[LAYER].register_forward_hook(edit)
    try:
        with torch.no_grad():
            return model(torch.tensor([list(ids)]), use_cache=False, **inputs).logits[0]
    finally:
        handle.remove()


def assert_steered(family: str, ids: Sequence[int], steered: Sequence[bool], found: Tensor, **inputs: Tensor) -> None:
    """`found` are the logits of the last tokens, as by hand, and not those of the unsteered model."""
    expected = by_hand(family, ids, steered, **inputs)[-len(found) :]
    unsteered = by_hand(family, ids, [False] * len(ids), **inputs)[-len(found) :]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    assert (found - unsteered).abs().max() > 0.05


def assert_generated(family: str, prompts: Sequence[Sequence[int]], result: Any, positions: str) -> None:
    logits = torch.stack(result.logits, dim=1)
    for prompt, sequence, found in zip(prompts, result.sequences.tolist(), logits, strict=True):
        ids = [*prompt, *sequence[-len(result.logits) : -1]]
        assert_steered(family, ids, [SCOPES[positions](p, len(prompt)) for p in range(len(ids))], found)


# The ways to call generate. Those that have no padding take the first row.
WAYS: dict[str, Call] = {
    "keywords": lambda m, **o: m.generate(input_ids=IDS, attention_mask=MASK, **o),
    "config": lambda m, **o: m.generate(IDS, GenerationConfig(**OPTIONS), attention_mask=MASK, **LOGITS),
    "no mask": lambda m, **o: m.generate(IDS, **o),
    "uncached": lambda m, **o: m.generate(IDS, attention_mask=MASK, use_cache=False, **o),
    "static": lambda m, **o: m.generate(IDS, attention_mask=MASK, cache_implementation="static", **o),
    "static, no mask": lambda m, **o: m.generate(IDS, cache_implementation="static", **o),
    "static, no mask, no padding": lambda m, **o: m.generate(ONE, cache_implementation="static", **o),
    "static object": lambda m, **o: m.generate(
        IDS, attention_mask=MASK, past_key_values=StaticCache(config=m.config, max_cache_len=20), **o
    ),
    "chunks": lambda m, **o: m.generate(IDS, attention_mask=MASK, prefill_chunk_size=4, **o),
    "embeddings": lambda m, **o: m.generate(inputs_embeds=m.get_input_embeddings()(IDS), attention_mask=MASK, **o),
    "one token": lambda m, **o: m.generate(ONE[:, :1], **o),
    "one new token": lambda m, **o: m.generate(IDS, attention_mask=MASK, **{**o, "max_new_tokens": 1}),
}
EVERY_FAMILY = (*FAMILIES, "gemma3_text", "mixtral", "jamba", "qwen3_next", "mamba")
# Mamba refuses these by itself, and an unsteered Jamba has other logits in chunks.
CANNOT = {("mamba", "static object"), ("mamba", "chunks"), ("jamba", "chunks")}


@pytest.mark.parametrize("positions", ["generated", "-2:"])
@pytest.mark.parametrize(("family", "way"), [(f, w) for f in EVERY_FAMILY for w in WAYS if (f, w) not in CANNOT])
def test_every_way_to_call_generate_is_steered_where_the_scope_says(family: str, way: str, positions: str) -> None:
    with applied(family, positions) as model:
        result = WAYS[way](model, **OPTIONS, **LOGITS)

    prompts = [PROMPTS[0][:1]] if way == "one token" else PROMPTS[: len(result.sequences)]
    assert_generated(family, prompts, result, positions)


@pytest.mark.parametrize("positions", SCOPES)
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3_text"])
def test_plain_calls_steer_the_real_tokens_of_each_row_however_they_are_made(family: str, positions: str) -> None:
    right = torch.tensor([PROMPTS[0], [*PROMPTS[1], 0, 0, 0]])
    right_mask = (right != 0).long()
    # Bloom counts by the mask; the others must be told where a row begins.
    left = {"attention_mask": MASK}
    left |= {} if family == "bloom" else {"position_ids": (MASK.cumsum(dim=1) - 1).clamp(min=0)}
    with applied(family, positions) as model:
        padded_left = model(IDS, **left, output_hidden_states=True, return_dict=False)[0]
        padded_right = model(right, attention_mask=right_mask.bool(), labels=right).logits
        forward = type(model).forward(model, IDS, **left).logits
        decoded = model.lm_head(model.get_decoder()(input_ids=IDS, **left)[0])
        embedded = positions == "first" or model(inputs_embeds=model.get_input_embeddings()(ONE)).logits[0]

    for row, prompt in enumerate(PROMPTS):
        steered = [SCOPES[positions](p, len(prompt)) for p in range(len(prompt))]
        for logits in (padded_left, forward, decoded):
            assert_steered(family, prompt, steered, logits[row, -len(prompt) :])
        assert_steered(family, prompt, steered, padded_right[row, : len(prompt)])
    if isinstance(embedded, Tensor):
        assert_steered(family, PROMPTS[0], [SCOPES[positions](p, 6) for p in range(6)], embedded)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5]), torch.tensor([4])], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma4_text"])
def test_keeping_some_logits_changes_none_of_them(family: str, keep: int | Tensor) -> None:
    steered = [p >= 5 for p in range(6)]

    with applied(family, "generated") as model:
        kept = model(ONE, logits_to_keep=keep).logits[0]

    columns = torch.arange(6)[-keep:] if isinstance(keep, int) else keep
    torch.testing.assert_close(kept, by_hand(family, PROMPTS[0], steered)[columns], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steered_before", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3_text", "qwen3_next"])
def test_a_second_turn_steers_its_own_prompt_and_keeps_what_the_cache_holds(family: str, steered_before: bool) -> None:
    n = len(PROMPTS[0])
    with applied(family, "generated") as model:
        engine_of(family).set_ambient(plan("generated") if steered_before else ())
        first = model.generate(ONE, **OPTIONS, **LOGITS)
        engine_of(family).set_ambient(plan("generated"))
        whole = torch.cat([first.sequences, torch.tensor([[5, 6, 7]])], dim=1)
        second = model.generate(whole, past_key_values=first.past_key_values, **OPTIONS, **LOGITS)

    ids, again = second.sequences[0, :-1].tolist(), whole.shape[1] - 1
    # The last token of the first turn was not run in it.
    steered = [(steered_before and n - 1 <= p < n + STEPS - 1) or p >= again for p in range(len(ids))]
    assert_steered(family, ids, steered, torch.stack(second.logits, dim=1)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cropped_cache_is_gone_on_from_where_it_was_cropped(family: str) -> None:
    with applied(family, "-2:") as model:
        kept = model(ONE, use_cache=True).past_key_values
        kept.crop(-3)
        logits = model(torch.tensor([[90, 91, 92]]), past_key_values=kept).logits[0]

    # Of the first call only tokens 4 and 5 were steered, and they are cropped.
    assert_steered(family, [*PROMPTS[0][:3], 90, 91, 92], [False] * 4 + [True] * 2, logits)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3_text", "jamba"])
def test_a_hand_written_cached_loop_steers_generated_as_generate_does(family: str, masked: bool) -> None:
    ids, kept, logits = ONE, None, []
    with applied(family, "generated") as model:
        for step in range(STEPS):
            mask = {"attention_mask": torch.ones(1, 6 + step, dtype=torch.long)} if masked else {}
            output = model(ids, past_key_values=kept, use_cache=True, **mask)
            ids, kept = output.logits[:, -1:].argmax(dim=-1), output.past_key_values
            logits.append(output.logits[:, -1])
        expected = model.generate(ONE, **OPTIONS, **LOGITS)

    torch.testing.assert_close(torch.stack(logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)
    assert_generated(family, PROMPTS[:1], expected, "generated")


@pytest.mark.parametrize("positions", SCOPES)
def test_a_model_that_embeds_images_by_itself_is_steered_alike(positions: str) -> None:
    prompts = [[1, 20, *[IMAGE] * 4, 30, 40], [1, *[IMAGE] * 4, 50]]
    ids = torch.tensor([prompts[0], [0, 0, *prompts[1]]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with applied("llava", positions) as model:
        result = model.generate(ids, attention_mask=(ids != 0).long(), pixel_values=pixels, **OPTIONS, **LOGITS)

    logits = torch.stack(result.logits, dim=1)
    for row, prompt in enumerate(prompts):
        whole = [*prompt, *result.sequences[row, -STEPS:-1].tolist()]
        steered = [SCOPES[positions](p, len(prompt)) for p in range(len(whole))]
        assert_steered("llava", whole, steered, logits[row], pixel_values=pixels[row : row + 1])


# The scope after_user: <s>=1 <end>=3 user=4 assistant=5 :=7
START, ASK, ANSWER = [1, 4, 7], [3, 4, 7], [3, 5, 7]
CHATS = {
    "one turn": ([*START, 20, 30, *ANSWER], 5),
    "two turns": ([*START, 20, *ANSWER, 30, *ASK, 40, *ANSWER], 12),
    "a continued answer": ([*START, 20, *ANSWER, 30, 40], 4),
    "a message that quotes the start of an answer": ([*START, 20, *ANSWER, 30, *ANSWER], 8),
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_after_user_begins_at_the_last_start_of_an_answer(chat: str, use_cache: bool) -> None:
    prompt, start = CHATS[chat]
    longest = max(len(ids) for ids, _ in CHATS.values()) + 1
    other = [*START, *range(20, 20 + longest - 6), *ANSWER]
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt, other])
    with applied("llama", "after_user") as model:
        together = model.generate(ids, attention_mask=(ids != 0).long(), use_cache=use_cache, **OPTIONS, **LOGITS)

    whole = [*prompt, *together.sequences[0, -STEPS:-1].tolist()]
    assert_steered("llama", whole, [p >= start for p in range(len(whole))], torch.stack(together.logits, dim=1)[0])


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([*START, 20, 3], id="no answer begins"),
        pytest.param([*START, 20, *ANSWER, 30, *ASK, 40, 3], id="none begins after the last user message"),
        pytest.param([1, 20, 30], id="no chat"),
    ],
)
def test_after_user_is_refused_where_no_answer_begins_after_the_last_user_message(ids: list[int]) -> None:
    with applied("llama", "after_user") as model:
        with pytest.raises(ArgumentError, match="after_user"):
            model.generate(torch.tensor([ids]), **OPTIONS)
        with pytest.raises(ArgumentError, match="after_user"):
            model(torch.tensor([ids]))


# What is refused by name


def decode_by_itself(model: Any, input_ids: Tensor, **_: Any) -> Tensor:
    return torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(dim=-1)], dim=1)


SAMPLED_BEAMS = GenerationConfig(num_beams=2, do_sample=True, max_new_tokens=2)
REFUSED: dict[str, tuple[str, Call]] = {
    "an assistant": ("assistant_model", lambda m: m.generate(ONE, assistant_model=model_by_hand("llama"), **OPTIONS)),
    "early exit": ("assistant_early_exit", lambda m: m.generate(ONE, assistant_early_exit=2, **OPTIONS)),
    "heads": ("use_mtp", lambda m: m.generate(ONE, use_mtp=True, **OPTIONS)),
    "guidance by hand": (
        "other tokens inside its own generate",
        lambda m: m.generate(ONE, logits_processor=[UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, m)], **OPTIONS),
    ),
    "a loop of one's own": ("custom_generate", lambda m: m.generate(ONE, custom_generate=decode_by_itself, **OPTIONS)),
    "sampled beams, by position": ("num_beams", lambda m: m.generate(ONE, SAMPLED_BEAMS)),
    "4-D mask": ("attention mask", lambda m: m(ONE, attention_mask=torch.ones(1, 1, 6, 6, dtype=torch.bool).tril())),
    "packed rows": ("one row", lambda m: m(ONE, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), use_cache=False)),
    "padding on the right": (
        "padded on the right",
        lambda m: m.generate(IDS.flip(1), attention_mask=MASK.flip(1), **OPTIONS),
    ),
    "the decoder's bare forward": ("by itself", lambda m: m.model.forward(ONE)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_steered_rightly_is_refused_by_name_and_only_while_steered(case: str) -> None:
    named, call = REFUSED[case]

    with applied("llama", "generated") as model, pytest.raises(UnsupportedCallError, match=named):
        call(model)

    # A tiny Llama has no heads for several tokens.
    own_refusal = pytest.raises(ValueError, match=r"MTP|mtp") if case == "heads" else contextlib.nullcontext()
    with torch.no_grad(), own_refusal:
        assert call(engine_of("llama").architecture.model) is not None


# What else goes on


class Also(LogitsProcessor):
    """Does something at every step of a generation."""

    def __init__(self, act: Callable[[Tensor], object]) -> None:
        self.act = act

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.act(input_ids)
        return scores


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("text", [[1, 9], PROMPTS[0], list(range(1, 30))], ids=["shorter", "the same", "longer"])
def test_a_plain_call_inside_a_generation_is_steered_as_one_or_refused(text: list[int], use_cache: bool) -> None:
    inner: list[Tensor] = []
    with applied("llama", "generated") as model, contextlib.suppress(UnsupportedCallError):
        also = Also(lambda _: inner.append(model(torch.tensor([text])).logits[0]))
        result = model.generate(ONE, logits_processor=[also], use_cache=use_cache, **OPTIONS, **LOGITS)
        assert_generated("llama", PROMPTS[:1], result, "generated")

    for logits in inner:
        assert_steered("llama", text, [p == len(text) - 1 for p in range(len(text))], logits)


@pytest.mark.parametrize("mask", [{"attention_mask": MASK}, {}], ids=["mask", "no mask"])
@pytest.mark.parametrize("positions", ["prompt", "last_prompt"])
def test_what_is_applied_during_a_generation_takes_no_new_token_for_prompt(
    positions: str, mask: dict[str, Tensor]
) -> None:
    engine = engine_of("llama")
    model: Any = engine.architecture.model
    unsteered = model.generate(IDS, **mask, **OPTIONS, **LOGITS)

    applying = Also(lambda ids: engine.set_ambient(plan(positions) if ids.shape[1] > IDS.shape[1] else ()))
    result = model.generate(IDS, logits_processor=[applying], **mask, **OPTIONS, **LOGITS)
    engine.set_ambient(())

    torch.testing.assert_close(torch.stack(result.logits), torch.stack(unsteered.logits))


@pytest.mark.parametrize(
    "call",
    [lambda m: m(ONE), lambda m: m(IDS, attention_mask=MASK), lambda m: m.generate(ONE, **OPTIONS)],
    ids=["plain", "padded", "generate"],
)
def test_a_call_that_the_user_interrupts_leaves_nothing_behind(call: Call) -> None:
    engine = HuggingFaceEngine(tiny("llama"), make_tokenizer())
    model: Any = engine.architecture.model
    before = model(ONE).logits

    def interrupt(module: nn.Module, args: Any, output: Any) -> None:
        raise KeyboardInterrupt

    engine.set_ambient(plan("all"))
    handle = engine.architecture.blocks[2].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        call(model)
    handle.remove()

    engine.set_ambient(plan("generated"))
    with torch.no_grad():
        assert_steered("llama", PROMPTS[1], [False, False, True], model(torch.tensor([PROMPTS[1]])).logits[0])
        assert_steered("llama", PROMPTS[1], [False, False, True], model(IDS, attention_mask=MASK).logits[1, 3:])
        engine.set_ambient(())
        assert torch.equal(model(ONE).logits, before)
    assert engine.restoration() == (0.0, 0.0)


@pytest.mark.parametrize("recorded_before", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_hidden_states_that_a_model_returns_show_what_was_added(family: str, recorded_before: bool) -> None:
    model = tiny(family)
    with torch.no_grad():
        if recorded_before:  # Transformers puts hooks on for this, to stay.
            model(ONE, output_hidden_states=True)
        engine = HuggingFaceEngine(model, make_tokenizer())
        unsteered = model(ONE, output_hidden_states=True).hidden_states
        engine.set_ambient(plan("all"))
        steered = model(ONE, output_hidden_states=True).hidden_states

    torch.testing.assert_close(steered[LAYER + 1] - unsteered[LAYER + 1], DELTA.expand(1, 6, WIDTH))


def test_a_compiled_wrapper_that_ran_before_is_steered_too() -> None:
    model = tiny("llama")
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(ONE)
        engine = HuggingFaceEngine(model, make_tokenizer())
        engine.set_ambient(plan("generated"))
        logits = compiled(ONE).logits[0]

    assert_steered("llama", PROMPTS[0], [p == 5 for p in range(6)], logits)
