"""Ten families of models, steered in every scope and run in every way, against whole passes that are edited by hand.

The expectations use nothing of the package: blocks by name, no cache, no padding, one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import family_models
from helpers.oracle import SCOPES
from helpers.small_models import NEGATIVE, POSITIVE, make_tokenizer
from steer_tools import create_steering_vector, load_vector
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Generation, Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import parse_prompt
from steer_tools.session.session import Session

# Where each family keeps its decoder blocks, read in its source.
BLOCKS = {
    **dict.fromkeys(("llama", "gemma3_text", "mixtral", "qwen3_moe"), "model.layers"),
    **dict.fromkeys(("gpt2", "bloom", "falcon"), "transformer.h"),
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "mamba": "backbone.layers",
}
# Weights with which a text is not one word for ever, and with which the narrowest scope shows.
SEEDS = dict.fromkeys(BLOCKS, 0) | {"bloom": 7, "mamba": 1, "qwen3_moe": 2}
BOS, STOPS, STEPS = 1, [2, 3], 5
WAYS = {
    "greedy": Sampling(STEPS),
    "sampled": Sampling(STEPS, temperature=1.2, top_k=40, top_p=0.9),
    "beams": Sampling(STEPS, beams=3),
}
EVERY_SCOPE = (*SCOPES, "after_user")
# In residual norms, at the first and the last block: less where every new token is steered than where only others are.
WIDE, NARROW = {0: 1.0, 3: 0.5}, {0: 4.0, 3: 1.0}


@dataclass(frozen=True)
class Written:
    """A prompt as it is given, the tokens that it must become, and the place after its last user message."""

    given: Any = field(compare=False)
    ids: tuple[int, ...]
    after_user: int | None = None

    @property
    def seed(self) -> int:
        return sum(self.ids)

    def row(self, plan: Plan = ()) -> Row:
        return Row(parse_prompt(self.given), plan, self.seed)


def text(words: str) -> Written:
    return Written(words, ids_of(f"<s> {words}"))


def chat(before: str, after: str, *messages: tuple[str, str]) -> Written:
    given = [{"role": role, "content": content} for role, content in messages]
    return Written(given, ids_of(before + after), len(ids_of(before)))


def ids_of(rendered: str) -> tuple[int, ...]:
    return tuple(make_tokenizer()(rendered, add_special_tokens=False)["input_ids"])


TEXTS = (
    text("keke"),
    Written([60, 61, 33], (60, 61, 33)),  # Without BOS its first token is its own first.
    text("nura tili baba mora seti vozu kemo lili zuzu keke"),  # Longer than Gemma's window of 8.
)
CHATS = (
    chat("<s>user : baba keke", "<end>assistant :", ("user", "baba keke")),
    chat(
        "<s>system : nura<end>user : lili vozu<end>assistant : zuzu<end>user : seti mora tili",
        "<end>assistant :",
        *(("system", "nura"), ("user", "lili vozu"), ("assistant", "zuzu"), ("user", "seti mora tili")),
    ),
    chat("<s>user : kemo", "<end>assistant : baba ratise tili", ("user", "kemo"), ("assistant", "baba ratise tili")),
)


def prompts_for(scope: str) -> tuple[Written, ...]:
    return CHATS if scope == "after_user" else TEXTS


@pytest.fixture(params=BLOCKS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


# What is done


def attached(family: str) -> HuggingFaceEngine:
    return HuggingFaceEngine(family_models.build(family, SEEDS[family]), make_tokenizer())


# One engine for all calls that leave nothing applied.
engine_of = cache(attached)


def plan_of(family: str, scope: str, share: float = 1.0) -> Plan:
    return tuple(
        Placement(Add(direction(layer)), Site(layer), share * strength, Scope.parse(scope))
        for layer, strength in strengths(family, scope).items()
    )


def direction(seed: int) -> Tensor:
    drawn = torch.randn(family_models.WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def strengths(family: str, scope: str) -> dict[int, float]:
    norms = [float(output.norm(dim=1).median()) for output in outputs_by_hand(family, TEXTS[2])]
    reaches_new_tokens = is_steered(scope, CHATS[0], len(CHATS[0].ids))
    return {layer: share * norms[layer] for layer, share in (WIDE if reaches_new_tokens else NARROW).items()}


# The same by hand


@dataclass(frozen=True)
class Text:
    """New tokens up to one that stops, with their log-probabilities."""

    tokens: tuple[int, ...]
    log_probs: Tensor


def is_steered(scope: str, prompt: Written, position: int) -> bool:
    if scope == "after_user":
        assert prompt.after_user is not None
        return position >= prompt.after_user
    return SCOPES[scope](position, len(prompt.ids), int(prompt.ids[0] == BOS))


@cache
def oracle_model(family: str) -> Any:
    return family_models.build(family, SEEDS[family])


@contextmanager
def hooked_by_hand(family: str, hooks: dict[int, Callable[[Tensor], Tensor | None]]) -> Iterator[Any]:
    """The oracle's model, whose blocks put out what the hooks make of their output, if anything."""

    def around(hook: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        def replacing(module: Any, args: Any, output: Any) -> Any:
            edited = hook(output[0] if isinstance(output, tuple) else output)
            return (edited, *output[1:]) if isinstance(output, tuple) and edited is not None else edited

        return replacing

    model = oracle_model(family)
    blocks = model.get_submodule(BLOCKS[family])
    handles = [blocks[layer].register_forward_hook(around(hook)) for layer, hook in hooks.items()]
    try:
        with torch.no_grad():
            yield model
    finally:
        for handle in handles:
            handle.remove()


def steered_by_hand(family: str, scope: str | None, prompt: Written) -> Any:
    """The oracle's model, edited token by token; every pass must hold the whole text."""

    def adding(delta: Tensor, scope: str) -> Callable[[Tensor], Tensor]:
        def edited(hidden: Tensor) -> Tensor:
            assert hidden.shape[1] >= len(prompt.ids)
            columns = enumerate(hidden.unbind(dim=1))
            return torch.stack([h + delta if is_steered(scope, prompt, p) else h for p, h in columns], dim=1)

        return edited

    edits = strengths(family, scope) if scope else {}
    return hooked_by_hand(family, {at: adding(by * direction(at), str(scope)) for at, by in edits.items()})


@cache
def outputs_by_hand(family: str, prompt: Written) -> list[Tensor]:
    """Each block's output (tokens, width) in one plain pass."""
    seen: list[Tensor] = []
    keep = dict.fromkeys(range(family_models.LAYERS), lambda hidden: seen.append(hidden[0]))
    with hooked_by_hand(family, keep) as model:
        model(torch.tensor([prompt.ids]), use_cache=False)
    return seen


def logits_by_hand(model: Any, prompt: Written, added: Sequence[int]) -> Tensor:
    """The logits (tokens, vocabulary) before each added token and the next, from one whole pass."""
    return model(torch.tensor([[*prompt.ids, *added]]), use_cache=False).logits[0, len(prompt.ids) - 1 :]


def log_probs_by_hand(family: str, scope: str | None, prompt: Written, added: Sequence[int]) -> Tensor:
    with steered_by_hand(family, scope, prompt) as model:
        log_probs = logits_by_hand(model, prompt, added).log_softmax(dim=1)
    return picked(log_probs, added)


def picked(log_probs: Tensor, tokens: Sequence[int]) -> Tensor:
    return log_probs[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.long)]


