"""transformers' continuous batching, which runs in a thread of its own: refused in the caller while steered, only then.

Today's reason is that a thread's error reaches nobody: the caller gets no tokens and no word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from helpers.small_models import WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import UnsupportedCallError

PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]
PLAN = (Placement(Add(torch.ones(WIDTH)), Site(1), 5.0, Scope.parse("all")),)
GREEDY = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
REFUSED = r"Continuous batching.*while a vector is applied.*model\.generate.*remove_all_steering_vectors"


def sizes() -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(num_blocks=8, block_size=32, max_batch_tokens=16)


@pytest.fixture
def engine() -> Iterator[HuggingFaceEngine]:
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())
    yield engine
    engine.detach()


def batch(model: Any) -> list[list[int]]:
    options = {"generation_config": GREEDY, "continuous_batching_config": sizes(), "warmup": False}
    outputs = model.generate_batch(PROMPTS, **options)
    return [output.generated_tokens for output in outputs.values()]


def manager_of(model: Any) -> Any:
    return model.init_continuous_batching(generation_config=GREEDY, continuous_batching_config=sizes())


def in_context(model: Any) -> None:
    with model.continuous_batching_context_manager(generation_config=GREEDY, continuous_batching_config=sizes()):
        pass


@pytest.mark.slow
def test_an_unsteered_model_generates_as_before_before_and_after_it_was_steered(engine: HuggingFaceEngine) -> None:
    model: Any = engine.architecture.model
    expected = batch(make_model("llama"))
    assert [len(tokens) for tokens in expected] == [3, 3]

    assert batch(model) == expected
    engine.set_ambient(PLAN)
    with pytest.raises(UnsupportedCallError, match=REFUSED):
        batch(model)
    engine.set_ambient(())
    assert batch(model) == expected
    engine.detach()
    assert "init_continuous_batching" not in vars(model)
    assert batch(model) == expected


@pytest.mark.parametrize("call", [batch, manager_of, in_context])
def test_each_way_into_continuous_batching_is_refused_in_the_caller_while_steered(
    engine: HuggingFaceEngine, call: Callable[[Any], object]
) -> None:
    engine.set_ambient(PLAN)

    with pytest.raises(UnsupportedCallError, match=REFUSED):
        call(engine.architecture.model)


def test_a_manager_that_was_made_before_is_refused_while_steered(engine: HuggingFaceEngine) -> None:
    manager = manager_of(engine.architecture.model)
    engine.set_ambient(PLAN)

    try:
        for entry in (manager.start, manager.warmup, lambda: manager.add_requests(PROMPTS)):
            with pytest.raises(UnsupportedCallError, match=REFUSED):
                entry()
        assert not manager.is_running()
        engine.set_ambient(())
        assert manager.add_request(PROMPTS[0]) is not None
    finally:
        manager.destroy()


def test_a_copy_of_a_steered_model_is_refused_too_and_the_models_other_methods_stay(engine: HuggingFaceEngine) -> None:
    engine.set_ambient(PLAN)
    copied: Any = copy.deepcopy(engine.architecture.model)

    with pytest.raises(UnsupportedCallError, match=REFUSED):
        manager_of(copied)
    assert vars(copied)["init_continuous_batching"] is not vars(engine.architecture.model)["init_continuous_batching"]
