"""Tiny real models, a tiny real tokenizer, and a session that starts empty in every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedTokenizerFast,
)

from helpers.places import CAA, STORIES, skip_without_shared
from helpers.real_models import smollm2_in
from helpers.small_models import FAMILIES, NEGATIVE, POSITIVE, make_model, make_tokenizer
from steer_tools import create_steering_vector
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.named_models import SMOLLM2_INSTALLS, has_smollm2
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Workspace

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-shared", action="store_true", help="fail, not skip, without ../shared or SmolLM2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_there = STORIES.is_dir() and CAA.is_dir()
    skip_without_shared(items, is_there=is_there, is_required=config.getoption("--require-shared"))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Any:
    return make_model(family)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def engine(model: Any, tokenizer: Any) -> Iterator[HuggingFaceEngine]:
    engine = HuggingFaceEngine(model, tokenizer)
    yield engine
    engine.detach()


@pytest.fixture
def empty_session(tmp_path: Path) -> Iterator[Session]:
    """The global session without a model, with a workspace of its own."""
    session = current_session()
    before = session.workspace
    session.detach()
    session.workspace = Workspace(tmp_path / "workspace")
    yield session
    session.detach()
    session.workspace, session.allowed_models, session.default_dtype = before, None, "auto"


@pytest.fixture
def session(empty_session: Session, model: Any, tokenizer: Any) -> Session:
    """The global session with a tiny model of each family."""
    empty_session.attach(model, tokenizer, "tiny")
    return empty_session


@pytest.fixture
def llama_session(empty_session: Session, tokenizer: Any) -> Session:
    """The global session with one tiny Llama, for what does not depend on the family."""
    empty_session.attach(make_model("llama"), tokenizer, "tiny")
    return empty_session


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Callable[[torch.dtype], tuple[Any, Any]]:
    """Return what gives SmolLM2 and its tokenizer in a dtype, the same objects each time."""
    if not has_smollm2():
        missing = pytest.fail if request.config.getoption("--require-shared") else pytest.skip
        missing(f"SmolLM2 is not installed: {SMOLLM2_INSTALLS}")
    return smollm2_in


@pytest.fixture(params=["float32", "bfloat16"])
def smollm2_session(request: pytest.FixtureRequest, empty_session: Session, smollm2: Any) -> Session:
    """The global session with SmolLM2, in each of the dtypes that it is used in."""
    empty_session.attach(*smollm2(getattr(torch, request.param)), "smollm2")
    return empty_session


@pytest.fixture
def make_vector(session: Session) -> Callable[..., str]:
    """Create a vector on the attached model and return its path."""

    def make(layer: Any = 2, save_path: str = "vectors/v", **options: Any) -> str:
        return create_steering_vector(POSITIVE, NEGATIVE, layer, save_path, **options)["vector_path"]

    return make
