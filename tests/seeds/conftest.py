"""SmolLM2, attached for all tests of a module, with a workspace and nothing applied in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steer_tools import remove_all_steering_vectors
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace


@pytest.fixture(scope="module")
def given_back() -> Iterator[None]:
    yield
    current_session().detach()


@pytest.fixture
def smol(
    given_back: None, smollm2: Callable[[torch.dtype], tuple[Any, Any]], tmp_path: Path
) -> Iterator[tuple[Any, Any]]:
    """SmolLM2 in float32 and its tokenizer; attaching again what is attached costs nothing."""
    session = current_session()
    before = session.workspace
    session.workspace = Workspace(tmp_path / "workspace")
    model, tokenizer = smollm2(torch.float32)
    session.attach(model, tokenizer, "smollm2")
    yield model, tokenizer
    remove_all_steering_vectors()
    session.workspace = before