@cache
def text_by_hand(family: str, scope: str | None, prompt: Written, way: str) -> Text:
    with steered_by_hand(family, scope, prompt) as model:
        tokens = until_stop((beams_by_hand if way == "beams" else steps_by_hand)(model, prompt, WAYS[way]))
    return Text(tokens, log_probs_by_hand(family, scope, prompt, tokens))


def beams_by_hand(model: Any, prompt: Written, sampling: Sampling) -> list[int]:
    ids = torch.tensor([prompt.ids])
    options = {"max_new_tokens": STEPS, "num_beams": sampling.beams, "do_sample": False, "use_cache": False}
    whole = model.generate(ids, attention_mask=ids * 0 + 1, eos_token_id=STOPS, pad_token_id=0, **options)
    return whole[0, len(prompt.ids) :].tolist()


def steps_by_hand(model: Any, prompt: Written, sampling: Sampling) -> list[int]:
    generator, added = torch.Generator().manual_seed(prompt.seed), []
    while len(added) < STEPS and not {*added} & {*STOPS}:
        logits = logits_by_hand(model, prompt, added)[-1]
        added.append(int((warped_with_noise(logits, sampling, generator) if sampling.temperature else logits).argmax()))
    return added


def warped_with_noise(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Gumbel-max: the largest sum of log-probability and noise is a draw from the distribution that is left."""
    noise = -torch.log(-torch.log(torch.rand(len(logits), generator=generator, dtype=torch.float64)))
    likeliest = logits.argsort(descending=True)[: sampling.top_k]
    probabilities = (logits[likeliest] / sampling.temperature).softmax(dim=0)
    kept = likeliest[probabilities.cumsum(dim=0) - probabilities < sampling.top_p]
    ranked = torch.full_like(logits, -torch.inf)
    ranked[kept] = logits[kept] / sampling.temperature + noise[kept].float()
    return ranked


def until_stop(tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: next((i for i, token in enumerate(tokens) if token in STOPS), len(tokens))])


# Generating


def assert_same(found: Sequence[Generation | Text], expected: Sequence[Text]) -> None:
    assert [text.tokens for text in found] == [text.tokens for text in expected]
    for own, text in zip(found, expected, strict=True):
        torch.testing.assert_close(own.log_probs, text.log_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_every_way_of_generating_gives_the_texts_of_whole_passes_edited_by_hand(
    family: str, scope: str, way: str
) -> None:
    engine, prompts, plan = engine_of(family), prompts_for(scope), plan_of(family, scope)
    expected = [text_by_hand(family, scope, prompt, way) for prompt in prompts]
    unsteered = [text_by_hand(family, None, prompt, way) for prompt in prompts]
    rows = [prompt.row(plan) for prompt in prompts]

    for sampling in (WAYS[way], replace(WAYS[way], use_cache=False)):
        assert_same(engine.generate([*rows, prompts[0].row()], sampling), [*expected, unsteered[0]])
        assert_same([engine.generate([row], sampling)[0] for row in rows], expected)

    # Steering shows in most rows, and most texts say more than one word.
    assert sum(a.tokens != b.tokens for a, b in zip(expected, unsteered, strict=True)) >= 2
    assert sum(len(set(text.tokens)) > 1 for text in expected) >= 2


def test_rows_of_every_scope_in_one_batch_keep_to_their_own_and_no_two_scopes_are_alike(family: str) -> None:
    plans = [plan_of(family, scope) for scope in EVERY_SCOPE]
    expected = [text_by_hand(family, scope, CHATS[1], "greedy") for scope in (*EVERY_SCOPE, None)]

    together = engine_of(family).generate([CHATS[1].row(plan) for plan in (*plans, ())], WAYS["greedy"])

    assert_same(together, expected)
    assert len({(text.tokens, round(float(text.log_probs.sum()), 4)) for text in expected}) == len(EVERY_SCOPE) + 1


@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_the_users_own_generate_gives_the_texts_of_whole_passes_edited_by_hand(family: str, scope: str) -> None:
    engine, prompts = attached(family), prompts_for(scope)
    expected = [text_by_hand(family, scope, prompt, "greedy") for prompt in prompts]
    assert_same(
        users_texts(engine, prompts, use_cache=True), [text_by_hand(family, None, p, "greedy") for p in prompts]
    )

    engine.set_ambient(plan_of(family, scope))

    for use_cache in (True, False):
        assert_same(users_texts(engine, prompts, use_cache=use_cache), expected)
        assert_same([users_texts(engine, [prompt], use_cache=use_cache)[0] for prompt in prompts], expected)


def users_texts(engine: HuggingFaceEngine, prompts: Sequence[Written], *, use_cache: bool) -> list[Text]:
    """What the model's own `generate` writes after prompts that are padded on the left."""
    model: Any = engine.architecture.model
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[*[0] * (width - len(prompt.ids)), *prompt.ids] for prompt in prompts])
    mask = torch.tensor([[int(column >= width - len(prompt.ids)) for column in range(width)] for prompt in prompts])
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": STOPS, "pad_token_id": 0}
    wanted = {"return_dict_in_generate": True, "output_logits": True}
    output = model.generate(ids, attention_mask=mask, use_cache=use_cache, **options, **wanted)
    log_probs = torch.stack(output.logits, dim=1).log_softmax(dim=2)
    tokens = [until_stop(row) for row in output.sequences[:, width:].tolist()]
    return [Text(new, picked(row, new)) for row, new in zip(log_probs, tokens, strict=True)]


# Reading and scoring


def test_a_batch_padded_on_the_right_is_read_as_each_prompt_alone_by_independent_hooks(family: str) -> None:
    engine, sites = engine_of(family), [Site(layer) for layer in range(family_models.LAYERS)]
    given = [parse_prompt(prompt.given) for prompt in (*TEXTS, *CHATS)]

    traces, last = engine.trace(given, sites), engine.read(given, sites, "last")

    for row, prompt in enumerate((*TEXTS, *CHATS)):
        for site, expected in zip(sites, outputs_by_hand(family, prompt), strict=True):
            torch.testing.assert_close(traces[row][site], expected, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(last[site][row], expected[-1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_completions_are_scored_as_in_whole_passes_edited_by_hand(family: str, scope: str) -> None:
    prompts, plan, completions = prompts_for(scope), plan_of(family, scope), [[20, 30, 40], [50], [60, 70]]
    cases = list(zip(prompts, completions, strict=True))
    expected = [log_probs_by_hand(family, scope, *case) for case in cases]
    unsteered = [log_probs_by_hand(family, None, *case) for case in cases]

    rows = [*(prompt.row(plan) for prompt in prompts), prompts[0].row()]
    scores = engine_of(family).score(rows, [*completions, completions[0]])

    for score, by_hand in zip(scores, [*expected, unsteered[0]], strict=True):
        torch.testing.assert_close(score, by_hand, atol=1e-4, rtol=0)
    assert max(float((a - b).abs().max()) for a, b in zip(expected, unsteered, strict=True)) > 0.1


# Half precision


def test_in_bfloat16_ways_of_running_differ_at_most_twice_as_much_as_unsteered(family: str) -> None:
    steered, _ = bfloat16_gaps(family, plan_of(family, "generated", share=0.5))
    unsteered, rounding_step = bfloat16_gaps(family, ())

    assert all(gap <= 2 * max(own, rounding_step) for gap, own in zip(steered, unsteered, strict=True))


def bfloat16_gaps(family: str, plan: Plan) -> tuple[list[float], float]:
    """The largest change of a logit without a cache and without company, and one rounding step of the largest logit."""
    gaps, largest = [0.0, 0.0], 0.0
    for seed in range(3):
        model = family_models.build(family, seed).bfloat16()
        for router in model.modules():
            # A tie of two experts that falls the other way moves a logit by whole units, steered or not: take them all.
            if hasattr(router, "top_k") and hasattr(router, "num_experts"):
                router.top_k = router.num_experts
        engine = HuggingFaceEngine(model, make_tokenizer())
        drawn = torch.randint(8, 108, (5, 16), generator=torch.Generator().manual_seed(seed)).tolist()
        rows = [Row(parse_prompt([BOS, *tokens[: 2 + i]]), plan) for i, tokens in enumerate(drawn)]
        added = [tokens[-8:] for tokens in drawn]
        usual = engine.replay(rows, added, use_cache=True, batched=True)
        largest = max(largest, *(float(logits.abs().max()) for logits in usual))
        for i, (use_cache, batched) in enumerate([(False, True), (True, False)]):
            other = engine.replay(rows, added, use_cache=use_cache, batched=batched)
            gaps[i] = max(gaps[i], *(float((a - b).abs().max()) for a, b in zip(usual, other, strict=True)))
    return gaps, largest * torch.finfo(torch.bfloat16).eps


# A tokenizer that pads on the left


def test_a_tokenizer_that_pads_on_the_left_changes_no_vector_of_gpt2(empty_session: Session) -> None:
    tokenizer, sides, naive = make_tokenizer(), (POSITIVE, NEGATIVE), []
    tokenizer.padding_side = "left"
    alone = [torch.stack([outputs_by_hand("gpt2", text(words))[2][-1] for words in side]) for side in sides]
    with hooked_by_hand("gpt2", {2: lambda hidden: naive.append(hidden[:, -1])}) as model:
        for side in sides:
            model(**tokenizer(side, return_tensors="pt", padding=True, return_token_type_ids=False))

    empty_session.attach(family_models.build("gpt2"), tokenizer, "tiny")
    path = create_steering_vector(*sides, 2, "v", pooling="last")["vector_path"]
    read = empty_session.engine.read
    singles = [torch.cat([read([parse_prompt(words)], [Site(2)], "last")[Site(2)] for words in side]) for side in sides]

    vector = load_vector(path).directions[2]
    reference, of_singles, shifted = (
        positive.mean(0) - negative.mean(0) for positive, negative in (alone, singles, naive)
    )
    torch.testing.assert_close(vector, of_singles, atol=1e-5, rtol=0)
    torch.testing.assert_close(vector, reference, atol=1e-5, rtol=0)
    # Padding that shifts the learned positions gives another vector.
    assert torch.cosine_similarity(shifted, reference, dim=0) < 0.9
